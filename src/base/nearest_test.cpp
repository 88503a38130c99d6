#include "base/nearest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace decant {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(Nearest, CountsEdits) {
  EXPECT_EQ(edit_distance("", ""), 0u);
  EXPECT_EQ(edit_distance("qwen3", "qwen3"), 0u);
  EXPECT_EQ(edit_distance("Qwen3", "qWEN3"), 0u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("qwne3", "qwen3"), 1u);  // two neighbours swapped
  EXPECT_EQ(edit_distance("abcdef", "badcfe"), 3u);
  EXPECT_EQ(edit_distance(std::string(1 << 20, 'a'), "b"), 256u);
}

TEST(Nearest, FindsWhatWasMeant) {
  const std::vector<std::string> names = {"inspect", "tokenize", "template", "run", "logits"};
  EXPECT_THAT(nearest("tokenise", names), ElementsAre("tokenize"));
  EXPECT_THAT(nearest("rnu", names), ElementsAre("run"));
  EXPECT_THAT(nearest("plate", names), ElementsAre("template"));
  EXPECT_THAT(nearest("zzzzzzzz", names), IsEmpty());
  EXPECT_THAT(nearest("inspec", names, 0), IsEmpty());
  const std::vector<std::string> twice = {"a", "a", "b"};
  EXPECT_THAT(nearest("a", twice), ElementsAre("a", "b"));
}

}  // namespace
}  // namespace decant
