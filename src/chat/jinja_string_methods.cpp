#include <algorithm>

#include "chat/jinja_eval.h"
#include "chat/jinja_format.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

Value text_of(Interp& interp, std::string text, bool marked) {
  return make_string(interp.budget(), std::move(text), marked);
}

/// Changes the text of a string and keeps its marks run by run.
Value map_runs(Interp& interp, const Value& self, std::string (*change)(std::string_view)) {
  const Str& string = self.str();
  interp.budget().text(string.text.size());
  TextBuilder out(interp.budget());
  const std::string_view text = string.text;
  size_t at = 0;
  for (const auto& [from, to] : string.marks) {
    out.append(change(text.substr(at, from - at)));
    out.append(change(text.substr(from, to - from)), true);
    at = to;
  }
  out.append(change(text.substr(at)));
  return out.take();
}

/// The same for changes that look at neighbours: one mark makes all of the result marked.
Value map_whole(Interp& interp, const Value& self, std::string (*change)(std::string_view)) {
  interp.budget().text(self.text().size());
  return text_of(interp, change(self.text()), !self.str().marks.empty());
}

/// rfind and strip compare all of `wanted` at every place of `text` in the worst case.
void charge_search(Interp& interp, std::string_view text, std::string_view wanted) {
  if (wanted.size() > 64) interp.budget().step(text.size() / 64 * (wanted.size() / 16));
}

template <bool Left, bool Right>
Value strip(Interp& interp, const Value& self, const Args& args) {
  args.check("strip", 0, 1);
  const std::string& text = self.text();
  interp.budget().step(text.size() / 64);
  const Value* set = args.get(0, "chars");
  if (set != nullptr && set->is_string()) charge_search(interp, text, set->text());
  const Span span = set == nullptr || set->is_none()
                        ? strip_space(text, Left, Right)
                        : strip_set(text, require_str(*set, "strip").text, Left, Right);
  return substring(interp.budget(), self, span.from, span.to);
}

int64_t max_split(const Args& args) {
  const Value* count = args.get(1, "maxsplit");
  return count == nullptr ? -1 : require_int(*count, "maxsplit");
}

std::vector<Span> split_space(std::string_view text, int64_t limit, bool from_right) {
  std::vector<Span> out;
  if (!from_right) {
    size_t at = strip_space(text, true, false).from;
    while (at < text.size()) {
      size_t end = at;
      while (end < text.size() && !is_space(code_point_at(text, end)))
        end = next_code_point(text, end);
      if (limit == 0) {
        out.push_back({at, text.size()});  // the rest keeps its white space at the end
        break;
      }
      --limit;
      out.push_back({at, end});
      at = end + strip_space(text.substr(end), true, false).from;
    }
    return out;
  }
  size_t end = strip_space(text, false, true).to;
  while (end > 0) {
    size_t at = end;
    while (at > 0 && !is_space(code_point_at(text, previous_code_point(text, at))))
      at = previous_code_point(text, at);
    if (limit == 0) {
      out.push_back({0, end});  // the rest keeps its white space at the start
      break;
    }
    --limit;
    out.push_back({at, end});
    end = strip_space(text.substr(0, at), false, true).to;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<Span> split_at(std::string_view text, std::string_view separator, int64_t limit,
                           bool from_right) {
  if (separator.empty()) fail("ValueError", "empty separator");
  std::vector<Span> out;
  if (!from_right) {
    size_t at = 0;
    for (size_t found;
         limit != 0 && (found = find_text(text, separator, at)) != std::string_view::npos;
         --limit) {
      out.push_back({at, found});
      at = found + separator.size();
    }
    out.push_back({at, text.size()});
    return out;
  }
  size_t end = text.size();
  while (limit != 0 && end >= separator.size()) {
    const size_t found = text.rfind(separator, end - separator.size());
    if (found == std::string_view::npos) break;
    out.push_back({found + separator.size(), end});
    end = found;
    --limit;
  }
  out.push_back({0, end});
  std::reverse(out.begin(), out.end());
  return out;
}

template <bool FromRight>
Value split(Interp& interp, const Value& self, const Args& args) {
  args.check("split", 0, 2, {"sep", "maxsplit"});
  const Value* separator = args.get(0, "sep");
  const std::string& text = self.text();
  interp.budget().step(text.size() / 16);
  const bool space = separator == nullptr || separator->is_none();
  if (FromRight && !space) charge_search(interp, text, require_str(*separator, "split").text);
  const auto spans =
      space ? split_space(text, max_split(args), FromRight)
            : split_at(text, require_str(*separator, "split").text, max_split(args), FromRight);
  interp.budget().step(spans.size());
  std::vector<Value> out;
  out.reserve(spans.size());
  for (const Span& span : spans)
    out.push_back(substring(interp.budget(), self, span.from, span.to));
  return make_list(interp.budget(), std::move(out));
}

Value splitlines(Interp& interp, const Value& self, const Args& args) {
  args.check("splitlines", 0, 1, {"keepends"});
  const Value* keep = args.get(0, "keepends");
  const bool keep_ends = keep != nullptr && truthy(*keep);
  const std::string& text = self.text();
  interp.budget().step(text.size() / 16);
  std::vector<Value> out;
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && !is_line_break(code_point_at(text, end)))
      end = next_code_point(text, end);
    size_t next = end < text.size() ? next_code_point(text, end) : end;
    if (end < text.size() && text[end] == '\r' && next < text.size() && text[next] == '\n') ++next;
    out.push_back(substring(interp.budget(), self, at, keep_ends ? next : end));
    interp.budget().step();
    at = next;
  }
  return make_list(interp.budget(), std::move(out));
}

