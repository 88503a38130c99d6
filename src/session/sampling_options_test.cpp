#include "session/sampling_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/errors.h"

namespace decant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SamplingOptions, AreSetByName) {
  GenerateOptions options;
  const auto set = [&](std::string_view name, std::string_view text) {
    set_sampling_option(options, name, text);
  };
  set("max_tokens", "12");
  set("temperature", "0.5");
  set("top_k", "7");
  set("top-p", "0.9");
  set("min_p", "0.1");
  set("typical_p", "0.8");
  set("repetition-penalty", "1.1");
  set("presence_penalty", "-1.5");
  set("frequency_penalty", "0.25");
  set("logprobs", "3");
  set("seed", "18446744073709551615");
  set("stop", "END, really");
  set("stop", "default");
  set("stop_tokens", "5,6");
  set("stop_tokens", "7");
  set("logit_bias", "3=1.5,4=-100");
  set("logit_bias", "3=2");
  EXPECT_EQ(options.max_tokens, 12);
  EXPECT_EQ(options.temperature, 0.5f);
  EXPECT_EQ(options.top_k, 7);
  EXPECT_EQ(options.top_p, 0.9f);
  EXPECT_EQ(options.min_p, 0.1f);
  EXPECT_EQ(options.typical_p, 0.8f);
  EXPECT_EQ(options.repetition_penalty, 1.1f);
  EXPECT_EQ(options.presence_penalty, -1.5f);
  EXPECT_EQ(options.frequency_penalty, 0.25f);
  EXPECT_EQ(options.logprobs, 3);
  EXPECT_EQ(options.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_THAT(options.stop, ElementsAre("END, really", "default"));
  EXPECT_THAT(options.stop_tokens, ElementsAre(5, 6, 7));
  EXPECT_THAT(options.logit_bias, ElementsAre(std::pair(3, 2.0f), std::pair(4, -100.0f)));
  for (std::string_view name : sampling_option_names())
    if (name != "stop") set(name, "default");
  EXPECT_EQ(options.max_tokens, 0);
  EXPECT_FALSE(options.temperature || options.top_k || options.top_p || options.min_p ||
               options.typical_p || options.repetition_penalty || options.presence_penalty ||
               options.frequency_penalty || options.logprobs || options.seed);
  EXPECT_TRUE(options.stop_tokens.empty() && options.logit_bias.empty());
}

TEST(SamplingOptions, BadTextLeavesThemAsTheyWere) {
  const std::vector<std::pair<const char*, std::vector<const char*>>> cases = {
      {"max_tokens", {"0", "-1", "1.5", "many", "", "99999999999"}},
      {"temperature", {"nan", "inf", "-1", "101", "1e308", "1x", "", " 1"}},
      {"top_k", {"-1", "1.5", "4294967296", ""}},
      {"top_p", {"0", "1.5", "-0.1", "nan", "one"}},
      {"min_p", {"-0.1", "1.1", "nan"}},
      {"typical_p", {"0", "1.1", "nan"}},
      {"repetition_penalty", {"0", "-1", "101", "nan", "inf"}},
      {"presence_penalty", {"-2.1", "2.1", "nan"}},
      {"frequency_penalty", {"-2.1", "2.1", "nan"}},
      {"logprobs", {"-1", "21", "2.5", ""}},
      {"seed", {"-1", "1.5", "18446744073709551616", ""}},
      {"stop", {""}},
      {"stop_tokens", {"-1", "2147483648", "a", "", "3,,4", "3,"}},
      {"logit_bias", {"", "3", "=1", "3=", "-1=1", "3=101", "3=-100.5", "3=nan", "3=1,", "3=1,4"}},
  };
  EXPECT_EQ(cases.size(), sampling_option_names().size());
  GenerateOptions options;
  options.stop_tokens = {1};
  options.logit_bias = {{9, 1.0f}};
  for (const auto& [name, texts] : cases)
    for (const char* text : texts) try {
        set_sampling_option(options, name, text);
        ADD_FAILURE() << name << " took " << quote(text);
      } catch (const UsageError& error) {
        EXPECT_THAT(error.what(), ::testing::StartsWith(std::string(name) + ": expected "));
        EXPECT_THAT(error.what(), HasSubstr(", got \""));
      }
  EXPECT_FALSE(options.temperature || options.top_k || options.seed || options.logprobs);
  EXPECT_THAT(options.stop_tokens, ElementsAre(1));
  EXPECT_THAT(options.logit_bias, ElementsAre(std::pair(9, 1.0f)));
  EXPECT_THROW(set_sampling_option(options, "top_q", "1"), UsageError);
  std::string many = "0=1";
  for (int id = 1; id < 1024; ++id) many += fmt::format(",{}=1", id);
  GenerateOptions full;
  set_sampling_option(full, "logit_bias", many);
  EXPECT_THROW(set_sampling_option(full, "logit_bias", "1024=1"), UsageError);
  EXPECT_EQ(full.logit_bias.size(), 1024u);
}

}  // namespace
}  // namespace decant
