#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/tokenizer_impl.h"

namespace decant {
namespace {

using tokenizer::Document;
using tokenizer::Node;
using tokenizer::Scratch;
using tokenizer::Segment;

// Symbols and heap entries are numbered with 32 bits.
constexpr size_t kMaxText = size_t{1} << 30;
constexpr size_t kMaxIdle = 64;
// A call on a huge text must not leave its working memory behind for good.
constexpr size_t kMaxKeptBytes = size_t{4} << 20;

void check_text(std::string_view text, size_t offset) {
  if (text.size() > kMaxText)
    throw RequestError("[tokenizer] text: expected at most {} bytes, got {}", kMaxText,
                       text.size());
  const size_t error = utf8_first_error(text);
  if (error != std::string_view::npos)
    throw RequestError("[tokenizer] text: expected UTF-8, got an ill-formed byte at offset {}",
                       offset + error);
}

}  // namespace

Tokenizer::Tokenizer() : impl_(std::make_unique<Impl>()) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::load(const std::filesystem::path& folder) {
  std::string text;
  try {
    text = read_text_file(folder / "tokenizer.json");
  } catch (const RuntimeError& error) {
    throw TokenizerError("[tokenizer] {}", error.what());
  }
  const std::filesystem::path config = folder / "tokenizer_config.json";
  std::error_code ignored;
  const std::string config_text =
      std::filesystem::exists(config, ignored) ? read_text_file(config) : "";
  return from_json(text, config_text, folder.string());
}

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json,
                                                      std::string_view config_json,
                                                      std::string_view source) {
  const Document document(tokenizer_json,
                          (std::filesystem::path(source) / "tokenizer.json").string());
  const Node& root = document.root();
  root.expect_keys({"version", "truncation", "padding", "added_tokens", "normalizer",
                    "pre_tokenizer", "post_processor", "decoder", "model"});
  if (const auto version = root.find("version"); version && version->string() != "1.0")
    throw version->error(fmt::format("expected \"1.0\", got {}", quote(version->string())));
  std::shared_ptr<Tokenizer> out(new Tokenizer);
  Impl& impl = *out->impl_;
  impl.model = tokenizer::Model::parse(root.at("model"));
  if (const auto node = root.find("normalizer"))
    impl.normalizer = tokenizer::Normalizer::parse(*node);
  if (const auto node = root.find("pre_tokenizer"))
    impl.pre_tokenizer = tokenizer::PreTokenizer::parse(*node);
  if (const auto node = root.find("post_processor"))
    impl.post_processor = tokenizer::PostProcessor::parse(*node);
  const auto decoder = root.find("decoder");
  impl.decoder =
      decoder ? tokenizer::Decoder::parse(*decoder) : tokenizer::Decoder::joined_by_spaces();
  if (const auto node = root.find("added_tokens")) {
    Impl::Borrowed scratch(impl);
    impl.added.parse(*node, impl.model->vocab(), impl.normalizer.get(), *scratch);
  }
  if (!config_json.empty())
    impl.parse_config(config_json,
                      (std::filesystem::path(source) / "tokenizer_config.json").string());
  return out;
}

void Tokenizer::Impl::parse_config(std::string_view config_json, const std::string& source) {
  const Json config = parse_json(config_json, source);
  if (!config.is_object())
    throw ConfigError("[tokenizer] {}: expected an object, got {}", source, describe(config));
  for (const auto& [key, value] : config.items()) {
    if (value.is_boolean()) {
      config_flags[key] = value.get<bool>();
    } else if (key.ends_with("_token") && value.is_string()) {
      special_tokens[key] = value.get<std::string>();
    } else if (key.ends_with("_token") && value.is_object()) {
      const auto content = value.find("content");
      if (content == value.end() || !content->is_string())
        throw ConfigError("[tokenizer] {}: {}: expected a string \"content\"", source, key);
      special_tokens[key] = content->get<std::string>();
    }
  }
}

Tokenizer::Impl::Borrowed::Borrowed(const Impl& owner) : owner_(owner) {
  {
    const std::lock_guard lock(owner.mutex_);
    if (!owner.idle_.empty()) {
      scratch_ = std::move(owner.idle_.back());
      owner.idle_.pop_back();
    }
  }
  if (!scratch_) scratch_ = std::make_unique<Scratch>();
}

