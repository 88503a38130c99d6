#include "tokenizer/matches.h"

#include "tokenizer/unicode.h"

namespace decant::tokenizer {

void find_all(const Regex& pattern, std::string_view text, Scratch& scratch) {
  scratch.matches.clear();
  if (text.empty()) {
    scratch.matches.push_back({0, 0, false});
    return;
  }
  const std::string_view subject = pattern_subject(text, scratch.subject);
  size_t previous = 0;
  size_t from = 0;
  bool matched = false;
  size_t begin = 0;
  size_t end = 0;
  while (from <= text.size() && pattern.find(subject, from, begin, end, scratch.regex)) {
    // An empty match right behind the last match does not count: the search goes on one further.
    const bool empty = begin == end;
    if (!(empty && matched && end == previous)) {
      if (previous != begin) scratch.matches.push_back({previous, begin, false});
      scratch.matches.push_back({begin, end, true});
      previous = end;
      matched = true;
    }
    from = end;
    if (empty) from += end < text.size() ? decode_code_point(text.substr(end)).length : 1;
  }
  if (previous != text.size()) scratch.matches.push_back({previous, text.size(), false});
}

}  // namespace decant::tokenizer
