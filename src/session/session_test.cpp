#include "session/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <thread>

#include "backend/reference/reference_backend.h"
#include "engine/testing.h"
#include "session/generation_defaults.h"
#include "session/reasoning.h"

namespace decant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestModel;

namespace fs = std::filesystem;

// One token per printable ASCII character, "ab", and four special tokens.
constexpr int32_t kAb = 95, kBos = 96, kEos = 97, kUser = 98, kEnd = 99;
constexpr int32_t kOpen = 101, kClose = 102;  // of vocabularies with a channel for thoughts

std::string tokenizer_json(bool channel = false) {
  Json vocab = Json::object();
  for (char c = '!'; c <= '~'; ++c) vocab[std::string(1, c)] = c - '!';
  vocab["\u0120"] = 94;  // the space, as byte-level BPE spells it
  vocab["ab"] = kAb;
  Json added = Json::array();
  std::vector<std::pair<int, std::string>> special = {
      {kBos, "<s>"}, {kEos, "</s>"}, {kUser, "<|user|>"}, {kEnd, "<|end|>"}};
  if (channel) special.insert(special.end(), {{kOpen, "<|channel>"}, {kClose, "<channel|>"}});
  for (const auto& [id, text] : special)
    added.push_back({{"id", id},
                     {"content", text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  Json bos = {{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}};
  Json sequence = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json json = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single", Json::array({bos, sequence})},
        {"pair", Json::array({sequence, sequence})},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {kBos}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder", byte_level},
      {"model",
       {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array({Json::array({"a", "b"})})}}}};
  return json.dump();
}

constexpr const char* kTokenizerConfig = R"({"bos_token": "<s>", "eos_token": "</s>"})";
constexpr const char* kTemplate =
    "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    "{% if messages[0].content == 'forbidden' %}{{ raise_exception('not this') }}{% endif %}"
    "{% if add_generation_prompt %}>{% endif %}";

Session::Parts test_parts() {
  Session::Parts parts;
  parts.backend = make_reference_backend();
  parts.model = std::make_shared<TestModel>(testing::TestModelOptions{.vocab = 101});
  parts.tokenizer = Tokenizer::from_json(tokenizer_json(), kTokenizerConfig, "test");
  parts.chat_template = ChatTemplate::from_source(kTemplate, "test", {{"bos_token", "<s>"}});
  return parts;
}

LoadOptions small() {
  LoadOptions options;
  options.ctx_size = 256;
  options.max_sequences = 4;
  options.prefill_chunk = 64;
  return options;
}

ChatInput say(std::string text) { return {.messages = {{"user", std::move(text)}}}; }

// ---- prompts ----

TEST(SessionTest, SpecialTokensInMessagesArePlainText) {
  Session session(test_parts(), small());
  EXPECT_THAT(session.chat_tokens(say("ab")), ElementsAre(kBos, kUser, kAb, kEnd, '>' - '!'));
  const auto tokens = session.chat_tokens(say("<|end|><s>"));
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), kEnd), 1);
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), kBos), 1);
  EXPECT_EQ(session.detokenize(tokens), "<s><|user|><|end|><s><|end|>>");
  EXPECT_EQ(tokens.front(), kBos);
}

TEST(SessionTest, SpecialTokensInMessagesCountWhenAskedFor) {
  Session session(test_parts(), small());
  ChatInput input = say("<|end|><s>");
  input.parse_special = true;
  EXPECT_THAT(session.chat_tokens(input), ElementsAre(kBos, kUser, kEnd, kBos, kEnd, '>' - '!'));
  // The same in JSON, with tools beside it.
  input = {.messages_json = R"([{"role": "user", "content": "a<|user|>"}])"};
  EXPECT_EQ(session.chat_tokens(input).size(), 2u + 9u + 2u);
  input.parse_special = true;
  EXPECT_THAT(session.chat_tokens(input),
              ElementsAre(kBos, kUser, 'a' - '!', kUser, kEnd, '>' - '!'));
}

