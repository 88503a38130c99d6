#include "tokenizer/model.h"

#include <algorithm>

#include "tokenizer/bpe.h"
#include "tokenizer/unigram.h"
#include "tokenizer/word_models.h"

namespace decant::tokenizer {

int64_t max_plausible_id(size_t count) {
  return static_cast<int64_t>(std::min<uint64_t>(count * 16 + (1u << 20), 0x7FFFFFFFu));
}

Vocab parse_vocab(const Node& node) {
  size_t count = 0;
  size_t bytes = 0;
  for (const auto field : node.object()) {
    ++count;
    bytes += field.key.size();
  }
  Vocab vocab;
  vocab.reserve(count, bytes);
  Problems problems;
  const int64_t limit = max_plausible_id(count);
  for (const auto field : node.object()) {
    int64_t id = 0;
    if (field.value.get(id) || id < 0) {
      problems.add(fmt::format("token {}: expected an id of at least 0", quote(field.key)));
    } else if (id > limit) {
      problems.add(
          fmt::format("token {}: expected an id of at most {} in a vocabulary of {}, got {}",
                      quote(field.key), limit, count, id));
    } else if (vocab.add(field.key, static_cast<int32_t>(id)) != Vocab::Added::kNew) {
      problems.add(fmt::format("token {} is given twice", quote(field.key)));
    }
  }
  for (const int32_t id : vocab.index()) problems.add(fmt::format("id {} is given twice", id));
  if (!problems.empty()) throw node.error(problems.text("the vocabulary contradicts itself"));
  return vocab;
}

std::unique_ptr<const Model> Model::parse(const Node& node) {
  const auto type = node.find("type");
  // Files written before the type was recorded: only BPE has merges.
  const std::string_view name = type ? type->string() : node.find("merges") ? "BPE" : "";
  if (name == "BPE") return Bpe::parse(node);
  if (name == "Unigram") return Unigram::parse(node);
  if (name == "WordPiece") return WordPiece::parse(node);
  if (name == "WordLevel") return WordLevel::parse(node);
  throw node.error(fmt::format("unsupported model type {}", quote(name)));
}

}  // namespace decant::tokenizer
