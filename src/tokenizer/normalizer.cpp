#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/utf8.h"
#include "tokenizer/matches.h"
#include "tokenizer/unicode.h"

namespace decant::tokenizer {

void Rewriter::keep(size_t begin, size_t end) {
  if (out_.bytes.empty() && begin < end) out_.at_origin = from_.at_origin && begin == 0;
  out_.bytes.append(from_.bytes, begin, end - begin);
  if (marked_)
    out_.plain.insert(out_.plain.end(), from_.plain.begin() + static_cast<std::ptrdiff_t>(begin),
                      from_.plain.begin() + static_cast<std::ptrdiff_t>(end));
}

void Rewriter::put(std::string_view bytes, size_t begin, size_t end) {
  if (out_.bytes.empty() && !bytes.empty()) out_.at_origin = from_.at_origin && begin == 0;
  out_.bytes += bytes;
  if (marked_) {
    const bool plain = std::any_of(from_.plain.begin() + static_cast<std::ptrdiff_t>(begin),
                                   from_.plain.begin() + static_cast<std::ptrdiff_t>(end),
                                   [](uint8_t m) { return m != 0; });
    out_.plain.resize(out_.bytes.size(), plain ? 1 : 0);
  }
}

void Rewriter::replace(std::string_view bytes, size_t begin, size_t end) {
  const bool first = out_.bytes.empty() && !bytes.empty();
  put(bytes, begin, end);
  if (first && begin < end) {
    const std::string_view range = std::string_view(from_.bytes).substr(begin, end - begin);
    out_.at_origin &= decode_code_point(range).length == range.size();
  } else if (first && end == 0) {
    out_.at_origin = true;
  }
}

namespace {

// Calls use(begin, end, code point) for every code point.
template <typename F>
void each_code_point(std::string_view text, const F& use) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = decode_code_point(text.substr(at));
    use(at, at + c.length, c.value);
    at += c.length;
  }
}

class UnicodeForm final : public Normalizer {
 public:
  UnicodeForm(bool compose, bool compatible) : compose_(compose), compatible_(compatible) {}

  void apply(Text& text, Scratch&) const override {
    // Below U+0300 nothing composes; decomposed forms change from U+00A0 on.
    const uint32_t quiet = compose_ && !compatible_ ? 0x300 : 0x80;
    bool changes = false;
    for (size_t at = 0; at < text.bytes.size() && !changes;) {
      const CodePoint c = decode_code_point(std::string_view(text.bytes).substr(at));
      changes = c.value >= quiet;
      at += c.length;
    }
    if (!changes) return;
    Rewriter out(text);
    std::string form;
    std::vector<utf8proc_int32_t> buffer;
    const std::string_view bytes = text.bytes;
    for (size_t begin = 0; begin < bytes.size();) {
      CodePoint c = decode_code_point(bytes.substr(begin));
      const bool inert = is_inert(c.value);
      const bool quiet_start = c.value < quiet || inert;
      size_t end = begin + c.length;
      bool alone = true;
      while (!inert && end < bytes.size()) {
        c = decode_code_point(bytes.substr(end));
        if (starts_chunk(c.value)) break;
        alone = false;
        end += c.length;
      }
      if (alone && quiet_start) {
        out.keep(begin, end);
      } else {
        convert(bytes.substr(begin, end - begin), form, buffer);
        if (form == bytes.substr(begin, end - begin)) {
          out.keep(begin, end);
        } else {
          out.put(form, begin, end);
        }
      }
      begin = end;
    }
    text = out.take();
  }

 private:
  // True for a code point that neither combines with nor moves before what stands in front of it.
  static bool starts_chunk(uint32_t c) {
    if (c < 0x300) return true;
    if ((c >= 0x1100 && c <= 0x11FF) || (c >= 0xFF9E && c <= 0xFFDC)) return false;
    return is_inert(c) || !is_mark(c);
  }

