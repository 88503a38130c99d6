#include "tokenizer/unigram.h"

#include <algorithm>

#include "base/checked.h"
#include "tokenizer/unicode.h"
#include "tokenizer/word_models.h"

namespace decant::tokenizer {
namespace {

// How far below the worst token an unknown character is.
constexpr double kUnknownPenalty = 10.0;

}  // namespace

std::unique_ptr<const Unigram> Unigram::parse(const Node& node) {
  node.expect_keys({"type", "unk_id", "vocab", "byte_fallback"});
  std::unique_ptr<Unigram> model(new Unigram);
  model->byte_fallback_ = node.boolean_or("byte_fallback", false);
  const std::vector<Node> entries = node.at("vocab").items();
  if (entries.empty()) throw node.error("vocab: expected at least one token, got none");
  size_t bytes = 0;
  for (const Node& entry : entries) bytes += entry.pair().first.string().size();
  model->vocab_.reserve(entries.size(), bytes);
  Problems problems;
  for (const Node& entry : entries) {
    const auto [text, score] = entry.pair();
    const auto id = narrow<int32_t>(model->scores_.size());
    check_token_length(node, text.string());
    if (model->vocab_.add(text.string(), id) != Vocab::Added::kNew)
      problems.add(fmt::format("token {} is given twice", quote(text.string())));
    else if (!text.string().empty())
      model->trie_.add(text.string(), static_cast<uint32_t>(id));
    model->scores_.push_back(score.number());
  }
  if (!problems.empty()) throw node.error(problems.text("the vocabulary contradicts itself"));
  model->vocab_.index();
  model->trie_.build();
  model->unk_score_ =
      *std::min_element(model->scores_.begin(), model->scores_.end()) - kUnknownPenalty;
  if (const auto unk = node.find("unk_id")) {
    const int64_t id = unk->integer();
    if (id < 0 || static_cast<size_t>(id) >= entries.size())
      throw unk->error(fmt::format("expected an id of 0 to {}, got {}", entries.size() - 1, id));
    model->unk_ = static_cast<int32_t>(id);
  }
  for (size_t byte = 0; byte < 256; ++byte)
    model->bytes_[byte] = model->vocab_.find(fmt::format("<0x{:02X}>", byte)).value_or(-1);
  return model;
}

void Unigram::tokenize(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  // Best way to each end, by byte: its last token, where that begins, the sum of scores.
  std::vector<PathEnd>& best = scratch.paths;
  best.assign(piece.size() + 1, {});
  const auto offer = [&](size_t begin, size_t end, int32_t id, double score) {
    PathEnd& target = best[end];
    const double sum = score + best[begin].score;
    if (target.id >= 0 && sum <= target.score) return;
    target = {sum, id, static_cast<uint32_t>(begin)};
  };
  for (size_t at = 0; at < piece.size();) {
    const size_t length = decode_code_point(piece.substr(at)).length;
    bool covered = false;
    trie_.each_prefix(piece.substr(at), [&](size_t size, uint32_t id) {
      offer(at, at + size, static_cast<int32_t>(id), scores_[id]);
      covered |= size == length;
    });
    if (!covered) {
      if (!unk_)
        throw RequestError("[tokenizer] text: expected characters of the vocabulary, got {}",
                           quote(piece.substr(at, length)));
      offer(at, at + length, *unk_, unk_score_);
    }
    at += length;
  }
  // Backwards: begins of the tokens, neighbouring unknowns fused.
  std::vector<uint32_t>& begins = scratch.ranks;
  begins.clear();
  bool fusing = false;
  for (size_t end = piece.size(); end > 0; end = best[end].begin) {
    const bool unknown = unk_ && best[end].id == *unk_;
    if (fusing && unknown) begins.pop_back();
    begins.push_back(best[end].begin);
    fusing = unknown;
  }
  for (size_t i = begins.size(); i-- > 0;) {
    const size_t end = i == 0 ? piece.size() : begins[i - 1];
    append(piece.substr(begins[i], end - begins[i]), out);
  }
}

void Unigram::append(std::string_view token, std::vector<int32_t>& out) const {
  if (const auto id = vocab_.find(token)) {
    out.push_back(*id);
    return;
  }
  const auto id_of = [&](char byte) { return bytes_[static_cast<unsigned char>(byte)]; };
  if (byte_fallback_ &&
      std::all_of(token.begin(), token.end(), [&](char byte) { return id_of(byte) >= 0; })) {
    for (const char byte : token) out.push_back(id_of(byte));
  } else {
    out.push_back(unk_.value());  // only unknowns are in no vocabulary
  }
}

}  // namespace decant::tokenizer
