#include "cli/commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/errors.h"
#include "cli/folded_texts.h"
#include "cli/input_block.h"
#include "cli/line_completion.h"
#include "cli/line_reader.h"

namespace decant::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string refusal(std::string_view entry) {
  try {
    parse_command(entry);
  } catch (const RequestError& error) {
    return error.what();
  }
  return "none";
}

TEST(Commands, AreParsed) {
  EXPECT_EQ(parse_command("/set temperature 0.5").id, CommandId::kSet);
  EXPECT_EQ(parse_command("/set   temperature 0.5  ").argument, "temperature 0.5");
  EXPECT_EQ(parse_command("/quit").id, CommandId::kBye);
  EXPECT_EQ(parse_command("/exit").id, CommandId::kBye);
  EXPECT_EQ(parse_command("/?").id, CommandId::kHelp);
  EXPECT_EQ(parse_command("/system Be brief.\nBe kind.").argument, "Be brief.\nBe kind.");
  EXPECT_THAT(refusal("/hlep"), HasSubstr("\"/hlep\": did you mean /help?"));
  EXPECT_THAT(refusal("/rtery"), HasSubstr("/retry"));
  EXPECT_EQ(refusal("/xyzzyx"), "[command] expected a command, got \"/xyzzyx\" (/help lists them)");
  EXPECT_THAT(refusal("/clear everything"),
              HasSubstr("expected nothing after it, got \"everything\""));
  EXPECT_THAT(refusal("/save"), HasSubstr("/save: expected a file"));
}

TEST(Commands, AreToldFromMessages) {
  EXPECT_TRUE(is_command("/help"));
  EXPECT_TRUE(is_command("/unknown"));
  EXPECT_TRUE(is_command("/system two\nlines"));
  EXPECT_FALSE(is_command("/usr/bin/env\nwhat is this?"));
  EXPECT_FALSE(is_command(" /help"));
  EXPECT_FALSE(is_command("help"));
}

TEST(Commands, HelpNamesAllOfThem) {
  const std::string all = help_text("");
  for (const CommandInfo& command : commands()) {
    EXPECT_THAT(all, HasSubstr(command.name));
    EXPECT_THAT(help_text(command.name), HasSubstr(command.summary));
  }
  EXPECT_THAT(help_text("bye"), HasSubstr("/quit"));
  EXPECT_THROW(help_text("nonsense"), RequestError);
}

TEST(Nearest, TellsTyposFromOtherWords) {
  const std::vector<std::string> names = {"temperature", "top-k", "top-p", "seed"};
  EXPECT_EQ(nearest("temprature", names), "temperature");
  EXPECT_EQ(nearest("sede", names), "seed");
  EXPECT_EQ(nearest("zzzzzzzz", names), "");
  EXPECT_EQ(nearest(std::string(1 << 20, 'a'), names), "");
}

TEST(Completion, OfCommandsAndArguments) {
  EXPECT_THAT(complete_line("/s").candidates,
              ElementsAre("/save", "/set", "/show", "/stats", "/system"));
  EXPECT_EQ(complete_line("/s").common, "/s");
  const Completions retry = complete_line("/ret");
  EXPECT_EQ(retry.common, "/retry");
  EXPECT_TRUE(retry.final);
  EXPECT_THAT(complete_line("/set see").candidates, ElementsAre("seed"));
  EXPECT_EQ(complete_line("/set see").begin, 5u);
  EXPECT_THAT(complete_line("/set thinking o").candidates, ElementsAre("off", "on"));
  EXPECT_THAT(complete_line("/set stats ").candidates, ElementsAre("off", "on"));
  EXPECT_THAT(complete_line("/help lo").candidates, ElementsAre("load"));
  EXPECT_THAT(complete_line("/show m").candidates, ElementsAre("messages", "model"));
  EXPECT_THAT(complete_line("hello /s").candidates, IsEmpty());
  EXPECT_THAT(complete_line("").candidates, IsEmpty());
  EXPECT_THAT(complete_line("/system x").candidates, IsEmpty());
}

