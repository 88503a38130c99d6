#include "session/chat_turn.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "base/errors.h"
#include "base/json.h"
#include "session/reasoning.h"

namespace decant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const ReasoningFormat kThink{"<think>", "</think>", "\n</think>\n\n"};
const ReasoningFormat kChannel{"<|channel>thought\n", "<channel|>", "\n<channel|>"};

ReasoningFilter::Text filtered(std::optional<ReasoningFormat> format, bool inside,
                               std::string_view text, size_t piece) {
  ReasoningFilter filter(std::move(format), inside);
  ReasoningFilter::Text out;
  const auto add = [&](const ReasoningFilter::Text& more) {
    out.reasoning += more.reasoning;
    out.answer += more.answer;
  };
  for (size_t i = 0; i < text.size(); i += piece) add(filter.push(text.substr(i, piece)));
  add(filter.finish());
  return out;
}

TEST(ReasoningFilter, CutsBetweenPiecesDoNotMatter) {
  struct Case {
    bool inside;
    const char* text;
    const char* reasoning;
    const char* answer;
  };
  const Case cases[] = {
      {false, "<think>\nwhy\n</think>\n\nbecause", "why", "because"},
      {false, "\n <think>why</think>because", "why", "because"},
      {false, "just so", "", "just so"},
      {false, "  just so\n", "", "  just so\n"},  // untouched without a block
      {false, "<thin ice", "", "<thin ice"},
      {false, "the <think> tag </think> is", "", "the <think> tag </think> is"},
      {true, "why\n\nnot\n</think>\n\nbecause\n", "why\n\nnot", "because\n"},
      {true, "\n<think>\nwhy</think>because", "why", "because"},  // the marker again
      {true, "cut off </thi", "cut off </thi", ""},
      {true, "</think>\n\nat once", "", "at once"},
      {true, "a </b> < </ </thin </think>c", "a </b> < </ </thin", "c"},
      {false, "<think>\n\n</think>\n\nanswer <think>x</think>", "", "answer <think>x</think>"},
      {false, "<think>", "", ""},
      {false, "<thi", "", "<thi"},
      {false, "<think>x</think>\n\n", "x", ""},
      {true, "", "", ""},
  };
  for (const Case& c : cases)
    for (size_t piece = 1; piece <= 40; ++piece) {
      const auto got = filtered(kThink, c.inside, c.text, piece);
      EXPECT_EQ(got.reasoning, c.reasoning) << c.text << " in pieces of " << piece;
      EXPECT_EQ(got.answer, c.answer) << c.text << " in pieces of " << piece;
    }
  EXPECT_EQ(filtered(std::nullopt, false, "<think>x</think>y", 3).answer, "<think>x</think>y");
}

// Gemma 4's channel: the name and its line break belong to the marker.
TEST(ReasoningFilter, ReadsAChannel) {
  struct Case {
    bool inside;
    const char* text;
    const char* reasoning;
    const char* answer;
  };
  const Case cases[] = {
      {false, "<|channel>thought\nwhy\n<channel|>because", "why", "because"},
      {false, "<|channel>thought\n<channel|>because", "", "because"},  // an empty block
      {true, "why\n<channel|>because", "why", "because"},
      {true, "<|channel>thought\nwhy<channel|>\n\nbecause", "why", "because"},
      {false, "<|channel>final\nbecause", "", "<|channel>final\nbecause"},
      {false, "<|channel>thoughtful", "", "<|channel>thoughtful"},
      {false, "because <|channel>thought\nx<channel|>", "",
       "because <|channel>thought\nx<channel|>"},
      {true, "a <channel> b <chan", "a <channel> b <chan", ""},
  };
  for (const Case& c : cases)
    for (size_t piece = 1; piece <= 40; ++piece) {
      const auto got = filtered(kChannel, c.inside, c.text, piece);
      EXPECT_EQ(got.reasoning, c.reasoning) << c.text << " in pieces of " << piece;
      EXPECT_EQ(got.answer, c.answer) << c.text << " in pieces of " << piece;
    }
}

TEST(ReasoningFilter, ShowsReasoningEarly) {
  ReasoningFilter filter(kThink, true);
  EXPECT_EQ(filter.push("step one").reasoning, "step one");
  EXPECT_TRUE(filter.inside());
  EXPECT_EQ(filter.push("\n</think>").reasoning, "");
  EXPECT_FALSE(filter.inside());
}

/// One token per byte; answers what `reply` says for a prompt.
class FakeModel : public LanguageModel {
 public:
  std::function<std::string(const Json& messages, const ChatInput&)> chat_template;
  std::function<std::string(const std::string& prompt)> reply;
  std::vector<std::string> prompts;
  std::vector<int64_t> limits;
  int64_t context = 1000;

  class Done final : public Generation {
   public:
    Completion completion;
    void cancel() override {}
    bool finished() const override { return true; }
    const Completion& wait() override { return completion; }
  };

