#include "tokenizer/decoder.h"

#include <array>
#include <optional>
#include <utility>

#include "base/utf8.h"
#include "tokenizer/matches.h"
#include "tokenizer/unicode.h"

namespace decant::tokenizer {

void DecodeStage::finish() { next_.finish(); }

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// A stage that needs a token as a whole.
class WholeTokens : public DecodeStage {
 public:
  using DecodeStage::DecodeStage;

  void push(std::string_view fragment, bool ends) final {
    if (ends && pending_.empty()) {
      token(fragment);
      return;
    }
    pending_ += fragment;
    if (!ends) return;
    const std::string all = std::exchange(pending_, {});
    token(all);
  }

 protected:
  virtual void token(std::string_view text) = 0;

 private:
  std::string pending_;
};

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  if (from.empty()) return std::string(text);
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string_view::npos;
       at = found + from.size()) {
    out += text.substr(at, found - at);
    out += to;
  }
  out += text.substr(at);
  return out;
}

// Undoes the spacing of word tokenizers before punctuation and English contractions.
std::string clean_up(std::string text) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kRules = {
      {{" .", "."},
       {" ?", "?"},
       {" !", "!"},
       {" ,", ","},
       {" ' ", "'"},
       {" n't", "n't"},
       {" 'm", "'m"},
       {" do not", " don't"},
       {" 's", "'s"},
       {" 've", "'ve"},
       {" 're", "'re"}}};
  for (const auto& [from, to] : kRules) text = replace_all(text, from, to);
  return text;
}

class JoinStage final : public DecodeStage {
 public:
  using DecodeStage::DecodeStage;
  void push(std::string_view fragment, bool ends) override {
    if (between_) next_.push(" ", false);
    between_ = ends;
    next_.push(fragment, ends);
  }

 private:
  bool between_ = false;
};

// All tokens become one text: the bytes their letters stand for, ill-formed parts replaced.
class ByteLevelStage final : public WholeTokens {
 public:
  using WholeTokens::WholeTokens;
  void finish() override {
    next_.push(utf8_lossy(bytes_), true);
    bytes_.clear();
    next_.finish();
  }

 protected:
  void token(std::string_view text) override {
    const size_t before = bytes_.size();
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = decode_code_point(text.substr(at));
      const int byte = byte_of_alphabet(c.value);
      if (byte < 0) {
        // Not written in the byte alphabet (an added token): taken as it is.
        bytes_.resize(before);
        bytes_ += text;
        break;
      }
      bytes_ += static_cast<char>(byte);
      at += c.length;
    }
    const size_t tail = utf8_incomplete_tail(bytes_);
    const std::string_view whole = std::string_view(bytes_).substr(0, bytes_.size() - tail);
    if (!whole.empty()) next_.push(utf8_lossy(whole), false);
    bytes_.erase(0, bytes_.size() - tail);
  }

 private:
  std::string bytes_;
};

// Runs of <0xXX> become text; a run that is not UTF-8 as a whole becomes one U+FFFD per byte. So no
// byte of a run is final before the run ends.
class ByteFallbackStage final : public WholeTokens {
 public:
  using WholeTokens::WholeTokens;
  void finish() override {
    flush();
    next_.finish();
  }

 protected:
  void token(std::string_view text) override {
    if (const auto byte = byte_of(text)) {
      run_ += *byte;
      return;
    }
    flush();
    next_.push(text, true);
  }

 private:
  static std::optional<char> byte_of(std::string_view text) {
    if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
    const int high = digit(text[3]);
    const int low = digit(text[4]);
    // The official parser also takes a sign in front of one digit.
    if (text[3] == '+' && low >= 0) return static_cast<char>(low);
    if (high < 0 || low < 0) return std::nullopt;
    return static_cast<char>(high * 16 + low);
  }
  static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  }
  void flush() {
    if (run_.empty()) return;
    const std::string run = std::exchange(run_, {});
    if (utf8_first_error(run) == std::string_view::npos) {
      next_.push(run, true);
    } else {
      for (size_t i = 0; i < run.size(); ++i) next_.push(kReplacement, true);
    }
  }
  std::string run_;
};

class FuseStage final : public DecodeStage {
 public:
  using DecodeStage::DecodeStage;
  void push(std::string_view fragment, bool) override { next_.push(fragment, false); }
  void finish() override {
    next_.push("", true);
    next_.finish();
  }
};

// Replaces a text inside each token. A single code point needs no look at the neighbours, so that
// fragments pass; a longer pattern waits for the end of the token.
class ReplaceCharStage final : public DecodeStage {
 public:
  ReplaceCharStage(DecodeSink& next, std::string from, std::string to)
      : DecodeStage(next), from_(std::move(from)), to_(std::move(to)) {}
  void push(std::string_view fragment, bool ends) override {
    if (fragment.find(from_) == std::string_view::npos) {
      next_.push(fragment, ends);
    } else {
      next_.push(replace_all(fragment, from_, to_), ends);
    }
  }

