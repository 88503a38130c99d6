#include "cli/text_width.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/utf8.h"

namespace decant::cli {
namespace {

struct CodePoint {
  utf8proc_int32_t value = -1;
  size_t bytes = 0;
};

CodePoint first_of(std::string_view text) {
  if (text.empty()) return {};
  const size_t bytes = utf8_sequence_length(text);
  if (bytes == 0) return {-1, 1};
  CodePoint out{0, bytes};
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(bytes), &out.value);
  return out;
}

constexpr std::u32string_view kNeverBegin =
    U"!),.:;?]}\u00bb\u2019\u201d\u2026\u3001\u3002\u3005\u3009\u300b\u300d\u300f\u3011\u3015"
    U"\u3017\u3041\u3043\u3045\u3047\u3049\u3063\u3083\u3085\u3087\u308e\u309d\u309e\u30a1\u30a3"
    U"\u30a5\u30a7\u30a9\u30c3\u30e3\u30e5\u30e7\u30ee\u30fb\u30fc\u30fd\u30fe\uff01\uff09\uff0c"
    U"\uff0e\uff1a\uff1b\uff1f\uff3d\uff5d\uff5e\uff61\uff63";
constexpr std::u32string_view kNeverEnd =
    U"([{"
    U"\u00ab\u2018\u201c\u3008\u300a\u300c\u300e\u3010\u3014\u3016\uff08\uff3b\uff5b\uff5f\uff62";

bool listed(std::u32string_view list, std::string_view cluster) {
  const CodePoint first = first_of(cluster);
  return first.value >= 0 && list.find(static_cast<char32_t>(first.value)) != list.npos;
}

}  // namespace

size_t grapheme_length(std::string_view text) {
  CodePoint before = first_of(text);
  size_t length = before.bytes;
  utf8proc_int32_t state = 0;
  while (length < text.size() && before.value >= 0) {
    const CodePoint next = first_of(text.substr(length));
    if (next.value < 0 || utf8proc_grapheme_break_stateful(before.value, next.value, &state)) break;
    length += next.bytes;
    before = next;
  }
  return length;
}

int grapheme_width(std::string_view cluster) {
  int sum = 0;
  bool pictogram = false;  // drawn as one: joined emoji, flags, keycaps
  bool jamo = false;
  int regional = 0;
  for (size_t at = 0; at < cluster.size();) {
    const CodePoint point = first_of(cluster.substr(at));
    at += point.bytes;
    if (point.value < 0) {
      ++sum;
      continue;
    }
    if (point.value == 0x200D || point.value == 0xFE0F ||
        (point.value >= 0x1F3FB && point.value <= 0x1F3FF && sum > 0))
      pictogram = true;
    if (point.value >= 0x1F1E6 && point.value <= 0x1F1FF) ++regional;
    if (point.value >= 0x1100 && point.value <= 0x11FF) jamo = true;
    sum += std::max(0, utf8proc_charwidth(point.value));
  }
  if (regional == 2) return 2;
  // A joiner between letters that only shapes them (Arabic, Indic) leaves their own widths.
  const CodePoint base = first_of(cluster);
  const bool symbol = base.value >= 0x2000 || base.value == 0xA9 || base.value == 0xAE ||
                      (base.value >= '#' && base.value <= '9');
  if (pictogram && symbol) return sum == 0 ? 0 : 2;
  return jamo ? std::min(sum, 2) : sum;
}

int text_width(std::string_view text) {
  int out = 0;
  while (!text.empty()) {
    const size_t length = grapheme_length(text);
    out += grapheme_width(text.substr(0, length));
    text.remove_prefix(length);
  }
  return out;
}

bool breaks_around(std::string_view cluster) {
  const CodePoint first = first_of(cluster);
  return first.value >= 0x2E80 && grapheme_width(cluster) == 2 &&
         !(first.value >= 0xAC00 && first.value <= 0xD7A3);  // Korean has blanks between words
}

bool never_begins_line(std::string_view cluster) { return listed(kNeverBegin, cluster); }
bool never_ends_line(std::string_view cluster) { return listed(kNeverEnd, cluster); }

}  // namespace decant::cli
