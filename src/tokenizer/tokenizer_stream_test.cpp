// Streaming against whole decoding on random ids, for every tokenizer file of the fixtures.
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer.h"

namespace decant {
namespace {

namespace fs = std::filesystem;

void expect_streams(const std::shared_ptr<const Tokenizer>& tokenizer, const std::string& name,
                    uint32_t seed, int rounds) {
  std::mt19937 random(seed);
  const auto below = [&](int32_t n) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(n));
  };
  std::vector<int32_t> bytes;
  for (int byte = 0; byte < 256; ++byte)
    if (const auto id = tokenizer->token_to_id(fmt::format("<0x{:02X}>", byte)))
      bytes.push_back(*id);
  for (int round = 0; round < rounds; ++round) {
    std::vector<int32_t> ids;
    const int count = below(14);
    for (int i = 0; i < count; ++i) {
      const int32_t kind = below(16);
      if (kind < 6 && !bytes.empty()) {
        // Lead and continuation bytes more often than others.
        ids.push_back(bytes[static_cast<size_t>(below(3) > 0 ? 128 + below(128) : below(256)) %
                            bytes.size()]);
      } else if (kind == 15) {
        ids.push_back(below(2) == 0 ? -1 - below(5) : tokenizer->vocab_size() + below(1000));
      } else {
        ids.push_back(below(tokenizer->vocab_size() + 2));
      }
    }
    for (const bool skip : {false, true}) {
      const std::string whole = tokenizer->decode(ids, skip);
      ASSERT_EQ(utf8_first_error(whole), std::string::npos) << name;
      StreamDecoder stream(tokenizer, skip);
      std::string pieces;
      for (const int32_t id : ids) {
        const std::string piece = stream.push(id);
        ASSERT_EQ(utf8_first_error(piece), std::string::npos) << name;
        pieces += piece;
      }
      ASSERT_EQ(pieces + stream.finish(), whole) << name << ", ids " << Json(ids).dump();
    }
    // Special tokens that are kept are text.
    StreamDecoder keeping(tokenizer, true, ids);
    std::string kept;
    for (const int32_t id : ids) kept += keeping.push(id);
    ASSERT_EQ(kept + keeping.finish(), tokenizer->decode(ids)) << name;
  }
}

TEST(StreamDecoder, EqualsWholeDecodingForAnyIds) {
  size_t files = 0;
  const fs::path root = DECANT_TEST_DATA;
  for (const auto& entry : fs::directory_iterator(root / "tokenizers")) {
    if (!entry.is_directory()) continue;
    expect_streams(Tokenizer::load(entry.path()), entry.path().filename().string(), 1, 400);
    ++files;
  }
  for (const char* part : {"decoder", "model", "added"}) {
    const Json file = read_json_file(root / "tokenizer_features" / fmt::format("{}.json", part));
    for (const Json& kind : file.at("kinds")) {
      Json spec = kind.at("tokenizer");
      spec["model"] = file.at("models").at(spec["model"].get<size_t>());
      expect_streams(Tokenizer::from_json(spec.dump(), "", "test"),
                     kind.at("name").get<std::string>(), 2, 300);
      ++files;
    }
  }
  EXPECT_GT(files, 80u);
}

TEST(StreamDecoder, IllFormedBytesBecomeReplacementCharacters) {
  const fs::path root = fs::path(DECANT_TEST_DATA) / "tokenizers";
  // Byte-level: one U+FFFD per ill-formed part, as a lossy reading of the bytes gives.
  const auto level = Tokenizer::load(root / "qwen3");
  const auto letter = [&](const char* text) { return level->token_to_id(text).value(); };
  // F0 9F 98 is half an emoji, then E4 alone, then "a".
  const std::vector<int32_t> ids = {letter("ð"), letter("Ł"), letter("ĺ"), letter("ä"),
                                    letter("a")};
  EXPECT_EQ(level->decode(ids), "\uFFFD\uFFFDa");
  StreamDecoder stream(level, false);
  std::vector<std::string> pieces;
  for (const int32_t id : ids) pieces.push_back(stream.push(id));
  EXPECT_EQ(pieces, (std::vector<std::string>{"", "", "", "\uFFFD", "\uFFFDa"}));
  // Byte fallback: a run that is not UTF-8 as a whole is one U+FFFD per byte.
  const auto bytes = Tokenizer::load(root / "gemma");
  const auto byte = [&](int b) { return bytes->token_to_id(fmt::format("<0x{:02X}>", b)).value(); };
  EXPECT_EQ(bytes->decode(std::vector<int32_t>{byte(0xC3), byte(0xA9), byte(0xFF)}),
            "\uFFFD\uFFFD\uFFFD");
}

}  // namespace
}  // namespace decant
