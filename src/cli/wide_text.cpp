#include "cli/wide_text.h"

#include <utf8proc.h>

#include "base/utf8.h"

namespace decant::cli {

std::wstring widen(std::string_view utf8) {
  std::wstring out;
  while (!utf8.empty()) {
    const size_t length = utf8_sequence_length(utf8);
    utf8proc_int32_t point = 0xFFFD;
    if (length > 0)
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(utf8.data()),
                       static_cast<utf8proc_ssize_t>(length), &point);
    out += static_cast<wchar_t>(point);
    utf8.remove_prefix(length > 0 ? length : 1);
  }
  return out;
}

std::string narrow(std::wstring_view text) {
  std::string out;
  for (const wchar_t c : text) {
    const auto point = static_cast<uint32_t>(static_cast<char32_t>(c));
    append_utf8(out, point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF) ? 0xFFFD : point);
  }
  return out;
}

}  // namespace decant::cli
