#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "base/utf8.h"
#include "chat/jinja_eval.h"
#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

constexpr int kMaxPrecision = 1000;
constexpr int64_t kMaxWidth = 1 << 20;

/// Reads digits; fails above `limit`.
int64_t read_number(std::string_view text, size_t& at, int64_t limit) {
  int64_t out = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    out = out * 10 + (text[at++] - '0');
    if (out > limit) fail("LimitError", "format: expected a number of at most {}", limit);
  }
  return out;
}

/// printf of a float with one of e, f, g (and upper case) under Python's rules for inf and nan.
std::string print_float(double value, char type, int precision, bool alternate) {
  if (!std::isfinite(value)) {
    std::string out = std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
    if (type < 'a')
      std::transform(out.begin(), out.end(), out.begin(),
                     [](char c) { return static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c); });
    return out;
  }
  const char format[] = {'%',
                         alternate ? '#' : '.',
                         alternate ? '.' : '*',
                         alternate ? '*' : type,
                         alternate ? type : '\0',
                         '\0'};
  std::string out(static_cast<size_t>(precision) + 400, '\0');
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
  const int size = std::snprintf(out.data(), out.size(), format, precision, value);
#pragma GCC diagnostic pop
  out.resize(static_cast<size_t>(std::max(size, 0)));
  return out;
}

std::string print_base(int64_t value, char type) {
  const auto magnitude =
      value < 0 ? uint64_t{0} - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string out = type == 'b'   ? fmt::format("{:b}", magnitude)
                    : type == 'o' ? fmt::format("{:o}", magnitude)
                    : type == 'x' ? fmt::format("{:x}", magnitude)
                    : type == 'X' ? fmt::format("{:X}", magnitude)
                                  : fmt::format("{}", magnitude);
  return value < 0 ? "-" + out : out;
}

struct Spec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false;
  char grouping = '\0';
  int64_t width = 0;
  std::optional<int> precision;
  char type = '\0';
};

Spec parse_spec(std::string_view text) {
  Spec out;
  size_t at = 0;
  const auto is_align = [&](size_t i) {
    return i < text.size() && std::string_view("<>=^").find(text[i]) != std::string_view::npos;
  };
  const auto take = [&](char c) {
    if (at >= text.size() || text[at] != c) return false;
    ++at;
    return true;
  };
  if (!text.empty() && is_align(next_code_point(text, 0))) {
    at = next_code_point(text, 0);
    out.fill = std::string(text.substr(0, at));
    out.align = text[at++];
  } else if (is_align(0)) {
    out.align = text[at++];
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' '))
    out.sign = text[at++];
  take('z');
  out.alternate = take('#');
  if (take('0') && out.align == '\0') {
    out.fill = "0";
    out.align = '=';
  }
  out.width = read_number(text, at, kMaxWidth);
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) out.grouping = text[at++];
  if (take('.')) {
    if (at >= text.size() || text[at] < '0' || text[at] > '9')
      fail("ValueError", "Format specifier missing precision");
    out.precision = static_cast<int>(read_number(text, at, kMaxPrecision));
  }
  if (at < text.size()) out.type = text[at++];
  if (at < text.size()) fail("ValueError", "Invalid format specifier");
  return out;
}

void append_fill(TextBuilder& out, const std::string& fill, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out.append(fill);
}

void append_aligned(TextBuilder& out, const Spec& spec, const Str& text, char otherwise) {
  const int64_t pad = std::max<int64_t>(spec.width - static_cast<int64_t>(text.length), 0);
  const char align = spec.align == '\0' ? otherwise : spec.align;
  const int64_t left = align == '>' ? pad : align == '^' ? pad / 2 : 0;
  append_fill(out, spec.fill, left);
  out.append(text);
  append_fill(out, spec.fill, pad - left);
}

std::string group_digits(const std::string& number, char separator, size_t every) {
  size_t end = 0;
  while (end < number.size() && std::isxdigit(static_cast<unsigned char>(number[end]))) ++end;
  std::string out;
  for (size_t i = 0; i < end; ++i) {
    if (i > 0 && (end - i) % every == 0) out += separator;
    out += number[i];
  }
  return out + number.substr(end);
}

