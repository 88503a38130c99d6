#include "session/generation_defaults.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <random>
#include <system_error>

#include "base/json.h"
#include "base/log.h"
#include "checkpoint/config_reader.h"

namespace decant {
namespace {

// Gemma 4 12B: tokens that end a picture or a sound, which a model can only be given.
std::vector<TokenBias> read_suppressed(const ConfigReader& reader, int64_t vocab) {
  constexpr std::string_view kKey = "suppress_tokens";
  std::vector<TokenBias> out;
  if (!reader.has(kKey)) return out;
  const std::vector<int64_t> ids = reader.ints(kKey);
  if (ids.size() > kMaxBiases) reader.fail(kKey, fmt::format("at most {} tokens", kMaxBiases));
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocab)
      reader.fail(kKey, fmt::format("token ids from 0 to {}", vocab - 1), fmt::format("{}", id));
    const TokenBias ban{static_cast<int32_t>(id), kBannedBias};
    const auto same = [&](const TokenBias& other) { return other.id == ban.id; };
    if (std::none_of(out.begin(), out.end(), same)) out.push_back(ban);
  }
  return out;
}

}  // namespace

bool is_suppressed(const SamplingParams& defaults, int32_t token) {
  return std::any_of(
      defaults.logit_bias.begin(), defaults.logit_bias.end(),
      [&](const TokenBias& each) { return each.id == token && each.bias <= kBannedBias; });
}

SamplingParams read_generation_defaults(const std::filesystem::path& folder, int64_t vocab) {
  SamplingParams params;
  const std::filesystem::path path = folder / "generation_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return params;
  const Json json = read_json_file(path);
  const ConfigReader reader(json, path.string());
  for (const char* penalty : {"presence_penalty", "frequency_penalty"})
    if (reader.value_or(penalty, 0.0) != 0)
      log_info("{}: {} is not applied", path.string(), penalty);
  const auto number = [&](std::string_view name, float off) {
    const double value = reader.value_or(name, static_cast<double>(off));
    const NumberRange& range = sampling_range(name);
    if (!range.contains(value)) reader.fail(name, range.expected());
    return static_cast<float>(value);
  };
  const bool sampled =
      reader.has("do_sample") ? reader.require<bool>("do_sample") : reader.has("temperature");
  const float temperature = number("temperature", 1);
  if (sampled) params.temperature = temperature;
  params.top_k =
      static_cast<int32_t>(reader.in_range_or("top_k", 0, 0, std::numeric_limits<int32_t>::max()));
  params.min_p = number("min_p", 0);
  params.typical_p = number("typical_p", 1);
  params.repetition_penalty = number("repetition_penalty", 1);
  if (reader.value_or("top_p", 1.0) == 0)
    params.temperature = 0;  // "the most probable token only", which is what greedy gives
  else
    params.top_p = number("top_p", 1);
  params.logit_bias = read_suppressed(reader, vocab);
  return params;
}

SamplingParams apply_options(const SamplingParams& defaults, const GenerateOptions& options) {
  SamplingParams params = defaults;
  if (options.temperature) params.temperature = *options.temperature;
  if (options.top_k) params.top_k = *options.top_k;
  if (options.top_p) params.top_p = *options.top_p;
  if (options.min_p) params.min_p = *options.min_p;
  if (options.typical_p) params.typical_p = *options.typical_p;
  if (options.repetition_penalty) params.repetition_penalty = *options.repetition_penalty;
  if (options.presence_penalty) params.presence_penalty = *options.presence_penalty;
  if (options.frequency_penalty) params.frequency_penalty = *options.frequency_penalty;
  params.logprobs = options.logprobs;
  for (const auto& [id, bias] : options.logit_bias)
    if (!is_suppressed(defaults, id)) params.logit_bias.push_back({id, bias});
  if (options.seed) {
    params.seed = *options.seed;
  } else {
    std::random_device device;
    params.seed = uint64_t{device()} << 32 | device();
  }
  return params;
}

}  // namespace decant
