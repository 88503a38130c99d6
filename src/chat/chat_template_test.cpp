#include "chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "base/errors.h"

namespace decant {
namespace {

using testing::HasSubstr;

class ChatTemplateFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              fmt::format("decant_chat_{}_{}", getpid(),
                          testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const char* name, std::string_view text) const {
    std::ofstream(folder_ / name) << text;
  }
  std::filesystem::path folder_;
};

const Json kHello = Json::parse(R"([{"role": "user", "content": "hi <eos>"}])");

TEST_F(ChatTemplateFolder, NoTemplateIsNull) {
  EXPECT_EQ(ChatTemplate::load(folder_), nullptr);
  write("tokenizer_config.json", R"({"eos_token": "</s>"})");
  EXPECT_EQ(ChatTemplate::load(folder_), nullptr);
}

TEST_F(ChatTemplateFolder, FileComesFirstAndSpecialTokensAreVariables) {
  write("tokenizer_config.json",
        R"({"bos_token": {"content": "<bos>", "lstrip": false}, "eos_token": "<eos>",
            "pad_token": null, "chat_template": "wrong"})");
  write("chat_template.jinja",
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}{{ x }}");
  const auto chat = ChatTemplate::load(folder_);
  ChatRequest request{kHello, nullptr, true, {{"x", "<bos>"}}};
  EXPECT_EQ(chat->render(request), "<bos><user>hi <eos><eos><assistant><bos>");
  std::vector<std::string> marked;
  for (const auto& part : chat->render_parts(request))
    if (part.from_message) marked.push_back(part.text);
  EXPECT_EQ(marked, (std::vector<std::string>{"hi <eos>", "<bos>"}));
}

TEST_F(ChatTemplateFolder, ToolsChooseTheToolTemplate) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "plain"},
                              {"name": "tool_use", "template": "tools {{ tools|length }}"}]})");
  const auto chat = ChatTemplate::load(folder_);
  EXPECT_EQ(chat->render({kHello, nullptr, true, {}}), "plain");
  EXPECT_EQ(chat->render({kHello, Json::parse(R"([{"type": "function"}])"), true, {}}), "tools 1");
}

TEST(ChatTemplate, WrongRequestsAreNamed) {
  const auto chat = ChatTemplate::from_source("x", "t", {{"image_token", "<i>"}});
  const auto error = [&](const char* messages, const char* tools = "null",
                         const char* variable = "free") -> std::string {
    try {
      return chat->render({Json::parse(messages), Json::parse(tools), true, {{variable, 1}}});
    } catch (const RequestError& failure) {
      return failure.what();
    }
  };
  EXPECT_EQ(error("[]"), "x");
  EXPECT_EQ(error(R"([{"role": "assistant", "content": null, "tool_calls": []}])"), "x");
  EXPECT_EQ(
      error(R"([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": ""}]}])"),
      "x");
  EXPECT_EQ(error("{}"), "[messages] messages: expected a list of objects, got object");
  EXPECT_EQ(error(R"([{"role": "user", "content": "a"}, {"role": "user", "content": 3}])"),
            "[messages] messages[1].content: expected a string, null or a list of parts, got "
            "number 3");
  EXPECT_EQ(error(R"([{"role": "boss", "content": "a"}])"),
            "[messages] messages[0].role: expected system, developer, user, assistant or tool, got "
            "string \"boss\"");
  EXPECT_THAT(error(R"([1, {"content": [{"type": "text"}, 2]}])"),
              testing::AllOf(HasSubstr("messages[0]: expected an object, got number 1"),
                             HasSubstr("messages[1].role"),
                             HasSubstr("messages[1].content[0].text: expected a string"),
                             HasSubstr("messages[1].content[1]: expected an object")));
  EXPECT_THAT(error("[]", "{}"), HasSubstr("tools: expected a list"));
  EXPECT_THAT(error("[]", "[1]"), HasSubstr("tools[0]: expected an object"));
  EXPECT_THAT(error("[]", "null", "messages"), HasSubstr("expected a free name"));
  EXPECT_THAT(error("[]", "null", "eos_token"), HasSubstr("expected a free name"));
  EXPECT_THAT(error("[]", "null", "image_token"), HasSubstr("expected a free name"));
}

}  // namespace
}  // namespace decant