Value replace(Interp& interp, const Value& self, const Args& args) {
  args.check("replace", 2, 3, {"old", "new", "count"});
  const Value* limit = args.get(2, "count");
  const Str& from = require_str(*args.get(0, "old"), "replace");
  const Str& to = require_str(*args.get(1, "new"), "replace");
  int64_t count = limit == nullptr ? -1 : require_int(*limit, "replace");
  const std::string& text = self.text();
  TextBuilder out(interp.budget());
  size_t at = 0;
  if (from.text.empty()) {
    // The new text goes before every character and to the end.
    while (count != 0) {
      interp.budget().step();
      out.append(to);
      --count;
      if (at >= text.size()) return out.take();
      const size_t next = next_code_point(text, at);
      out.append(self.str(), at, next);
      at = next;
    }
  } else {
    for (size_t found; count != 0 && (found = find_text(text, from.text, at)) != std::string::npos;
         --count) {
      interp.budget().step();
      out.append(self.str(), at, found);
      out.append(to);
      at = found + from.text.size();
    }
    if (at == 0) return self;
  }
  out.append(self.str(), at, text.size());
  return out.take();
}

/// The part of the string that start and stop arguments name, in bytes; false if it is empty
/// because start lies behind the end.
bool part(Interp& interp, const Value& self, const Args& args, Span& out) {
  const auto length = static_cast<int64_t>(self.str().length);
  const auto at = [&](size_t index, int64_t otherwise) {
    if (args.positional.size() <= index || args.positional[index].is_none()) return otherwise;
    const int64_t value = require_int(args.positional[index], "slice indices");
    return value < 0 ? std::max<int64_t>(value < -length ? 0 : value + length, 0) : value;
  };
  const int64_t from = at(1, 0), to = std::min(at(2, length), length);
  interp.budget().step(self.text().size() / 64);
  if (from > length || from > to) return false;
  const bool ascii = self.str().ascii();
  const auto offset = [&](int64_t index) {
    return ascii ? static_cast<size_t>(index) : offset_of(self.text(), static_cast<size_t>(index));
  };
  out = {offset(from), offset(to)};
  return true;
}

template <bool Front>
Value starts_with(Interp& interp, const Value& self, const Args& args) {
  args.check(Front ? "startswith" : "endswith", 1, 3);
  Span span{};
  if (!part(interp, self, args, span)) return Value::boolean(false);
  const std::string_view text =
      std::string_view(self.text()).substr(span.from, span.to - span.from);
  const Value& wanted = args.positional[0];
  const auto matches = [&](const Value& option) {
    const std::string& affix = require_str(option, Front ? "startswith" : "endswith").text;
    return Front ? text.starts_with(affix) : text.ends_with(affix);
  };
  if (!wanted.is(Kind::kTuple)) return Value::boolean(matches(wanted));
  for (const Value& option : wanted.as<Sequence>().items)
    if (matches(option)) return Value::boolean(true);
  return Value::boolean(false);
}

template <bool FromRight, bool Must>
Value find(Interp& interp, const Value& self, const Args& args) {
  args.check("find", 1, 3);
  const std::string& wanted = require_str(args.positional[0], "find").text;
  Span span{};
  size_t found = std::string::npos;
  if (FromRight) charge_search(interp, self.text(), wanted);
  if (part(interp, self, args, span)) {
    const std::string_view text =
        std::string_view(self.text()).substr(span.from, span.to - span.from);
    found = FromRight ? text.rfind(wanted) : find_text(text, wanted);
  }
  if (found == std::string::npos) {
    if (Must) fail("ValueError", "substring not found");
    return Value::integer(-1);
  }
  const std::string_view before = std::string_view(self.text()).substr(0, span.from + found);
  return Value::integer(static_cast<int64_t>(count_code_points(before)));
}