  std::shared_ptr<Generation> chat(const ChatInput& input,
                                   const GenerateOptions& options) override {
    return generate(chat_tokens(input), options);
  }
  std::shared_ptr<Generation> complete(std::string_view prompt,
                                       const GenerateOptions& options) override {
    return generate(tokenize(prompt), options);
  }
  std::shared_ptr<Generation> generate(std::vector<int32_t> tokens,
                                       const GenerateOptions& options) override {
    prompts.push_back(detokenize(tokens));
    limits.push_back(options.max_tokens);
    auto out = std::make_shared<Done>();
    Completion& it = out->completion;
    it.figures.prompt_tokens = static_cast<int64_t>(tokens.size());
    it.finish = Finish::kStop;
    for (const char c : reply(prompts.back())) {
      it.tokens.push_back(static_cast<unsigned char>(c));
      it.text += c;
      if (!options.on_text({&c, 1}) || !options.on_token(it.tokens.back())) {
        it.finish = Finish::kCancelled;
        break;
      }
      if (options.max_tokens > 0 && static_cast<int64_t>(it.tokens.size()) == options.max_tokens) {
        it.finish = Finish::kLength;
        break;
      }
    }
    it.figures.completion_tokens = static_cast<int64_t>(it.tokens.size());
    return out;
  }
  bool has_chat_template() const override { return chat_template != nullptr; }
  std::vector<int32_t> chat_tokens(const ChatInput& input) const override {
    return bytes(chat_template(Json::parse(input.messages_json), input));
  }
  std::vector<int32_t> tokenize(std::string_view text) const override {
    return bytes("^" + std::string(text));
  }
  std::string detokenize(const std::vector<int32_t>& tokens) const override {
    return {tokens.begin(), tokens.end()};
  }
  std::string model_type() const override { return "fake"; }
  std::string device() const override { return "none"; }
  MemoryFigures memory() const override { return {.ctx_size = context}; }
  EngineFigures figures() const override { return {}; }

 private:
  static std::vector<int32_t> bytes(const std::string& text) {
    std::vector<int32_t> out;
    for (const char c : text) out.push_back(static_cast<unsigned char>(c));
    return out;
  }
};

std::string value_of(const ChatInput& input, std::string_view name) {
  for (const auto& [key, value] : input.variables)
    if (key == name) return value;
  return "";
}

TEST(ProbeReasoning, AsksTheTemplate) {
  FakeModel model;
  EXPECT_FALSE(probe_reasoning(model).format.has_value());  // no template
  model.chat_template = [](const Json&, const ChatInput&) { return "user"; };
  EXPECT_FALSE(probe_reasoning(model).format.has_value());
  EXPECT_EQ(probe_reasoning(model).variable, "");
  // A switch, visible only in what it adds.
  model.chat_template = [](const Json&, const ChatInput& input) {
    return std::string("user") +
           (value_of(input, "enable_thinking") == "false" ? "<think></think>" : "");
  };
  EXPECT_TRUE(probe_reasoning(model).format.has_value());
  EXPECT_EQ(probe_reasoning(model).variable, "enable_thinking");
  model.chat_template = [](const Json&, const ChatInput& input) {
    return std::string("user") + (value_of(input, "thinking") == "true" ? "<think>" : "</think>");
  };
  EXPECT_EQ(probe_reasoning(model).variable, "thinking");
  // Written only for an answer with reasoning; a template that refuses some inputs.
  model.chat_template = [](const Json& messages, const ChatInput& input) {
    if (!input.variables.empty()) throw RequestError("[request] no");
    return messages.back().contains("reasoning_content") ? "<think>x</think>" : "user";
  };
  EXPECT_TRUE(probe_reasoning(model).format.has_value());
  EXPECT_EQ(probe_reasoning(model).variable, "");
}

TEST(ProbeReasoning, KnowsAChannel) {
  FakeModel model;
  // Gemma 4 12B and larger: an empty block where thinking is off.
  model.chat_template = [](const Json&, const ChatInput& input) {
    return std::string("model\n") +
           (value_of(input, "enable_thinking") == "true" ? "" : "<|channel>thought\n<channel|>");
  };
  const ReasoningSupport support = probe_reasoning(model);
  ASSERT_TRUE(support.format.has_value());
  EXPECT_EQ(support.format->open, kChannel.open);
  EXPECT_EQ(support.format->close, kChannel.close);
  EXPECT_EQ(support.format->forced_close, kChannel.forced_close);
  EXPECT_EQ(support.variable, "enable_thinking");
}

TEST(StartsInside, LooksAtTheEndOfThePrompt) {
  FakeModel model;
  const auto inside = [&](std::string_view text) {
    return starts_inside(model, kThink, model.tokenize(text));
  };
  EXPECT_TRUE(inside("<user>hi<model>\n<think>\n"));
  EXPECT_TRUE(inside("<model><think>"));
  EXPECT_FALSE(inside("<user>what is <think>?<model>\n"));
  EXPECT_FALSE(inside("<model><think>\n\n</think>\n\n"));
  EXPECT_FALSE(starts_inside(model, kThink, {}));
}