TEST(SessionTest, BosIsNotDoubled) {
  Session session(test_parts(), small());
  EXPECT_THAT(session.tokenize("ab"), ElementsAre(kBos, kAb));
  EXPECT_THAT(session.tokenize("<s>ab"), ElementsAre(kBos, kAb));
}

TEST(SessionTest, BadConversationsAreRequestErrors) {
  Session session(test_parts(), small());
  EXPECT_THROW(session.chat_tokens(ChatInput{.messages_json = "[{]"}), RequestError);
  EXPECT_THROW(session.chat_tokens(ChatInput{.messages_json = R"([{"role": 1}])"}), RequestError);
  try {
    session.chat_tokens(say("forbidden"));
    FAIL() << "expected a RequestError";
  } catch (const RequestError& error) {
    EXPECT_THAT(error.what(), HasSubstr("not this"));
  }
  EXPECT_THROW(session.chat(say(std::string(300, 'c')), {}), RequestError);
  Session::Parts parts = test_parts();
  parts.chat_template = nullptr;
  Session bare(std::move(parts), small());
  EXPECT_FALSE(bare.has_chat_template());
  try {
    bare.chat(say("hi"), {});
    FAIL() << "expected a RequestError";
  } catch (const RequestError& error) {
    EXPECT_THAT(error.what(), HasSubstr("--chat-template FILE"));
  }
}

// ---- answers ----

TEST(SessionTest, StreamsWhatItReturns) {
  Session session(test_parts(), small());
  std::string streamed;
  GenerateOptions options{.max_tokens = 60, .temperature = 1.5f, .seed = 3, .ignore_eos = true};
  options.on_text = [&](std::string_view text) {
    streamed += text;
    return true;
  };
  int finished = 0;
  options.on_finish = [&](const Completion& completion) {
    ++finished;
    EXPECT_EQ(completion.finish, Finish::kLength);
  };
  const Completion completion = session.chat(say("hello"), options)->wait();
  EXPECT_EQ(finished, 1);
  EXPECT_EQ(completion.text, streamed);
  EXPECT_EQ(completion.tokens.size(), 60u);
  EXPECT_EQ(completion.text, session.tokenizer().decode(completion.tokens, true));
  EXPECT_EQ(completion.text.find("</s>"), std::string::npos);
  EXPECT_EQ(completion.figures.completion_tokens, 60);
  EXPECT_EQ(completion.figures.prompt_tokens, 9);
  EXPECT_EQ(completion.seed, 3u);
}

TEST(SessionTest, StopStringsRunOverTokens) {
  Session session(test_parts(), small());
  const GenerateOptions free{.max_tokens = 40, .temperature = 1.5f, .seed = 4, .ignore_eos = true};
  const Completion whole = session.complete("tell", free)->wait();
  ASSERT_GE(whole.text.size(), 20u);
  for (const size_t begin : {3u, 8u, 11u}) {
    GenerateOptions options = free;
    const std::string stop = whole.text.substr(begin, 4);
    ASSERT_GT(session.tokenizer().encode(stop, {.add_special_tokens = false}).size(), 1u);
    options.stop = {"never comes", stop};
    std::string streamed;
    options.on_text = [&](std::string_view text) {
      streamed += text;
      return true;
    };
    const Completion stopped = session.complete("tell", options)->wait();
    EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));
    EXPECT_EQ(streamed, stopped.text);
    EXPECT_EQ(stopped.finish, Finish::kStop);
    EXPECT_EQ(stopped.stop_string, stop);
    EXPECT_LT(stopped.tokens.size(), whole.tokens.size());
  }
  // Text that was held back as a beginning and came to nothing is shown at the end.
  GenerateOptions options = free;
  options.stop = {whole.text.substr(whole.text.size() - 3) + "never"};
  EXPECT_EQ(session.complete("tell", options)->wait().text, whole.text);
}

