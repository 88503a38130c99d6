#include "tokenizer/stream_decoder.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "tokenizer/tokenizer_impl.h"

namespace decant {

struct StreamDecoder::State {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool skip_special;
  std::vector<int32_t> kept;
  std::optional<tokenizer::Decoding> decoding;
};

StreamDecoder::StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special,
                             std::vector<int32_t> kept)
    : state_(std::make_unique<State>()) {
  DECANT_ASSERT(tokenizer != nullptr, "a stream decoder needs a tokenizer");
  state_->tokenizer = std::move(tokenizer);
  state_->skip_special = skip_special;
  state_->kept = std::move(kept);
  state_->decoding.emplace(state_->tokenizer->impl_->decoder);
}
StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::push(int32_t id) {
  const std::vector<int32_t>& kept = state_->kept;
  const bool skip = state_->skip_special && std::find(kept.begin(), kept.end(), id) == kept.end();
  state_->tokenizer->impl_->push(*state_->decoding, id, skip);
  return state_->decoding->take();
}

std::string StreamDecoder::finish() {
  state_->decoding->finish();
  std::string rest = state_->decoding->take();
  state_->decoding.emplace(state_->tokenizer->impl_->decoder);
  return rest;
}

}  // namespace decant
