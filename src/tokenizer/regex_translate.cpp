#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace decant::tokenizer {
namespace {

constexpr int kMaxClassDepth = 16;

// PCRE2's own \s counts U+180E, its \w leaves out marks: both are written out instead.
constexpr std::string_view kSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";
constexpr std::string_view kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}"
    "\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}";
// Outside a class, Oniguruma's \w (and \b) also takes the number signs of Latin-1.
constexpr std::string_view kLatinNumbers = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
constexpr std::string_view kHex = "0-9A-Fa-f";

constexpr std::array<std::pair<std::string_view, std::string_view>, 45> kLongNames = {{
    {"letter", "L"},
    {"mark", "M"},
    {"number", "N"},
    {"punctuation", "P"},
    {"symbol", "S"},
    {"separator", "Z"},
    {"other", "C"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"casedletter", "L&"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"surrogate", "Cs"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
    {"alpha", "Alphabetic"},
    {"alphabetic", "Alphabetic"},
    {"upper", "Uppercase"},
    {"uppercase", "Uppercase"},
    {"lower", "Lowercase"},
    {"lowercase", "Lowercase"},
    {"punct", "P"},
}};

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) step();
    if (!groups_.empty()) refuse("an unclosed group");
    out_.append(extra_closers_, ')');
    return std::move(out_);
  }

 private:
  struct Group {
    size_t begin;          // where its '(' stands in the output
    size_t extra_closers;  // groups opened for isolated options inside the enclosing level
  };

  [[noreturn]] void refuse(std::string_view what) const {
    throw TokenizerError("[tokenizer] {}: pattern {} uses {} at byte {}, which is not supported",
                         where_, quote(in_, 200), what, at_);
  }

  bool starts(std::string_view text) const { return in_.substr(at_).starts_with(text); }

  void atom(std::string_view text) {
    atom_ = out_.size();
    out_ += text;
  }

  void step() {
    const char c = in_[at_];
    switch (c) {
      case '\\':
        escape();
        return;
      case '[':
        ++at_;
        atom(bracket(0));
        return;
      case '(':
        open();
        return;
      case ')':
        if (groups_.empty()) refuse("an unopened group");
        ++at_;
        out_.append(extra_closers_, ')');
        out_ += ')';
        atom_ = groups_.back().begin;
        extra_closers_ = groups_.back().extra_closers;
        groups_.pop_back();
        return;
      case '{':
        interval();
        return;
      case '|':
        atom_ = std::string::npos;
        out_ += c;
        ++at_;
        return;
      case '*':
      case '+':
      case '?':
        out_ += c;
        ++at_;
        return;
      default: {
        const size_t length = decode_code_point(in_.substr(at_)).length;
        atom(in_.substr(at_, length));
        at_ += length;
      }
    }
  }

  void open() {
    if (starts("(*")) refuse("a callout or verb (*");
    if (starts("(?~")) refuse("an absent operator (?~");
    if (starts("(?#")) {
      const size_t close = in_.find(')', at_);
      if (close == std::string_view::npos) refuse("an unclosed comment");
      at_ = close + 1;
      return;
    }
    if (!starts("(?")) {
      push("(", 1);
      return;
    }
    for (const std::string_view plain : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (starts(plain)) {
        push(plain, plain.size());
        return;
      }
    }
    if (starts("(?<")) {
      push("(?<", 3);
      return;
    }
    // Options: in this syntax (?m) lets the dot match a newline; an isolated option reaches to the
    // end of the enclosing group and takes the alternatives behind it along.
    std::string letters;
    size_t i = at_ + 2;
    for (; i < in_.size() && in_[i] != ')' && in_[i] != ':'; ++i) {
      const char c = in_[i];
      if (c == 'i' || c == 'x' || c == '-') {
        letters += c;
      } else if (c == 'm') {
        letters += 's';
      } else {
        refuse(fmt::format("the group (?{}", in_.substr(at_ + 2, i - at_ - 1)));
      }
    }
    if (i == in_.size()) refuse("an unclosed group");
    if (in_[i] == ':') {
      push("(?" + letters + ":", i + 1 - at_);
    } else {
      out_ += "(?" + letters + ":";
      ++extra_closers_;
      atom_ = std::string::npos;
      at_ = i + 1;
    }
  }

  void push(std::string_view text, size_t consumed) {
    groups_.push_back({out_.size(), extra_closers_});
    extra_closers_ = 0;
    out_ += text;
    at_ += consumed;
    atom_ = std::string::npos;
  }

  // {n}, {n,}, {n,m}, {,m}; anything else is a literal brace.
  void interval() {
    size_t i = at_ + 1;
    const auto digits = [&] {
      const size_t begin = i;
      while (i < in_.size() && std::isdigit(static_cast<unsigned char>(in_[i]))) ++i;
      return in_.substr(begin, i - begin);
    };
    const std::string_view low = digits();
    bool comma = false;
    std::string_view high;
    if (i < in_.size() && in_[i] == ',') {
      comma = true;
      ++i;
      high = digits();
    }
    if (i >= in_.size() || in_[i] != '}' || (low.empty() && high.empty())) {
      atom("\\{");
      ++at_;
      return;
    }
    at_ = i + 1;
    out_ += fmt::format("{{{}{}{}}}", low.empty() ? "0" : low, comma ? "," : "", high);
    const bool plus = starts("+");
    const bool optional = !comma && starts("?");
    // Not possessive and not lazy here: the interval as a whole is repeated or optional.
    if ((plus || optional) && atom_ != std::string::npos) {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
  }

  // Name of a property in braces behind \p or \P at at_; returns the PCRE2 form.
  std::string property() {
    bool negated = in_[at_ + 1] == 'P';
    if (at_ + 2 >= in_.size() || in_[at_ + 2] != '{') refuse("\\p without braces");
    const size_t close = in_.find('}', at_);
    if (close == std::string_view::npos) refuse("an unclosed property");
    std::string_view name = in_.substr(at_ + 3, close - at_ - 3);
    if (name.starts_with('^')) {
      negated = !negated;
      name.remove_prefix(1);
    }
    at_ = close + 1;
    std::string folded;
    for (const char c : name)
      if (c != ' ' && c != '_' && c != '-')
        folded += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    std::string known(name);
    for (const auto& [long_name, short_name] : kLongNames)
      if (folded == long_name) known = short_name;
    if (folded == "any") known = "Any";
    if (folded == "space" || folded == "whitespace") known = "White_Space";
    if (folded == "digit") known = "Nd";
    // A bare script name means Script_Extensions to PCRE2 and Script to Oniguruma. Names of one or
    // two letters are categories.
    static constexpr std::array<std::string_view, 6> kBinary = {
        "Any", "Alphabetic", "Uppercase", "Lowercase", "White_Space", "Emoji"};
    const bool script =
        known.size() > 2 && std::find(kBinary.begin(), kBinary.end(), known) == kBinary.end() &&
        std::all_of(folded.begin(), folded.end(),
                    [](char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0; });
    return fmt::format("\\{}{{{}{}}}", negated ? 'P' : 'p', script ? "sc:" : "", known);
  }

  void escape() {
    if (at_ + 1 >= in_.size()) refuse("a trailing backslash");
    const char c = in_[at_ + 1];
    const auto simple = [&](std::string text) {
      at_ += 2;
      atom(text);
    };
    switch (c) {
      case 's':
        return simple(fmt::format("[{}]", kSpace));
      case 'S':
        return simple(fmt::format("[^{}]", kSpace));
      case 'w':
        return simple(fmt::format("[{}{}]", kWord, kLatinNumbers));
      case 'W':
        return simple(fmt::format("[^{}{}]", kWord, kLatinNumbers));
      case 'h':
        return simple(fmt::format("[{}]", kHex));
      case 'H':
        return simple(fmt::format("[^{}]", kHex));
      case 'b':
        return simple(fmt::format("(?:(?<=[{0}{1}])(?![{0}{1}])|(?<![{0}{1}])(?=[{0}{1}]))", kWord,
                                  kLatinNumbers));
      case 'B':
        return simple(fmt::format("(?:(?<=[{0}{1}])(?=[{0}{1}])|(?<![{0}{1}])(?![{0}{1}]))", kWord,
                                  kLatinNumbers));
      case 'v':
        return simple("\\x{b}");
      case 'O':
        return simple("(?s:.)");
      case 'p':
      case 'P':
        return atom(property());
      case 'u':
        return atom(hex4());
      case 'y':
      case 'Y':
        refuse(fmt::format("\\{}", c));
      default:
        break;
    }
    // \x{...} and octal digits go on as literals, their tail is copied by the following steps; a
    // brace must not be taken for an interval.
    if (c == 'x' && at_ + 2 < in_.size() && in_[at_ + 2] == '{') {
      const size_t close = in_.find('}', at_);
      if (close == std::string_view::npos) refuse("an unclosed \\x{");
      atom(in_.substr(at_, close + 1 - at_));
      at_ = close + 1;
      return;
    }
    if (c == 'k' || c == 'g') {
      const size_t close = in_.find('>', at_);
      if (close == std::string_view::npos) refuse("a group reference without <name>");
      atom(in_.substr(at_, close + 1 - at_));
      at_ = close + 1;
      return;
    }
    if (c == 'x') {
      size_t length = 2;
      while (length < 4 && at_ + length < in_.size() &&
             std::isxdigit(static_cast<unsigned char>(in_[at_ + length])))
        ++length;
      atom(in_.substr(at_, length));
      at_ += length;
      return;
    }
    const size_t length = decode_code_point(in_.substr(at_ + 1)).length;
    atom(in_.substr(at_, 1 + length));
    at_ += 1 + length;
  }

  std::string hex4() {
    if (at_ + 6 > in_.size()) refuse("\\u without four digits");
    const std::string_view digits = in_.substr(at_ + 2, 4);
    for (const char c : digits)
      if (!std::isxdigit(static_cast<unsigned char>(c))) refuse("\\u without four digits");
    at_ += 6;
    return fmt::format("\\x{{{}}}", digits);
  }

  // Part of a class between && signs.
  struct Operand {
    std::string body;                 // what one PCRE2 class can hold
    std::vector<std::string> others;  // alternatives it cannot

    std::string expression() const {
      if (others.empty()) return body.empty() ? "(?!)" : "[" + body + "]";
      std::string out = "(?:";
      if (!body.empty()) out += "[" + body + "]|";
      for (size_t i = 0; i < others.size(); ++i) out += (i > 0 ? "|" : "") + others[i];
      return out + ")";
    }
  };

  // The class whose '[' has just been read, as an expression that matches one code point.
  std::string bracket(int depth) {
    if (depth >= kMaxClassDepth) refuse("classes nested too deep");
    bool negated = false;
    if (starts("^")) {
      negated = true;
      ++at_;
    }
    std::vector<Operand> operands(1);
    bool first = true;
    while (true) {
      if (at_ >= in_.size()) refuse("an unclosed class");
      Operand& now = operands.back();
      const char c = in_[at_];
      if (c == ']' && !first) {
        ++at_;
        break;
      }
      if (starts("&&")) {
        operands.emplace_back();
        at_ += 2;
      } else if (starts("[:")) {
        posix(now);
      } else if (c == '[') {
        ++at_;
        now.others.push_back(bracket(depth + 1));
      } else if (c == '\\') {
        class_escape(now);
      } else {
        const size_t length = decode_code_point(in_.substr(at_)).length;
        if (c == ']' || c == '^') now.body += '\\';
        now.body += in_.substr(at_, length);
        at_ += length;
      }
      first = false;
    }
    if (operands.size() == 1 && operands[0].others.empty() && !operands[0].body.empty())
      return (negated ? "[^" : "[") + operands[0].body + "]";
    std::string all;
    for (size_t i = 0; i + 1 < operands.size(); ++i) all += "(?=" + operands[i].expression() + ")";
    all += operands.back().expression();
    return negated ? "(?:(?!" + all + ")(?s:.))" : "(?:" + all + ")";
  }

  void posix(Operand& now) {
    const size_t close = in_.find(":]", at_ + 2);
    if (close == std::string_view::npos) refuse("an unclosed [:name:]");
    std::string_view name = in_.substr(at_ + 2, close - at_ - 2);
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    std::string_view set;
    if (name == "space") set = kSpace;
    if (name == "word") set = kWord;
    if (name == "digit") set = "\\p{Nd}";
    if (name == "xdigit") set = kHex;
    if (name == "alpha") set = "\\p{Alphabetic}";
    if (name == "alnum") set = "\\p{Alphabetic}\\p{Nd}";
    if (name == "upper") set = "\\p{Uppercase}";
    if (name == "lower") set = "\\p{Lowercase}";
    if (name == "punct") set = "\\p{P}\\p{S}";
    if (name == "cntrl") set = "\\p{Cc}";
    if (set.empty()) refuse(fmt::format("[:{}:]", name));
    at_ = close + 2;
    if (negated) {
      now.others.push_back(fmt::format("[^{}]", set));
    } else {
      now.body += set;
    }
  }

  void class_escape(Operand& now) {
    if (at_ + 1 >= in_.size()) refuse("a trailing backslash");
    const char c = in_[at_ + 1];
    const auto put = [&](std::string_view text) {
      at_ += 2;
      now.body += text;
    };
    switch (c) {
      case 's':
        return put(kSpace);
      case 'S':
        return put(kNotSpace);
      case 'w':
        return put(kWord);
      case 'd':
        return put("\\p{Nd}");
      case 'D':
        return put("\\P{Nd}");
      case 'h':
        return put(kHex);
      case 'v':
        return put("\\x{b}");
      case 'W':
        at_ += 2;
        now.others.push_back(fmt::format("[^{}]", kWord));
        return;
      case 'H':
        at_ += 2;
        now.others.push_back(fmt::format("[^{}]", kHex));
        return;
      case 'p':
      case 'P':
        now.body += property();
        return;
      case 'u':
        now.body += hex4();
        return;
      default: {
        const size_t length = decode_code_point(in_.substr(at_ + 1)).length;
        now.body += in_.substr(at_, 1 + length);
        at_ += 1 + length;
      }
    }
  }

  std::string_view in_;
  std::string_view where_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = std::string::npos;  // where the last atom begins in out_
  size_t extra_closers_ = 0;
  std::vector<Group> groups_;
};

}  // namespace

std::string translate_oniguruma(std::string_view pattern, std::string_view where) {
  return Translator(pattern, where).run();
}

}  // namespace decant::tokenizer
