#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "tokenizer/stream_decoder.h"

namespace decant {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::filesystem::path kFolder = std::filesystem::path(DECANT_TEST_DATA) / "tokenizers";

// A small tokenizer of letters, with what the test changes.
Json spec() {
  return Json::parse(R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[
    {"id":8,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,
     "special":true}],
    "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Fuse"},
    "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,
     "end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
     "vocab":{"a":0,"b":1,"c":2,"ab":3,"bc":4,"abc":5,"<":6,"s":7},
     "merges":[["b","c"],["a","b"],["a","bc"]]}})");
}

std::shared_ptr<const Tokenizer> make(const Json& json, std::string_view config = "") {
  return Tokenizer::from_json(json.dump(), config, "folder");
}

std::string load_error(const std::string& text, std::string_view config = "") {
  try {
    Tokenizer::from_json(text, config, "folder");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(Tokenizer, MergesByRankThenPosition) {
  const auto tokenizer = make(spec());
  EXPECT_THAT(tokenizer->encode("abc"), ElementsAre(5));
  EXPECT_THAT(tokenizer->encode("abab"), ElementsAre(3, 3));
  EXPECT_THAT(tokenizer->encode("aabcc"), ElementsAre(0, 5, 2));
  // More symbols than the short form of the merge takes.
  EXPECT_EQ(tokenizer->encode(std::string(40, 'a') + "bc").size(), 40u);
}

TEST(Tokenizer, AnswersForIds) {
  const auto tokenizer = make(spec(), R"({"bos_token":"<s>","eos_token":{"content":"</s>"},
    "pad_token":null,"add_bos_token":true,"model_max_length":4})");
  EXPECT_EQ(tokenizer->vocab_size(), 9);
  EXPECT_EQ(tokenizer->token_to_id("ab"), 3);
  EXPECT_EQ(tokenizer->token_to_id("<s>"), 8);
  EXPECT_EQ(tokenizer->token_to_id("x"), std::nullopt);
  EXPECT_EQ(tokenizer->id_to_token(5), "abc");
  EXPECT_EQ(tokenizer->id_to_token(9), "");
  EXPECT_EQ(tokenizer->id_to_token(-1), "");
  EXPECT_TRUE(tokenizer->is_special(8));
  EXPECT_FALSE(tokenizer->is_special(3));
  EXPECT_FALSE(tokenizer->is_special(1000000));
  EXPECT_EQ(tokenizer->special_token("bos_token"), "<s>");
  EXPECT_EQ(tokenizer->special_token("eos_token"), "</s>");
  EXPECT_EQ(tokenizer->special_token("pad_token"), std::nullopt);
  EXPECT_EQ(tokenizer->config_flag("add_bos_token"), true);
  EXPECT_EQ(tokenizer->config_flag("add_eos_token"), std::nullopt);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{8, 3, -5, 77, 2}), "<s>abc");
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{8, 3, -5, 77, 2}, true), "abc");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8AndSaysWhere) {
  const auto tokenizer = make(spec());
  try {
    tokenizer->encode("ab\xFFz");
    FAIL();
  } catch (const RequestError& error) {
    EXPECT_THAT(error.what(), HasSubstr("offset 2"));
  }
  const std::vector<Tokenizer::Part> parts = {{"abc", false}, {"a\xE4\xB8", true}};
  try {
    tokenizer->encode_parts(parts);
    FAIL();
  } catch (const RequestError& error) {
    EXPECT_THAT(error.what(), HasSubstr("offset 4"));
  }
}

