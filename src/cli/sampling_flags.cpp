#include "cli/sampling_flags.h"

#include <fmt/format.h>

#include "base/errors.h"
#include "session/sampling_options.h"

namespace decant::cli {
namespace {

struct Flag {
  const char* flags;  // the first has the environment twin
  std::string_view name;
  const char* type;
  const char* help;
  bool repeatable = false;
};

constexpr int kMostTimes = 1 << 20;

constexpr Flag kFlags[] = {
    {"--max-tokens", "max_tokens", "INT",
     "Longest answer (default: what the context has room for)"},
    {"--temperature", "temperature", "FLOAT", "0 is greedy (default: the model's)"},
    {"--top-k", "top_k", "INT", "Only the k likeliest tokens (0: all)"},
    {"--typical-p", "typical_p", "FLOAT",
     "Only the tokens nearest to the expected surprise that make up this share"},
    {"--top-p", "top_p", "FLOAT", "Only the likeliest tokens that make up this share"},
    {"--min-p", "min_p", "FLOAT", "Only tokens this likely beside the likeliest"},
    {"--repetition-penalty,--repeat-penalty", "repetition_penalty", "FLOAT",
     "Divides logits above 0 of tokens in prompt and answer, multiplies those below (1: off)"},
    {"--presence-penalty", "presence_penalty", "FLOAT",
     "Taken from the logits of tokens in the answer (0: off)"},
    {"--frequency-penalty", "frequency_penalty", "FLOAT", "The same for each time they came"},
    {"--logit-bias", "logit_bias", "ID=VALUE",
     "Add to a token's logit; -100 bans it (repeatable, or separated by commas)", true},
    {"--seed", "seed", "UINT", "Of the random numbers"},
    {"--stop", "stop", "TEXT", "End the answer before this text (repeatable)", true},
    {"--stop-token", "stop_tokens", "ID",
     "End the answer at this token (repeatable, or separated by commas)", true},
    {"--logprobs", "logprobs", "N",
     "A line per token on stderr: its log probability and the N likeliest"},
};

CLI::Validator valid(std::string_view name) {
  return {[name](std::string& text) -> std::string {
            try {
              GenerateOptions ignored;
              set_sampling_option(ignored, name, text);
              return {};
            } catch (const UsageError& error) {
              // The parser puts the flag's own name in front.
              const std::string_view message = error.what();
              return std::string(message.substr(message.find(": ") + 2));
            }
          },
          ""};
}

}  // namespace

void SamplingFlags::declare(CLI::App& app) {
  for (const Flag& flag : kFlags) {
    // The option keeps the texts itself.
    CLI::Option* option =
        app.add_option(flag.flags, [](const CLI::results_t&) { return true; }, flag.help);
    option->type_name(flag.type)->check(valid(flag.name));
    if (flag.repeatable) option->expected(1, kMostTimes)->allow_extra_args(false);
    options_.emplace_back(flag.name, option);
  }
}

void SamplingFlags::fill(GenerateOptions& options) const {
  for (const auto& [name, option] : options_)
    for (const std::string& text : option->results()) set_sampling_option(options, name, text);
}

std::string logprob_line(const LanguageModel& model, const TokenLogprob& token) {
  const auto text = [&](int32_t id, double logprob, std::string_view between) {
    return fmt::format("{} {} {}{:.4f}", id, quote(model.detokenize({id})), between, logprob);
  };
  std::string line = "token " + text(token.token, token.logprob, "logprob ");
  for (size_t i = 0; i < token.top.size(); ++i)
    line += (i == 0 ? "; likeliest: " : ", ") + text(token.top[i].first, token.top[i].second, "");
  return line;
}

}  // namespace decant::cli
