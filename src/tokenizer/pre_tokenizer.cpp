#include "tokenizer/pre_tokenizer.h"

#include <utility>

#include "base/utf8.h"
#include "tokenizer/matches.h"
#include "tokenizer/unicode.h"

namespace decant::tokenizer {
namespace {

enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior parse_behavior(const Node& node) {
  const std::string_view name = node.string();
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  throw node.error(fmt::format("unsupported behavior {}", quote(name)));
}

// Turns the matches inside a piece, in order and without gaps, into pieces.
class Cutter {
 public:
  Cutter(std::vector<Piece>& out, Behavior behavior) : out_(out), behavior_(behavior) {}

  void cut(const Piece& piece, const std::vector<Match>& matches) {
    piece_ = piece;
    if (behavior_ == Behavior::kMergedWithNext) {
      merged_with_next(matches);
      return;
    }
    bool previous = false;
    Match last{0, 0, false};
    bool have = false;
    for (const Match& match : matches) {
      switch (behavior_) {
        case Behavior::kRemoved:
          if (!match.is_match) emit(match.begin, match.end);
          break;
        case Behavior::kIsolated:
          emit(match.begin, match.end);
          break;
        default: {
          const bool joins = behavior_ == Behavior::kContiguous ? match.is_match == previous
                                                                : match.is_match && !previous;
          if (joins && have) {
            last.end = match.end;
          } else {
            if (have) emit(last.begin, last.end);
            last = match;
            have = true;
          }
          previous = match.is_match;
        }
      }
    }
    if (have) emit(last.begin, last.end);
  }

 private:
  void emit(size_t begin, size_t end) {
    if (begin == end) return;
    out_.push_back({piece_.begin + begin, piece_.begin + end, piece_.at_start && begin == 0});
  }

  // A match joins what follows it, except that of two matches in a row only the last one does.
  void merged_with_next(const std::vector<Match>& matches) {
    size_t i = 0;
    while (i < matches.size()) {
      if (matches[i].is_match && i + 1 < matches.size() && !matches[i + 1].is_match) {
        emit(matches[i].begin, matches[i + 1].end);
        i += 2;
      } else {
        emit(matches[i].begin, matches[i].end);
        ++i;
      }
    }
  }

  std::vector<Piece>& out_;
  Behavior behavior_;
  Piece piece_{};
};

// Cuts every piece at what `find` puts into scratch.matches.
template <typename Find>
void cut_pieces(PreText& text, Scratch& scratch, Behavior behavior, const Find& find) {
  scratch.pieces.clear();
  Cutter cutter(scratch.pieces, behavior);
  for (const Piece& piece : text.pieces) {
    find(std::string_view(text.text).substr(piece.begin, piece.end - piece.begin));
    cutter.cut(piece, scratch.matches);
  }
  std::swap(text.pieces, scratch.pieces);
}

class SplitRegex final : public PreTokenizer {
 public:
  SplitRegex(std::shared_ptr<const Regex> pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(PreText& text, Scratch& scratch) const override {
    cut_pieces(text, scratch, behavior_, [&](std::string_view piece) {
      find_all(*pattern_, piece, scratch);
      if (invert_)
        for (Match& match : scratch.matches) match.is_match = !match.is_match;
    });
  }

 private:
  std::shared_ptr<const Regex> pattern_;
  Behavior behavior_;
  bool invert_;
};

class SplitText final : public PreTokenizer {
 public:
  SplitText(std::string pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void apply(PreText& text, Scratch& scratch) const override {
    cut_pieces(text, scratch, behavior_, [&](std::string_view piece) {
      scratch.matches.clear();
      size_t at = 0;
      for (size_t found; (found = piece.find(pattern_, at)) != std::string_view::npos;
           at = found + pattern_.size()) {
        if (found > at) scratch.matches.push_back({at, found, invert_});
        scratch.matches.push_back({found, found + pattern_.size(), !invert_});
      }
      if (at < piece.size()) scratch.matches.push_back({at, piece.size(), invert_});
    });
  }

 private:
  std::string pattern_;
  Behavior behavior_;
  bool invert_;
};

// Every code point a predicate names is a match of its own.
template <typename Predicate>
void find_code_points(std::string_view piece, Scratch& scratch, const Predicate& is_match) {
  scratch.matches.clear();
  size_t previous = 0;
  for (size_t at = 0; at < piece.size();) {
    const CodePoint c = decode_code_point(piece.substr(at));
    if (is_match(c.value)) {
      if (previous < at) scratch.matches.push_back({previous, at, false});
      scratch.matches.push_back({at, at + c.length, true});
      previous = at + c.length;
    }
    at += c.length;
  }
  if (previous < piece.size()) scratch.matches.push_back({previous, piece.size(), false});
}

class SplitClass final : public PreTokenizer {
 public:
  SplitClass(bool (*is_match)(uint32_t), Behavior behavior)
      : is_match_(is_match), behavior_(behavior) {}

