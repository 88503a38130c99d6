#include "chat/jinja_filters.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>

#include "chat/jinja_format.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_parser.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

/// Calls a method of str on str(value).
Value call_str(Interp& interp, const Value& value, std::string_view method, const Args& args) {
  const Value text = to_str(interp, value);
  Value function;
  const bool found = find_attribute(interp, text, method, function);
  DECANT_ASSERT(found, "filters only name methods that str has");
  return interp.call(function, args);
}

template <const char* Method>
Value str_filter(Interp& interp, const Value& value, const Args& args) {
  args.check(Method, 0, 0);
  return call_str(interp, value, Method, {});
}
constexpr char kUpper[] = "upper";
constexpr char kLower[] = "lower";
constexpr char kCapitalize[] = "capitalize";

Value trim(Interp& interp, const Value& value, const Args& args) {
  args.check("trim", 0, 1, {"chars"});
  const Value* chars = args.get(0, "chars");
  Args inner;
  if (chars != nullptr) inner.positional.push_back(*chars);
  return call_str(interp, value, "strip", inner);
}

Value center(Interp& interp, const Value& value, const Args& args) {
  args.check("center", 0, 1, {"width"});
  const Value* width = args.get(0, "width");
  Args inner;
  inner.positional.push_back(width != nullptr ? *width : Value::integer(80));
  return call_str(interp, value, "center", inner);
}

Value replace(Interp& interp, const Value& value, const Args& args) {
  args.check("replace", 2, 3, {"old", "new", "count"});
  const Value* count = args.get(2, "count");
  Args inner;
  inner.positional = {to_str(interp, *args.get(0, "old")), to_str(interp, *args.get(1, "new"))};
  if (count != nullptr && !count->is_none()) inner.positional.push_back(*count);
  return call_str(interp, value, "replace", inner);
}

Value string_filter(Interp& interp, const Value& value, const Args& args) {
  args.check("string", 0, 0);
  return to_str(interp, value);
}

Value marked_safe(Interp& interp, const Value& text) {
  TextBuilder out(interp.budget());
  out.append(text.str());
  const Value copy = out.take();
  copy.as<Str>().markup = true;
  return copy;
}

Value safe(Interp& interp, const Value& value, const Args& args) {
  args.check("safe", 0, 0);
  return marked_safe(interp, to_str(interp, value));
}

Value escape(Interp& interp, const Value& value, const Args& args) {
  args.check("escape", 0, 0);
  if (value.is_string() && value.str().markup) return value;
  TextBuilder out(interp.budget());
  append_escaped(out, to_str(interp, value).str());
  return marked_safe(interp, out.take());
}

Value force_escape(Interp& interp, const Value& value, const Args& args) {
  args.check("forceescape", 0, 0);
  TextBuilder out(interp.budget());
  append_escaped(out, to_str(interp, value).str());
  return marked_safe(interp, out.take());
}

/// Upper case at the start of words that begin after white space or one of -({[<.
Value title(Interp& interp, const Value& value, const Args& args) {
  args.check("title", 0, 0);
  const Value whole = to_str(interp, value);
  const std::string& text = whole.text();
  interp.budget().text(text.size());
  std::string out;
  const auto is_gap = [&](size_t at) {
    return is_space(code_point_at(text, at)) ||
           std::string_view("-({[<").find(text[at]) != std::string_view::npos;
  };
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    const bool gap = is_gap(at);
    while (end < text.size() && is_gap(end) == gap) end = next_code_point(text, end);
    const std::string_view word = std::string_view(text).substr(at, end - at);
    const size_t first = next_code_point(word, 0);
    out += to_upper(word.substr(0, first));
    out += to_lower(word.substr(first));
    at = end;
  }
  return make_string(interp.budget(), std::move(out), !whole.str().marks.empty());
}