Value count(Interp& interp, const Value& self, const Args& args) {
  args.check("count", 1, 3);
  const std::string& wanted = require_str(args.positional[0], "count").text;
  Span span{};
  if (!part(interp, self, args, span)) return Value::integer(0);
  const std::string_view text =
      std::string_view(self.text()).substr(span.from, span.to - span.from);
  if (wanted.empty()) return Value::integer(static_cast<int64_t>(count_code_points(text)) + 1);
  int64_t out = 0;
  for (size_t at = 0; (at = find_text(text, wanted, at)) != std::string_view::npos;
       at += wanted.size())
    ++out;
  return Value::integer(out);
}

Value join(Interp& interp, const Value& self, const Args& args) {
  args.check("join", 1, 1);
  TextBuilder out(interp.budget());
  const auto items = collect(interp, args.positional[0]);
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.append(self.str());
    if (!items[i].is_string())
      fail("TypeError", "sequence item {}: expected str instance, {} found", i,
           type_name(items[i]));
    out.append(items[i].str());
  }
  return out.take();
}

template <bool FromRight>
Value partition(Interp& interp, const Value& self, const Args& args) {
  args.check("partition", 1, 1);
  const std::string& separator = require_str(args.positional[0], "partition").text;
  if (separator.empty()) fail("ValueError", "empty separator");
  Budget& budget = interp.budget();
  const std::string& text = self.text();
  if (FromRight) charge_search(interp, text, separator);
  const size_t found = FromRight ? text.rfind(separator) : find_text(text, separator);
  const Value none = make_string(budget, "");
  if (found == std::string::npos)
    return FromRight ? make_tuple(budget, {none, none, self})
                     : make_tuple(budget, {self, none, none});
  return make_tuple(budget, {substring(budget, self, 0, found),
                             substring(budget, self, found, found + separator.size()),
                             substring(budget, self, found + separator.size(), text.size())});
}

template <bool Front>
Value remove_affix(Interp& interp, const Value& self, const Args& args) {
  args.check(Front ? "removeprefix" : "removesuffix", 1, 1);
  const std::string& affix = require_str(args.positional[0], "affix").text;
  const std::string& text = self.text();
  if (Front ? !text.starts_with(affix) : affix.empty() || !text.ends_with(affix)) return self;
  return Front ? substring(interp.budget(), self, affix.size(), text.size())
               : substring(interp.budget(), self, 0, text.size() - affix.size());
}

template <char Align>
Value justify(Interp& interp, const Value& self, const Args& args) {
  args.check("justify", 1, 2);
  const int64_t width = require_int(args.positional[0], "width");
  const Value fill = args.positional.size() > 1 ? args.positional[1] : make_constant(" ");
  if (require_str(fill, "fill").length != 1)
    fail("TypeError", "The fill character must be exactly one character long");
  const int64_t pad = width - static_cast<int64_t>(self.str().length);
  if (pad <= 0) return self;
  interp.budget().fits(static_cast<size_t>(pad));
  // Python's center puts the odd one left when the width is odd.
  const int64_t left = Align == '>' ? pad : Align == '<' ? 0 : pad / 2 + (pad & width & 1);
  TextBuilder out(interp.budget());
  for (int64_t i = 0; i < left; ++i) out.append(fill.str());
  out.append(self.str());
  for (int64_t i = left; i < pad; ++i) out.append(fill.str());
  return out.take();
}

Value zfill(Interp& interp, const Value& self, const Args& args) {
  args.check("zfill", 1, 1);
  const int64_t pad =
      require_int(args.positional[0], "width") - static_cast<int64_t>(self.str().length);
  if (pad <= 0) return self;
  interp.budget().fits(static_cast<size_t>(pad));
  const std::string& text = self.text();
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  TextBuilder out(interp.budget());
  out.append(self.str(), 0, sign);
  out.append(std::string(static_cast<size_t>(pad), '0'));
  out.append(self.str(), sign, text.size());
  return out.take();
}

Value expandtabs(Interp& interp, const Value& self, const Args& args) {
  args.check("expandtabs", 0, 1, {"tabsize"});
  const Value* size = args.get(0, "tabsize");
  const int64_t width = size == nullptr ? 8 : require_int(*size, "tabsize");
  if (width > 1024) fail("LimitError", "expandtabs: expected a width of at most 1024");
  TextBuilder out(interp.budget());
  const std::string& text = self.text();
  int64_t column = 0;
  for (size_t i = 0; i < text.size();) {
    interp.budget().step();
    const size_t next = next_code_point(text, i);
    if (text[i] == '\t') {
      const int64_t pad = width > 0 ? width - column % width : 0;
      out.append(std::string(static_cast<size_t>(pad), ' '));
      column += pad;
    } else {
      out.append(self.str(), i, next);
      column = text[i] == '\n' || text[i] == '\r' ? 0 : column + 1;
    }
    i = next;
  }
  return out.take();
}