  void apply(PreText& text, Scratch& scratch) const override {
    cut_pieces(text, scratch, behavior_,
               [&](std::string_view piece) { find_code_points(piece, scratch, is_match_); });
  }

 private:
  bool (*is_match_)(uint32_t);
  Behavior behavior_;
};

// Runs of word characters and runs of what is neither word nor white space.
class Whitespace final : public PreTokenizer {
 public:
  void apply(PreText& text, Scratch& scratch) const override {
    cut_pieces(text, scratch, Behavior::kRemoved, [&](std::string_view piece) {
      scratch.matches.clear();
      int previous = -1;
      for (size_t at = 0; at < piece.size();) {
        const CodePoint c = decode_code_point(piece.substr(at));
        const int kind = is_word(c.value) ? 1 : is_whitespace(c.value) ? 0 : 2;
        if (kind == previous) {
          scratch.matches.back().end = at + c.length;
        } else {
          scratch.matches.push_back({at, at + c.length, kind == 0});
        }
        previous = kind;
        at += c.length;
      }
    });
  }
};

class FixedLength final : public PreTokenizer {
 public:
  explicit FixedLength(size_t length) : length_(length) {}

  void apply(PreText& text, Scratch& scratch) const override {
    cut_pieces(text, scratch, Behavior::kIsolated, [&](std::string_view piece) {
      scratch.matches.clear();
      size_t count = 0;
      for (size_t at = 0; at < piece.size(); ++count) {
        const size_t length = decode_code_point(piece.substr(at)).length;
        if (count % length_ == 0) {
          scratch.matches.push_back({at, at + length, true});
        } else {
          scratch.matches.back().end = at + length;
        }
        at += length;
      }
    });
  }

 private:
  size_t length_;
};

class ByteLevel final : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, std::shared_ptr<const Regex> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

  void apply(PreText& text, Scratch& scratch) const override {
    if (add_prefix_space_) prefix(text, scratch);
    if (pattern_)
      cut_pieces(text, scratch, Behavior::kIsolated,
                 [&](std::string_view piece) { find_all(*pattern_, piece, scratch); });
    scratch.text.clear();
    scratch.text.reserve(text.text.size() * 2);
    for (Piece& piece : text.pieces) {
      const size_t begin = scratch.text.size();
      for (size_t i = piece.begin; i < piece.end; ++i)
        scratch.text += byte_alphabet(static_cast<unsigned char>(text.text[i]));
      piece.begin = begin;
      piece.end = scratch.text.size();
    }
    std::swap(text.text, scratch.text);
  }

 private:
  static void prefix(PreText& text, Scratch& scratch) {
    scratch.text.clear();
    for (Piece& piece : text.pieces) {
      const size_t begin = scratch.text.size();
      if (text.text[piece.begin] != ' ') scratch.text += ' ';
      scratch.text.append(text.text, piece.begin, piece.end - piece.begin);
      piece.begin = begin;
      piece.end = scratch.text.size();
    }
    std::swap(text.text, scratch.text);
  }

  bool add_prefix_space_;
  std::shared_ptr<const Regex> pattern_;
};

enum class PrependScheme { kAlways, kFirst, kNever };

class Metaspace final : public PreTokenizer {
 public:
  Metaspace(uint32_t replacement, PrependScheme scheme, bool split)
      : code_point_(replacement), scheme_(scheme), split_(split) {
    append_utf8(replacement_, replacement);
  }

  void apply(PreText& text, Scratch& scratch) const override {
    scratch.text.clear();
    for (Piece& piece : text.pieces) {
      const size_t begin = scratch.text.size();
      const std::string_view old =
          std::string_view(text.text).substr(piece.begin, piece.end - piece.begin);
      const bool has_prefix = old[0] == ' ' || old.starts_with(replacement_);
      if (!has_prefix && (scheme_ == PrependScheme::kAlways ||
                          (scheme_ == PrependScheme::kFirst && piece.at_start)))
        scratch.text += replacement_;
      for (const char c : old) {
        if (c == ' ') {
          scratch.text += replacement_;
        } else {
          scratch.text += c;
        }
      }
      piece.begin = begin;
      piece.end = scratch.text.size();
    }
    std::swap(text.text, scratch.text);
    if (!split_) return;
    cut_pieces(text, scratch, Behavior::kMergedWithNext, [&](std::string_view piece) {
      find_code_points(piece, scratch, [&](uint32_t c) { return c == code_point_; });
    });
  }

 private:
  uint32_t code_point_;
  std::string replacement_;
  PrependScheme scheme_;
  bool split_;
};

class PreTokenizerSequence final : public PreTokenizer {
 public:
  void add(std::unique_ptr<const PreTokenizer> step) { steps_.push_back(std::move(step)); }
  void apply(PreText& text, Scratch& scratch) const override {
    for (const auto& step : steps_) step->apply(text, scratch);
  }

