#include "tokenizer/word_models.h"

#include "tokenizer/unicode.h"

namespace decant::tokenizer {
namespace {

constexpr size_t kMaxToken = 1024;

int32_t parse_unk(const Node& node, const Vocab& vocab, std::string_view fallback) {
  const std::string name = node.string_or("unk_token", fallback);
  const auto id = vocab.find(name);
  if (!id)
    throw node.error(fmt::format("unk_token: token {} is not in the vocabulary", quote(name)));
  return *id;
}

}  // namespace

void check_token_length(const Node& node, std::string_view token) {
  if (token.size() > kMaxToken)
    throw node.error(fmt::format("token {}: expected at most {} bytes, got {}", quote(token, 40),
                                 kMaxToken, token.size()));
}

std::unique_ptr<const WordPiece> WordPiece::parse(const Node& node) {
  node.expect_keys(
      {"type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word", "vocab"});
  std::unique_ptr<WordPiece> model(new WordPiece);
  model->vocab_ = parse_vocab(node.at("vocab"));
  model->unk_ = parse_unk(node, model->vocab_, "[UNK]");
  const std::string prefix = node.string_or("continuing_subword_prefix", "##");
  if (const auto limit = node.find("max_input_chars_per_word")) {
    if (limit->integer() < 0)
      throw limit->error(fmt::format("expected at least 0, got {}", limit->integer()));
    model->max_characters_ = static_cast<size_t>(limit->integer());
  }
  for (size_t i = 0; i < model->vocab_.size(); ++i) {
    const int32_t id = model->vocab_.id_at(i);
    const std::string_view text = model->vocab_.text(id);
    check_token_length(node, text);
    if (text.empty()) continue;
    model->first_.add(text, static_cast<uint32_t>(id));
    if (text.size() > prefix.size() && text.starts_with(prefix))
      model->inner_.add(text.substr(prefix.size()), static_cast<uint32_t>(id));
  }
  model->first_.build();
  model->inner_.build();
  return model;
}

void WordPiece::tokenize(std::string_view piece, Scratch&, std::vector<int32_t>& out) const {
  size_t characters = 0;
  for (const char c : piece) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
  const size_t before = out.size();
  size_t at = 0;
  while (characters <= max_characters_ && at < piece.size()) {
    size_t length = 0;
    uint32_t id = 0;
    (at == 0 ? first_ : inner_).each_prefix(piece.substr(at), [&](size_t size, uint32_t value) {
      length = size;
      id = value;
    });
    if (length == 0) break;
    out.push_back(static_cast<int32_t>(id));
    at += length;
  }
  if (at == piece.size()) return;
  out.resize(before);
  out.push_back(unk_);
}

std::unique_ptr<const WordLevel> WordLevel::parse(const Node& node) {
  node.expect_keys({"type", "unk_token", "vocab"});
  std::unique_ptr<WordLevel> model(new WordLevel);
  model->vocab_ = parse_vocab(node.at("vocab"));
  model->unk_ = parse_unk(node, model->vocab_, "<unk>");
  return model;
}

void WordLevel::tokenize(std::string_view piece, Scratch&, std::vector<int32_t>& out) const {
  out.push_back(vocab_.find(piece).value_or(unk_));
}

}  // namespace decant::tokenizer