TEST(SessionTest, EndTokensEndAnAnswer) {
  Session::Parts plain = test_parts();
  Session session(std::move(plain), small());
  EXPECT_THAT(session.end_tokens(), ElementsAre(kEos));
  const GenerateOptions greedy{.max_tokens = 30, .temperature = 0};
  const Completion whole = session.complete("xyz", greedy)->wait();
  ASSERT_GT(whole.tokens.size(), 4u);
  Session::Parts parts = test_parts();
  parts.end_tokens = {whole.tokens[3]};
  Session ending(std::move(parts), small());
  const Completion ended = ending.complete("xyz", greedy)->wait();
  EXPECT_EQ(ended.finish, Finish::kStop);
  EXPECT_LE(ended.tokens.size(), 3u);
  EXPECT_EQ(ended.figures.completion_tokens, static_cast<int64_t>(ended.tokens.size()) + 1);
  GenerateOptions ignoring = greedy;
  ignoring.ignore_eos = true;
  EXPECT_EQ(ending.complete("xyz", ignoring)->wait().tokens.size(), 30u);
}

TEST(SessionTest, StopTokensEndAnAnswer) {
  Session session(test_parts(), small());
  const GenerateOptions free{.max_tokens = 30, .temperature = 0, .ignore_eos = true};
  const Completion whole = session.complete("xyz", free)->wait();
  ASSERT_EQ(whole.tokens.size(), 30u);
  EXPECT_EQ(whole.stop_token, -1);
  GenerateOptions options = free;
  options.stop_tokens = {whole.tokens[7], whole.tokens[4]};
  const auto end = std::find_first_of(whole.tokens.begin(), whole.tokens.end(),
                                      options.stop_tokens.begin(), options.stop_tokens.end());
  const Completion ended = session.complete("xyz", options)->wait();
  EXPECT_EQ(ended.finish, Finish::kStop);
  EXPECT_EQ(ended.stop_token, *end);
  EXPECT_EQ(ended.tokens, std::vector<int32_t>(whole.tokens.begin(), end));
  EXPECT_EQ(ended.stop_string, "");
}

TEST(SessionTest, LogprobsComeWithTheTokens) {
  Session session(test_parts(), small());
  std::vector<TokenLogprob> seen;
  GenerateOptions options{
      .max_tokens = 20, .temperature = 1.0f, .logprobs = 3, .seed = 5, .ignore_eos = true};
  options.on_logprob = [&](const TokenLogprob& token) { seen.push_back(token); };
  const Completion completion = session.complete("abc", options)->wait();
  ASSERT_EQ(completion.logprobs.size(), completion.tokens.size());
  ASSERT_EQ(seen.size(), completion.tokens.size());
  for (size_t t = 0; t < seen.size(); ++t) {
    EXPECT_EQ(completion.logprobs[t].token, completion.tokens[t]);
    EXPECT_EQ(seen[t].logprob, completion.logprobs[t].logprob);
    EXPECT_LT(seen[t].logprob, 0);
    ASSERT_EQ(seen[t].top.size(), 3u);
    EXPECT_GE(seen[t].top[0].second, seen[t].logprob);
    EXPECT_GE(seen[t].top[0].second, seen[t].top[2].second);
  }
  EXPECT_TRUE(session.complete("abc", {.max_tokens = 3})->wait().logprobs.empty());
}

TEST(SessionTest, PenaltiesAndBiasReachTheModel) {
  Session session(test_parts(), small());
  const GenerateOptions free{.max_tokens = 20, .temperature = 0, .ignore_eos = true};
  const Completion whole = session.complete("xyz", free)->wait();
  GenerateOptions options = free;
  options.logit_bias = {{42, 100.0f}};
  EXPECT_EQ(session.complete("xyz", options)->wait().tokens, std::vector<int32_t>(20, 42));
  for (const auto field : {&GenerateOptions::presence_penalty, &GenerateOptions::frequency_penalty,
                           &GenerateOptions::repetition_penalty}) {
    options = free;
    options.*field = 2.0f;
    EXPECT_NE(session.complete("xyz", options)->wait().tokens, whole.tokens);
  }
}

