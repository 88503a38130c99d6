#include "cli/answer_json.h"

#include <string>

namespace decant::cli {
namespace {

Json token_json(const LanguageModel& model, int32_t token, double logprob) {
  return {{"token", token}, {"text", model.detokenize({token})}, {"logprob", logprob}};
}

Json logprobs_json(const LanguageModel& model, const std::vector<TokenLogprob>& tokens) {
  Json out = Json::array();
  for (const TokenLogprob& token : tokens) {
    Json entry = token_json(model, token.token, token.logprob);
    entry["top"] = Json::array();
    for (const auto& [id, logprob] : token.top)
      entry["top"].push_back(token_json(model, id, logprob));
    out.push_back(std::move(entry));
  }
  return out;
}

Json figures_json(const Figures& figures, int64_t peak_bytes) {
  return {{"prompt_tokens", figures.prompt_tokens},
          {"completion_tokens", figures.completion_tokens},
          {"ttft_seconds", figures.ttft_seconds},
          {"prefill_seconds", figures.prefill_seconds},
          {"decode_seconds", figures.decode_seconds},
          {"prefill_tok_s", figures.prefill_tokens_per_second},
          {"decode_tok_s", figures.decode_tokens_per_second},
          {"peak_memory_bytes", peak_bytes}};
}

}  // namespace

Json answer_json(const LanguageModel& model, const Completion& completion) {
  Json out = {{"model_type", model.model_type()},
              {"device", model.device()},
              {"text", completion.text},
              {"tokens", completion.tokens},
              {"finish", name_of(completion.finish)},
              {"stop_string", nullptr},
              {"stop_token", nullptr},
              {"seed", completion.seed},
              {"figures", figures_json(completion.figures, model.figures().peak_process_bytes)}};
  if (!completion.stop_string.empty()) out["stop_string"] = completion.stop_string;
  if (completion.stop_token >= 0) out["stop_token"] = completion.stop_token;
  if (!completion.logprobs.empty()) out["logprobs"] = logprobs_json(model, completion.logprobs);
  return out;
}

std::string json_text(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace decant::cli
