#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace decant {

/// Decodes ids one by one. The pieces are valid UTF-8 and together equal Tokenizer::decode of all
/// ids: text is held back while a later id can still change it (half a code point, a run of byte
/// tokens).
class StreamDecoder {
 public:
  /// With skip_special, special tokens but those in `kept` decode as nothing.
  StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special,
                std::vector<int32_t> kept = {});
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  /// The text that has become final with this id, possibly empty.
  std::string push(int32_t id);
  /// The rest; half a code point becomes U+FFFD. Afterwards the decoder is as new.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace decant