Value indent(Interp& interp, const Value& value, const Args& args) {
  args.check("indent", 0, 3, {"width", "first", "blank"});
  const Value* width = args.get(0, "width");
  const Value* first = args.get(1, "first");
  const Value* blank = args.get(2, "blank");
  require_str(value, "indent");
  Value indention = make_constant("    ");
  if (width != nullptr) {
    if (width->is_string()) {
      indention = *width;
    } else {
      const int64_t count = std::max<int64_t>(require_int(*width, "indent"), 0);
      interp.budget().text(static_cast<size_t>(count));
      indention = make_string(interp.budget(), std::string(static_cast<size_t>(count), ' '));
    }
  }
  const Value lines =
      call_str(interp, concat_strings(interp, value, make_constant("\n")), "splitlines", {});
  TextBuilder out(interp.budget());
  const bool blank_too = blank != nullptr && truthy(*blank);
  bool is_first = true;
  for (const Value& line : lines.as<Sequence>().items) {
    interp.budget().step();
    if (!is_first) out.append("\n");
    const bool wanted =
        is_first ? first != nullptr && truthy(*first) : blank_too || !line.text().empty();
    if (wanted) out.append(indention.str());
    out.append(line.str());
    is_first = false;
  }
  return out.take();
}

Value truncate(Interp& interp, const Value& value, const Args& args) {
  args.check("truncate", 0, 4, {"length", "killwords", "end", "leeway"});
  const Value* length_arg = args.get(0, "length");
  const Value* kill = args.get(1, "killwords");
  const Value* end_arg = args.get(2, "end");
  const Value* leeway_arg = args.get(3, "leeway");
  const int64_t length = length_arg != nullptr ? require_int(*length_arg, "truncate") : 255;
  const int64_t leeway =
      leeway_arg != nullptr && !leeway_arg->is_none() ? require_int(*leeway_arg, "truncate") : 5;
  const Value end = end_arg != nullptr ? *end_arg : make_constant("...");
  const auto end_length = static_cast<int64_t>(require_str(end, "truncate").length);
  if (length < end_length)
    fail("AssertionError", "expected length >= {}, got {}", end_length, length);
  if (leeway < 0) fail("AssertionError", "expected leeway >= 0, got {}", leeway);
  // Whatever is short enough comes back as it is, be it a string or not.
  if (static_cast<int64_t>(length_of(value)) - length <= leeway) return value;
  const Str& text = require_str(value, "truncate");
  interp.budget().step(text.text.size() / 64);
  size_t cut = offset_of(text.text, static_cast<size_t>(length - end_length));
  if (kill == nullptr || !truthy(*kill)) {
    const size_t space = std::string_view(text.text).substr(0, cut).rfind(' ');
    if (space != std::string_view::npos) cut = space;
  }
  TextBuilder out(interp.budget());
  out.append(text, 0, cut);
  out.append(end.str());
  return out.take();
}

Value word_count(Interp& interp, const Value& value, const Args& args) {
  args.check("wordcount", 0, 0);
  const Value whole = to_str(interp, value);
  const std::string& text = whole.text();
  interp.budget().step(text.size() / 16);
  int64_t count = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size(); at = next_code_point(text, at)) {
    const uint32_t c = code_point_at(text, at);
    const bool word = c == '_' || is_alpha(c) || is_numeric(c) || is_digit(c);
    count += word && !inside;
    inside = word;
  }
  return Value::integer(count);
}

Value format(Interp& interp, const Value& value, const Args& args) {
  if (!args.positional.empty() && !args.keywords.empty())
    fail("FilterArgumentError", "can't handle positional and keyword arguments at the same time");
  const Value text = to_str(interp, value);
  if (args.keywords.empty())
    return percent_format(interp, text, make_tuple(interp.budget(), args.positional));
  std::vector<std::pair<Value, Value>> items;
  items.reserve(args.keywords.size());
  for (const auto& [key, item] : args.keywords)
    items.emplace_back(make_string(interp.budget(), key), item);
  return percent_format(interp, text, make_dict(interp, std::move(items)));
}