 private:
  std::string from_;
  std::string to_;
};

class ReplaceTextStage final : public WholeTokens {
 public:
  ReplaceTextStage(DecodeSink& next, std::string from, std::string to)
      : WholeTokens(next), from_(std::move(from)), to_(std::move(to)) {}

 protected:
  void token(std::string_view text) override { next_.push(replace_all(text, from_, to_), true); }

 private:
  std::string from_;
  std::string to_;
};

class ReplacePatternStage final : public WholeTokens {
 public:
  ReplacePatternStage(DecodeSink& next, std::shared_ptr<const Regex> pattern, std::string to)
      : WholeTokens(next), pattern_(std::move(pattern)), to_(std::move(to)) {}

 protected:
  void token(std::string_view text) override {
    find_all(*pattern_, text, scratch_);
    std::string out;
    for (const Match& match : scratch_.matches)
      out += match.is_match ? std::string_view(to_)
                            : text.substr(match.begin, match.end - match.begin);
    next_.push(out, true);
  }

 private:
  std::shared_ptr<const Regex> pattern_;
  std::string to_;
  Scratch scratch_;
};

// Takes up to `start` of one code point from the front of each token and up to `stop` from its end.
class StripStage final : public DecodeStage {
 public:
  StripStage(DecodeSink& next, uint32_t content, size_t start, size_t stop)
      : DecodeStage(next), content_(content), start_(start), stop_(stop) {
    append_utf8(text_, content);
  }

  void push(std::string_view fragment, bool ends) override {
    if (leading_ || stop_ > 0) {
      std::string out;
      for (size_t at = 0; at < fragment.size();) {
        const CodePoint c = decode_code_point(fragment.substr(at));
        if (c.value != content_) {
          leading_ = false;
          for (; held_ > 0; --held_) out += text_;
          out += fragment.substr(at, c.length);
        } else if (leading_ && taken_ < start_) {
          ++taken_;
        } else {
          leading_ = false;
          ++held_;
          for (; held_ > stop_; --held_) out += text_;
        }
        at += c.length;
      }
      next_.push(out, ends);
    } else {
      next_.push(fragment, ends);
    }
    if (ends) {
      leading_ = true;
      taken_ = 0;
      held_ = 0;
    }
  }

 private:
  uint32_t content_;
  size_t start_;
  size_t stop_;
  std::string text_;
  bool leading_ = true;
  size_t taken_ = 0;
  size_t held_ = 0;
};

// The replacement character becomes a space; in the first token it is dropped where the encoder
// prepended one.
class MetaspaceStage final : public DecodeStage {
 public:
  MetaspaceStage(DecodeSink& next, uint32_t replacement, bool drop_first)
      : DecodeStage(next), drop_(drop_first) {
    append_utf8(replacement_, replacement);
  }
  void push(std::string_view fragment, bool ends) override {
    next_.push(replace_all(fragment, replacement_, drop_ ? "" : " "), ends);
    if (ends) drop_ = false;
  }

 private:
  std::string replacement_;
  bool drop_;
};

class WordPieceStage final : public WholeTokens {
 public:
  WordPieceStage(DecodeSink& next, std::string prefix, bool cleanup)
      : WholeTokens(next), prefix_(std::move(prefix)), cleanup_(cleanup) {}

 protected:
  void token(std::string_view text) override {
    std::string out;
    if (first_) {
      out = text;
    } else if (text.starts_with(prefix_)) {
      out = text.substr(prefix_.size());
    } else {
      out = " " + std::string(text);
    }
    first_ = false;
    next_.push(cleanup_ ? clean_up(std::move(out)) : out, true);
  }

 private:
  std::string prefix_;
  bool cleanup_;
  bool first_ = true;
};

// The end-of-word suffix becomes a space, except in the last token: one token stays behind.
class BpeSuffixStage final : public WholeTokens {
 public:
  BpeSuffixStage(DecodeSink& next, std::string suffix)
      : WholeTokens(next), suffix_(std::move(suffix)) {}
  void finish() override {
    flush("");
    next_.finish();
  }

 protected:
  void token(std::string_view text) override {
    flush(" ");
    held_ = text;
  }

 private:
  void flush(std::string_view replacement) {
    if (!held_) return;
    next_.push(replace_all(*held_, suffix_, replacement), true);
    held_.reset();
  }
  std::string suffix_;
  std::optional<std::string> held_;
};