TEST(SessionTest, BadValuesAreNamedTogether) {
  Session session(test_parts(), small());
  const auto error_of = [&](const GenerateOptions& options) -> std::string {
    try {
      session.complete("abc", options);
    } catch (const RequestError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of({.top_p = 1.5f}),
            "[request] top_p: expected a number above 0 and at most 1, got 1.5");
  const std::string all = error_of({.max_tokens = -1,
                                    .typical_p = std::nanf(""),
                                    .logit_bias = {{101, 1.0f}},
                                    .logprobs = -1,
                                    .stop_tokens = {-1, 3, 101}});
  for (const char* line :
       {"max_tokens: ", "typical_p: ", "logit_bias: expected token ids from 0 to 100, got 101",
        "logprobs: ", "stop_tokens: expected token ids from 0 to 100, got -1",
        "stop_tokens: expected token ids from 0 to 100, got 101"})
    EXPECT_THAT(all, HasSubstr(line));
  EXPECT_THAT(error_of({.stop_tokens = std::vector<int32_t>(129, 1)}), HasSubstr("at most 128"));
}

TEST(SessionTest, CancelsFromAnotherThreadAndFromTheCallback) {
  Session session(test_parts(), small());
  GenerateOptions options{.temperature = 1.5f, .ignore_eos = true};
  int pieces = 0;
  options.on_text = [&](std::string_view) { return ++pieces < 3; };
  const Completion declined = session.complete("abc", options)->wait();
  EXPECT_EQ(declined.finish, Finish::kCancelled);
  EXPECT_EQ(pieces, 3);
  auto generation = session.complete("abc", {.ignore_eos = true});
  std::thread other([&] { generation->cancel(); });
  EXPECT_EQ(generation->wait().finish, Finish::kCancelled);
  other.join();
  EXPECT_TRUE(generation->finished());
}

TEST(SessionTest, CallsBackWithEachToken) {
  Session session(test_parts(), small());
  GenerateOptions options{.max_tokens = 20, .temperature = 1.5f, .ignore_eos = true};
  std::vector<int32_t> tokens;
  options.on_token = [&](int32_t token) {
    tokens.push_back(token);
    return tokens.size() < 3;
  };
  const Completion got = session.complete("abc", options)->wait();
  EXPECT_EQ(got.finish, Finish::kCancelled);
  EXPECT_EQ(got.tokens, tokens);
  EXPECT_EQ(tokens.size(), 3u);
}

TEST(SessionTest, CallbackErrorsFailTheAnswer) {
  Session session(test_parts(), small());
  GenerateOptions options{.max_tokens = 20, .temperature = 1.5f, .ignore_eos = true};
  options.on_text = [](std::string_view) -> bool { throw std::runtime_error("pipe closed"); };
  const Completion completion = session.complete("abc", options)->wait();
  EXPECT_EQ(completion.finish, Finish::kError);
  EXPECT_EQ(completion.error, "pipe closed");
  EXPECT_EQ(completion.error_exit_code, 1);
  const Completion nan = session.generate({1, 100}, {.max_tokens = 5})->wait();
  EXPECT_EQ(nan.finish, Finish::kError);
  EXPECT_THAT(nan.error, HasSubstr("NaN"));
}

TEST(SessionTest, GenerationsOutliveTheSession) {
  std::shared_ptr<Generation> generation;
  {
    Session session(test_parts(), small());
    generation = session.complete("abc", {.ignore_eos = true});
  }
  EXPECT_EQ(generation->wait().finish, Finish::kCancelled);
  generation->cancel();
}

TEST(SessionTest, SameSeedSameTextAmongNeighbours) {
  Session session(test_parts(), small());
  const GenerateOptions options{
      .max_tokens = 30, .temperature = 1.0f, .top_p = 0.9f, .seed = 9, .ignore_eos = true};
  const std::string alone = session.chat(say("same"), options)->wait().text;
  std::vector<std::shared_ptr<Generation>> all;
  for (int i = 0; i < 6; ++i) {
    all.push_back(session.chat(say(std::string(static_cast<size_t>(5 + i), 'q')),
                               {.max_tokens = 20, .temperature = 1.0f, .ignore_eos = true}));
    all.push_back(session.chat(say("same"), options));
  }
  for (size_t i = 1; i < all.size(); i += 2) EXPECT_EQ(all[i]->wait().text, alone);
}

// ---- folders ----

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "decant_session_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  void write(const char* name, std::string_view text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

TEST(GenerationDefaults, ReadsTheFileAndLetsOptionsWin) {
  TemporaryFolder folder;
  EXPECT_EQ(read_generation_defaults(folder.path(), 100).temperature, 0);
  folder.write("generation_config.json",
               R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95})");
  const SamplingParams defaults = read_generation_defaults(folder.path(), 100);
  EXPECT_FLOAT_EQ(defaults.temperature, 0.6f);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_FLOAT_EQ(defaults.top_p, 0.95f);
  const SamplingParams params =
      apply_options(defaults, {.temperature = 0.0f, .min_p = 0.1f, .seed = 5});
  EXPECT_EQ(params.temperature, 0);
  EXPECT_EQ(params.top_k, 20);
  EXPECT_FLOAT_EQ(params.min_p, 0.1f);
  EXPECT_EQ(params.seed, 5u);
  folder.write("generation_config.json", R"({"do_sample": false, "temperature": 0.6})");
  EXPECT_EQ(read_generation_defaults(folder.path(), 100).temperature, 0);
  // Without sampling the filters wait for a caller's temperature; the penalty does not.
  folder.write("generation_config.json",
               R"({"do_sample": false, "temperature": 0.6, "top_k": 20, "typical_p": 0.9,
                   "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": 1.5})");
  const SamplingParams greedy = read_generation_defaults(folder.path(), 100);
  EXPECT_EQ(greedy.temperature, 0);
  EXPECT_FLOAT_EQ(greedy.repetition_penalty, 1.1f);
  EXPECT_EQ(greedy.presence_penalty, 0);
  const SamplingParams warm = apply_options(greedy, {.temperature = 0.7f,
                                                     .presence_penalty = 0.5f,
                                                     .frequency_penalty = -0.5f,
                                                     .logit_bias = {{4, -100.0f}},
                                                     .logprobs = 2});
  EXPECT_EQ(warm.top_k, 20);
  EXPECT_FLOAT_EQ(warm.typical_p, 0.9f);
  EXPECT_FLOAT_EQ(warm.min_p, 0.05f);
  EXPECT_FLOAT_EQ(warm.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(warm.presence_penalty, 0.5f);
  EXPECT_FLOAT_EQ(warm.frequency_penalty, -0.5f);
  ASSERT_EQ(warm.logit_bias.size(), 1u);
  EXPECT_EQ(warm.logit_bias[0].id, 4);
  EXPECT_EQ(warm.logprobs, 2);
  const SamplingParams own = apply_options(greedy, {.typical_p = 0.5f, .repetition_penalty = 1.0f});
  EXPECT_FLOAT_EQ(own.typical_p, 0.5f);
  EXPECT_EQ(own.repetition_penalty, 1);
  for (const char* bad : {R"({"typical_p": 0})", R"({"repetition_penalty": -1})", R"({"min_p": 2})",
                          R"({"repetition_penalty": "1.1"})"}) {
    folder.write("generation_config.json", bad);
    EXPECT_THROW(read_generation_defaults(folder.path(), 100), ConfigError) << bad;
  }
  folder.write("generation_config.json", R"({"repetition_penalty": null, "typical_p": null})");
  EXPECT_EQ(read_generation_defaults(folder.path(), 100).repetition_penalty, 1);
  folder.write("generation_config.json", R"({"do_sample": "yes"})");
  EXPECT_THROW(read_generation_defaults(folder.path(), 100), ConfigError);
  folder.write("generation_config.json", R"({"do_sample": true, "top_p": 1.5})");
  EXPECT_THROW(read_generation_defaults(folder.path(), 100), ConfigError);
}