Value url_encode(Interp& interp, const Value& value, const Args& args) {
  args.check("urlencode", 0, 0);
  TextBuilder out(interp.budget());
  const auto quote = [&](const Value& part, bool query) {
    for (char c : to_str(interp, part).text()) {
      const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                         (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-' || c == '~' ||
                         (c == '/' && !query);
      interp.budget().step();
      if (plain)
        out.append(std::string_view(&c, 1));
      else if (c == ' ' && query)
        out.append("+");
      else
        out.append(fmt::format("%{:02X}", static_cast<unsigned char>(c)));
    }
  };
  if (value.is_string() || !is_iterable(value)) {
    quote(value, false);
    return out.take();
  }
  bool first = true;
  const auto pair = [&](const Value& key, const Value& item) {
    if (!first) out.append("&");
    first = false;
    quote(key, true);
    out.append("=");
    quote(item, true);
  };
  if (value.is_dict()) {
    for (const auto& [key, item] : value.as<Dict>().items) pair(key, item);
  } else {
    for (const Value& item : collect(interp, value)) {
      const auto both = collect(interp, item);
      if (both.size() != 2) fail("ValueError", "urlencode: expected pairs");
      pair(both[0], both[1]);
    }
  }
  return out.take();
}

Value to_json(Interp& interp, const Value& value, const Args& args) {
  args.check("tojson", 0, 4, {"ensure_ascii", "indent", "separators", "sort_keys"});
  const Value* ascii = args.get(0, "ensure_ascii");
  const Value* indent_arg = args.get(1, "indent");
  const Value* separators = args.get(2, "separators");
  const Value* sort = args.get(3, "sort_keys");
  JsonStyle style;
  style.ensure_ascii = ascii != nullptr && truthy(*ascii);
  style.sort_keys = sort != nullptr && truthy(*sort);
  if (indent_arg != nullptr && !indent_arg->is_none()) {
    style.has_indent = true;
    style.item_separator = ",";
    if (indent_arg->is_string()) {
      style.indent = indent_arg->text();
    } else {
      const int64_t count = std::max<int64_t>(require_int(*indent_arg, "tojson"), 0);
      interp.budget().text(static_cast<size_t>(count));
      style.indent = std::string(static_cast<size_t>(count), ' ');
    }
  }
  if (separators != nullptr && !separators->is_none()) {
    const auto both = collect(interp, *separators);
    if (both.size() != 2)
      fail("ValueError", "tojson: expected two separators, got {}", both.size());
    style.item_separator = require_str(both[0], "tojson").text;
    style.key_separator = require_str(both[1], "tojson").text;
  }
  TextBuilder out(interp.budget());
  append_json(interp, out, value, style);
  return out.take();
}

// --- numbers

Value absolute(Interp&, const Value& value, const Args& args) {
  args.check("abs", 0, 0);
  require_defined(value);
  if (value.is(Kind::kFloat)) return Value::number(std::abs(value.as_float()));
  if (!value.is_integral()) fail("TypeError", "bad operand type for abs(): '{}'", type_name(value));
  return value.as_int() < 0 ? negate(value) : Value::integer(value.as_int());
}

std::string number_text(std::string_view text) {
  const Span span = strip_space(text, true, true);
  std::string out;
  for (size_t i = span.from; i < span.to; ++i) {
    const bool between = i > span.from && i + 1 < span.to &&
                         std::isalnum(static_cast<unsigned char>(text[i - 1])) != 0 &&
                         std::isalnum(static_cast<unsigned char>(text[i + 1])) != 0;
    if (text[i] == '_' && between) continue;
    out += text[i];
  }
  return out;
}

/// float(text), or false where Python raises ValueError.
bool parse_float(std::string_view source, double& out) {
  std::string text = number_text(source);
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.erase(0, 1);
  }
  const std::string low = to_lower(text);
  if (low == "inf" || low == "infinity") {
    out = HUGE_VAL;
  } else if (low == "nan") {
    out = NAN;
  } else {
    if (text.empty() || !(std::isdigit(static_cast<unsigned char>(text[0])) || text[0] == '.'))
      return false;
    const char* end = text.data() + text.size();
    const auto result = std::from_chars(text.data(), end, out);
    if (result.ptr != end || result.ec == std::errc::invalid_argument) return false;
    if (result.ec == std::errc::result_out_of_range) out = strtod(text.c_str(), nullptr);
  }
  if (negative) out = -out;
  return true;
}

