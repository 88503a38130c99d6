#include "cli/bench_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/errors.h"
#include "base/units.h"
#include "checkpoint/recipe.h"
#include "cli/options.h"
#include "cli/signals.h"

namespace decant::cli {
namespace {

Format parse_format(const ModelChoice& choice) {
  if (choice.format == "bf16") return Format::dense(DType::kBF16);
  if (choice.format == "f16") return Format::dense(DType::kF16);
  if (choice.format == "f32") return Format::dense(DType::kF32);
  const Format format = Recipe::named(choice.format).format;
  if (format.is_micro() || choice.format.find("-g") != std::string::npos) return format;
  return Format::affine(format.bits, choice.group);
}

}  // namespace

void add_model_flags(CLI::App& app, ModelChoice& choice) {
  add_model_argument(app, choice.model);
  app.add_option("--dummy", choice.dummy,
                 "A config.json: random weights in its shapes instead of a MODEL")
      ->type_name("FILE");
  app.add_option("--format", choice.format,
                 "With --dummy: bf16, f16, f32, 1bit to 8bit, mxfp4, mxfp8 or nvfp4")
      ->capture_default_str();
  app.add_option("--group", choice.group, "With --dummy: elements that share a scale")
      ->check(one_of({"32", "64", "128"}))
      ->capture_default_str();
  app.add_option("--seed", choice.seed, "With --dummy: of the random weights")
      ->capture_default_str();
}

LoadedModel load_choice(const ModelChoice& choice) {
  if (choice.model.given() != choice.dummy.empty())
    throw UsageError("[model] expected MODEL or --dummy CONFIG.json, got {}",
                     !choice.model.given() ? "neither" : "both");
  if (choice.model.given()) return load_model(choice.model.folder());
  DummyOptions options;
  options.format = parse_format(choice);
  options.seed = choice.seed;
  options.towers = choice.towers;
  const TemporaryFolder folder("decant-dummy");
  options.folder = folder.path();
  return load_dummy(choice.dummy, options);
}

int64_t parameters_of(const LoadedModel& loaded) {
  int64_t count = 0;
  for (const Weight* weight : loaded.weights->weights()) count += weight->shape.count();
  return count;
}

std::string main_format(const LoadedModel& loaded) {
  std::map<std::string, int64_t> bytes;
  for (const Weight* weight : loaded.weights->weights())
    bytes[weight->format.name()] += weight->bytes();
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == bytes.end() ? "none" : most->first;
}

std::string describe_model(const LoadedModel& loaded) {
  return fmt::format("{}, {} parameters, {}, {} of weights", loaded.spec.model_type,
                     format_count(static_cast<uint64_t>(parameters_of(loaded))),
                     main_format(loaded),
                     format_bytes(static_cast<uint64_t>(loaded.weights->bytes())));
}

}  // namespace decant::cli
