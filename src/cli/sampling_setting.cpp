#include "cli/sampling_setting.h"

#include <algorithm>

#include "base/errors.h"
#include "session/sampling_options.h"

namespace decant::cli {
namespace {

bool is_known(std::string_view name) {
  return std::any_of(sampling_names().begin(), sampling_names().end(),
                     [&](const SamplingName& known) { return known.name == name; });
}

}  // namespace

const std::vector<SamplingName>& sampling_names() {
  static const std::vector<SamplingName> names = {
      {"temperature", "0 is greedy"},
      {"top-k", "Only the k likeliest tokens (0: all)"},
      {"typical-p", "Only the tokens nearest to the expected surprise that make up this share"},
      {"top-p", "Only the likeliest tokens that make up this share"},
      {"min-p", "Only tokens this likely beside the likeliest"},
      {"repetition-penalty", "Makes tokens of prompt and answer less likely (1: off)"},
      {"presence-penalty", "Taken from the logits of tokens in the answer (0: off)"},
      {"frequency-penalty", "The same for each time they came"},
      {"logit-bias", "ID=VALUE: added to a token's logit; -100 bans it"},
      {"stop-tokens", "End the answer at this token id"},
      {"logprobs", "Log probabilities of each token and the N likeliest"},
      {"seed", "Of the random numbers"},
  };
  return names;
}

bool set_sampling(GenerateOptions& options, std::string_view name, std::string_view value) {
  if (!is_known(name)) return false;
  try {
    set_sampling_option(options, name, value);
  } catch (const UsageError& error) {
    // The message begins with the name in its own spelling.
    throw RequestError("[set] {}{}", name, std::string_view(error.what()).substr(name.size()));
  }
  return true;
}

std::optional<Json> sampling_value(const GenerateOptions& options, std::string_view name) {
  // The shortest text of a float, not that of the double next to it.
  const auto json = [](float value) { return Json::parse(fmt::format("{}", value)); };
  const auto real = [&](const std::optional<float>& value) -> std::optional<Json> {
    if (!value) return std::nullopt;
    return json(*value);
  };
  if (name == "temperature") return real(options.temperature);
  if (name == "typical-p") return real(options.typical_p);
  if (name == "top-p") return real(options.top_p);
  if (name == "min-p") return real(options.min_p);
  if (name == "repetition-penalty") return real(options.repetition_penalty);
  if (name == "presence-penalty") return real(options.presence_penalty);
  if (name == "frequency-penalty") return real(options.frequency_penalty);
  if (name == "top-k" && options.top_k) return Json(*options.top_k);
  if (name == "logprobs" && options.logprobs) return Json(*options.logprobs);
  if (name == "seed" && options.seed) return Json(*options.seed);
  if (name == "stop-tokens" && !options.stop_tokens.empty()) return Json(options.stop_tokens);
  if (name == "logit-bias" && !options.logit_bias.empty()) {
    Json out = Json::object();
    for (const auto& [id, bias] : options.logit_bias) out[std::to_string(id)] = json(bias);
    return out;
  }
  return std::nullopt;
}

void reset_sampling(GenerateOptions& options, std::string_view name) {
  if (is_known(name)) set_sampling_option(options, name, "default");
}

}  // namespace decant::cli