/// int(text, base), or false where Python raises ValueError.
bool parse_int(Interp& interp, std::string_view source, int base, Value& out) {
  std::string text = number_text(source);
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.erase(0, 1);
  }
  if (text.size() > 2 && text[0] == '0') {
    const char letter = static_cast<char>(text[1] | 0x20);
    const int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix != 0 && (base == prefix || base == 0)) {
      base = prefix;
      text.erase(0, 2);
    }
  }
  if (base == 0) base = 10;
  if (text.empty() || text[0] == '-' || text[0] == '+') return false;
  if (negative) text.insert(0, 1, '-');
  int64_t number = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, number, base);
  if (result.ptr != end || result.ec == std::errc::invalid_argument) return false;
  if (result.ec == std::errc::result_out_of_range) {
    if (base != 10 || text.size() > 4300) fail("OverflowError", "integers are limited to 64 bits");
    auto big = make_object<BigInt>(interp.budget(), text.size());
    const size_t first = text.find_first_not_of("-0");
    big->digits = (negative ? "-" : "") + text.substr(first);
    out = Value::object(Kind::kBigInt, std::move(big));
    return true;
  }
  out = Value::integer(number);
  return true;
}

bool float_to_int(double number, Value& out) {
  if (!std::isfinite(number)) return false;
  if (!(std::abs(number) < 9.2e18)) fail("OverflowError", "integers are limited to 64 bits");
  out = Value::integer(static_cast<int64_t>(number));
  return true;
}

Value to_int(Interp& interp, const Value& value, const Args& args) {
  args.check("int", 0, 2, {"default", "base"});
  const Value* otherwise = args.get(0, "default");
  const Value* base_arg = args.get(1, "base");
  const int64_t base = base_arg != nullptr ? require_int(*base_arg, "int") : 10;
  Value out;
  bool good = false;
  require_defined(value);
  if (value.is_string()) {
    interp.budget().step(value.text().size() / 16);
    double number = 0;
    good = (base == 0 || (base >= 2 && base <= 36)) &&
           parse_int(interp, value.text(), static_cast<int>(base), out);
    if (!good) good = parse_float(value.text(), number) && float_to_int(number, out);
  } else if (value.is(Kind::kBigInt)) {
    return value;
  } else if (value.is_integral()) {
    return Value::integer(value.as_int());
  } else if (value.is(Kind::kFloat)) {
    if (std::isinf(value.as_float()))
      fail("OverflowError", "cannot convert float infinity to integer");
    good = float_to_int(value.as_float(), out);
  }
  if (good) return out;
  return otherwise != nullptr ? *otherwise : Value::integer(0);
}

Value to_float(Interp& interp, const Value& value, const Args& args) {
  args.check("float", 0, 1, {"default"});
  const Value* otherwise = args.get(0, "default");
  require_defined(value);
  if (value.is_numeric()) return Value::number(value.as_float());
  double number = 0;
  if (value.is_string()) interp.budget().step(value.text().size() / 16);
  if (value.is_string() && parse_float(value.text(), number)) return Value::number(number);
  if (value.is(Kind::kBigInt) && parse_float(value.as<BigInt>().digits, number))
    return Value::number(number);
  return otherwise != nullptr ? *otherwise : Value::number(0);
}

