#include "cli/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/errors.h"
#include "cli/chat_settings.h"
#include "cli/conversation_file.h"
#include "cli/history_file.h"

namespace decant::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "decant-conversation-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path write(const char* name, std::string_view text) const {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  static std::string read(const fs::path& path) {
    std::ostringstream out;
    out << std::ifstream(path).rdbuf();
    return out.str();
  }
  static unsigned mode(const fs::path& path) {
    struct stat info{};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 0777u;
  }
  fs::path folder_;
};
using ConversationFile = Folder;
using History = Folder;

template <typename Work>
std::string refusal(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Conversation, KeepsTheSystemMessageFirst) {
  Conversation talk("Be brief");
  talk.add_user("a");
  talk.add_answer("b", "because");
  EXPECT_EQ(talk.messages().dump(),
            R"([{"role":"system","content":"Be brief"},{"role":"user","content":"a"},)"
            R"({"role":"assistant","content":"b","reasoning_content":"because"}])");
  EXPECT_EQ(talk.size(), 2u);
  EXPECT_EQ(talk.last_reasoning(), "because");
  talk.set_system("Be long");
  EXPECT_EQ(talk.system(), "Be long");
  EXPECT_EQ(talk.messages().size(), 3u);
  talk.clear();
  EXPECT_EQ(talk.messages().size(), 1u);
  EXPECT_EQ(talk.system(), "Be long");
  talk.set_system("");
  EXPECT_EQ(talk.messages().size(), 0u);
  talk.add_user("c");
  talk.set_system("late");
  EXPECT_EQ(talk.messages()[0]["role"], "system");
}

TEST(Conversation, GivesTheLastAnswerBack) {
  Conversation talk("s");
  EXPECT_FALSE(talk.take_answer().has_value());
  talk.add_user("a");
  EXPECT_FALSE(talk.take_answer().has_value());
  talk.add_answer("b", "");
  const auto answer = talk.take_answer();
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ((*answer)["content"], "b");
  EXPECT_FALSE(answer->contains("reasoning_content"));
  EXPECT_EQ(talk.size(), 1u);
  talk.put_back(*answer);
  EXPECT_EQ(talk.size(), 2u);
}