TEST(Tokenizer, SpecialTokensCountOutsidePlainPartsOnly) {
  const auto tokenizer = make(spec());
  EXPECT_THAT(tokenizer->encode("<s>a"), ElementsAre(8, 0));
  EXPECT_THAT(tokenizer->encode("<s>a", {.parse_special = false}), ElementsAre(6, 7, 0));
  using Parts = std::vector<Tokenizer::Part>;
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<s>", true}, {"<s>a", false}}),
              ElementsAre(6, 7, 8, 0));
  // Not even a token that runs over the border of a plain part.
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<", false}, {"s", true}, {">a", false}}),
              ElementsAre(6, 7, 0));
  // A rejected start must not hide the token behind it.
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<", true}, {"<s>", false}}), ElementsAre(6, 8));
  // Merges do go over borders: the text is one.
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"a", true}, {"b", false}}), ElementsAre(3));
  EXPECT_THAT(tokenizer->encode_parts(Parts{}), ElementsAre());
}

TEST(Tokenizer, PlainPartsHoldThroughANormalizer) {
  Json json = spec();
  json["normalizer"] = Json::parse(R"({"type":"Sequence","normalizers":[{"type":"NFC"},
    {"type":"Lowercase"},{"type":"Prepend","prepend":"c"}]})");
  json["added_tokens"][0]["normalized"] = true;
  json["added_tokens"][0]["content"] = "<S>";
  const auto tokenizer = make(json);
  // The token's own normal form is "c<s>".
  EXPECT_THAT(tokenizer->encode("<S>a"), ElementsAre(8, 0));
  using Parts = std::vector<Tokenizer::Part>;
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<S>", false}, {"A", true}}), ElementsAre(8, 0));
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<S>", true}, {"A", false}}), ElementsAre(2, 6, 7, 0));
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<S", false}, {">A", true}}), ElementsAre(2, 6, 7, 0));
  // A mark that changes nothing in front of it must not spoil the token.
  EXPECT_THAT(tokenizer->encode_parts(Parts{{"<S>", false},
                                            {"\xCC\x81"
                                             "a",
                                             true}}),
              ElementsAre(8, 0));
}

TEST(Tokenizer, RefusesWhatItDoesNotKnowByName) {
  const auto refused = [](auto change) {
    Json json = spec();
    change(json);
    return load_error(json.dump());
  };
  EXPECT_THAT(
      refused([](Json& j) { j["normalizer"] = {{"type", "Precompiled"}}; }),
      HasSubstr("folder/tokenizer.json: normalizer: unsupported normalizer \"Precompiled\""));
  EXPECT_THAT(refused([](Json& j) { j["pre_tokenizer"] = {{"type", "UnicodeScripts"}}; }),
              HasSubstr("UnicodeScripts"));
  EXPECT_THAT(refused([](Json& j) { j["decoder"] = {{"type", "Rot13"}}; }), HasSubstr("Rot13"));
  EXPECT_THAT(refused([](Json& j) { j["post_processor"] = {{"type", "Odd"}}; }), HasSubstr("Odd"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["type"] = "Markov"; }), HasSubstr("Markov"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["dropout"] = 0.1; }), HasSubstr("model.dropout"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["new_option"] = 1; }), HasSubstr("new_option"));
  EXPECT_THAT(refused([](Json& j) { j["version"] = "2.0"; }), HasSubstr("2.0"));
  EXPECT_THAT(refused([](Json& j) { j.erase("model"); }), HasSubstr("model"));
  const auto refused_pattern = [&](std::string_view pattern) {
    return refused([&](Json& j) {
      j["pre_tokenizer"] = {{"type", "Split"}, {"behavior", "Isolated"}, {"invert", false}};
      j["pre_tokenizer"]["pattern"]["Regex"] = pattern;
    });
  };
  EXPECT_THAT(refused_pattern("a(?~b)"), HasSubstr("(?~"));
  EXPECT_THAT(refused_pattern("a)"), HasSubstr("pre_tokenizer.pattern.Regex"));
}