  void convert(std::string_view chunk, std::string& form,
               std::vector<utf8proc_int32_t>& buffer) const {
    buffer.clear();
    const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                        (compatible_ ? UTF8PROC_COMPAT : 0));
    each_code_point(chunk, [&](size_t, size_t, uint32_t c) {
      utf8proc_int32_t parts[32];
      int boundary = 0;
      const auto count =
          utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, options, &boundary);
      if (count < 0 || count > 32) {
        buffer.push_back(static_cast<utf8proc_int32_t>(c));
      } else {
        buffer.insert(buffer.end(), parts, parts + count);
      }
    });
    // utf8proc orders marks by neighbour swaps, quadratic on a long run of them.
    std::vector<uint64_t> keys;
    const auto ccc = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
    for (size_t i = 0; i < buffer.size();) {
      if (ccc(buffer[i]) == 0) {
        ++i;
        continue;
      }
      size_t end = i;
      while (end < buffer.size() && ccc(buffer[end]) != 0) ++end;
      // Sorted by class, equal classes in their order: class, place and code point in one number.
      keys.clear();
      for (size_t j = i; j < end; ++j)
        keys.push_back(static_cast<uint64_t>(ccc(buffer[j])) << 56 |
                       static_cast<uint64_t>(j - i) << 24 | static_cast<uint64_t>(buffer[j]));
      std::sort(keys.begin(), keys.end());
      for (size_t j = i; j < end; ++j)
        buffer[j] = static_cast<utf8proc_int32_t>(keys[j - i] & 0xFFFFFF);
      i = end;
    }
    auto length = static_cast<utf8proc_ssize_t>(buffer.size());
    if (compose_)
      length = utf8proc_normalize_utf32(
          buffer.data(), length,
          static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    form.clear();
    for (utf8proc_ssize_t i = 0; i < length; ++i)
      append_utf8(form, static_cast<uint32_t>(buffer[static_cast<size_t>(i)]));
  }

  bool compose_;
  bool compatible_;
};

class Lowercase final : public Normalizer {
 public:
  void apply(Text& text, Scratch&) const override {
    Rewriter out(text);
    std::string lower;
    each_code_point(text.bytes, [&](size_t begin, size_t end, uint32_t c) {
      lower.clear();
      append_lowercase(lower, c);
      out.put(lower, begin, end);
    });
    text = out.take();
  }
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}

  void apply(Text& text, Scratch&) const override {
    size_t begin = 0;
    size_t end = text.bytes.size();
    const std::string_view bytes = text.bytes;
    while (left_ && begin < end) {
      const CodePoint c = decode_code_point(bytes.substr(begin));
      if (!is_whitespace(c.value)) break;
      begin += c.length;
    }
    while (right_ && end > begin) {
      const CodePoint c = decode_last_code_point(bytes.substr(0, end));
      if (!is_whitespace(c.value)) break;
      end -= c.length;
    }
    if (begin == 0 && end == bytes.size()) return;
    Rewriter out(text);
    out.keep(begin, end);
    text = out.take();
  }

 private:
  bool left_;
  bool right_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}

  void apply(Text& text, Scratch&) const override {
    if (text.bytes.empty()) return;
    Rewriter out(text);
    out.replace(prefix_, 0, 0);
    out.keep(0, text.bytes.size());
    text = out.take();
  }

 private:
  std::string prefix_;
};

class ReplaceText final : public Normalizer {
 public:
  ReplaceText(std::string from, std::string to) : from_(std::move(from)), to_(std::move(to)) {}

  void apply(Text& text, Scratch&) const override {
    size_t found = text.bytes.find(from_);
    if (found == std::string::npos) return;
    Rewriter out(text);
    size_t at = 0;
    while (found != std::string::npos) {
      out.keep(at, found);
      out.replace(to_, found, found + from_.size());
      at = found + from_.size();
      found = text.bytes.find(from_, at);
    }
    out.keep(at, text.bytes.size());
    text = out.take();
  }

 private:
  std::string from_;
  std::string to_;
};

class ReplacePattern final : public Normalizer {
 public:
  ReplacePattern(std::shared_ptr<const Regex> pattern, std::string to)
      : pattern_(std::move(pattern)), to_(std::move(to)) {}

  void apply(Text& text, Scratch& scratch) const override {
    find_all(*pattern_, text.bytes, scratch);
    Rewriter out(text);
    for (const Match& match : scratch.matches) {
      if (match.is_match) {
        out.replace(to_, match.begin, match.end);
      } else {
        out.keep(match.begin, match.end);
      }
    }
    text = out.take();
  }

 private:
  std::shared_ptr<const Regex> pattern_;
  std::string to_;
};

// Drops the code points a predicate names.
class Filter final : public Normalizer {
 public:
  explicit Filter(bool (*drop)(uint32_t)) : drop_(drop) {}

  void apply(Text& text, Scratch&) const override {
    Rewriter out(text);
    each_code_point(text.bytes, [&](size_t begin, size_t end, uint32_t c) {
      if (!drop_(c)) out.keep(begin, end);
    });
    text = out.take();
  }

 private:
  bool (*drop_)(uint32_t);
};

// What NMT's SentencePiece models do first: some controls vanish, others and odd spaces become " ".
class Nmt final : public Normalizer {
 public:
  void apply(Text& text, Scratch&) const override {
    Rewriter out(text);
    each_code_point(text.bytes, [&](size_t begin, size_t end, uint32_t c) {
      if (vanishes(c)) return;
      if (is_space(c)) {
        out.put(" ", begin, end);
      } else {
        out.keep(begin, end);
      }
    });
    text = out.take();
  }