class CtcStage final : public WholeTokens {
 public:
  CtcStage(DecodeSink& next, std::string pad, std::string delimiter, bool cleanup)
      : WholeTokens(next),
        pad_(std::move(pad)),
        delimiter_(std::move(delimiter)),
        cleanup_(cleanup) {}

 protected:
  void token(std::string_view text) override {
    if (previous_ == text) return;
    previous_ = text;
    std::string out = replace_all(text, pad_, "");
    if (cleanup_) out = replace_all(clean_up(std::move(out)), delimiter_, " ");
    if (!out.empty()) next_.push(out, true);
  }

 private:
  std::string pad_;
  std::string delimiter_;
  bool cleanup_;
  std::optional<std::string> previous_;
};

template <typename Stage, typename... Args>
Decoder::Start starter(Args... args) {
  return [args...](DecodeSink& next) -> std::unique_ptr<DecodeStage> {
    return std::make_unique<Stage>(next, args...);
  };
}

Decoder::Start parse_replace(const Node& node) {
  node.expect_keys({"type", "pattern", "content"});
  const Node pattern = node.at("pattern");
  pattern.expect_keys({"String", "Regex"});
  const std::string to(node.at("content").string());
  const auto text = pattern.find("String");
  if (text && !text->string().empty()) {
    const std::string from(text->string());
    if (decode_code_point(from).length == from.size()) return starter<ReplaceCharStage>(from, to);
    return starter<ReplaceTextStage>(from, to);
  }
  const Node regex = text ? *text : pattern.at("Regex");
  return starter<ReplacePatternStage>(
      Regex::compile(regex.string(), regex.source() + ": " + regex.path()), to);
}

Decoder::Start parse_strip(const Node& node) {
  node.expect_keys({"type", "content", "start", "stop"});
  const int64_t start = node.at("start").integer();
  const int64_t stop = node.at("stop").integer();
  if (start < 0 || stop < 0) throw node.error("expected counts of at least 0");
  return starter<StripStage>(node.at("content").code_point(), static_cast<size_t>(start),
                             static_cast<size_t>(stop));
}

Decoder::Start parse_metaspace(const Node& node) {
  node.expect_keys(
      {"type", "replacement", "prepend_scheme", "add_prefix_space", "split", "str_rep"});
  const bool never = node.string_or("prepend_scheme", "always") == "never" ||
                     !node.boolean_or("add_prefix_space", true);
  return starter<MetaspaceStage>(node.at("replacement").code_point(), !never);
}

}  // namespace

void Decoder::add(const Node& node) {
  const std::string_view type = node.type();
  if (type == "ByteLevel") {
    node.expect_keys({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    steps_.push_back(starter<ByteLevelStage>());
  } else if (type == "ByteFallback") {
    node.expect_keys({"type"});
    steps_.push_back(starter<ByteFallbackStage>());
  } else if (type == "Fuse") {
    node.expect_keys({"type"});
    steps_.push_back(starter<FuseStage>());
  } else if (type == "Replace") {
    steps_.push_back(parse_replace(node));
  } else if (type == "Strip") {
    steps_.push_back(parse_strip(node));
  } else if (type == "Metaspace") {
    steps_.push_back(parse_metaspace(node));
  } else if (type == "WordPiece") {
    node.expect_keys({"type", "prefix", "cleanup"});
    steps_.push_back(
        starter<WordPieceStage>(node.string_or("prefix", "##"), node.boolean_or("cleanup", true)));
  } else if (type == "BPEDecoder") {
    node.expect_keys({"type", "suffix"});
    steps_.push_back(starter<BpeSuffixStage>(node.string_or("suffix", "</w>")));
  } else if (type == "CTC") {
    node.expect_keys({"type", "pad_token", "word_delimiter_token", "cleanup"});
    steps_.push_back(starter<CtcStage>(node.string_or("pad_token", "<pad>"),
                                       node.string_or("word_delimiter_token", "|"),
                                       node.boolean_or("cleanup", true)));
  } else if (type == "Sequence") {
    node.expect_keys({"type", "decoders"});
    for (const Node& step : node.at("decoders").items()) add(step);
  } else {
    throw node.error(fmt::format("unsupported decoder {}", quote(type)));
  }
  if (steps_.size() > 64) throw node.error("expected at most 64 decoders");
}

Decoder Decoder::parse(const Node& node) {
  Decoder out;
  out.add(node);
  return out;
}

Decoder Decoder::joined_by_spaces() {
  Decoder out;
  out.steps_.push_back(starter<JoinStage>());
  return out;
}

Decoding::Decoding(const Decoder& decoder) : first_(&out_) {
  for (auto step = decoder.steps_.rbegin(); step != decoder.steps_.rend(); ++step) {
    stages_.push_back((*step)(*first_));
    first_ = stages_.back().get();
  }
}

}  // namespace decant::tokenizer