template <std::string (*Change)(std::string_view), bool Whole>
Value change_case(Interp& interp, const Value& self, const Args& args) {
  args.check("this method", 0, 0);
  return Whole ? map_whole(interp, self, Change) : map_runs(interp, self, Change);
}

template <bool (*Test)(uint32_t)>
Value all_are(Interp& interp, const Value& self, const Args& args) {
  args.check("this method", 0, 0);
  const std::string& text = self.text();
  interp.budget().step(text.size() / 16);
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i))
    if (!Test(code_point_at(text, i))) return Value::boolean(false);
  return Value::boolean(!text.empty());
}

bool is_alnum(uint32_t c) { return is_alpha(c) || is_digit(c) || is_numeric(c); }

template <bool Lower>
Value is_cased_as(Interp& interp, const Value& self, const Args& args) {
  args.check("this method", 0, 0);
  const std::string& text = self.text();
  interp.budget().step(text.size() / 16);
  bool any = false;
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
    const uint32_t c = code_point_at(text, i);
    if (is_title(c) || (Lower ? is_upper(c) : is_lower(c))) return Value::boolean(false);
    any = any || (Lower ? is_lower(c) : is_upper(c));
  }
  return Value::boolean(any);
}

Value istitle(Interp& interp, const Value& self, const Args& args) {
  args.check("istitle", 0, 0);
  const std::string& text = self.text();
  interp.budget().step(text.size() / 16);
  bool cased = false, before = false;
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
    const uint32_t c = code_point_at(text, i);
    const bool start = is_upper(c) || is_title(c);
    if (start ? before : is_lower(c) && !before) return Value::boolean(false);
    before = start || is_lower(c);
    cased = cased || before;
  }
  return Value::boolean(cased);
}

Value isascii(Interp&, const Value& self, const Args&) {
  return Value::boolean(std::all_of(self.text().begin(), self.text().end(),
                                    [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

Value isprintable(Interp&, const Value& self, const Args&) {
  const std::string& text = self.text();
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i))
    if (!is_printable(code_point_at(text, i))) return Value::boolean(false);
  return Value::boolean(true);
}

Value isidentifier(Interp&, const Value& self, const Args&) {
  const std::string& text = self.text();
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
    const uint32_t c = code_point_at(text, i);
    if (!is_name_part(c) || (i == 0 && c != '_' && !is_alpha(c))) return Value::boolean(false);
  }
  return Value::boolean(!text.empty());
}

Value format_map(Interp& interp, const Value& self, const Args& args) {
  args.check("format_map", 1, 1);
  if (!args.positional[0].is_dict()) fail("TypeError", "format_map: expected a dict");
  Args named;
  for (const auto& [key, value] : args.positional[0].as<Dict>().items)
    if (key.is_string()) named.keywords.emplace_back(key.text(), value);
  return str_format(interp, self, named);
}

constexpr Method kStrMethods[] = {
    {"capitalize", change_case<capitalize, true>},
    {"casefold", change_case<to_lower, true>},
    {"center", justify<'^'>},
    {"count", count},
    {"endswith", starts_with<false>},
    {"expandtabs", expandtabs},
    {"find", find<false, false>},
    {"format", str_format},
    {"format_map", format_map},
    {"index", find<false, true>},
    {"isalnum", all_are<is_alnum>},
    {"isalpha", all_are<is_alpha>},
    {"isascii", isascii},
    {"isdecimal", all_are<is_decimal>},
    {"isdigit", all_are<is_digit>},
    {"isidentifier", isidentifier},
    {"islower", is_cased_as<true>},
    {"isnumeric", all_are<is_numeric>},
    {"isprintable", isprintable},
    {"isspace", all_are<is_space>},
    {"istitle", istitle},
    {"isupper", is_cased_as<false>},
    {"join", join},
    {"ljust", justify<'<'>},
    {"lower", change_case<to_lower, false>},
    {"lstrip", strip<true, false>},
    {"partition", partition<false>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace},
    {"rfind", find<true, false>},
    {"rindex", find<true, true>},
    {"rjust", justify<'>'>},
    {"rpartition", partition<true>},
    {"rsplit", split<true>},
    {"rstrip", strip<false, true>},
    {"split", split<false>},
    {"splitlines", splitlines},
    {"startswith", starts_with<true>},
    {"strip", strip<true, true>},
    {"swapcase", change_case<swap_case, true>},
    {"title", change_case<to_title, true>},
    {"upper", change_case<to_upper, false>},
    {"zfill", zfill},
};

}  // namespace

NativeFunction find_string_method(std::string_view name) { return find_method(kStrMethods, name); }

}  // namespace decant::jinja