TEST(Completion, OfPaths) {
  namespace fs = std::filesystem;
  std::string folder = (fs::temp_directory_path() / "decant-completion-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  fs::create_directory(fs::path(folder) / "talks");
  for (const char* name : {"talk one.json", "talé.json", ".hidden", "bad\033name"})
    std::ofstream(fs::path(folder) / name) << "x";
  const std::string begun = "/load " + folder + "/";
  EXPECT_THAT(complete_line(begun).candidates,
              ElementsAre(folder + "/talk one.json", folder + "/talks/", folder + "/talé.json"));
  EXPECT_EQ(complete_line(begun).common, folder + "/tal");
  EXPECT_FALSE(complete_line(begun + "talks").final);
  EXPECT_EQ(complete_line(begun + "talks").common, folder + "/talks/");
  EXPECT_THAT(complete_line(begun + ".h").candidates, ElementsAre(folder + "/.hidden"));
  EXPECT_THAT(complete_line("/save " + folder + "/talk o").candidates,
              ElementsAre(folder + "/talk one.json"));
  EXPECT_THAT(complete_line("/load /no/such/folder/").candidates, IsEmpty());
  fs::remove_all(folder);
}

TEST(InputBlock, JoinsLines) {
  const auto entered = [](std::initializer_list<const char*> entries) {
    InputBlock block;
    std::optional<std::string> out;
    for (const char* entry : entries) {
      EXPECT_FALSE(out.has_value());
      out = block.add(entry);
    }
    EXPECT_EQ(block.open(), !out.has_value());
    return out.value_or("(open)");
  };
  EXPECT_EQ(entered({"plain"}), "plain");
  EXPECT_EQ(entered({"\"\"\"", "a", "b", "\"\"\""}), "a\nb");
  EXPECT_EQ(entered({"\"\"\"a", "b\"\"\""}), "a\nb");
  EXPECT_EQ(entered({"\"\"\"one\"\"\""}), "one");
  EXPECT_EQ(entered({"\"\"\"one\"\"\"  "}), "one");
  EXPECT_EQ(entered({"\"\"\"", "", "a", "", "\"\"\""}), "\na\n");
  EXPECT_EQ(entered({"\"\"\"\"\"\""}), "");
  EXPECT_EQ(entered({"\"\"\"", "  indented", "\"\"\""}), "  indented");
  EXPECT_EQ(entered({"\"\"\"a\nb\n\"\"\""}), "a\nb");  // recalled from the history
  EXPECT_EQ(entered({"\"\"\"\na\nb\n\"\"\""}), "a\nb");
  EXPECT_EQ(entered({"say \"\"\" in a line"}), "say \"\"\" in a line");
  EXPECT_EQ(entered({"\"\"\"", "a"}), "(open)");
  EXPECT_EQ(entered({"two\nlines"}), "two\nlines");
}

TEST(InputBlock, IsReusable) {
  InputBlock block;
  EXPECT_FALSE(block.add("\"\"\"lost").has_value());
  block.abandon();
  EXPECT_FALSE(block.open());
  EXPECT_EQ(block.add("next"), "next");
  EXPECT_FALSE(block.add("\"\"\"x").has_value());
  EXPECT_EQ(block.add("y\"\"\""), "x\ny");
  EXPECT_EQ(block.entered(), "\"\"\"x\ny\"\"\"");
}

TEST(FoldedTexts, ComeBackInTheirPlaces) {
  FoldedTexts texts;
  EXPECT_EQ(texts.shown("short\ntext"), "short\ntext");
  const std::string lines = "a\n\n\n\n\n\n\n\n\n\nb", bytes(2000, 'x');
  const std::string one = texts.shown(lines), two = texts.shown(bytes);
  EXPECT_EQ(one, "[text 1: 11 lines, 12 bytes]");
  EXPECT_EQ(two, "[text 2: 1 lines, 2000 bytes]");
  EXPECT_EQ(texts.shown(lines), one);
  EXPECT_EQ(texts.expanded("see " + two + " and " + one + one + "."),
            "see " + bytes + " and " + lines + lines + ".");
  EXPECT_EQ(texts.expanded("[text 3: 1 lines, 2000 bytes]"), "[text 3: 1 lines, 2000 bytes]");
  // A text that holds a sign is not expanded again.
  const std::string nested = texts.shown(one + std::string(1500, 'y'));
  EXPECT_EQ(texts.expanded(nested), one + std::string(1500, 'y'));
}

TEST(TypedText, NamesWhatIsNotUtf8) {
  std::string problem;
  EXPECT_EQ(typed_text("a\r\nb\rc\nd", problem), "a\nb\nc\nd");
  EXPECT_EQ(problem, "");
  EXPECT_EQ(typed_text("caf\xe9 au", problem), "caf\uFFFD au");
  EXPECT_EQ(problem, "[input] expected UTF-8 text, got the byte 0xe9 at offset 3");
  EXPECT_EQ(typed_text("\xff", problem), "\uFFFD");
  EXPECT_THAT(problem, HasSubstr("0xe9"));  // the first one
  problem.clear();
  EXPECT_EQ(typed_text(std::string("a\0b", 3), problem), "a\uFFFDb");
  EXPECT_THAT(problem, HasSubstr("0x00 at offset 1"));
}

}  // namespace
}  // namespace decant::cli