TEST(GenerationDefaults, SuppressedTokensAreBanned) {
  TemporaryFolder folder;
  folder.write("generation_config.json", R"({"suppress_tokens": [99, 7, 99]})");
  const SamplingParams defaults = read_generation_defaults(folder.path(), 100);
  ASSERT_EQ(defaults.logit_bias.size(), 2u);
  EXPECT_EQ(defaults.logit_bias[0].id, 99);
  EXPECT_EQ(defaults.logit_bias[1].id, 7);
  EXPECT_EQ(defaults.logit_bias[1].bias, kBannedBias);
  EXPECT_TRUE(is_suppressed(defaults, 7));
  EXPECT_FALSE(is_suppressed(defaults, 8));
  // An option cannot take a ban back, and a second ban is the first.
  const SamplingParams params =
      apply_options(defaults, {.logit_bias = {{8, 3.0f}, {7, 100.0f}, {99, -100.0f}}});
  ASSERT_EQ(params.logit_bias.size(), 3u);
  EXPECT_EQ(params.logit_bias[1].bias, kBannedBias);
  EXPECT_EQ(params.logit_bias[2].id, 8);
  EXPECT_TRUE(sampling_problems(params, 100).empty());

  folder.write("generation_config.json", R"({"suppress_tokens": null})");
  EXPECT_TRUE(read_generation_defaults(folder.path(), 100).logit_bias.empty());
  std::string many = "0";
  for (size_t i = 0; i < kMaxBiases; ++i) many += ",0";
  for (const std::string& bad :
       {std::string("7"), std::string("[\"7\"]"), std::string("[100]"), std::string("[-1]"),
        std::string("[1.5]"), std::string("[99999999999]"), "[" + many + "]"}) {
    folder.write("generation_config.json", "{\"suppress_tokens\": " + bad + "}");
    try {
      read_generation_defaults(folder.path(), 100);
      ADD_FAILURE() << bad;
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), HasSubstr("suppress_tokens")) << bad;
      EXPECT_THAT(error.what(), HasSubstr("generation_config.json")) << bad;
    }
  }
}