 private:
  static bool vanishes(uint32_t c) {
    return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
           c == 0x8F || c == 0x9F;
  }
  static bool is_space(uint32_t c) {
    return c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
           (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
           c == 0xFEFF || c == 0xFFFD;
  }
};

class ByteLevelText final : public Normalizer {
 public:
  void apply(Text& text, Scratch&) const override {
    Rewriter out(text);
    for (size_t i = 0; i < text.bytes.size(); ++i)
      out.put(byte_alphabet(static_cast<unsigned char>(text.bytes[i])), i, i + 1);
    text = out.take();
  }
};

// The cleaning steps of BERT: control characters, white space, room around CJK ideographs.
class BertClean final : public Normalizer {
 public:
  BertClean(bool clean, bool ideographs) : clean_(clean), ideographs_(ideographs) {}

  void apply(Text& text, Scratch&) const override {
    Rewriter out(text);
    each_code_point(text.bytes, [&](size_t begin, size_t end, uint32_t c) {
      if (clean_ && is_dropped_by_bert(c)) return;
      if (clean_ && is_whitespace(c)) {
        out.put(" ", begin, end);
      } else if (ideographs_ && is_ideograph(c)) {
        out.put(" ", begin, begin);
        out.keep(begin, end);
        out.put(" ", end, end);
      } else {
        out.keep(begin, end);
      }
    });
    text = out.take();
  }

 private:
  static bool is_ideograph(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
           (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
           (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }

  bool clean_;
  bool ideographs_;
};

class NormalizerSequence final : public Normalizer {
 public:
  void add(std::unique_ptr<const Normalizer> step) { steps_.push_back(std::move(step)); }
  void apply(Text& text, Scratch& scratch) const override {
    for (const auto& step : steps_) step->apply(text, scratch);
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

std::unique_ptr<const Normalizer> parse_bert(const Node& node) {
  node.expect_keys({"type", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase"});
  const bool lowercase = node.boolean_or("lowercase", true);
  auto sequence = std::make_unique<NormalizerSequence>();
  sequence->add(std::make_unique<BertClean>(node.boolean_or("clean_text", true),
                                            node.boolean_or("handle_chinese_chars", true)));
  if (node.boolean_or("strip_accents", lowercase)) {
    sequence->add(std::make_unique<UnicodeForm>(false, false));
    sequence->add(std::make_unique<Filter>(is_nonspacing_mark));
  }
  if (lowercase) sequence->add(std::make_unique<Lowercase>());
  return sequence;
}

std::unique_ptr<const Normalizer> parse_replace(const Node& node) {
  node.expect_keys({"type", "pattern", "content"});
  const Node pattern = node.at("pattern");
  pattern.expect_keys({"String", "Regex"});
  std::string to(node.at("content").string());
  if (const auto text = pattern.find("String")) {
    if (!text->string().empty())
      return std::make_unique<ReplaceText>(std::string(text->string()), std::move(to));
    return std::make_unique<ReplacePattern>(Regex::compile("", text->path()), std::move(to));
  }
  const Node regex = pattern.at("Regex");
  return std::make_unique<ReplacePattern>(
      Regex::compile(regex.string(), regex.source() + ": " + regex.path()), std::move(to));
}

}  // namespace

std::unique_ptr<const Normalizer> Normalizer::parse(const Node& node) {
  const std::string_view type = node.type();
  const auto bare = [&] { node.expect_keys({"type"}); };
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    bare();
    return std::make_unique<UnicodeForm>(type.ends_with('C'), type.size() == 4);
  }
  if (type == "Lowercase") return bare(), std::make_unique<Lowercase>();
  if (type == "StripAccents") return bare(), std::make_unique<Filter>(is_mark);
  if (type == "Nmt") return bare(), std::make_unique<Nmt>();
  if (type == "ByteLevel") return bare(), std::make_unique<ByteLevelText>();
  if (type == "Strip") {
    node.expect_keys({"type", "strip_left", "strip_right"});
    return std::make_unique<Strip>(node.at("strip_left").boolean(),
                                   node.at("strip_right").boolean());
  }
  if (type == "Prepend") {
    node.expect_keys({"type", "prepend"});
    return std::make_unique<Prepend>(std::string(node.at("prepend").string()));
  }
  if (type == "Replace") return parse_replace(node);
  if (type == "BertNormalizer") return parse_bert(node);
  if (type == "Sequence") {
    node.expect_keys({"type", "normalizers"});
    auto sequence = std::make_unique<NormalizerSequence>();
    for (const Node& step : node.at("normalizers").items()) sequence->add(parse(step));
    return sequence;
  }
  throw node.error(fmt::format("unsupported normalizer {}", quote(type)));
}

}  // namespace decant::tokenizer