 private:
  std::vector<std::unique_ptr<const PreTokenizer>> steps_;
};

std::unique_ptr<const PreTokenizer> parse_split(const Node& node) {
  node.expect_keys({"type", "pattern", "behavior", "invert"});
  const Node pattern = node.at("pattern");
  pattern.expect_keys({"String", "Regex"});
  const Behavior behavior = parse_behavior(node.at("behavior"));
  const bool invert = node.boolean_or("invert", false);
  if (const auto text = pattern.find("String"); text && !text->string().empty())
    return std::make_unique<SplitText>(std::string(text->string()), behavior, invert);
  const auto empty = pattern.find("String");
  const Node regex = empty ? *empty : pattern.at("Regex");
  return std::make_unique<SplitRegex>(
      Regex::compile(regex.string(), regex.source() + ": " + regex.path()), behavior, invert);
}

std::unique_ptr<const PreTokenizer> parse_metaspace(const Node& node) {
  node.expect_keys(
      {"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"});
  const std::string name = node.string_or("prepend_scheme", "always");
  PrependScheme scheme = PrependScheme::kAlways;
  if (name == "first") {
    scheme = PrependScheme::kFirst;
  } else if (name == "never") {
    scheme = PrependScheme::kNever;
  } else if (name != "always") {
    throw node.error(fmt::format("unsupported prepend_scheme {}", quote(name)));
  }
  if (!node.boolean_or("add_prefix_space", true)) {
    if (scheme != PrependScheme::kNever && node.find("prepend_scheme"))
      throw node.error("add_prefix_space is false, but prepend_scheme is not \"never\"");
    scheme = PrependScheme::kNever;
  }
  return std::make_unique<Metaspace>(node.at("replacement").code_point(), scheme,
                                     node.boolean_or("split", true));
}

std::unique_ptr<const PreTokenizer> parse_byte_level(const Node& node) {
  node.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  // GPT-2's pattern, which this type stands for when it cuts.
  constexpr std::string_view kPattern =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  return std::make_unique<ByteLevel>(
      node.at("add_prefix_space").boolean(),
      node.boolean_or("use_regex", true) ? Regex::compile(kPattern, node.path()) : nullptr);
}

}  // namespace

std::unique_ptr<const PreTokenizer> PreTokenizer::parse(const Node& node) {
  const std::string_view type = node.type();
  if (type == "ByteLevel") return parse_byte_level(node);
  if (type == "Split") return parse_split(node);
  if (type == "Metaspace") return parse_metaspace(node);
  if (type == "Whitespace") {
    node.expect_keys({"type"});
    return std::make_unique<Whitespace>();
  }
  if (type == "WhitespaceSplit") {
    node.expect_keys({"type"});
    return std::make_unique<SplitClass>(is_whitespace, Behavior::kRemoved);
  }
  if (type == "BertPreTokenizer") {
    node.expect_keys({"type"});
    auto sequence = std::make_unique<PreTokenizerSequence>();
    sequence->add(std::make_unique<SplitClass>(is_whitespace, Behavior::kRemoved));
    sequence->add(std::make_unique<SplitClass>(is_punctuation, Behavior::kIsolated));
    return sequence;
  }
  if (type == "Digits") {
    node.expect_keys({"type", "individual_digits"});
    return std::make_unique<SplitClass>(is_numeric, node.at("individual_digits").boolean()
                                                        ? Behavior::kIsolated
                                                        : Behavior::kContiguous);
  }
  if (type == "Punctuation") {
    node.expect_keys({"type", "behavior"});
    const auto behavior = node.find("behavior");
    return std::make_unique<SplitClass>(is_punctuation,
                                        behavior ? parse_behavior(*behavior) : Behavior::kIsolated);
  }
  if (type == "CharDelimiterSplit" || type == "Delimiter") {
    node.expect_keys({"type", "delimiter"});
    std::string delimiter;
    append_utf8(delimiter, node.at("delimiter").code_point());
    return std::make_unique<SplitText>(std::move(delimiter), Behavior::kRemoved, false);
  }
  if (type == "FixedLength") {
    node.expect_keys({"type", "length"});
    const auto length = node.find("length");
    const int64_t count = length ? length->integer() : 5;
    if (count < 1) throw node.error(fmt::format("expected a length of at least 1, got {}", count));
    return std::make_unique<FixedLength>(static_cast<size_t>(count));
  }
  if (type == "Sequence") {
    node.expect_keys({"type", "pretokenizers"});
    auto sequence = std::make_unique<PreTokenizerSequence>();
    for (const Node& step : node.at("pretokenizers").items()) sequence->add(parse(step));
    return sequence;
  }
  throw node.error(fmt::format("unsupported pre-tokenizer {}", quote(type)));
}

}  // namespace decant::tokenizer
