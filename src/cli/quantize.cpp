#include "checkpoint/quantize.h"

#include <sys/resource.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>

#include "base/errors.h"
#include "base/json.h"
#include "base/units.h"
#include "checkpoint/recipe.h"
#include "cli/console.h"
#include "cli/json_input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/quantize_recipe.h"
#include "cli/signals.h"
#include "cli/verbs.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

struct Flags {
  ModelArgument source;
  std::string target;
  std::string format;
  int group = 64;
  std::string recipe;
  std::string dtype;
  uint64_t shard_bytes = QuantizeOptions().shard_limit_bytes;
  bool search = false;
  CLI::Option* group_option = nullptr;
};

void set_group(Recipe& recipe, int group) {
  const auto changed = [&](const Format& format) {
    if (format.is_micro()) return format;  // its group is its own
    if (!affine_supported(format.bits, group))
      throw UsageError("[quantize] {}-bit with group {}: expected group 32, 64 or 128", format.bits,
                       group);
    return Format::affine(format.bits, group, format.dtype);
  };
  recipe.format = changed(recipe.format);
  for (RecipeRule& rule : recipe.rules)
    if (rule.format) rule.format = changed(*rule.format);
}

Recipe recipe_of(const Flags& flags, const fs::path& source) {
  if (flags.format.empty() && flags.recipe.empty())
    throw UsageError("[quantize] expected --format FORMAT or --recipe NAME, got neither");
  const std::string& name = flags.recipe.empty() ? flags.format : flags.recipe;
  Recipe out;
  std::error_code error;
  if (!flags.recipe.empty() && fs::is_regular_file(flags.recipe, error)) {
    out = Recipe::from_json(read_json_input(flags.recipe), flags.recipe);
  } else {
    out = recipe_for(source, name);
  }
  // With both, the recipe's rules stand and the format is that of all other modules.
  if (!flags.format.empty() && !flags.recipe.empty()) {
    const Format format = Recipe::named(flags.format).format;
    if (!out.rules.empty() && out.rules.back().pattern == "*") out.rules.pop_back();
    out.format = format;
  }
  if (flags.group_option->count() > 0) set_group(out, flags.group);
  return out;
}

void run(const Flags& flags) {
  const fs::path source = flags.source.folder();
  const Recipe recipe = recipe_of(flags, source);
  QuantizeOptions options;
  if (flags.dtype == "f16") options.dtype = DType::kF16;
  if (flags.dtype == "bf16") options.dtype = DType::kBF16;
  if (flags.dtype == "f32") options.dtype = DType::kF32;
  Progress progress;
  options.shard_limit_bytes = flags.shard_bytes;
  options.search = flags.search;
  // A signal is taken between two modules, so that whole shards are kept and the rest is removed.
  DeferSignals defer;
  options.progress = [&](const std::string& module, size_t done, size_t count) {
    check_signals();
    progress.show(fmt::format("{}/{} {}", done, count, module));
  };
  const QuantizeReport report = [&] {
    try {
      return quantize_checkpoint(source, flags.target, recipe, options);
    } catch (...) {
      progress.clear();
      std::error_code error;
      if (const fs::path kept = partial_folder(flags.target); fs::exists(kept, error))
        note(fmt::format("whole shards are kept in {}: the same command goes on from there",
                         kept.string()));
      throw;
    }
  }();
  progress.clear();
  if (report.kept_shards > 0)
    note(fmt::format("{} of {} shards were there from an earlier run", report.kept_shards,
                     report.shards));
  if (flags.search && report.error.values > 0) {
    const double found = std::sqrt(report.error.found / report.error.values);
    const double nearest = std::sqrt(report.error.nearest / report.error.values);
    note(fmt::format("relative error {:.5f}, rounded to nearest {:.5f} ({:+.1f} %)", found, nearest,
                     nearest > 0 ? 100 * (found / nearest - 1) : 0.0));
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  note(fmt::format("wrote {} ({}, {:.3f} bits per weight, {} in {} shard{}), peak memory {}",
                   flags.target, recipe.name,
                   8 * static_cast<double>(report.bytes) / static_cast<double>(report.parameters),
                   format_bytes(report.bytes), report.shards, report.shards == 1 ? "" : "s",
                   format_bytes(static_cast<uint64_t>(usage.ru_maxrss) * 1024)));
}

}  // namespace

Verb add_quantize(CLI::App& root) {
  CLI::App& app = add_verb(root, "quantize", "Write a quantised copy of a checkpoint");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->source, "Unquantised model: a folder, or a name (decant list)",
                     "SRC")
      ->required();
  app.add_option("DST", flags->target, "Folder to write: new, or empty")
      ->type_name("DIR")
      ->required();
  app.add_option("--format", flags->format,
                 "1bit, 2bit, 3bit, 4bit, 5bit, 6bit, 8bit, 4bit-g32 ..., mxfp4, mxfp8, nvfp4");
  flags->group_option = app.add_option("--group", flags->group, "Elements that share a scale")
                            ->check(one_of({"32", "64", "128"}));
  app.add_option(
         "--recipe", flags->recipe,
         "mixed-2-6, mixed-3-4, mixed-3-6, mixed-4-6, nvfp4-experts, glm-demolition, or a JSON "
         "file with rules")
      ->type_name("FILE");
  app.add_option("--dtype", flags->dtype, "Type of scales and of what stays dense")
      ->check(one_of({"bf16", "f16", "f32"}));
  app.add_flag("--search", flags->search,
               "Search the scales of the least error for every group; slower");
  app.add_option("--shard-size", flags->shard_bytes, "Most bytes of a file of weights: 5GB, 500MB")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE");
  finish_verb(app,
              "  decant quantize Qwen3-0.6B Qwen3-0.6B-4bit --format 4bit\n"
              "  decant quantize Qwen3-30B-A3B out --format nvfp4 --search --shard-size 2GB\n"
              "  decant quantize Qwen3-0.6B out --recipe mixed-4-6 --group 32\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