void append_number(Interp& interp, TextBuilder& out, const Spec& spec, std::string text,
                   const char* prefix) {
  std::string sign;
  if (text[0] == '-') {
    sign = "-";
    text.erase(0, 1);
  } else if (spec.sign != '-') {
    sign = std::string(1, spec.sign);
  }
  if (spec.grouping != '\0')
    text = group_digits(
        text, spec.grouping,
        spec.type == 'x' || spec.type == 'X' || spec.type == 'b' || spec.type == 'o' ? 4 : 3);
  sign += prefix;
  if (spec.align == '=') {
    out.append(sign);
    append_fill(out, spec.fill,
                spec.width - static_cast<int64_t>(sign.size()) - static_cast<int64_t>(text.size()));
    out.append(text);
    return;
  }
  append_aligned(out, spec, make_string(interp.budget(), sign + text).str(), '>');
}

void append_float(Interp& interp, TextBuilder& out, const Spec& spec, double value) {
  const bool percent = spec.type == '%';
  std::string text;
  if (spec.type == '\0' && !spec.precision) {
    text = format_float(value);
  } else if (spec.type == '\0') {
    // Like g, but switches to exponents one digit earlier and keeps a digit after the point.
    const int digits = std::max(*spec.precision, 1);
    text = print_float(value, 'g', digits, spec.alternate);
    if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) {
      const size_t count = text.size() - (text[0] == '-' ? 1 : 0);
      if (static_cast<int>(count) >= digits && value != 0) {
        text = print_float(value, 'e', digits - 1, spec.alternate);
        const size_t e = text.find('e');
        size_t keep = e;
        if (text.find('.') != std::string::npos) {
          while (text[keep - 1] == '0') --keep;
          if (text[keep - 1] == '.') --keep;
        }
        text = text.substr(0, keep) + text.substr(e);
      } else {
        text += ".0";
      }
    }
  } else {
    const char type = percent ? 'f' : spec.type == 'n' ? 'g' : spec.type;
    int precision = spec.precision.value_or(6);
    if ((type == 'g' || type == 'G') && precision == 0) precision = 1;
    text = print_float(percent ? value * 100 : value, type, precision, spec.alternate);
    if (percent) text += '%';
  }
  append_number(interp, out, spec, std::move(text), "");
}

void append_formatted(Interp& interp, TextBuilder& out, const Value& value,
                      std::string_view spec_text) {
  if (spec_text.empty()) return append_str(interp, out, value);
  const Spec spec = parse_spec(spec_text);
  const auto bad_type = [&] {
    fail("ValueError", "Unknown format code '{}' for object of type '{}'", spec.type,
         type_name(value));
  };
  const bool float_type =
      spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  switch (value.kind()) {
    case Kind::kString: {
      if (spec.type != '\0' && spec.type != 's') bad_type();
      if (spec.align == '=' && spec.fill != "0")
        fail("ValueError", "'=' alignment not allowed in string format specifier");
      Spec plain = spec;
      if (spec.align == '=') plain.align = '<';
      Value text = value;
      if (spec.precision && static_cast<size_t>(*spec.precision) < value.str().length)
        text = substring(interp.budget(), value, 0,
                         offset_of(value.text(), static_cast<size_t>(*spec.precision)));
      append_aligned(out, plain, text.str(), '<');
      break;
    }
    case Kind::kBool:
    case Kind::kInt: {
      if (float_type) return append_float(interp, out, spec, value.as_float());
      if (spec.precision) fail("ValueError", "Precision not allowed in integer format specifier");
      if (spec.type == 'c') {
        if (value.as_int() < 0 || value.as_int() > 0x10ffff ||
            (value.as_int() >= 0xd800 && value.as_int() < 0xe000))
          fail("OverflowError", "%c arg not in range(0x110000)");
        std::string c;
        append_utf8(c, static_cast<uint32_t>(value.as_int()));
        append_aligned(out, spec, make_string(interp.budget(), c).str(), '<');
        break;
      }
      if (std::string_view("bdnoxX").find(spec.type) == std::string_view::npos && spec.type != '\0')
        bad_type();
      const char* prefix = !spec.alternate    ? ""
                           : spec.type == 'b' ? "0b"
                           : spec.type == 'o' ? "0o"
                           : spec.type == 'x' ? "0x"
                           : spec.type == 'X' ? "0X"
                                              : "";
      append_number(interp, out, spec, print_base(value.as_int(), spec.type), prefix);
      break;
    }
    case Kind::kBigInt:
      if (spec.type != '\0' && spec.type != 'd') bad_type();
      append_number(interp, out, spec, value.as<BigInt>().digits, "");
      break;
    case Kind::kFloat:
      if (!float_type && spec.type != '\0' && spec.type != 'n') bad_type();
      append_float(interp, out, spec, value.as_float());
      break;
    default:
      fail("TypeError", "unsupported format string passed to {}.__format__", type_name(value));
  }
}

