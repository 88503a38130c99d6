#include "chat/jinja_lexer.h"

#include <algorithm>

#include "base/utf8.h"
#include "chat/jinja_unicode.h"

namespace decant::jinja {
namespace {

// A template is read once and kept; larger ones are no chat templates.
constexpr size_t kMaxSourceBytes = 4u << 20;

bool is_digit_char(char c) { return c >= '0' && c <= '9'; }

bool digit_of_base(char c, int base) {
  if (base <= 10) return c >= '0' && c < '0' + base;
  return is_digit_char(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/// Follows jinja2's lexer rule by rule: the same regular expressions, matched by hand.
class Lexer {
 public:
  Lexer(std::string_view source, std::string_view name) : name_(name) {
    if (source.size() > kMaxSourceBytes)
      throw TemplateError("[template] {}: size: expected at most {} bytes, got {}", name,
                          kMaxSourceBytes, source.size());
    if (const size_t bad = utf8_first_error(source); bad != std::string::npos)
      throw TemplateError("[template] {}: expected UTF-8, got an ill-formed byte at {}", name, bad);
    source_.reserve(source.size());
    for (size_t i = 0; i < source.size(); ++i) {
      if (source[i] == '\r') {
        if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
        source_ += '\n';
      } else {
        source_ += source[i];
      }
    }
    // jinja2's keep_trailing_newline is off: one newline at the end is no part of the template.
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw TemplateError("[template] {}:{}: {}", name_, line_, what);
  }

  bool starts(size_t at, std::string_view text) const {
    return std::string_view(source_).substr(std::min(at, source_.size())).starts_with(text);
  }

  size_t skip_space(size_t at) const {
    while (at < source_.size() && is_space(code_point_at(source_, at)))
      at = next_code_point(source_, at);
    return at;
  }

  void move_to(size_t at) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                         source_.begin() + static_cast<ptrdiff_t>(at), '\n'));
    if (at > at_)
      line_starting_ = source_[at - 1] == '\n';
    else
      line_starting_ = false;
    at_ = at;
  }

  void add(TokenType type, std::string text) { tokens_.push_back({type, line_, std::move(text)}); }

  /// What a tag's first characters do to the text before it.
  void add_data(size_t end, char sign, bool variable) {
    std::string_view text = std::string_view(source_).substr(at_, end - at_);
    if (sign == '-') {
      text = text.substr(0, strip_space(text, false, true).to);
    } else if (sign != '+' && !variable) {
      const size_t newline = text.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && strip_space(text.substr(start), false, true).to == 0)
        text = text.substr(0, start);
    }
    if (!text.empty()) add(TokenType::kData, std::string(text));
  }

  /// Offset behind `-%}` + white space, `+%}` or `%}` + newline at `at`, or 0.
  size_t block_end(size_t at, std::string_view close, bool plus) const {
    if (plus && source_[at] == '+' && starts(at + 1, close)) return at + 1 + close.size();
    if (source_[at] == '-' && starts(at + 1, close)) return skip_space(at + 1 + close.size());
    if (!starts(at, close)) return 0;
    at += close.size();
    return at < source_.size() && source_[at] == '\n' ? at + 1 : at;
  }

  char sign_at(size_t at) const {
    return at < source_.size() && (source_[at] == '-' || source_[at] == '+') ? source_[at] : '\0';
  }

