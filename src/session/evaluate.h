#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "models/load_model.h"
#include "tokenizer/tokenizer.h"

namespace decant {

/// The tokens of a text and what its tokenizer puts before every one of them.
struct EvalText {
  std::vector<int32_t> ids;
  std::optional<int32_t> bos;
};
EvalText eval_text(const Tokenizer& tokenizer, std::string_view text);

/// A part of the text that a model sees at once. Tokens [score_from, end) are predicted from those
/// between begin and them.
struct EvalWindow {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t score_from = 0;
};
/// Windows of at most `context` positions (a BOS takes one) that begin every `stride` tokens; each
/// token is scored once, in the first window that holds it with something before it. Without a BOS
/// nothing precedes the first token of the text and, where the windows do not overlap, of a window.
/// 1 <= stride <= the tokens of a window; context >= 2.
std::vector<EvalWindow> eval_windows(int64_t tokens, int64_t context, int64_t stride, bool bos);

/// Mean negative log likelihood per token in nats; the errors are standard errors.
struct Perplexity {
  int64_t tokens = 0;
  double nll = 0;
  double nll_error = 0;
  double value() const;
  double error() const { return value() * nll_error; }
};

/// KL(reference || model) over the same positions, in nats. Percentiles are interpolated.
struct Divergence {
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p99 = 0;
  double p999 = 0;
  double max = 0;
  double top1 = 0;            // share of positions where both have the same likeliest token
  double nll_difference = 0;  // model - reference, with the error of the paired difference
  double nll_difference_error = 0;
};

/// What was found at one position.
struct PositionScore {
  double nll = 0;
  int32_t top = 0;  // lowest id of the largest logit
  double kl = 0;
};
/// Scores one row of logits in float64, against `reference` if that is not empty. Errors:
/// RuntimeError for NaN or +inf.
PositionScore score_position(std::span<const float> logits, int32_t target,
                             std::span<const float> reference = {});

/// The q-th quantile (0 to 1) of ascending values, interpolated linearly.
double quantile(std::span<const double> ascending, double q);

/// A model on a backend of its own, ready to score windows.
class EvalModel {
 public:
  struct Options {
    std::string device = "auto";
    int threads = 0;
    bool exact = false;
    int64_t context = 0;  // positions of a window
  };
  /// Errors: those of load_model, Tokenizer::load and Engine; UsageError for a context longer than
  /// the model's.
  EvalModel(const std::filesystem::path& folder, const Options& options);

  const std::filesystem::path& folder() const { return folder_; }
  const LoadedModel& loaded() const { return *loaded_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  Engine& engine() { return *engine_; }
  int64_t vocab_size() const { return loaded_->spec.vocab_size; }

 private:
  std::filesystem::path folder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Backend> backend_;
  std::shared_ptr<LoadedModel> loaded_;
  std::unique_ptr<Engine> engine_;
};

struct Evaluation {
  int64_t text_tokens = 0;
  int64_t windows = 0;
  Perplexity model;
  std::optional<Perplexity> reference;
  std::optional<Divergence> divergence;
};

/// Throws UsageError naming both models unless they have vocabularies of one size and give the
/// same tokens for `text`.
void check_same_tokens(const EvalModel& model, const EvalModel& reference, std::string_view text);

/// Scores the text in windows; both models go through a window side by side, so that the logits of
/// one chunk are all that is kept. `progress` gets windows done and their number. Errors:
/// RequestError for a text with fewer than two scored tokens; RuntimeError naming the token where
/// logits are not numbers.
Evaluation evaluate(EvalModel& model, EvalModel* reference, const EvalText& text, int64_t context,
                    int64_t stride, const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace decant