Tokenizer::Impl::Borrowed::~Borrowed() {
  Scratch& scratch = *scratch_;
  const auto trim = [](auto& buffer) {
    if (buffer.capacity() * sizeof(buffer[0]) > kMaxKeptBytes)
      buffer = std::remove_reference_t<decltype(buffer)>();
  };
  trim(scratch.matches);
  trim(scratch.pieces);
  trim(scratch.text);
  trim(scratch.subject);
  trim(scratch.symbols);
  trim(scratch.ids);
  trim(scratch.ranks);
  trim(scratch.heap);
  trim(scratch.prev);
  trim(scratch.next);
  trim(scratch.paths);
  const std::lock_guard lock(owner_.mutex_);
  if (owner_.idle_.size() < kMaxIdle) owner_.idle_.push_back(std::move(scratch_));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  check_text(text, 0);
  return impl_->encode(text, {}, options);
}

std::vector<int32_t> Tokenizer::encode_parts(std::span<const Part> parts,
                                             const EncodeOptions& options) const {
  std::string all;
  std::vector<uint8_t> plain;
  const bool any_plain =
      std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.plain; });
  for (const Part& part : parts) {
    check_text(part.text, all.size());
    all += part.text;
    if (all.size() > kMaxText)
      throw RequestError("[tokenizer] text: expected at most {} bytes in all parts", kMaxText);
    if (any_plain) plain.resize(all.size(), part.plain ? 1 : 0);
  }
  return impl_->encode(all, std::move(plain), options);
}

std::vector<int32_t> Tokenizer::Impl::encode(std::string_view text, std::vector<uint8_t> plain,
                                             const EncodeOptions& options) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 8);
  {
    Borrowed scratch(*this);
    std::vector<Segment> segments;
    added.split(text, false, options.parse_special, plain, segments);
    for (const Segment& segment : segments) {
      if (segment.id >= 0) {
        out.push_back(segment.id);
        continue;
      }
      const size_t size = segment.end - segment.begin;
      const std::span<const uint8_t> marks =
          plain.empty() ? std::span<const uint8_t>()
                        : std::span<const uint8_t>(plain).subspan(segment.begin, size);
      encode_text(text.substr(segment.begin, size), marks, segment.begin == 0,
                  options.parse_special, *scratch, out);
    }
  }
  if (options.add_special_tokens && post_processor) post_processor->apply(out);
  return out;
}

void Tokenizer::Impl::encode_text(std::string_view text, std::span<const uint8_t> plain,
                                  bool at_start, bool parse_special, Scratch& scratch,
                                  std::vector<int32_t>& out) const {
  tokenizer::Text normal;
  normal.bytes = text;
  if (added.has_normalized_special()) normal.plain.assign(plain.begin(), plain.end());
  if (normalizer) normalizer->apply(normal, scratch);
  std::vector<Segment> segments;
  added.split(normal.bytes, true, parse_special, normal.plain, segments);
  tokenizer::PreText pre;
  for (const Segment& segment : segments) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
      continue;
    }
    pre.text.assign(normal.bytes, segment.begin, segment.end - segment.begin);
    pre.pieces.assign(1, {0, pre.text.size(), at_start && normal.at_origin && segment.begin == 0});
    if (pre_tokenizer) pre_tokenizer->apply(pre, scratch);
    for (const tokenizer::Piece& piece : pre.pieces)
      model->tokenize(std::string_view(pre.text).substr(piece.begin, piece.end - piece.begin),
                      scratch, out);
  }
}

void Tokenizer::Impl::push(tokenizer::Decoding& decoding, int32_t id, bool skip_special) const {
  if (const tokenizer::AddedToken* token = added.find(id)) {
    if (!(skip_special && token->skipped)) decoding.push(token->pattern);
  } else if (model->vocab().has(id)) {
    decoding.push(model->vocab().text(id));
  }
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  tokenizer::Decoding decoding(impl_->decoder);
  for (const int32_t id : ids) impl_->push(decoding, id, skip_special);
  decoding.finish();
  return decoding.take();
}

int32_t Tokenizer::vocab_size() const {
  return std::max(impl_->model->vocab().max_id(), impl_->added.max_id()) + 1;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  if (const tokenizer::AddedToken* found = impl_->added.find(token)) return found->id;
  return impl_->model->vocab().find(token);
}

std::string_view Tokenizer::id_to_token(int32_t id) const {
  if (const tokenizer::AddedToken* found = impl_->added.find(id)) return found->content;
  return impl_->model->vocab().text(id);
}

bool Tokenizer::is_special(int32_t id) const {
  const tokenizer::AddedToken* found = impl_->added.find(id);
  return found != nullptr && found->special;
}

std::optional<std::string> Tokenizer::special_token(std::string_view name) const {
  const auto found = impl_->special_tokens.find(name);
  if (found == impl_->special_tokens.end()) return std::nullopt;
  return found->second;
}

std::optional<bool> Tokenizer::config_flag(std::string_view name) const {
  const auto found = impl_->config_flags.find(name);
  if (found == impl_->config_flags.end()) return std::nullopt;
  return found->second;
}

}  // namespace decant