  void root() {
    size_t tag = at_;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(TokenType::kData, source_.substr(at_));
        move_to(source_.size());
        return;
      }
      const char kind = source_[tag + 1];
      if (kind == '%' || kind == '{' || kind == '#') break;
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    const size_t inside = tag + 2 + (sign != '\0' ? 1 : 0);
    add_data(tag, sign, kind == '{');
    if (kind == '%') {
      size_t raw = skip_space(inside);
      if (starts(raw, "raw")) {
        raw = skip_space(raw + 3);
        size_t body = 0;
        if (starts(raw, "-%}")) body = skip_space(raw + 3);
        if (starts(raw, "%}")) body = raw + 2;
        if (body != 0) {
          move_to(body);
          raw_block();
          return;
        }
      }
    }
    move_to(inside);
    if (kind == '#') {
      comment();
    } else {
      add(kind == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, "");
      tag_body(kind == '{');
    }
  }

  void comment() {
    for (size_t i = at_; i < source_.size(); ++i) {
      if (source_[i] != '#' && source_[i] != '-' && source_[i] != '+') continue;
      if (const size_t end = block_end(i, "#}", true)) {
        move_to(end);
        return;
      }
    }
    fail("Missing end of comment tag");
  }

  void raw_block() {
    for (size_t i = source_.find("{%", at_); i != std::string::npos;
         i = source_.find("{%", i + 1)) {
      const char sign = sign_at(i + 2);
      size_t word = skip_space(i + 2 + (sign != '\0' ? 1 : 0));
      if (!starts(word, "endraw")) continue;
      word = skip_space(word + 6);
      const size_t end = word < source_.size() ? block_end(word, "%}", true) : 0;
      if (end == 0) continue;
      add_data(i, sign, false);
      move_to(end);
      return;
    }
    fail("Missing end of raw directive");
  }

  void tag_body(bool variable) {
    std::string open;  // the closing brackets still expected
    while (at_ < source_.size()) {
      if (open.empty()) {
        size_t end = 0;
        if (variable) {
          if (starts(at_, "-}}"))
            end = skip_space(at_ + 3);
          else if (starts(at_, "}}"))
            end = at_ + 2;
        } else {
          end = block_end(at_, "%}", true);
        }
        if (end != 0) {
          add(variable ? TokenType::kVariableEnd : TokenType::kBlockEnd, "");
          move_to(end);
          return;
        }
      }
      if (const size_t end = skip_space(at_); end > at_) {
        move_to(end);
        continue;
      }
      if (number() || word() || string()) continue;
      op(open);
    }
  }

  /// Length of `(\d+_)*\d+` at `at`.
  size_t digits(size_t at) const {
    size_t end = at;
    while (end < source_.size() &&
           (is_digit_char(source_[end]) ||
            (source_[end] == '_' && end > at && end + 1 < source_.size() &&
             is_digit_char(source_[end - 1]) && is_digit_char(source_[end + 1]))))
      ++end;
    return end - at;
  }

  bool number() {
    if (!is_digit_char(source_[at_])) return false;
    if (float_number()) return true;
    size_t end = at_;
    int base = 10;
    if (source_[at_] == '0' && at_ + 1 < source_.size()) {
      const char letter = static_cast<char>(source_[at_ + 1] | 0x20);
      if (letter == 'b') base = 2;
      if (letter == 'o') base = 8;
      if (letter == 'x') base = 16;
    }
    std::string text;
    if (base != 10) {
      size_t i = at_ + 2;
      while (i < source_.size()) {
        const size_t digit = source_[i] == '_' ? i + 1 : i;
        if (digit >= source_.size() || !digit_of_base(source_[digit], base)) break;
        text += source_[digit];
        i = digit + 1;
      }
      if (text.empty())
        base = 10;
      else
        end = i;
    }
    if (base == 10) {
      const bool zero = source_[at_] == '0';
      const size_t all = digits(at_);
      for (size_t i = at_; i < at_ + all; ++i) {
        if (source_[i] == '_') continue;
        if (zero && source_[i] != '0') break;
        text += source_[i];
        end = i + 1;
      }
    } else {
      text = to_decimal(text, base);
    }
    const size_t first = std::min(text.find_first_not_of('0'), text.size() - 1);
    add(TokenType::kInteger, text.substr(first));
    move_to(end);
    return true;
  }

  std::string to_decimal(const std::string& text, int base) const {
    std::string out = "0";
    if (text.size() > 256) fail("an integer literal is too long");
    for (char c : text) {
      int carry = is_digit_char(c) ? c - '0' : (c | 0x20) - 'a' + 10;
      for (size_t i = out.size(); i-- > 0;) {
        carry += (out[i] - '0') * base;
        out[i] = static_cast<char>('0' + carry % 10);
        carry /= 10;
      }
      for (; carry > 0; carry /= 10) out.insert(out.begin(), static_cast<char>('0' + carry % 10));
    }
    return out;
  }

  bool float_number() {
    if (at_ > 0 && source_[at_ - 1] == '.') return false;
    size_t end = at_ + digits(at_);
    bool is_float = false;
    if (end < source_.size() && source_[end] == '.') {
      if (const size_t fraction = digits(end + 1)) {
        end += 1 + fraction;
        is_float = true;
      }
    }
    if (end < source_.size() && (source_[end] | 0x20) == 'e') {
      const size_t start = end + 1 + (sign_at(end + 1) != '\0' ? 1 : 0);
      if (const size_t exponent = digits(start)) {
        end = start + exponent;
        is_float = true;
      }
    }
    if (!is_float) return false;
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    add(TokenType::kFloat, std::move(text));
    move_to(end);
    return true;
  }

  bool word() {
    size_t end = at_;
    while (end < source_.size() && is_name_part(code_point_at(source_, end)))
      end = next_code_point(source_, end);
    if (end == at_) return false;
    const uint32_t first = code_point_at(source_, at_);
    if (first != '_' && !is_alpha(first)) fail("Invalid character in identifier");
    add(TokenType::kName, source_.substr(at_, end - at_));
    move_to(end);
    return true;
  }

  bool string() {
    const char quote = source_[at_];
    if (quote != '"' && quote != '\'') return false;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return false;
    add(TokenType::kString, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    move_to(end + 1);
    return true;
  }

  std::string unescape(std::string_view text) const {
    if (text.find('\\') == std::string_view::npos) return std::string(text);
    // jinja2 writes every non-ASCII character as an escape first and then decodes all escapes, so
    // that a backslash before one of them escapes a backslash.
    std::string ascii;
    for (size_t i = 0; i < text.size(); i = next_code_point(text, i)) {
      const uint32_t c = code_point_at(text, i);
      if (c < 0x80)
        ascii += static_cast<char>(c);
      else if (c < 0x100)
        ascii += fmt::format("\\x{:02x}", c);
      else if (c < 0x10000)
        ascii += fmt::format("\\u{:04x}", c);
      else
        ascii += fmt::format("\\U{:08x}", c);
    }
    std::string out;
    for (size_t i = 0; i < ascii.size(); ++i) {
      if (ascii[i] != '\\') {
        out += ascii[i];
        continue;
      }
      const char c = ++i < ascii.size() ? ascii[i] : '\0';
      static constexpr std::string_view kFrom = "\\'\"abfnrtv";
      static constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t simple = kFrom.find(c); c != '\0' && simple != std::string_view::npos) {
        out += kTo[simple];
      } else if (c == '\n') {
        continue;
      } else if (c >= '0' && c <= '7') {
        uint32_t code = 0;
        size_t n = 0;
        for (; n < 3 && i + n < ascii.size() && ascii[i + n] >= '0' && ascii[i + n] <= '7'; ++n)
          code = code * 8 + static_cast<uint32_t>(ascii[i + n] - '0');
        i += n - 1;
        append_utf8(out, code);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        uint32_t code = 0;
        for (size_t k = 1; k <= n; ++k) {
          if (i + k >= ascii.size() || !digit_of_base(ascii[i + k], 16))
            fail(fmt::format("truncated \\{} escape", c));
          const char d = ascii[i + k];
          code =
              code * 16 + static_cast<uint32_t>(is_digit_char(d) ? d - '0' : (d | 0x20) - 'a' + 10);
        }
        if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
          fail("a string escape names no Unicode character");
        i += n;
        append_utf8(out, code);
      } else if (c == 'N') {
        fail("string escapes by character name (\\N{...}) are not supported");
      } else if (c == '\0') {
        fail("\\ at end of string");
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void op(std::string& open) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    for (std::string_view two : kTwo) {
      if (starts(at_, two)) {
        add(TokenType::kOperator, std::string(two));
        move_to(at_ + 2);
        return;
      }
    }
    const char c = source_[at_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      const size_t end = next_code_point(source_, at_);
      fail(fmt::format("unexpected char {}", quote(source_.substr(at_, end - at_))));
    }
    if (c == '{') open += '}';
    if (c == '(') open += ')';
    if (c == '[') open += ']';
    if (c == '}' || c == ')' || c == ']') {
      if (open.empty()) fail(fmt::format("unexpected '{}'", c));
      if (open.back() != c) fail(fmt::format("unexpected '{}', expected '{}'", c, open.back()));
      open.pop_back();
    }
    add(TokenType::kOperator, std::string(1, c));
    move_to(at_ + 1);
  }

  std::string_view name_;
  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::string describe_token(const Token& token) {
  switch (token.type) {
    case TokenType::kData:
      return "template data / text";
    case TokenType::kVariableBegin:
      return "begin of print statement";
    case TokenType::kVariableEnd:
      return "end of print statement";
    case TokenType::kBlockBegin:
      return "begin of statement block";
    case TokenType::kBlockEnd:
      return "end of statement block";
    case TokenType::kString:
      return "string";
    case TokenType::kInteger:
      return "integer";
    case TokenType::kFloat:
      return "float";
    case TokenType::kName:
    case TokenType::kOperator:
      return token.text;
    case TokenType::kEnd:
      break;
  }
  return "end of template";
}

std::vector<Token> tokenize(std::string_view source, std::string_view name) {
  return Lexer(source, name).run();
}

}  // namespace decant::jinja
