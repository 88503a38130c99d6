#include "engine/request.h"

namespace decant {

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      break;
  }
  return "error";
}

std::vector<std::string> request_problems(const Request& request, int64_t vocab) {
  std::vector<std::string> problems;
  if (request.max_tokens < 0)
    problems.push_back(fmt::format("max_tokens: expected 0 or more, got {}", request.max_tokens));
  for (std::string& problem : sampling_problems(request.sampling, vocab))
    problems.push_back(std::move(problem));
  return problems;
}

double RequestStats::prefill_tokens_per_second() const {
  return prefill_seconds > 0 ? static_cast<double>(prompt_tokens) / prefill_seconds : 0;
}

double RequestStats::decode_tokens_per_second() const {
  return completion_tokens > 1 && decode_seconds > 0
             ? static_cast<double>(completion_tokens - 1) / decode_seconds
             : 0;
}

}  // namespace decant
