#include "chat/jinja_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "base/utf8.h"

namespace decant::jinja {
namespace {

struct Case {
  uint32_t from;
  const char* to;
};

// The characters whose upper case is more than one code point (Unicode's SpecialCasing, as Python's
// str.upper has them); utf8proc maps to single code points only.
constexpr Case kLongUpper[] = {
    {0x00df, "SS"},
    {0x0149, "\u02bcN"},
    {0x01f0, "J\u030c"},
    {0x0390, "\u0399\u0308\u0301"},
    {0x03b0, "\u03a5\u0308\u0301"},
    {0x0587, "\u0535\u0552"},
    {0x1e96, "H\u0331"},
    {0x1e97, "T\u0308"},
    {0x1e98, "W\u030a"},
    {0x1e99, "Y\u030a"},
    {0x1e9a, "A\u02be"},
    {0x1f50, "\u03a5\u0313"},
    {0x1f52, "\u03a5\u0313\u0300"},
    {0x1f54, "\u03a5\u0313\u0301"},
    {0x1f56, "\u03a5\u0313\u0342"},
    {0x1f80, "\u1f08\u0399"},
    {0x1f81, "\u1f09\u0399"},
    {0x1f82, "\u1f0a\u0399"},
    {0x1f83, "\u1f0b\u0399"},
    {0x1f84, "\u1f0c\u0399"},
    {0x1f85, "\u1f0d\u0399"},
    {0x1f86, "\u1f0e\u0399"},
    {0x1f87, "\u1f0f\u0399"},
    {0x1f88, "\u1f08\u0399"},
    {0x1f89, "\u1f09\u0399"},
    {0x1f8a, "\u1f0a\u0399"},
    {0x1f8b, "\u1f0b\u0399"},
    {0x1f8c, "\u1f0c\u0399"},
    {0x1f8d, "\u1f0d\u0399"},
    {0x1f8e, "\u1f0e\u0399"},
    {0x1f8f, "\u1f0f\u0399"},
    {0x1f90, "\u1f28\u0399"},
    {0x1f91, "\u1f29\u0399"},
    {0x1f92, "\u1f2a\u0399"},
    {0x1f93, "\u1f2b\u0399"},
    {0x1f94, "\u1f2c\u0399"},
    {0x1f95, "\u1f2d\u0399"},
    {0x1f96, "\u1f2e\u0399"},
    {0x1f97, "\u1f2f\u0399"},
    {0x1f98, "\u1f28\u0399"},
    {0x1f99, "\u1f29\u0399"},
    {0x1f9a, "\u1f2a\u0399"},
    {0x1f9b, "\u1f2b\u0399"},
    {0x1f9c, "\u1f2c\u0399"},
    {0x1f9d, "\u1f2d\u0399"},
    {0x1f9e, "\u1f2e\u0399"},
    {0x1f9f, "\u1f2f\u0399"},
    {0x1fa0, "\u1f68\u0399"},
    {0x1fa1, "\u1f69\u0399"},
    {0x1fa2, "\u1f6a\u0399"},
    {0x1fa3, "\u1f6b\u0399"},
    {0x1fa4, "\u1f6c\u0399"},
    {0x1fa5, "\u1f6d\u0399"},
    {0x1fa6, "\u1f6e\u0399"},
    {0x1fa7, "\u1f6f\u0399"},
    {0x1fa8, "\u1f68\u0399"},
    {0x1fa9, "\u1f69\u0399"},
    {0x1faa, "\u1f6a\u0399"},
    {0x1fab, "\u1f6b\u0399"},
    {0x1fac, "\u1f6c\u0399"},
    {0x1fad, "\u1f6d\u0399"},
    {0x1fae, "\u1f6e\u0399"},
    {0x1faf, "\u1f6f\u0399"},
    {0x1fb2, "\u1fba\u0399"},
    {0x1fb3, "\u0391\u0399"},
    {0x1fb4, "\u0386\u0399"},
    {0x1fb6, "\u0391\u0342"},
    {0x1fb7, "\u0391\u0342\u0399"},
    {0x1fbc, "\u0391\u0399"},
    {0x1fc2, "\u1fca\u0399"},
    {0x1fc3, "\u0397\u0399"},
    {0x1fc4, "\u0389\u0399"},
    {0x1fc6, "\u0397\u0342"},
    {0x1fc7, "\u0397\u0342\u0399"},
    {0x1fcc, "\u0397\u0399"},
    {0x1fd2, "\u0399\u0308\u0300"},
    {0x1fd3, "\u0399\u0308\u0301"},
    {0x1fd6, "\u0399\u0342"},
    {0x1fd7, "\u0399\u0308\u0342"},
    {0x1fe2, "\u03a5\u0308\u0300"},
    {0x1fe3, "\u03a5\u0308\u0301"},
    {0x1fe4, "\u03a1\u0313"},
    {0x1fe6, "\u03a5\u0342"},
    {0x1fe7, "\u03a5\u0308\u0342"},
    {0x1ff2, "\u1ffa\u0399"},
    {0x1ff3, "\u03a9\u0399"},
    {0x1ff4, "\u038f\u0399"},
    {0x1ff6, "\u03a9\u0342"},
    {0x1ff7, "\u03a9\u0342\u0399"},
    {0x1ffc, "\u03a9\u0399"},
    {0xfb00, "FF"},
    {0xfb01, "FI"},
    {0xfb02, "FL"},
    {0xfb03, "FFI"},
    {0xfb04, "FFL"},
    {0xfb05, "ST"},
    {0xfb06, "ST"},
    {0xfb13, "\u0544\u0546"},
    {0xfb14, "\u0544\u0535"},
    {0xfb15, "\u0544\u053b"},
    {0xfb16, "\u054e\u0546"},
    {0xfb17, "\u0544\u053d"},
};

// Those of them whose title case is not their upper case.
constexpr Case kLongTitle[] = {
    {0x00df, "Ss"},
    {0x0587, "\u0535\u0582"},
    {0x1f80, "\u1f88"},
    {0x1f81, "\u1f89"},
    {0x1f82, "\u1f8a"},
    {0x1f83, "\u1f8b"},
    {0x1f84, "\u1f8c"},
    {0x1f85, "\u1f8d"},
    {0x1f86, "\u1f8e"},
    {0x1f87, "\u1f8f"},
    {0x1f88, "\u1f88"},
    {0x1f89, "\u1f89"},
    {0x1f8a, "\u1f8a"},
    {0x1f8b, "\u1f8b"},
    {0x1f8c, "\u1f8c"},
    {0x1f8d, "\u1f8d"},
    {0x1f8e, "\u1f8e"},
    {0x1f8f, "\u1f8f"},
    {0x1f90, "\u1f98"},
    {0x1f91, "\u1f99"},
    {0x1f92, "\u1f9a"},
    {0x1f93, "\u1f9b"},
    {0x1f94, "\u1f9c"},
    {0x1f95, "\u1f9d"},
    {0x1f96, "\u1f9e"},
    {0x1f97, "\u1f9f"},
    {0x1f98, "\u1f98"},
    {0x1f99, "\u1f99"},
    {0x1f9a, "\u1f9a"},
    {0x1f9b, "\u1f9b"},
    {0x1f9c, "\u1f9c"},
    {0x1f9d, "\u1f9d"},
    {0x1f9e, "\u1f9e"},
    {0x1f9f, "\u1f9f"},
    {0x1fa0, "\u1fa8"},
    {0x1fa1, "\u1fa9"},
    {0x1fa2, "\u1faa"},
    {0x1fa3, "\u1fab"},
    {0x1fa4, "\u1fac"},
    {0x1fa5, "\u1fad"},
    {0x1fa6, "\u1fae"},
    {0x1fa7, "\u1faf"},
    {0x1fa8, "\u1fa8"},
    {0x1fa9, "\u1fa9"},
    {0x1faa, "\u1faa"},
    {0x1fab, "\u1fab"},
    {0x1fac, "\u1fac"},
    {0x1fad, "\u1fad"},
    {0x1fae, "\u1fae"},
    {0x1faf, "\u1faf"},
    {0x1fb2, "\u1fba\u0345"},
    {0x1fb3, "\u1fbc"},
    {0x1fb4, "\u0386\u0345"},
    {0x1fb7, "\u0391\u0342\u0345"},
    {0x1fbc, "\u1fbc"},
    {0x1fc2, "\u1fca\u0345"},
    {0x1fc3, "\u1fcc"},
    {0x1fc4, "\u0389\u0345"},
    {0x1fc7, "\u0397\u0342\u0345"},
    {0x1fcc, "\u1fcc"},
    {0x1ff2, "\u1ffa\u0345"},
    {0x1ff3, "\u1ffc"},
    {0x1ff4, "\u038f\u0345"},
    {0x1ff7, "\u03a9\u0342\u0345"},
    {0x1ffc, "\u1ffc"},
    {0xfb00, "Ff"},
    {0xfb01, "Fi"},
    {0xfb02, "Fl"},
    {0xfb03, "Ffi"},
    {0xfb04, "Ffl"},
    {0xfb05, "St"},
    {0xfb06, "St"},
    {0xfb13, "\u0544\u0576"},
    {0xfb14, "\u0544\u0565"},
    {0xfb15, "\u0544\u056b"},
    {0xfb16, "\u054e\u0576"},
    {0xfb17, "\u0544\u056d"},
};

template <size_t N>
const char* find_long(const Case (&table)[N], uint32_t c) {
  const Case* found = std::lower_bound(std::begin(table), std::end(table), c,
                                       [](const Case& row, uint32_t x) { return row.from < x; });
  return found != std::end(table) && found->from == c ? found->to : nullptr;
}

struct Interval {
  uint32_t first, last;
};

template <size_t N>
bool inside(const Interval (&table)[N], uint32_t c) {
  for (const Interval& row : table)
    if (c >= row.first && c <= row.last) return true;
  return false;
}

// Numeric_Type=Digit outside the category Nd.
constexpr Interval kDigits[] = {
    {0xb2, 0xb3},       {0xb9, 0xb9},       {0x1369, 0x1371},   {0x19da, 0x19da},
    {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
    {0x2474, 0x247c},   {0x2488, 0x2490},   {0x24ea, 0x24ea},   {0x24f5, 0x24fd},
    {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},   {0x278a, 0x2792},
    {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a},
};
// Other_Lowercase and Other_Uppercase.
constexpr Interval kOtherLower[] = {
    {0xaa, 0xaa},       {0xba, 0xba},       {0x2b0, 0x2b8},     {0x2c0, 0x2c1},
    {0x2e0, 0x2e4},     {0x345, 0x345},     {0x37a, 0x37a},     {0x1d2c, 0x1d6a},
    {0x1d78, 0x1d78},   {0x1d9b, 0x1dbf},   {0x2071, 0x2071},   {0x207f, 0x207f},
    {0x2090, 0x209c},   {0x2170, 0x217f},   {0x24d0, 0x24e9},   {0x2c7c, 0x2c7d},
    {0xa69c, 0xa69d},   {0xa770, 0xa770},   {0xa7f8, 0xa7f9},   {0xab5c, 0xab5f},
    {0x10780, 0x10780}, {0x10783, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
};
constexpr Interval kOtherUpper[] = {
    {0x2160, 0x216f}, {0x24b6, 0x24cf}, {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189},
};

utf8proc_category_t category(uint32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool is_cased(uint32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }

bool is_case_ignorable(uint32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return c == '\'' || c == '.' || c == ':' || c == 0xb7 || c == 0x387 || c == 0x55f ||
             c == 0x5f4 || c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027 ||
             c == 0xfe13 || c == 0xfe52 || c == 0xfe55 || c == 0xff07 || c == 0xff0e || c == 0xff1a;
  }
}

bool is_final_sigma(std::string_view text, size_t at) {
  bool before = false;
  for (size_t i = at; i > 0;) {
    i = previous_code_point(text, i);
    const uint32_t c = code_point_at(text, i);
    if (is_case_ignorable(c)) continue;
    before = is_cased(c);
    break;
  }
  if (!before) return false;
  for (size_t i = next_code_point(text, at); i < text.size(); i = next_code_point(text, i)) {
    const uint32_t c = code_point_at(text, i);
    if (!is_case_ignorable(c)) return !is_cased(c);
  }
  return true;
}

void append_upper(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
  } else if (const char* many = find_long(kLongUpper, c)) {
    out += many;
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_title(std::string& out, uint32_t c) {
  if (const char* title = find_long(kLongTitle, c)) {
    out += title;
  } else if (const char* many = find_long(kLongUpper, c)) {
    out += many;
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_lower(std::string& out, std::string_view text, size_t at) {
  const uint32_t c = code_point_at(text, at);
  if (c < 0x80) {
    out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  } else if (c == 0x130) {
    out += "i\u0307";
  } else if (c == 0x3a3) {
    out += is_final_sigma(text, at) ? "\u03c2" : "\u03c3";
  } else {
    append_utf8(out, static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

}  // namespace

size_t next_code_point(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  return std::min(at + size, text.size());
}

size_t previous_code_point(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

uint32_t code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const uint32_t lead = byte(at);
  if (lead < 0x80) return lead;
  if (lead < 0xe0) return (lead & 0x1f) << 6 | (byte(at + 1) & 0x3f);
  if (lead < 0xf0) return (lead & 0x0f) << 12 | (byte(at + 1) & 0x3f) << 6 | (byte(at + 2) & 0x3f);
  return (lead & 0x07) << 18 | (byte(at + 1) & 0x3f) << 12 | (byte(at + 2) & 0x3f) << 6 |
         (byte(at + 3) & 0x3f);
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (char c : text) count += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return count;
}

size_t offset_of(std::string_view text, size_t index) {
  size_t at = 0;
  while (index > 0 && at < text.size()) {
    at = next_code_point(text, at);
    --index;
  }
  return at;
}

size_t find_text(std::string_view text, std::string_view wanted, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (wanted.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, wanted.data(), wanted.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

bool is_alpha(uint32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(uint32_t c) { return is_decimal(c) || inside(kDigits, c); }
bool is_numeric(uint32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}
bool is_lower(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LL || inside(kOtherLower, c); }
bool is_upper(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LU || inside(kOtherUpper, c); }
bool is_title(uint32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

bool is_printable(uint32_t c) {
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    case UTF8PROC_CATEGORY_ZS:
      return c == ' ';
    default:
      return true;
  }
}

bool is_line_break(uint32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

bool is_name_part(uint32_t c) {
  if (c < 0x80)
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  switch (category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return is_alpha(c) || is_numeric(c);
  }
}

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i))
    append_upper(out, code_point_at(text, i));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) append_lower(out, text, i);
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool inside_word = false;
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
    const uint32_t c = code_point_at(text, i);
    if (inside_word) {
      append_lower(out, text, i);
    } else {
      append_title(out, c);
    }
    inside_word = is_cased(c);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
    if (i == 0) {
      append_title(out, code_point_at(text, 0));
    } else {
      append_lower(out, text, i);
    }
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
    const uint32_t c = code_point_at(text, i);
    if (is_upper(c)) {
      append_lower(out, text, i);
    } else if (is_lower(c)) {
      append_upper(out, c);
    } else {
      append_utf8(out, c);
    }
  }
  return out;
}

namespace {

template <typename Test>
Span strip_if(std::string_view text, bool left, bool right, const Test& test) {
  size_t from = 0, to = text.size();
  if (left) {
    while (from < to && test(from)) from = next_code_point(text, from);
  }
  if (right) {
    while (to > from) {
      const size_t at = previous_code_point(text, to);
      if (!test(at)) break;
      to = at;
    }
  }
  return {from, to};
}

}  // namespace

Span strip_space(std::string_view text, bool left, bool right) {
  return strip_if(text, left, right, [&](size_t at) { return is_space(code_point_at(text, at)); });
}

Span strip_set(std::string_view text, std::string_view set, bool left, bool right) {
  return strip_if(text, left, right, [&](size_t at) {
    return set.find(text.substr(at, next_code_point(text, at) - at)) != std::string_view::npos;
  });
}

}  // namespace decant::jinja