TEST(Tokenizer, RefusesFilesThatContradictThemselves) {
  const auto refused = [](auto change) {
    Json json = spec();
    change(json);
    return load_error(json.dump());
  };
  EXPECT_THAT(refused([](Json& j) { j["model"]["vocab"]["d"] = 3; }),
              HasSubstr("id 3 is given twice"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["vocab"]["d"] = -1; }), HasSubstr("\"d\""));
  EXPECT_THAT(refused([](Json& j) { j["model"]["vocab"]["d"] = 1.5; }), HasSubstr("\"d\""));
  EXPECT_THAT(refused([](Json& j) { j["model"]["vocab"]["d"] = uint64_t{1} << 40; }),
              HasSubstr("1099511627776"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["vocab"]["d"] = 0x7FFFFFFF; }), HasSubstr("\"d\""));
  EXPECT_THAT(refused([](Json& j) { j["model"]["merges"].push_back({"a", "x"}); }),
              HasSubstr("entry 3: \"x\""));
  EXPECT_THAT(refused([](Json& j) { j["model"]["merges"].push_back("a b c"); }),
              HasSubstr("entry 3"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["merges"].push_back({"c", "c"}); }),
              HasSubstr("\"cc\""));
  EXPECT_THAT(refused([](Json& j) { j["model"]["merges"].push_back(5); }), HasSubstr("entry 3"));
  EXPECT_THAT(refused([](Json& j) { j["model"]["unk_token"] = "<unk>"; }),
              HasSubstr("model.unk_token"));
  EXPECT_THAT(refused([](Json& j) { j["added_tokens"][0]["id"] = 3; }),
              HasSubstr("added_tokens[0]"));
  EXPECT_THAT(refused([](Json& j) { j["added_tokens"][0]["id"] = uint64_t{1} << 31; }),
              HasSubstr("2147483648"));
  EXPECT_THAT(refused([](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }),
              HasSubstr("given twice"));
  // Equal keys, which a map would swallow.
  std::string twice = spec().dump();
  twice.replace(twice.find("\"b\":1"), 5, "\"a\":1");
  EXPECT_THAT(load_error(twice), HasSubstr("token \"a\" is given twice"));
  EXPECT_THAT(load_error(std::string(5000, '[')), HasSubstr("folder/tokenizer.json"));
  EXPECT_THAT(load_error(""), HasSubstr("folder/tokenizer.json"));
  EXPECT_THAT(load_error("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(load_error(spec().dump(), "{\"bos_token\":{}}"), HasSubstr("tokenizer_config.json"));
}

TEST(Tokenizer, StreamsAnEmojiOnceItIsWhole) {
  const auto tokenizer = Tokenizer::load(kFolder / "demo_qwen");
  const auto ids = tokenizer->encode("a😀b");
  StreamDecoder stream(tokenizer, true);
  std::vector<std::string> pieces;
  for (const int32_t id : ids)
    if (std::string piece = stream.push(id); !piece.empty()) pieces.push_back(piece);
  EXPECT_THAT(pieces, ElementsAre("a", "😀", "b"));
  EXPECT_EQ(stream.finish(), "");
  // A text that ends within a code point.
  stream.push(ids[0]);
  stream.push(ids[1]);
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, ByteTokensWaitForTheEndOfTheirRun) {
  const auto tokenizer = Tokenizer::load(kFolder / "gemma");
  const auto id = [&](std::string_view token) { return tokenizer->token_to_id(token).value(); };
  StreamDecoder stream(tokenizer, true);
  EXPECT_EQ(stream.push(id("<0xC3>")), "");
  EXPECT_EQ(stream.push(id("<0xA9>")), "");
  EXPECT_EQ(stream.push(id("▁")), "é ");
  EXPECT_EQ(stream.push(id("<0xC3>")), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, ThreadsShareOneTokenizer) {
  const auto tokenizer = Tokenizer::load(kFolder / "qwen3");
  const auto texts = read_json_file(kFolder / "texts.json").get<std::vector<std::string>>();
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : texts) expected.push_back(tokenizer->encode(text));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  threads.reserve(wrong.size());
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t at = (i * 7 + t * 31) % texts.size();
        if (tokenizer->encode(texts[at]) != expected[at]) ++wrong[t];
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

}  // namespace
}  // namespace decant
