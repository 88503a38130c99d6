// One small tokenizer.json per normalizer, pre-tokenizer, model option, decoder, post-processor and
// added-token flag of the format, with what the official library makes of hard texts and ids;
// written by scripts/differential/tokenizers.py --freeze.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "base/utf8.h"
#include "tokenizer/stream_decoder.h"
#include "tokenizer/tokenizer.h"

namespace decant {
namespace {

const std::filesystem::path kFolder =
    std::filesystem::path(DECANT_TEST_DATA) / "tokenizer_features";

std::string stream(const std::shared_ptr<const Tokenizer>& tokenizer,
                   const std::vector<int32_t>& ids, bool skip) {
  StreamDecoder decoder(tokenizer, skip);
  std::string all;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_EQ(utf8_first_error(piece), std::string::npos);
    all += piece;
  }
  return all + decoder.finish();
}

class Features : public testing::TestWithParam<std::string> {};

TEST_P(Features, AreThoseOfTheOfficialLibrary) {
  const Json file = read_json_file(kFolder / (GetParam() + ".json"));
  size_t strings = 0;
  size_t lists = 0;
  for (const Json& kind : file.at("kinds")) {
    SCOPED_TRACE(kind.at("name").get<std::string>());
    Json spec = kind.at("tokenizer");
    spec["model"] = file.at("models").at(spec["model"].get<size_t>());
    const auto tokenizer = Tokenizer::from_json(spec.dump(), "", "test");
    for (size_t i = 0; i < kind.at("texts").size(); ++i, ++strings) {
      const auto text = kind["texts"][i].get<std::string>();
      const Json& ids = kind["ids"][i];
      const auto bare = kind["bare"].find(std::to_string(i));
      EXPECT_EQ(tokenizer->encode(text), ids.get<std::vector<int32_t>>()) << quote(text);
      EXPECT_EQ(tokenizer->encode(text, {.add_special_tokens = false}),
                (bare == kind["bare"].end() ? ids : *bare).get<std::vector<int32_t>>())
          << quote(text);
    }
    for (const Json& entry : kind.at("decode")) {
      ++lists;
      const auto ids = entry[0].get<std::vector<int32_t>>();
      for (const bool skip : {false, true}) {
        const auto expected = entry[skip ? 2 : 1].get<std::string>();
        EXPECT_EQ(tokenizer->decode(ids, skip), expected) << entry[0].dump();
        EXPECT_EQ(stream(tokenizer, ids, skip), expected) << entry[0].dump();
      }
    }
  }
  EXPECT_GT(strings, 200u);
  EXPECT_GT(lists, 50u);
}

INSTANTIATE_TEST_SUITE_P(Of, Features,
                         testing::Values("normalizer", "pretokenizer", "model", "decoder", "post",
                                         "added"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace decant
