#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "decant/decant.h"

namespace decant::cli {

/// The flags that say how an answer is made, as declared on a verb; the values are read once it is
/// parsed.
class SamplingFlags {
 public:
  void declare(CLI::App& app);
  /// Sets what was asked for, by flag or environment: the rest comes from the model's
  /// generation_config.json.
  void fill(GenerateOptions& options) const;

 private:
  std::vector<std::pair<std::string_view, const CLI::Option*>> options_;
};

/// `token 12 " sky" logprob -0.1034; likeliest: 12 " sky" -0.1034, 7 " sea" -2.5170`
std::string logprob_line(const LanguageModel& model, const TokenLogprob& token);

}  // namespace decant::cli