TEST(SessionTest, SuppressedTokensStaySuppressed) {
  Session::Parts parts = test_parts();
  parts.defaults.logit_bias = {{'x' - '!', kBannedBias}};
  Session session(std::move(parts), small());
  // Whatever else is pushed down, the banned token does not come up.
  GenerateOptions options;
  options.max_tokens = 6;
  options.temperature = 0.0f;
  for (int32_t id = 0; id < 101; ++id)
    if (id != 'x' - '!' && id != 'y' - '!') options.logit_bias.emplace_back(id, -90.0f);
  EXPECT_EQ(session.complete("a", options)->wait().text, "yyyyyy");
  options.logit_bias = {{'x' - '!', 50.0f}};
  try {
    session.complete("a", options);
    ADD_FAILURE() << "a bias that would take the ban back";
  } catch (const RequestError& error) {
    EXPECT_THAT(error.what(), HasSubstr("logit_bias[87]"));
    EXPECT_THAT(error.what(), HasSubstr("suppress_tokens"));
  }
  options.logit_bias = {{'x' - '!', kBannedBias}};
  EXPECT_EQ(session.complete("a", options)->wait().finish, Finish::kLength);
}

// Gemma 4 writes its thoughts between two special tokens: they are text, other special tokens are
// not.
TEST(SessionTest, MarkersOfReasoningAreText) {
  Session::Parts parts = test_parts();
  parts.model = std::make_shared<TestModel>(testing::TestModelOptions{.vocab = 104});
  parts.tokenizer = Tokenizer::from_json(tokenizer_json(true), kTokenizerConfig, "test");
  parts.chat_template = ChatTemplate::load(
      fs::path(DECANT_TEST_DATA), fs::path(DECANT_TEST_DATA) / "templates" / "gemma4.jinja");
  Session session(std::move(parts), small());
  const auto text_of = [&](int32_t token) {
    GenerateOptions options;
    options.max_tokens = 2;
    options.temperature = 0.0f;
    options.logit_bias = {{token, 100.0f}};
    for (int32_t id = 0; id < 104; ++id)
      if (id != token) options.logit_bias.emplace_back(id, kBannedBias);
    return session.complete("a", options)->wait().text;
  };
  EXPECT_EQ(text_of(kOpen), "<|channel><|channel>");
  EXPECT_EQ(text_of(kClose), "<channel|><channel|>");
  EXPECT_EQ(text_of(kUser), "");

  const ReasoningSupport support = probe_reasoning(session);
  ASSERT_TRUE(support.format.has_value());
  EXPECT_EQ(support.format->open, "<|channel>thought\n");
  EXPECT_EQ(support.format->close, "<channel|>");
  EXPECT_EQ(support.variable, "enable_thinking");
  const auto inside = [&](std::string_view text) {
    return starts_inside(session, *support.format, session.tokenize(text));
  };
  EXPECT_TRUE(inside("hi<|channel>thought\n"));
  EXPECT_FALSE(inside("hi<|channel>thought\n<channel|>"));
  EXPECT_FALSE(inside("hi<|channel>thoughtful"));
  EXPECT_FALSE(inside("hi"));
}