/// One run over a format string; replacement fields nest two levels deep.
class Formatter {
 public:
  Formatter(Interp& interp, const Args& args) : interp_(interp), args_(args) {}

  void run(TextBuilder& out, const Str& format, size_t from, size_t to, int depth) {
    if (depth < 0) fail("ValueError", "Max string recursion exceeded");
    const std::string& text = format.text;
    size_t plain = from;
    for (size_t i = from; i < to;) {
      const char c = text[i];
      if (c != '{' && c != '}') {
        ++i;
        continue;
      }
      out.append(format, plain, i);
      if (i + 1 < to && text[i + 1] == c && depth == 2) {
        out.append(format, i, i + 1);
        i += 2;
      } else if (c == '}') {
        fail("ValueError", "Single '}}' encountered in format string");
      } else {
        size_t end = i + 1;
        for (int open = 1; end < to; ++end) {
          if (text[end] == '{') ++open;
          if (text[end] == '}' && --open == 0) break;
        }
        if (end >= to) fail("ValueError", "expected '}}' before end of string");
        field(out, format, i + 1, end, depth);
        i = end + 1;
      }
      plain = i;
    }
    out.append(format, plain, to);
  }

 private:
  void field(TextBuilder& out, const Str& format, size_t from, size_t to, int depth) {
    interp_.budget().step();
    const std::string_view text = std::string_view(format.text).substr(0, to);
    size_t end = from;
    for (bool bracket = false; end < to; ++end) {
      if (text[end] == '[') bracket = true;
      if (text[end] == ']') bracket = false;
      if (!bracket && (text[end] == '!' || text[end] == ':')) break;
    }
    Value value = lookup(text.substr(from, end - from));
    if (end < to && text[end] == '!') {
      const char how = end + 1 < to ? text[end + 1] : '\0';
      end += 2;
      if (end < to && text[end] != ':')
        fail("ValueError", "expected ':' after conversion specifier");
      TextBuilder converted(interp_.budget());
      if (how == 's')
        append_str(interp_, converted, value);
      else if (how == 'r' || how == 'a')
        append_repr(interp_, converted, value);
      else
        fail("ValueError", "Unknown conversion specifier");
      value = converted.take();
    }
    TextBuilder spec(interp_.budget());
    if (end < to) run(spec, format, end + 1, to, depth - 1);
    append_formatted(interp_, out, value, spec.text());
  }