TEST_F(ConversationFile, ComesBackAsItWas) {
  ChatSettings chat;
  for (const auto& [name, value] :
       std::initializer_list<std::pair<const char*, const char*>>{{"temperature", "0.7"},
                                                                  {"top_k", "40"},
                                                                  {"top-p", "0.95"},
                                                                  {"seed", "123456789012345"},
                                                                  {"max-tokens", "64"},
                                                                  {"stop", "\"\\n\\n\""},
                                                                  {"thinking", "200"},
                                                                  {"stats", "on"}})
    set_setting(chat, name, value);
  Conversation talk("Sei kurz: ü");
  talk.add_user("line\nline \"quoted\" 漢字");
  talk.add_answer("b", "r");
  const fs::path path = folder_ / "talk.json";
  EXPECT_FALSE(save_conversation(path, {"model", talk.messages(), parameters_json(chat)}));
  EXPECT_EQ(mode(path), 0600u);
  const SavedConversation back = load_conversation(path);
  EXPECT_EQ(back.messages, talk.messages());
  EXPECT_EQ(back.model, "model");
  EXPECT_EQ(back.parameters.dump(),
            R"({"temperature":0.7,"top_k":40,"top_p":0.95,"seed":123456789012345,)"
            R"("max_tokens":64,"stop":["\n\n"],"thinking":200})");
  const ChatSettings again = with_parameters({}, back.parameters, "talk.json");
  EXPECT_EQ(parameters_json(again), back.parameters);
  EXPECT_TRUE(save_conversation(path, back));  // its own kind may be replaced
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(ConversationFile, ReplacesNothingElse) {
  const fs::path notes = write("notes.txt", "my notes");
  EXPECT_THAT(refusal([&] { save_conversation(notes, {}); }),
              AllOf(HasSubstr("[save]"), HasSubstr("notes.txt"), HasSubstr("it stays")));
  EXPECT_EQ(read(notes), "my notes");
  // Not a real device: a test that fails must not replace one.
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(refusal([&] { save_conversation(folder_ / "pipe", {}); }), HasSubstr("pipe"));
  EXPECT_TRUE(fs::is_fifo(folder_ / "pipe"));
  EXPECT_THAT(refusal([&] { save_conversation(folder_, {}); }), HasSubstr("[save]"));
  EXPECT_THAT(refusal([&] { save_conversation(folder_ / "no/such.json", {}); }),
              HasSubstr("no/such.json"));
  // A link stays a link.
  save_conversation(folder_ / "real.json", {});
  fs::create_symlink("real.json", folder_ / "link.json");
  Conversation talk;
  talk.add_user("x");
  save_conversation(folder_ / "link.json", {"", talk.messages(), Json::object()});
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.json"));
  EXPECT_EQ(load_conversation(folder_ / "real.json").messages.size(), 1u);
}

TEST(ConversationText, RefusesByFileAndField) {
  const auto wrong = [](std::string_view text) {
    return refusal([&] { parse_conversation(text, "talk.json"); });
  };
  EXPECT_THAT(wrong("{"), HasSubstr("talk.json:1"));
  EXPECT_THAT(wrong("7"), AllOf(HasSubstr("[load] talk.json"), HasSubstr("number 7")));
  EXPECT_THAT(wrong("{}"), HasSubstr("messages: expected a list of messages, got null"));
  EXPECT_THAT(wrong(R"([{"role": "king", "content": "x"}])"), HasSubstr("messages[0].role"));
  EXPECT_THAT(wrong(R"([{"role": "user", "content": 5}])"),
              HasSubstr("messages[0].content: expected a text or a list of parts, got number 5"));
  EXPECT_THAT(wrong(R"([{"role": "user"}])"), HasSubstr("messages[0].content"));
  EXPECT_THAT(wrong(R"([{"role": "user", "content": "x", "mood": "good"}])"),
              HasSubstr("messages[0].mood"));
  EXPECT_THAT(wrong(R"([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}])"),
              HasSubstr("messages[1].role: expected the system message first"));
  EXPECT_THAT(wrong(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
              HasSubstr("messages[0].content[0]"));
  EXPECT_THAT(wrong(R"({"messages": [], "format": "other", "version": 9, "extra": 1})"),
              AllOf(HasSubstr("format:"), HasSubstr("version: expected 1, got number 9"),
                    HasSubstr("extra: expected format")));
  EXPECT_THAT(wrong(R"({"messages": [], "parameters": []})"),
              HasSubstr("parameters: expected an object"));
  EXPECT_THAT(wrong(std::string(1000, '[')), HasSubstr("talk.json"));
  EXPECT_EQ(
      parse_conversation(R"([{"role": "user", "content": [{"type": "text", "text": "x"}]}])", "t")
          .messages.size(),
      1u);
}

TEST(Settings, RefuseByNameAndRange) {
  ChatSettings chat;
  const auto wrong = [&](const char* name, const char* value) {
    return refusal([&] { set_setting(chat, name, value); });
  };
  EXPECT_THAT(wrong("temprature", "1"), HasSubstr("did you mean temperature?"));
  EXPECT_THAT(wrong("temperature", "nan"), AllOf(HasSubstr("temperature"), HasSubstr("nan")));
  EXPECT_THAT(wrong("temperature", "hot"), HasSubstr("\"hot\""));
  EXPECT_THAT(wrong("top-p", "1.5"), HasSubstr("1.5"));
  EXPECT_THAT(wrong("seed", "-1"), HasSubstr("seed"));
  EXPECT_THAT(wrong("max-tokens", "0"), HasSubstr("max-tokens"));
  EXPECT_THAT(wrong("stats", "maybe"), HasSubstr("expected on or off"));
  EXPECT_THAT(wrong("thinking", "-5"), HasSubstr("expected off, on or a number of tokens"));
  EXPECT_THAT(wrong("stop", "\"broken"), HasSubstr("stop"));
  for (const SettingInfo& info : settings()) {
    EXPECT_EQ(setting_text(chat, info.name), info.name == "wrap" ? "on"
                                             : info.is_switch    ? "off"
                                                                 : "default");
    set_setting(chat, info.name,
                info.is_switch              ? "on"
                : info.name == "stop"       ? "x"
                : info.name == "logit-bias" ? "7=-2.5,9=1"
                                            : "1");
    EXPECT_NE(setting_text(chat, info.name), "default");
  }
  EXPECT_EQ(setting_text(chat, "temperature"), "1");
  EXPECT_EQ(parameters_json(chat)["logit_bias"], Json({{"7", -2.5}, {"9", 1}}));
  const ChatSettings loaded = with_parameters({}, parameters_json(chat), "talk.json");
  EXPECT_EQ(parameters_json(loaded), parameters_json(chat));
  for (const SettingInfo& info : settings()) set_setting(chat, info.name, "default");
  EXPECT_EQ(parameters_json(chat), Json::object());
}

TEST(Settings, LoadedParametersAreAllOrNone) {
  ChatSettings chat;
  set_setting(chat, "top-k", "5");
  const auto wrong = [&](const char* json) {
    return refusal([&] { with_parameters(chat, Json::parse(json), "talk.json"); });
  };
  EXPECT_THAT(wrong(R"({"temperature": "warm", "top_p": 3, "colour": 1})"),
              AllOf(HasSubstr("[load] talk.json"), HasSubstr("parameters.temperature:"),
                    HasSubstr("parameters.top_p: "), HasSubstr("parameters.colour:")));
  EXPECT_THAT(wrong(R"({"stats": "on"})"), HasSubstr("parameters.stats"));
  EXPECT_THAT(wrong(R"({"seed": true})"), HasSubstr("parameters.seed"));
  EXPECT_THAT(wrong(R"({"stop": "x"})"), HasSubstr("parameters.stop"));
  EXPECT_THAT(wrong(R"({"stop": [""]})"), HasSubstr("1 to 1024 bytes"));
  const ChatSettings got = with_parameters(chat, Json::parse(R"({"min_p": 0.1})"), "t");
  EXPECT_EQ(setting_text(got, "top-k"), "default");  // what is not in the file is the model's
  EXPECT_EQ(setting_text(got, "min-p"), "0.1");
}

TEST(ThinkingPlan, UsesWhatTheTemplateHas) {
  const ReasoningFormat think{"<think>", "</think>", "\n</think>\n\n"};
  const ReasoningSupport none, full{think, "enable_thinking"}, always{think, ""};
  const auto plan = [](const char* text, const ReasoningSupport& support) {
    return plan_thinking(parse_thinking(text), support);
  };
  EXPECT_THAT(plan("off", full).variables, ElementsAre(std::pair("enable_thinking", "false")));
  EXPECT_THAT(plan("on", full).variables, ElementsAre(std::pair("enable_thinking", "true")));
  EXPECT_THAT(plan("50", full).variables, ElementsAre(std::pair("enable_thinking", "true")));
  EXPECT_EQ(plan("50", full).budget, 50);
  EXPECT_EQ(plan("on", full).budget, -1);
  EXPECT_EQ(plan("off", always).budget, 0);
  EXPECT_THAT(plan("default", full).variables, IsEmpty());
  EXPECT_THAT(plan("off", none).note, HasSubstr("no effect"));
  EXPECT_EQ(plan("off", none).budget, -1);
  EXPECT_EQ(plan("default", none).note, "");
  EXPECT_THAT(refusal([&] { plan("50", none); }),
              AllOf(HasSubstr("[thinking]"), HasSubstr("50 tokens")));
}

TEST_F(History, ComesBackInOrder) {
  const fs::path path = folder_ / "state/decant/history";
  {
    HistoryFile history(path);
    EXPECT_THAT(history.load(), IsEmpty());
    for (const char* entry : {"one", "two\nlines \"ü\"", "two\nlines \"ü\"", "three"})
      history.append(entry);
    history.append(std::string(1 << 20, 'x'));
    EXPECT_FALSE(history.problem().has_value());
  }
  EXPECT_EQ(mode(path), 0600u);
  HistoryFile again(path);
  EXPECT_THAT(again.load(), ElementsAre("one", "two\nlines \"ü\"", "three"));
  again.append("three");
  EXPECT_THAT(HistoryFile(path).load(), ElementsAre("one", "two\nlines \"ü\"", "three"));
  EXPECT_THAT(HistoryFile(path, 2).load(), ElementsAre("two\nlines \"ü\"", "three"));
  EXPECT_THAT(HistoryFile(path).load(), ElementsAre("two\nlines \"ü\"", "three"));  // cut for good
  EXPECT_EQ(mode(path), 0600u);
}

TEST_F(History, LivesWithDamage) {
  const fs::path path = write("history", "\"good\"\nnot json\n{}\n\"cut of");
  HistoryFile history(path);
  EXPECT_THAT(history.load(), ElementsAre("good"));
  EXPECT_THAT(history.problem().value_or(""), HasSubstr("3 damaged lines"));
  history.append("next");
  EXPECT_EQ(read(path), "\"good\"\n\"next\"\n");
}

TEST_F(History, DoesWithoutAFile) {
  const fs::path file = write("file", "x");
  HistoryFile blocked(file / "decant/history");  // its folder cannot be made
  EXPECT_THAT(blocked.load(), IsEmpty());
  EXPECT_THAT(blocked.problem().value_or(""), HasSubstr("history is not kept"));
  blocked.append("x");
  HistoryFile folder(folder_);  // cannot be written
  folder.load();
  folder.append("x");
  EXPECT_TRUE(folder.problem().has_value());
  HistoryFile nowhere{fs::path()};
  EXPECT_THAT(nowhere.load(), IsEmpty());
  nowhere.append("x");
  EXPECT_FALSE(nowhere.problem().has_value());
}

}  // namespace
}  // namespace decant::cli
