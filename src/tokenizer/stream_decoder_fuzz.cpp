// Input: a byte that picks one of the tokenizers below and whether special tokens are skipped, then
// ids of two bytes each. Streaming must give whole code points that join to what decode gives.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "base/utf8.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer.h"

namespace {

using decant::StreamDecoder;
using decant::Tokenizer;

constexpr std::string_view kDecoders[] = {
    R"(null)",
    R"({"type":"ByteLevel"})",
    R"({"type":"ByteFallback"})",
    R"({"type":"Fuse"})",
    R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true})",
    R"({"type":"WordPiece","prefix":"##","cleanup":true})",
    R"({"type":"BPEDecoder","suffix":"</w>"})",
    R"({"type":"CTC","pad_token":"<pad>","word_delimiter_token":"|","cleanup":true})",
    R"({"type":"Strip","content":"x","start":1,"stop":2})",
    R"json({"type":"Replace","pattern":{"Regex":"a+|x(?=x)"},"content":"-"})json",
    R"({"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},
       {"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})",
    R"({"type":"Sequence","decoders":[{"type":"ByteLevel"},
       {"type":"Strip","content":"a","start":1,"stop":1},
       {"type":"Replace","pattern":{"String":"aa"},"content":"b"}]})",
};

// Byte tokens, the letters of the byte alphabet and texts that the decoders look into.
std::string tokenizer_json(std::string_view decoder) {
  std::string vocab;
  int id = 0;
  const auto add = [&](const std::string& token) {
    vocab += fmt::format("{}\"{}\":{}", id == 0 ? "" : ",", token, id);
    ++id;
  };
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte));
  for (uint32_t c = 0xA1; c < 0x144; ++c) {
    std::string text;
    decant::append_utf8(text, c);
    add(text);
  }
  for (const char* token :
       {"a",   "x",    "aa",    "xax", " ", " a", "a ",  "▁",       "▁▁a", "a▁b", "##",
        "##a", "</w>", "a</w>", "|",   ".", " .", "n't", " do not", "中",  "😀",  ""})
    add(token);
  return fmt::format(
      R"({{"added_tokens":[{{"id":{},"content":"<pad>","special":true}},
          {{"id":{},"content":"▁add","special":false}}],
          "decoder":{},"model":{{"type":"BPE","vocab":{{{}}},"merges":[]}}}})",
      id, id + 1, decoder, vocab);
}

const std::vector<std::shared_ptr<const Tokenizer>>& tokenizers() {
  static const auto all = [] {
    std::vector<std::shared_ptr<const Tokenizer>> out;
    for (const std::string_view decoder : kDecoders)
      out.push_back(Tokenizer::from_json(tokenizer_json(decoder), "", "fuzz"));
    return out;
  }();
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const bool skip = (data[0] & 0x80) != 0;
  const auto& tokenizer = tokenizers()[(data[0] & 0x7F) % tokenizers().size()];
  std::vector<int32_t> ids;
  for (size_t i = 1; i + 1 < size; i += 2)
    // Most are ids of the vocabulary, some beyond it or negative.
    ids.push_back((data[i] & 0xF0) == 0xF0 ? static_cast<int32_t>(data[i + 1] * 0x1010101u)
                                           : (data[i] % 2) * 256 + data[i + 1]);
  const std::string whole = tokenizer->decode(ids, skip);
  DECANT_ASSERT(decant::utf8_first_error(whole) == std::string::npos,
                "decoded text must be valid UTF-8");
  StreamDecoder stream(tokenizer, skip);
  for (int round = 0; round < 2; ++round) {
    std::string pieces;
    for (const int32_t id : ids) {
      const std::string piece = stream.push(id);
      DECANT_ASSERT(decant::utf8_first_error(piece) == std::string::npos,
                    "a stream's pieces must be valid UTF-8");
      pieces += piece;
    }
    pieces += stream.finish();
    DECANT_ASSERT(pieces == whole, "a stream's pieces must join to what decode gives");
  }
  return 0;
}