Value round(Interp&, const Value& value, const Args& args) {
  args.check("round", 0, 2, {"precision", "method"});
  const Value* precision_arg = args.get(0, "precision");
  const Value* method_arg = args.get(1, "method");
  const int64_t precision = std::clamp<int64_t>(
      precision_arg != nullptr ? require_int(*precision_arg, "round") : 0, -400, 400);
  const std::string method =
      method_arg != nullptr ? require_str(*method_arg, "round").text : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    fail("FilterArgumentError", "method must be common, ceil or floor");
  require_defined(value);
  if (!value.is_numeric())
    fail("TypeError", "type {} doesn't define __round__ method", type_name(value));
  const double number = value.as_float();
  if (method != "common") {
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = number * scale;
    return Value::number((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
  }
  if (value.is_integral() && precision >= 0) return Value::integer(value.as_int());
  if (!std::isfinite(number)) return value;
  if (precision >= 0) {
    // Decimal printing rounds the exact value half to even, as Python's round does.
    const std::string text = fmt::format("{:.{}f}", number, precision);
    return Value::number(strtod(text.c_str(), nullptr));
  }
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  const double rounded = std::nearbyint(number / scale) * scale;
  return value.is_integral() ? Value::integer(static_cast<int64_t>(rounded))
                             : Value::number(rounded);
}

Value file_size(Interp& interp, const Value& value, const Args& args) {
  args.check("filesizeformat", 0, 1, {"binary"});
  const Value* binary_arg = args.get(0, "binary");
  const bool binary = binary_arg != nullptr && truthy(*binary_arg);
  const double bytes = to_float(interp, value, {}).as_float();
  const double base = binary ? 1024 : 1000;
  std::string out;
  if (bytes == 1) {
    out = "1 Byte";
  } else if (bytes < base) {
    out = fmt::format("{} Bytes", static_cast<int64_t>(std::max(bytes, -9e18)));
  } else {
    double unit = base;
    for (char prefix : std::string_view(binary ? "KMGTPEZY" : "kMGTPEZY")) {
      unit *= base;
      out = fmt::format("{:.1f} {}{}", base * bytes / unit, prefix, binary ? "iB" : "B");
      if (bytes < unit) break;
    }
  }
  return make_string(interp.budget(), std::move(out));
}

Value default_filter(Interp& interp, const Value& value, const Args& args) {
  args.check("default", 0, 2, {"default_value", "boolean"});
  const Value* otherwise = args.get(0, "default_value");
  const Value* boolean = args.get(1, "boolean");
  if (!value.is_undefined() && !(boolean != nullptr && truthy(*boolean) && !truthy(value)))
    return value;
  return otherwise != nullptr ? *otherwise : make_string(interp.budget(), "");
}

constexpr std::pair<std::string_view, FilterFunction> kFilters[] = {
    {"abs", absolute},
    {"capitalize", str_filter<kCapitalize>},
    {"center", center},
    {"d", default_filter},
    {"default", default_filter},
    {"e", escape},
    {"escape", escape},
    {"filesizeformat", file_size},
    {"float", to_float},
    {"forceescape", force_escape},
    {"format", format},
    {"indent", indent},
    {"int", to_int},
    {"lower", str_filter<kLower>},
    {"replace", replace},
    {"round", round},
    {"safe", safe},
    {"string", string_filter},
    {"title", title},
    {"tojson", to_json},
    {"trim", trim},
    {"truncate", truncate},
    {"upper", str_filter<kUpper>},
    {"urlencode", url_encode},
    {"wordcount", word_count},
    {"wordwrap", word_wrap},
};

}  // namespace

FilterFunction find_filter(std::string_view name) {
  const auto* found =
      std::lower_bound(std::begin(kFilters), std::end(kFilters), name,
                       [](const auto& row, std::string_view x) { return row.first < x; });
  if (found != std::end(kFilters) && found->first == name) return found->second;
  return find_sequence_filter(name);
}

}  // namespace decant::jinja
