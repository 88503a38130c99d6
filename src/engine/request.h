#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "engine/media.h"
#include "sampling/params.h"
#include "sampling/sampler.h"

namespace decant {

using RequestId = uint64_t;  // 0: none

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kError };
/// "stop", "length", "cancelled", "error".
std::string_view name_of(FinishReason reason);

/// What one request took. Times in seconds from the monotonic clock; a rate is 0 where nothing was
/// measured.
struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;  // sampled, a stop id included
  double queue_seconds = 0;       // submitted until admitted
  double ttft_seconds = 0;        // submitted until the first token
  double prefill_seconds = 0;     // first chunk until the first token
  double decode_seconds = 0;      // first token until the last
  /// Prompt tokens over prefill time.
  double prefill_tokens_per_second() const;
  /// n tokens have n - 1 intervals between them; the first one is prefill's.
  double decode_tokens_per_second() const;
};

struct RequestResult {
  FinishReason reason = FinishReason::kStop;
  std::vector<int32_t> tokens;          // without the stop id
  int32_t stop_id = -1;                 // the stop id that ended it
  std::vector<TokenLogprobs> logprobs;  // one per token, if asked for
  std::string error;                    // kError: what happened
  ErrorKind error_kind = ErrorKind::kRuntime;
  RequestStats stats;
};

/// One generation: token ids in, token ids out. Callbacks run on the thread that steps the engine;
/// what they throw fails the request and no other.
struct Request {
  std::vector<int32_t> prompt;
  std::vector<PromptMedia> media;  // in the order of their placeholders in the prompt
  int64_t max_tokens = 0;          // 0: as many as the context has room for
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;
  /// If SamplingParams::logprobs asks for them: called before on_token.
  std::function<void(const TokenLogprobs&)> on_logprobs;
  /// Called for every token but a stop id; false ends the request with kStop.
  std::function<bool(int32_t token)> on_token;
  /// If set, called before on_token with the logits the token was taken from, [V].
  std::function<void(std::span<const float> logits)> on_logits;
  /// Called once, last.
  std::function<void(const RequestResult&)> on_finish;
};

/// What is wrong with the values of a request for a model of `vocab` tokens, prompt apart; one line
/// each, as sampling_problems.
std::vector<std::string> request_problems(const Request& request, int64_t vocab);

/// The queue is full: try again later.
class QueueFullError : public RequestError {
 public:
  using RequestError::RequestError;
};

}  // namespace decant
