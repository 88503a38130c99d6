#include "tokenizer/added_tokens.h"

#include <algorithm>
#include <set>

#include "base/checked.h"
#include "tokenizer/model.h"
#include "tokenizer/unicode.h"

namespace decant::tokenizer {
namespace {

constexpr size_t kMaxContent = 1024;
// Looking for tokens byte by byte is fastest on text with few of them; after this many steps per
// byte the tokens overlap too much for it.
constexpr size_t kMaxStepsPerByte = 8;

size_t trailing_whitespace(std::string_view text) {
  const size_t all = text.size();
  while (!text.empty()) {
    const CodePoint c = decode_last_code_point(text);
    if (!is_whitespace(c.value)) break;
    text.remove_suffix(c.length);
  }
  return all - text.size();
}

size_t leading_whitespace(std::string_view text) {
  const size_t all = text.size();
  while (!text.empty()) {
    const CodePoint c = decode_code_point(text);
    if (!is_whitespace(c.value)) break;
    text.remove_prefix(c.length);
  }
  return all - text.size();
}

}  // namespace

void AddedTokens::parse(const Node& node, const Vocab& vocab, const Normalizer* normalizer,
                        Scratch& scratch) {
  const std::vector<Node> entries = node.items();
  const int64_t limit = max_plausible_id(vocab.size() + entries.size());
  size_t bytes = 0;
  for (const Node& entry : entries) bytes += entry.at("content").string().size();
  contents_.reserve(entries.size(), bytes);
  Problems problems;
  for (const Node& entry : entries) {
    entry.expect_keys(
        {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    AddedToken token;
    token.content = entry.at("content").string();
    token.single_word = entry.boolean_or("single_word", false);
    token.lstrip = entry.boolean_or("lstrip", false);
    token.rstrip = entry.boolean_or("rstrip", false);
    token.special = entry.boolean_or("special", false);
    token.normalized = entry.boolean_or("normalized", !token.special);
    const int64_t id = entry.at("id").integer();
    const auto report = [&](std::string_view what) {
      problems.add(fmt::format("{} ({}): {}", entry.path(), quote(token.content), what));
    };
    if (token.content.empty()) continue;
    if (token.content.size() > kMaxContent) {
      report(fmt::format("expected at most {} bytes, got {}", kMaxContent, token.content.size()));
      continue;
    }
    if (id < 0 || id > limit) {
      report(fmt::format("expected an id of 0 to {}, got {}", limit, id));
      continue;
    }
    token.id = static_cast<int32_t>(id);
    const auto model_id = vocab.find(token.content);
    if (model_id && *model_id != token.id) {
      report(fmt::format("has id {}, but {} in the vocabulary", id, *model_id));
      continue;
    }
    if (!model_id && vocab.has(token.id)) {
      report(fmt::format("id {} is {} in the vocabulary", id, quote(vocab.text(token.id))));
      continue;
    }
    if (contents_.add(token.content, static_cast<int32_t>(tokens_.size())) != Vocab::Added::kNew) {
      report("is given twice");
      continue;
    }
    token.pattern = token.content;
    if (token.normalized && normalizer != nullptr) {
      Text text{token.content, {}};
      normalizer->apply(text, scratch);
      token.pattern = std::move(text.bytes);
    }
    max_id_ = std::max(max_id_, token.id);
    tokens_.push_back(std::move(token));
  }
  by_id_.assign(static_cast<size_t>(max_id_ + 1), 0);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    uint32_t& slot = by_id_[static_cast<size_t>(tokens_[i].id)];
    if (slot != 0)
      problems.add(fmt::format("id {} is given to {} and {}", tokens_[i].id,
                               quote(tokens_[slot - 1].content), quote(tokens_[i].content)));
    slot = narrow<uint32_t>(i + 1);
  }
  if (!problems.empty()) throw node.error(problems.text("added tokens contradict"));
  for (uint32_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    if (token.pattern.empty()) continue;
    (token.normalized ? normalized_ : raw_).add(token.pattern, i);
    (token.normalized ? normalized_starts_ : raw_starts_).add(token.pattern, i);
    normalized_special_ |= token.normalized && token.special;
  }
  raw_.build();
  normalized_.build();
  raw_starts_.build();
  normalized_starts_.build();
  // Decoding skips by text, as the official library does: of a token that is normalized, the normal
  // form counts.
  std::set<std::string_view> special;
  for (const AddedToken& token : tokens_)
    if (token.special) special.insert(token.content);
  for (AddedToken& token : tokens_) token.skipped = special.contains(token.pattern);
}

const AddedToken* AddedTokens::find(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= by_id_.size()) return nullptr;
  const uint32_t slot = by_id_[static_cast<size_t>(id)];
  return slot == 0 ? nullptr : &tokens_[slot - 1];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto index = contents_.find(content);
  return index ? &tokens_[static_cast<size_t>(*index)] : nullptr;
}

void AddedTokens::split(std::string_view text, bool normalized, bool parse_special,
                        std::span<const uint8_t> plain, std::vector<Segment>& out) const {
  out.clear();
  const Trie& trie = normalized ? normalized_ : raw_;
  size_t done = 0;
  // The last run of white space that an rstrip token took: each byte is looked at once however many
  // tokens begin inside.
  size_t spaces_begin = 0;
  size_t spaces_end = 0;
  // Bytes in front of this that come behind `at` are not plain.
  size_t next_plain = 0;
  const auto touches_plain = [&](size_t begin, size_t end) {
    if (plain.empty()) return false;
    next_plain = std::max(next_plain, begin);
    while (next_plain < end && plain[next_plain] == 0) ++next_plain;
    return next_plain < end;
  };
  const StartFinder& starts = normalized ? normalized_starts_ : raw_starts_;
  std::vector<uint32_t> states;
  size_t steps = 0;
  for (size_t at = 0; !trie.empty() && at < text.size();) {
    if (!trie.may_start(static_cast<unsigned char>(text[at]))) {
      ++at;
      continue;
    }
    // The longest that counts: a special token in a plain part is text like any other.
    size_t length = 0;
    const AddedToken* token = nullptr;
    const auto counts = [&](size_t size, uint32_t value) {
      const AddedToken& found = tokens_[value];
      if (found.special && touches_plain(at, at + size)) return false;
      length = size;
      token = &found;
      return true;
    };
    if (states.empty()) {
      steps += trie.each_prefix(text.substr(at), counts);
      if (steps > kMaxStepsPerByte * (at + 1024)) starts.run(text, states);
    } else {
      starts.each_start(states[at], counts);
    }
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + length;
    at = end;
    if (token->special && !parse_special) continue;
    if (token->single_word) {
      const bool word_before =
          begin > 0 && is_word(decode_last_code_point(text.substr(0, begin)).value);
      const bool word_behind =
          end < text.size() && is_word(decode_code_point(text.substr(end)).value);
      if (word_before || word_behind) continue;
    }
    // Tokens may stand inside the white space that an earlier one took: such a token counts once
    // more, unless it strips to its left, where nothing is left of it. The text goes on behind the
    // last token, even where that is inside the white space.
    if (token->lstrip)
      begin = done < begin ? begin - trailing_whitespace(text.substr(done, begin - done)) : done;
    if (token->rstrip) {
      if (end < spaces_begin || end > spaces_end) {
        spaces_begin = end;
        spaces_end = end + leading_whitespace(text.substr(end));
      }
      end = spaces_end;
    }
    if (done < begin) out.push_back({done, begin, -1});
    if (begin < end) out.push_back({begin, end, token->id});
    done = end;
  }
  if (done < text.size()) out.push_back({done, text.size(), -1});
}

}  // namespace decant::tokenizer
