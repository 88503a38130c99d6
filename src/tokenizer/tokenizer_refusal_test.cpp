// Files that must be refused when they are loaded, each with what the message must name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

namespace decant {
namespace {

using testing::HasSubstr;

Json spec() {
  return Json::parse(R"({"version":"1.0","added_tokens":[{"id":8,"content":"<s>","special":true}],
    "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
    "model":{"type":"BPE","unk_token":null,"vocab":{"a":0,"b":1,"c":2,"ab":3,"bc":4},
    "merges":[["a","b"],["b","c"]]}})");
}

Json split(const std::string& regex) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", regex}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

Json bert_pair(const char* type) { return {{"type", type}, {"sep", {"b", 1}}, {"cls", {"a", 0}}}; }

struct Case {
  std::string name;
  std::function<void(Json&)> change;
  std::vector<std::string> says;
};

void PrintTo(const Case& value, std::ostream* out) { *out << value.name; }

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      // Parts of the format we do not have, by name.
      {"PrecompiledNormalizer",
       [](Json& j) { j["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", ""}}; },
       {"normalizer", "Precompiled"}},
      {"PrecompiledInASequence",
       [](Json& j) {
         j["normalizer"] = {{"type", "Sequence"},
                            {"normalizers", Json::array({{{"type", "Precompiled"}}})}};
       },
       {"normalizer.normalizers[0]", "Precompiled"}},
      {"UnicodeScripts",
       [](Json& j) { j["pre_tokenizer"] = {{"type", "UnicodeScripts"}}; },
       {"pre_tokenizer", "UnicodeScripts"}},
      {"TwoPostProcessorsThatAdd",
       [](Json& j) {
         j["post_processor"] = {{"type", "Sequence"},
                                {"processors", Json::array({bert_pair("BertProcessing"),
                                                            bert_pair("BertProcessing")})}};
       },
       {"post_processor.processors[1]", "second"}},
      {"Dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }, {"model.dropout"}},
      {"UnknownModel", [](Json& j) { j["model"]["type"] = "Markov"; }, {"model", "Markov"}},
      {"UnknownNormalizer", [](Json& j) { j["normalizer"] = {{"type", "Rot13"}}; }, {"Rot13"}},
      {"UnknownPreTokenizer", [](Json& j) { j["pre_tokenizer"] = {{"type", "Jieba"}}; }, {"Jieba"}},
      {"UnknownDecoder", [](Json& j) { j["decoder"] = {{"type", "Odd"}}; }, {"decoder", "Odd"}},
      {"UnknownPostProcessor", [](Json& j) { j["post_processor"] = {{"type", "Odd"}}; }, {"Odd"}},
      {"UnknownOption", [](Json& j) { j["model"]["new_option"] = 1; }, {"model", "new_option"}},
      {"UnknownFlag", [](Json& j) { j["added_tokens"][0]["magic"] = true; }, {"magic"}},
      {"UnknownPart", [](Json& j) { j["extra"] = 1; }, {"extra"}},
      {"UnknownVersion", [](Json& j) { j["version"] = "2.0"; }, {"version", "2.0"}},
      {"UnknownBehavior",
       [](Json& j) { j["pre_tokenizer"] = {{"type", "Punctuation"}, {"behavior", "Eaten"}}; },
       {"Eaten"}},
      // Ids.
      {"DuplicateId", [](Json& j) { j["model"]["vocab"]["d"] = 3; }, {"id 3 is given twice"}},
      {"NegativeId", [](Json& j) { j["model"]["vocab"]["d"] = -1; }, {"\"d\""}},
      {"FractionalId", [](Json& j) { j["model"]["vocab"]["d"] = 1.5; }, {"\"d\""}},
      {"HugeId", [](Json& j) { j["model"]["vocab"]["d"] = uint64_t{1} << 40; }, {"1099511627776"}},
      {"AddedIdOfAnotherToken",
       [](Json& j) { j["added_tokens"][0]["id"] = 3; },
       {"added_tokens[0]", "\"ab\""}},
      {"AddedIdUnlikeTheVocabulary",
       [](Json& j) { j["added_tokens"][0]["content"] = "ab"; },
       {"has id 8, but 3"}},
      {"AddedIdBeyondReason",
       [](Json& j) { j["added_tokens"][0]["id"] = uint64_t{1} << 31; },
       {"2147483648"}},
      {"TwoAddedTokensWithOneId",
       [](Json& j) { j["added_tokens"].push_back({{"id", 8}, {"content", "<t>"}}); },
       {"id 8", "<s>", "<t>"}},
      {"OneAddedTokenTwice",
       [](Json& j) { j["added_tokens"].push_back({{"id", 9}, {"content", "<s>"}}); },
       {"given twice"}},
      {"LongAddedToken",
       [](Json& j) { j["added_tokens"][0]["content"] = std::string(1025, 'x'); },
       {"1024", "1025"}},
      {"PostProcessorIdBeyondRange",
       [](Json& j) {
         j["post_processor"] = bert_pair("BertProcessing");
         j["post_processor"]["sep"][1] = int64_t{1} << 33;
       },
       {"post_processor.sep"}},
      {"UnknownTokenMissing",
       [](Json& j) { j["model"]["unk_token"] = "<unk>"; },
       {"model.unk_token", "<unk>"}},
      // Merges.
      {"MergeOfAnUnknownToken",
       [](Json& j) { j["model"]["merges"].push_back({"a", "x"}); },
       {"entry 2", "\"x\""}},
      {"MergeToAnUnknownToken",
       [](Json& j) { j["model"]["merges"].push_back({"c", "c"}); },
       {"\"cc\""}},
      {"MergeOfThree", [](Json& j) { j["model"]["merges"].push_back("a b c"); }, {"entry 2"}},
      {"MergeOfANumber", [](Json& j) { j["model"]["merges"].push_back(5); }, {"entry 2"}},
      {"NoMerges", [](Json& j) { j["model"].erase("merges"); }, {"merges"}},
      // Patterns.
      {"UnclosedGroup", [](Json& j) { j["pre_tokenizer"] = split("(a"); }, {"pattern", "(a"}},
      {"AbsentOperator", [](Json& j) { j["pre_tokenizer"] = split("a(?~b)"); }, {"(?~"}},
      {"VerbInAPattern", [](Json& j) { j["pre_tokenizer"] = split("(*COMMIT)a"); }, {"(*"}},
      {"LongPattern",
       [](Json& j) { j["pre_tokenizer"] = split(std::string(70'000, 'a')); },
       {"65536", "70000"}},
      {"DeepPattern",
       [](Json& j) {
         j["pre_tokenizer"] = split(std::string(5000, '(') + "a" + std::string(5000, ')'));
       },
       {"pre_tokenizer.pattern.Regex"}},
      {"ExplodingPattern",
       [](Json& j) { j["pre_tokenizer"] = split("((((a{1,999}){1,999}){1,999}){1,999})"); },
       {"pre_tokenizer.pattern.Regex"}},
      {"UnknownProperty", [](Json& j) { j["pre_tokenizer"] = split(R"(\p{Nope})"); }, {"Nope"}},
      // Other models.
      {"UnigramWithoutTokens",
       [](Json& j) { j["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", Json::array()}}; },
       {"vocab"}},
      {"UnigramUnknownIdBeyondVocabulary",
       [](Json& j) {
         j["model"] = {
             {"type", "Unigram"},
             {"unk_id", 7},
             {"vocab", Json::array({Json::array({"a", -1.0}), Json::array({"b", -2.0})})}};
         j["added_tokens"].clear();
       },
       {"model.unk_id", "0 to 1", "7"}},
      {"UnigramTokenTwice",
       [](Json& j) {
         j["model"] = {
             {"type", "Unigram"},
             {"unk_id", 0},
             {"vocab", Json::array({Json::array({"a", -1.0}), Json::array({"a", -2.0})})}};
       },
       {"\"a\"", "twice"}},
      {"UnigramEntryOfThree",
       [](Json& j) {
         j["model"] = {{"type", "Unigram"},
                       {"unk_id", 0},
                       {"vocab", Json::array({Json::array({"a", -1.0, 3})})}};
       },
       {"model.vocab[0]"}},
      {"WordPieceWithoutUnknown",
       [](Json& j) { j["model"] = {{"type", "WordPiece"}, {"vocab", {{"a", 0}}}}; },
       {"unk_token", "[UNK]"}},
      {"WordPieceLongToken",
       [](Json& j) {
         j["model"] = {{"type", "WordPiece"},
                       {"vocab", {{"[UNK]", 0}, {std::string(2000, 'x'), 1}}}};
       },
       {"1024", "2000"}},
      {"WordLevelWithoutUnknown",
       [](Json& j) { j["model"] = {{"type", "WordLevel"}, {"vocab", {{"a", 0}}}}; },
       {"unk_token", "<unk>"}},
      {"NoModel", [](Json& j) { j.erase("model"); }, {"model"}},
  };
  return all;
}

class Refusal : public testing::TestWithParam<Case> {};

TEST_P(Refusal, NamesFileEntryAndValue) {
  Json json = spec();
  GetParam().change(json);
  try {
    Tokenizer::from_json(json.dump(), "", "folder");
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(exit_code(error.kind()), 3);
    EXPECT_THAT(error.what(), HasSubstr("folder/tokenizer.json"));
    for (const std::string& part : GetParam().says) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Refusal, testing::ValuesIn(cases()),
                         [](const auto& test) { return test.param.name; });

TEST(Refusals, StartFromAFileThatLoads) {
  EXPECT_NO_THROW(Tokenizer::from_json(spec().dump(), "", "folder"));
}

// A pattern that needs exponential time on some text gives up on that text only.
TEST(Refusals, HostilePatternsGiveUp) {
  Json json = spec();
  json["pre_tokenizer"] = split("(?:a|aa)+[xy]");
  const auto tokenizer = Tokenizer::from_json(json.dump(), "", "folder");
  EXPECT_EQ(tokenizer->encode("abc").size(), 2u);
  EXPECT_THROW(tokenizer->encode(std::string(64, 'a') + "b"), RequestError);
}

}  // namespace
}  // namespace decant
