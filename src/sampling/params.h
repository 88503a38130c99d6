#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/batch.h"

namespace decant {

/// How the tokens of a request are chosen; off values as in SamplingRow.
struct SamplingParams {
  float temperature = 0;  // 0: greedy
  int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float typical_p = 1;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint64_t seed = 0;
  std::optional<int32_t> logprobs = {};  // likeliest tokens reported beside each; absent: none, and
                                         // no logprob of the token itself
  std::vector<TokenBias> logit_bias = {};  // each id once

  bool penalised() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
};

inline constexpr int32_t kMaxLogprobs = 20;
inline constexpr size_t kMaxBiases = 1024;
inline constexpr float kMaxBias = 100;

/// The values one of the numbers above may have.
struct NumberRange {
  std::string_view name;  // as the field is called
  double low = 0, high = 0;
  bool above_low = false;  // low itself is none of them
  bool whole = false;
  bool contains(double value) const;  // false for NaN
  std::string expected() const;       // "a number above 0 and at most 1"
};
/// All fields but seed and logit_bias. Errors: InternalError for a name that is none of them.
std::span<const NumberRange> sampling_ranges();
const NumberRange& sampling_range(std::string_view name);

/// What is wrong with the parameters, one line each: `top_p: expected a number above 0 and at most
/// 1, got 1.5`. `vocab` bounds the ids of logit_bias.
std::vector<std::string> sampling_problems(const SamplingParams& params, int64_t vocab);

/// Throws RequestError with all of these if there are any: `[request] ` and the only one, or a
/// headline and a line for each.
void throw_request_problems(const std::vector<std::string>& problems);

}  // namespace decant
