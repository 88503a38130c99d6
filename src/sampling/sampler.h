#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "graph/batch.h"

namespace decant {

/// Uniform number in [0, 1) of a request's `counter`-th token: a function of (seed, counter) alone,
/// so that the same seed gives the same tokens whatever else runs. Source  Salmon et al. 2011,
/// Philox4x32-10.
double uniform_at(uint64_t seed, uint64_t counter);

/// What sample_token gives instead of a token: the request fails with the cause by name.
inline constexpr int32_t kNanLogits = -1;       // a logit is NaN
inline constexpr int32_t kInfiniteLogits = -2;  // a logit is +inf, or none is finite
inline constexpr int32_t kAllBanned = -3;       // logit_bias has left no token

/// The token a row of logits gives: host reference of every sampling kernel. The order:
///
/// 1. bias. First, as in Hugging Face, vLLM and llama.cpp: it is a statement about the model's own
///    logits. x += bias; a bias of kBannedBias or less makes x = -inf, which is what OpenAI says of
///    -100 and what addition alone would not promise under a penalty or a high temperature.
/// 2. repetition_penalty r, for every token of prompt and answer: x = x > 0 ? x / r : x * r.
/// Hugging
///    Face's sign rule, which vLLM and llama.cpp follow; a token counts once however often it came.
/// 3. frequency and presence penalty, for tokens of the answer only, as OpenAI and vLLM define
/// them:
///    x -= frequency * count + presence. After the repetition penalty as in vLLM and llama.cpp,
///    since subtraction could change the sign that rule looks at.
/// 4. temperature t: x / t; 0 takes the largest x here, the lowest id among equals. Before the
///    filters as in Hugging Face and vLLM: the shares below are shares of what is drawn from.
/// 5. top_k: the k largest x. The cheapest cut goes first, as everywhere.
/// 6. typical_p: in ascending order of | -log p - H |, H the entropy of what is left, the first
///    tokens whose sum reaches typical_p. Before top_p as in llama.cpp: it may drop the likeliest
///    token, which top_p and min_p then must not measure by. Source  Meister et al. 2022.
/// 7. top_p: in descending order of p, the first tokens whose sum reaches top_p. Source  Holtzman
/// et
///    al. 2020.
/// 8. min_p: the tokens with p >= min_p * max p. Last of the filters as in llama.cpp and Hugging
///    Face; it needs no sum.
/// 9. the draw: the inverse of the cumulative distribution over ascending ids at uniform_at(seed,
///    counter).
///
/// p is always the softmax over what the filters before have left (Hugging Face masks and
/// normalises again). Equal tokens are taken in the order of their ids, so that k means k; each
/// filter leaves at least one. Sums and exponentials are doubles. A row depends on nothing but
/// itself.
///
/// `scratch`: at least sample_scratch_bytes(V) bytes, 64-byte aligned; nothing is allocated.
/// Without it the thread keeps one of its own.
int32_t sample_token(std::span<const float> logits, const SamplingRow& row,
                     std::span<std::byte> scratch);
int32_t sample_token(std::span<const float> logits, const SamplingRow& row);
size_t sample_scratch_bytes(size_t vocab);

/// True if steps 1 to 3 change a logit of this row.
bool adjusts_logits(const SamplingRow& row);
/// Steps 1 to 3 on a row.
void adjust_logits(std::span<float> logits, const SamplingRow& row);

/// Logarithms of probabilities under the model's own distribution: the softmax of the raw logits,
/// before bias, penalties, temperature and filters. What OpenAI, vLLM (raw_logprobs, its default)
/// and llama.cpp report; unlike the final distribution it says something about the text, and it is
/// the same for every setting.
struct TokenLogprobs {
  int32_t token = -1;
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> top;  // likeliest first, the lower id among equals
};
/// `n` likeliest tokens beside the chosen one; fewer where fewer are possible. No logit may be NaN
/// or +inf.
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t token, int32_t n);

}  // namespace decant
