// Compares with what the official library made of a list of hard texts; see
// scripts/goldens/tokenizer_goldens.py.
#include <gtest/gtest.h>

#include <algorithm>
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

const fs::path kFolder = fs::path(DECANT_TEST_DATA) / "tokenizers";

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(kFolder))
    if (entry.is_directory()) out.push_back(entry.path().filename().string());
  std::sort(out.begin(), out.end());
  return out;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::load(kFolder / GetParam());
  Json golden_ = read_json_file(kFolder / GetParam() / "golden.json");
  std::vector<std::string> texts_ =
      read_json_file(kFolder / "texts.json").get<std::vector<std::string>>();
};

TEST_P(Golden, EncodesAsTheOfficialLibrary) {
  const Json& expected = golden_.at("encode");
  ASSERT_EQ(expected.size(), texts_.size());
  for (size_t i = 0; i < texts_.size(); ++i)
    EXPECT_EQ(tokenizer_->encode(texts_[i]), expected[i].get<std::vector<int32_t>>())
        << "text " << i << ": " << quote(texts_[i]);
}

TEST_P(Golden, EncodesTheSameWithAFilledCacheAndFromSinglePlainParts) {
  // A second tokenizer sees the texts in reverse, so that its cache is in another state; the parts
  // are cut at every code point border of the text, none of them plain.
  const auto other = Tokenizer::load(kFolder / GetParam());
  for (size_t i = texts_.size(); i-- > 0;) {
    std::vector<Tokenizer::Part> parts;
    const std::string_view text = texts_[i];
    for (size_t at = 0; at < text.size();) {
      const size_t length = utf8_sequence_length(text.substr(at));
      parts.push_back({text.substr(at, length), false});
      at += length;
    }
    EXPECT_EQ(other->encode_parts(parts), tokenizer_->encode(text)) << quote(text);
  }
}

TEST_P(Golden, DecodesAsTheOfficialLibrary) {
  for (const Json& entry : golden_.at("decode")) {
    const auto ids = entry[0].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer_->decode(ids, false), entry[1].get<std::string>()) << entry[0].dump();
    EXPECT_EQ(tokenizer_->decode(ids, true), entry[2].get<std::string>()) << entry[0].dump();
  }
}

TEST_P(Golden, StreamsTheSameTextInWholeCodePoints) {
  for (const Json& entry : golden_.at("decode")) {
    const auto ids = entry[0].get<std::vector<int32_t>>();
    for (const bool skip : {false, true}) {
      StreamDecoder stream(tokenizer_, skip);
      for (int round = 0; round < 2; ++round) {  // finish() leaves a decoder as new
        std::string all;
        for (const int32_t id : ids) {
          const std::string piece = stream.push(id);
          EXPECT_EQ(utf8_first_error(piece), std::string::npos);
          all += piece;
        }
        all += stream.finish();
        EXPECT_EQ(all, entry[skip ? 2 : 1].get<std::string>()) << entry[0].dump();
      }
    }
  }
}

// Parts: equal to the concatenation wherever no special token touches a plain part, and never a
// special token out of a plain part.
TEST_P(Golden, PlainPartsProduceNoSpecialTokens) {
  std::mt19937 random(7);
  size_t compared = 0;
  for (const std::string& text : texts_) {
    size_t cut = text.empty() ? 0 : random() % text.size();
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
    const std::string_view all = text;
    const EncodeOptions bare{.add_special_tokens = false};
    const std::vector<Tokenizer::Part> plain = {{all.substr(0, cut), true},
                                                {all.substr(cut), true}};
    const auto ids = tokenizer_->encode_parts(plain, bare);
    for (const int32_t id : ids) {
      // A model without byte fallback says <unk> itself.
      if (tokenizer_->id_to_token(id) == "<unk>") continue;
      EXPECT_FALSE(tokenizer_->is_special(id)) << quote(text) << " gave " << id;
    }
    const auto whole = tokenizer_->encode(text, bare);
    if (std::none_of(whole.begin(), whole.end(),
                     [&](int32_t id) { return tokenizer_->is_special(id); })) {
      EXPECT_EQ(ids, whole) << quote(text);
      ++compared;
    }
  }
  EXPECT_GT(compared, 100u);
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Golden, testing::ValuesIn(names()),
                         [](const auto& entry) { return entry.param; });

}  // namespace
}  // namespace decant
