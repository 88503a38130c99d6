// Input: the bytes of a tokenizer.json, a NUL byte, a text. Whatever loads must encode and decode
// without a fault, and stream what it decodes.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/errors.h"
#include "base/utf8.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  const std::string_view json = input.substr(0, cut);
  const std::string_view text = cut == std::string_view::npos ? "a b" : input.substr(cut + 1);
  try {
    const auto tokenizer = decant::Tokenizer::from_json(json, "", "fuzz");
    const std::string valid = decant::utf8_lossy(text);
    const auto ids = tokenizer->encode(valid);
    const decant::Tokenizer::Part part{valid, true};
    tokenizer->encode_parts({&part, 1});
    const std::string whole = tokenizer->decode(ids);
    decant::StreamDecoder stream(tokenizer, false);
    std::string pieces;
    for (const int32_t id : ids) {
      const std::string piece = stream.push(id);
      DECANT_ASSERT(decant::utf8_first_error(piece) == std::string::npos,
                    "a stream's pieces must be valid UTF-8");
      pieces += piece;
    }
    pieces += stream.finish();
    DECANT_ASSERT(pieces == whole, "a stream's pieces must join to what decode gives");
  } catch (const decant::InternalError&) {
    throw;
  } catch (const decant::Error&) {
  }
  return 0;
}
