#include "sampling/params.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/errors.h"

namespace decant {

bool NumberRange::contains(double value) const {
  return value <= high && (above_low ? value > low : value >= low) &&
         (!whole || value == std::floor(value));
}

std::string NumberRange::expected() const {
  if (whole) return fmt::format("a whole number from {:.0f} to {:.0f}", low, high);
  if (above_low) return fmt::format("a number above {} and at most {}", low, high);
  return fmt::format("a number from {} to {}", low, high);
}

std::span<const NumberRange> sampling_ranges() {
  static constexpr std::array<NumberRange, 9> kRanges = {{
      {"temperature", 0, 100},
      {"top_k", 0, std::numeric_limits<int32_t>::max(), false, true},
      {"top_p", 0, 1, true},
      {"min_p", 0, 1},
      {"typical_p", 0, 1, true},
      {"repetition_penalty", 0, 100, true},
      {"presence_penalty", -2, 2},
      {"frequency_penalty", -2, 2},
      {"logprobs", 0, kMaxLogprobs, false, true},
  }};
  return kRanges;
}

const NumberRange& sampling_range(std::string_view name) {
  for (const NumberRange& range : sampling_ranges())
    if (range.name == name) return range;
  throw InternalError("[sampling] range: expected a field of SamplingParams, got {}", name);
}

std::vector<std::string> sampling_problems(const SamplingParams& params, int64_t vocab) {
  std::vector<std::string> problems;
  const auto check = [&](std::string_view name, auto value) {
    const NumberRange& range = sampling_range(name);
    if (!range.contains(static_cast<double>(value)))
      problems.push_back(fmt::format("{}: expected {}, got {}", name, range.expected(), value));
  };
  check("temperature", params.temperature);
  check("top_k", params.top_k);
  check("top_p", params.top_p);
  check("min_p", params.min_p);
  check("typical_p", params.typical_p);
  check("repetition_penalty", params.repetition_penalty);
  check("presence_penalty", params.presence_penalty);
  check("frequency_penalty", params.frequency_penalty);
  if (params.logprobs) check("logprobs", *params.logprobs);
  if (params.logit_bias.size() > kMaxBiases) {
    problems.push_back(fmt::format("logit_bias: expected at most {} entries, got {}", kMaxBiases,
                                   params.logit_bias.size()));
    return problems;
  }
  std::vector<int32_t> ids;
  for (const auto& [id, bias] : params.logit_bias) {
    if (id < 0 || id >= vocab)
      problems.push_back(
          fmt::format("logit_bias: expected token ids from 0 to {}, got {}", vocab - 1, id));
    if (!(std::abs(bias) <= kMaxBias))
      problems.push_back(fmt::format("logit_bias[{}]: expected a number from {} to {}, got {}", id,
                                     -kMaxBias, kMaxBias, bias));
    ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice != ids.end())
    problems.push_back(fmt::format("logit_bias: expected each id once, got {} twice", *twice));
  return problems;
}

void throw_request_problems(const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  if (problems.size() == 1) throw RequestError("[request] {}", problems.front());
  Problems all;
  for (const std::string& problem : problems) all.add(problem);
  throw RequestError(all.text("[request] parameters: expected values in range, got"));
}

}  // namespace decant