TEST(LanguageModel, LoadsAFolderAndAnswers) {
  TemporaryFolder folder;
  const fs::path zoo = fs::path(DECANT_TEST_DATA) / "zoo" / "qwen3";
  for (const auto& entry : fs::directory_iterator(zoo))
    fs::copy_file(entry.path(), folder.path() / entry.path().filename());
  folder.write("tokenizer.json", tokenizer_json());
  folder.write("tokenizer_config.json", kTokenizerConfig);
  folder.write("chat_template.jinja", kTemplate);
  std::string cpu_text;
  for (const char* device : {"cpu", "reference"}) {
    LoadOptions options = small();
    options.device = device;
    options.threads = 1;
    options.ctx_size = 128;
    options.exact = true;
    const auto model = LanguageModel::load(folder.path(), options);
    EXPECT_EQ(model->model_type(), "qwen3");
    const auto generation =
        model->complete("abcab", {.max_tokens = 8, .temperature = 0.0f, .ignore_eos = true});
    const Completion& completion = generation->wait();
    EXPECT_EQ(completion.finish, Finish::kLength) << completion.error;
    EXPECT_EQ(completion.tokens.size(), 8u);
    if (cpu_text.empty()) cpu_text = completion.text;
    EXPECT_EQ(completion.text, cpu_text) << device;
    EXPECT_GT(model->memory().weights, 0);
    EXPECT_EQ(model->memory().ctx_size, 128);
    EXPECT_EQ(model->figures().completion_tokens, 8);
  }
  EXPECT_THROW(LanguageModel::load(folder.path() / "nowhere", small()), Error);
  LoadOptions unknown = small();
  unknown.device = "abacus";
  try {
    LanguageModel::load(folder.path(), unknown);
    FAIL() << "expected an error";
  } catch (const std::exception& error) {
    EXPECT_EQ(exit_code_of(error), 2);
  }
}

}  // namespace
}  // namespace decant