class Turn : public ::testing::Test {
 protected:
  TurnResult run(const std::string& prompt, int64_t budget = -1, int64_t max_tokens = 0) {
    ChatTurn turn(model_, {kThink, ""});
    TurnOptions options;
    options.generate.max_tokens = max_tokens;
    options.reasoning_budget = budget;
    options.on_text = [&](const TurnText& text) {
      reasoning_ += text.reasoning;
      answer_ += text.answer;
      return true;
    };
    std::vector<int32_t> tokens = model_.tokenize(prompt);
    tokens.erase(tokens.begin());
    return turn.run(tokens, options);
  }
  FakeModel model_;
  std::string reasoning_, answer_;
};

TEST_F(Turn, KeepsReasoningApart) {
  model_.reply = [](const std::string&) { return "<think>\nab</think>\n\nyes"; };
  const TurnResult got = run("q");
  EXPECT_EQ(got.reasoning, "ab");
  EXPECT_EQ(got.answer, "yes");
  EXPECT_EQ(reasoning_, "ab");
  EXPECT_EQ(answer_, "yes");
  EXPECT_FALSE(got.budget_spent);
  EXPECT_FALSE(got.inside_reasoning);
  EXPECT_EQ(got.completion.finish, Finish::kStop);
  EXPECT_EQ(got.completion.text, "<think>\nab</think>\n\nyes");
  EXPECT_THAT(model_.prompts, ElementsAre("q"));
}

TEST_F(Turn, EndsTheBlockAtItsBudget) {
  model_.reply = [](const std::string& prompt) {
    return prompt.ends_with("</think>\n\n") ? "so: yes" : "on and on and on";
  };
  const TurnResult got = run("q<think>\n", 5, 12);
  EXPECT_THAT(model_.prompts, ElementsAre("q<think>\n", "q<think>\non an\n</think>\n\n"));
  EXPECT_THAT(model_.limits, ElementsAre(12, 7));
  EXPECT_EQ(got.reasoning, "on an");
  EXPECT_EQ(got.answer, "so: yes");
  EXPECT_EQ(got.reasoning_tokens, 5);
  EXPECT_TRUE(got.budget_spent);
  EXPECT_EQ(got.completion.text, "on an\n</think>\n\nso: yes");
  EXPECT_EQ(got.completion.tokens.size(), 12u);
  EXPECT_EQ(got.completion.figures.prompt_tokens, 9);
  EXPECT_EQ(got.completion.figures.completion_tokens, 12);
  EXPECT_EQ(got.completion.finish, Finish::kLength);
  EXPECT_EQ(answer_, "so: yes");
}

TEST_F(Turn, EndsAChannelAtItsBudget) {
  model_.reply = [](const std::string& prompt) {
    return prompt.ends_with("<channel|>") ? "yes" : "<|channel>thought\nabcdef<channel|>no";
  };
  ChatTurn turn(model_, {kChannel, "enable_thinking"});
  TurnOptions options;
  options.reasoning_budget = 3;
  const std::vector<int32_t> prompt = {'q'};
  const TurnResult got = turn.run(prompt, options);
  EXPECT_THAT(model_.prompts, ElementsAre("q", "q<|channel>thought\nabc\n<channel|>"));
  EXPECT_EQ(got.reasoning, "abc");
  EXPECT_EQ(got.answer, "yes");
  EXPECT_EQ(got.reasoning_tokens, 3);
}

TEST_F(Turn, BudgetCountsFromTheModelsOwnMarker) {
  model_.reply = [](const std::string& prompt) {
    return prompt.ends_with("</think>\n\n") ? "yes" : "<think>abcdef</think>no";
  };
  EXPECT_EQ(run("q", 3).answer, "yes");
  EXPECT_EQ(model_.prompts.back(), "q<think>abc\n</think>\n\n");
  model_.prompts.clear();
  EXPECT_EQ(run("q", 100).answer, "no");
  EXPECT_EQ(model_.prompts.size(), 1u);
}

TEST_F(Turn, BudgetOfNothingClosesAtOnce) {
  model_.reply = [](const std::string&) { return "yes"; };
  const TurnResult got = run("q<think>\n", 0);
  EXPECT_THAT(model_.prompts, ElementsAre("q<think>\n\n</think>\n\n"));
  EXPECT_EQ(got.answer, "yes");
  EXPECT_EQ(got.reasoning, "");
  EXPECT_EQ(got.completion.figures.prompt_tokens, 9);
}

TEST_F(Turn, HasNoRoomForAnAnswer) {
  model_.reply = [](const std::string&) { return "on and on and on"; };
  TurnResult got = run("q<think>\n", 5, 5);  // max_tokens is used up
  EXPECT_EQ(got.completion.finish, Finish::kLength);
  EXPECT_TRUE(got.inside_reasoning);
  EXPECT_EQ(got.answer, "");
  EXPECT_EQ(model_.prompts.size(), 1u);
  model_.context = 20;
  got = run("q<think>\n", 5);
  EXPECT_EQ(got.completion.finish, Finish::kLength);
  EXPECT_EQ(model_.prompts.size(), 2u);
}

}  // namespace
}  // namespace decant
