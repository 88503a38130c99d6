#include <algorithm>

#include "chat/jinja_filters.h"
#include "chat/jinja_ops.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

struct Chunk {
  Span span;
  size_t length;  // code points
};

bool is_wrap_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// May the line break behind the hyphen at `at`? Two letters (or letter, hyphen, letter) before it
/// and two letters after it, a hyphen between them allowed; textwrap's rule.
bool breaks_after(std::string_view word, size_t at) {
  const auto letter_before = [&](size_t& i) {
    if (i == 0) return false;
    i = previous_code_point(word, i);
    return is_alpha(code_point_at(word, i));
  };
  const auto letter_after = [&](size_t& i) {
    if (i >= word.size() || !is_alpha(code_point_at(word, i))) return false;
    i = next_code_point(word, i);
    return true;
  };
  size_t i = at;
  if (!letter_before(i)) return false;
  if (i > 0 && word[i - 1] == '-') --i;
  if (!letter_before(i)) return false;
  i = at + 1;
  if (!letter_after(i)) return false;
  if (i < word.size() && word[i] == '-') ++i;
  return letter_after(i);
}

/// Words, white space between them, and parts of words with hyphens.
std::vector<Chunk> chunks_of(std::string_view text, bool hyphens) {
  std::vector<Chunk> out;
  const auto add = [&](size_t from, size_t to) {
    if (from < to) out.push_back({{from, to}, count_code_points(text.substr(from, to - from))});
  };
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    const bool space = is_wrap_space(text[at]);
    while (end < text.size() && is_wrap_space(text[end]) == space) ++end;
    size_t from = at;
    for (size_t i = at; hyphens && !space && i < end; ++i) {
      if (text[i] != '-' || !breaks_after(text.substr(from, end - from), i - from)) continue;
      add(from, i + 1);
      from = i + 1;
    }
    add(from, end);
    at = end;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

bool is_blank(std::string_view text, const Chunk& chunk) {
  return strip_space(text.substr(chunk.span.from, chunk.span.to - chunk.span.from), true, false)
             .from == chunk.span.to - chunk.span.from;
}

struct WrapStyle {
  size_t width;
  bool break_long, hyphens;
};

/// Takes as much of a word that fits no line as the rest of this line holds.
void take_long_word(std::string_view text, const WrapStyle& style, std::vector<Chunk>& chunks,
                    std::vector<Chunk>& line, size_t used) {
  if (!style.break_long) {
    if (line.empty()) {
      line.push_back(chunks.back());
      chunks.pop_back();
    }
    return;
  }
  Chunk& word = chunks.back();
  const std::string_view all = text.substr(word.span.from, word.span.to - word.span.from);
  size_t end = offset_of(all, style.width - used);
  if (style.hyphens && end > 0) {
    const size_t hyphen = all.substr(0, end).rfind('-');
    if (hyphen != std::string_view::npos && hyphen > 0 &&
        all.substr(0, hyphen).find_first_not_of('-') != std::string_view::npos)
      end = hyphen + 1;
  }
  const size_t cut = word.span.from + end, length = count_code_points(all.substr(0, end));
  line.push_back({{word.span.from, cut}, length});
  word = {{cut, word.span.to}, word.length - length};
}

/// Appends the lines of one paragraph, `separator` between any two lines of the whole text.
void wrap(Interp& interp, TextBuilder& out, const Value& paragraph, const WrapStyle& style,
          const Str& separator) {
  const std::string_view text = paragraph.text();
  std::vector<Chunk> chunks = chunks_of(text, style.hyphens);
  bool any = false;
  while (!chunks.empty()) {
    interp.budget().step();
    std::vector<Chunk> line;
    size_t used = 0;
    if (any && is_blank(text, chunks.back())) chunks.pop_back();
    while (!chunks.empty() && used + chunks.back().length <= style.width) {
      used += chunks.back().length;
      line.push_back(chunks.back());
      chunks.pop_back();
    }
    if (!chunks.empty() && chunks.back().length > style.width) {
      interp.budget().step(chunks.back().length / 16);
      take_long_word(text, style, chunks, line, used);
    }
    if (!line.empty() && is_blank(text, line.back())) line.pop_back();
    if (line.empty()) continue;
    if (any) out.append(separator);
    any = true;
    out.append(paragraph.str(), line.front().span.from, line.back().span.to);
  }
}

}  // namespace

Value word_wrap(Interp& interp, const Value& value, const Args& args) {
  args.check("wordwrap", 0, 4, {"width", "break_long_words", "wrapstring", "break_on_hyphens"});
  const Value* width = args.get(0, "width");
  const Value* break_long = args.get(1, "break_long_words");
  const Value* string = args.get(2, "wrapstring");
  const Value* hyphens = args.get(3, "break_on_hyphens");
  require_str(value, "wordwrap");
  const int64_t columns = width != nullptr ? require_int(*width, "wordwrap") : 79;
  const Value separator = string != nullptr && !string->is_none() ? *string : make_constant("\n");
  require_str(separator, "wordwrap");
  Value method;
  find_attribute(interp, value, "splitlines", method);
  const Value lines = interp.call(method, {});
  if (columns <= 0 && length_of(lines) > 0)
    fail("ValueError", "invalid width {} (must be > 0)", columns);
  const WrapStyle style{static_cast<size_t>(std::max<int64_t>(columns, 1)),
                        break_long == nullptr || truthy(*break_long),
                        hyphens == nullptr || truthy(*hyphens)};
  TextBuilder out(interp.budget());
  bool first = true;
  for (const Value& line : lines.as<Sequence>().items) {
    if (!first) out.append(separator.str());
    first = false;
    interp.budget().step(line.text().size() / 8);
    wrap(interp, out, line, style, separator.str());
  }
  return out.take();
}

}  // namespace decant::jinja