  Value lookup(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    const std::string_view first = name.substr(0, end);
    Value value;
    if (first.empty() ||
        std::all_of(first.begin(), first.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      size_t at = 0, index = next_++;
      if (!first.empty()) {
        index = static_cast<size_t>(read_number(first, at, 1 << 20));
        --next_;
      }
      if ((numbered_ && first.empty()) || (automatic_ && !first.empty()))
        fail("ValueError", "cannot mix manual and automatic field numbering");
      (first.empty() ? automatic_ : numbered_) = true;
      if (index >= args_.positional.size())
        fail("IndexError", "Replacement index {} out of range for positional args tuple", index);
      value = args_.positional[index];
    } else {
      const Value* found = args_.keyword(first);
      if (found == nullptr) fail("KeyError", "'{}'", first);
      value = *found;
    }
    for (size_t at = end; at < name.size();) {
      if (name[at] == '.') {
        const size_t stop = std::min(name.find_first_of(".[", at + 1), name.size());
        value = get_attribute(
            interp_, value,
            make_string(interp_.budget(), std::string(name.substr(at + 1, stop - at - 1))));
        at = stop;
      } else {
        const size_t stop = name.find(']', at);
        if (name[at] != '[' || stop == std::string_view::npos)
          fail("ValueError", "Missing ']' in format string");
        const std::string key(name.substr(at + 1, stop - at - 1));
        size_t digits = 0;
        const int64_t number = read_number(key, digits, 1 << 30);
        value = get_item(interp_, value,
                         !key.empty() && digits == key.size() ? Value::integer(number)
                                                              : make_string(interp_.budget(), key));
        at = stop + 1;
      }
    }
    return value;
  }

  Interp& interp_;
  const Args& args_;
  size_t next_ = 0;
  bool automatic_ = false, numbered_ = false;
};

struct PercentItem {
  std::string flags;
  int64_t width = 0;
  std::optional<int> precision;
  char type = '\0';
  bool flag(char c) const { return flags.find(c) != std::string::npos; }
};

void append_padded(TextBuilder& out, const PercentItem& item, const Str& text) {
  const int64_t pad = item.width - static_cast<int64_t>(text.length);
  if (!item.flag('-')) append_fill(out, " ", pad);
  out.append(text);
  if (item.flag('-')) append_fill(out, " ", pad);
}

void append_percent_number(Interp& interp, TextBuilder& out, const PercentItem& item,
                           std::string text, const std::string& prefix) {
  std::string sign = text[0] == '-' ? "-" : item.flag('+') ? "+" : item.flag(' ') ? " " : "";
  if (text[0] == '-') text.erase(0, 1);
  sign += prefix;
  if (item.flag('0') && !item.flag('-')) {
    const int64_t pad =
        item.width - static_cast<int64_t>(sign.size()) - static_cast<int64_t>(text.size());
    if (pad > 0) text.insert(0, static_cast<size_t>(pad), '0');
  }
  append_padded(out, item, make_string(interp.budget(), sign + text).str());
}

void append_percent(Interp& interp, TextBuilder& out, const PercentItem& item, const Value& value) {
  Budget& budget = interp.budget();
  switch (item.type) {
    case 's':
    case 'r':
    case 'a': {
      TextBuilder text(budget);
      if (item.type == 's')
        append_str(interp, text, value);
      else
        append_repr(interp, text, value);
      Value whole = text.take();
      if (item.precision && static_cast<size_t>(*item.precision) < whole.str().length)
        whole = substring(budget, whole, 0,
                          offset_of(whole.text(), static_cast<size_t>(*item.precision)));
      return append_padded(out, item, whole.str());
    }
    case 'c': {
      if (value.is_string() && value.str().length == 1)
        return append_padded(out, item, value.str());
      const int64_t code = require_int(value, "%c");
      if (code < 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        fail("OverflowError", "%c arg not in range(0x110000)");
      std::string c;
      append_utf8(c, static_cast<uint32_t>(code));
      return append_padded(out, item, make_string(budget, c).str());
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      require_defined(value);
      std::string text;
      const bool decimal = item.type == 'd' || item.type == 'i' || item.type == 'u';
      if (value.is(Kind::kBigInt) && decimal) {
        text = value.as<BigInt>().digits;
      } else if (value.is_integral()) {
        text = print_base(value.as_int(), decimal ? 'd' : item.type);
      } else if (value.is(Kind::kFloat) && decimal) {
        if (!(std::abs(value.as_float()) < 9e18)) fail("OverflowError", "cannot convert float");
        text = print_base(static_cast<int64_t>(value.as_float()), 'd');
      } else {
        fail("TypeError", "%{} format: a real number is required, not {}", item.type,
             type_name(value));
      }
      const size_t digits = text.size() - (text[0] == '-' ? 1 : 0);
      if (item.precision && static_cast<size_t>(*item.precision) > digits)
        text.insert(text[0] == '-' ? 1 : 0, static_cast<size_t>(*item.precision) - digits, '0');
      return append_percent_number(
          interp, out, item, std::move(text),
          item.flag('#') && !decimal ? std::string("0") + item.type : std::string());
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': {
      require_defined(value);
      if (!value.is_numeric()) fail("TypeError", "must be real number, not {}", type_name(value));
      int precision = item.precision.value_or(6);
      if ((item.type | 0x20) == 'g' && precision == 0) precision = 1;
      return append_percent_number(
          interp, out, item, print_float(value.as_float(), item.type, precision, item.flag('#')),
          "");
    }
    default:
      fail("ValueError", "unsupported format character '{}'", item.type);
  }
}

}  // namespace

Value str_format(Interp& interp, const Value& text, const Args& args) {
  TextBuilder out(interp.budget());
  Formatter(interp, args).run(out, text.str(), 0, text.text().size(), 2);
  return out.take();
}

Value percent_format(Interp& interp, const Value& format, const Value& values) {
  const std::string& text = format.text();
  TextBuilder out(interp.budget());
  const bool tuple = values.is(Kind::kTuple);
  size_t used = 0;
  bool named = false;
  const auto next_value = [&]() -> Value {
    if (tuple) {
      const auto& items = values.as<Sequence>().items;
      if (used >= items.size()) fail("TypeError", "not enough arguments for format string");
      return items[used++];
    }
    if (used++ > 0) fail("TypeError", "not enough arguments for format string");
    return values;
  };
  size_t plain = 0;
  for (size_t i = text.find('%'); i != std::string::npos; i = text.find('%', plain)) {
    interp.budget().step();
    out.append(format.str(), plain, i);
    PercentItem item;
    Value value;
    bool has_value = false;
    ++i;
    if (i < text.size() && text[i] == '(') {
      const size_t end = text.find(')', i);
      if (end == std::string::npos) fail("ValueError", "incomplete format key");
      if (!values.is_dict()) fail("TypeError", "format requires a mapping");
      const Value* found =
          values.as<Dict>().find(std::string_view(text).substr(i + 1, end - i - 1));
      if (found == nullptr) fail("KeyError", "'{}'", text.substr(i + 1, end - i - 1));
      value = *found;
      has_value = named = true;
      i = end + 1;
    }
    while (i < text.size() && std::string_view("-+ #0").find(text[i]) != std::string_view::npos)
      item.flags += text[i++];
    const auto star = [&](int64_t limit) {
      ++i;
      const int64_t number = require_int(next_value(), "* in a format");
      if (number > limit || number < -limit)
        fail("LimitError", "format: expected a number of at most {}", limit);
      return number;
    };
    item.width =
        i < text.size() && text[i] == '*' ? star(kMaxWidth) : read_number(text, i, kMaxWidth);
    if (item.width < 0) {
      item.flags += '-';
      item.width = -item.width;
    }
    if (i < text.size() && text[i] == '.') {
      ++i;
      const int64_t precision = i < text.size() && text[i] == '*'
                                    ? star(kMaxPrecision)
                                    : read_number(text, i, kMaxPrecision);
      item.precision = static_cast<int>(std::max<int64_t>(precision, 0));
    }
    while (i < text.size() && (text[i] == 'l' || text[i] == 'h' || text[i] == 'L')) ++i;
    if (i >= text.size()) fail("ValueError", "incomplete format");
    item.type = text[i++];
    plain = i;
    if (item.type == '%') {
      out.append("%");
      continue;
    }
    append_percent(interp, out, item, has_value ? value : next_value());
  }
  out.append(format.str(), plain, text.size());
  const bool all_used = tuple ? used >= values.as<Sequence>().items.size()
                              : used > 0 || named || values.is_dict() || values.is(Kind::kList) ||
                                    values.is_undefined() || values.is(Kind::kRange);
  if (!all_used) fail("TypeError", "not all arguments converted during string formatting");
  return out.take();
}

}  // namespace decant::jinja
