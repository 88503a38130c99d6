#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "base/units.h"
#include "checkpoint/quantize.h"
#include "cli/bench_model.h"
#include "cli/console.h"
#include "cli/json_input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/quantize_recipe.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "session/evaluate.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kDefaultContext = 512;

struct Flags {
  ModelArgument model;
  std::string text;
  std::string reference;
  bool reference_exact = false;
  bool exact = false;
  int64_t context = 0;
  int64_t stride = 0;
  int64_t limit = 0;
  std::vector<std::string> formats;
  std::string device = "auto";
  int threads = 0;
  bool json = false;

  EvalModel::Options options(bool as_exact, int64_t window) const {
    return {.device = device, .threads = threads, .exact = as_exact, .context = window};
  }
};

// A model as it is stored, and what came out of it.
struct Row {
  std::string name;
  std::string route;
  std::string format;
  int64_t bytes = 0;
  double bits_per_weight = 0;
  Evaluation found;
};

struct Plan {
  std::string text;
  EvalText tokens;
  int64_t context = 0;
  int64_t stride = 0;
};

const char* route_of(bool exact) { return exact ? "exact" : "default"; }

// Of the reference, or of the model without one: what windows and tokens are made for.
Plan plan_for(const Flags& flags, const fs::path& folder) {
  Plan out;
  out.text = read_input(flags.text);
  const auto tokenizer = Tokenizer::load(folder);
  out.tokens = eval_text(*tokenizer, out.text);
  if (flags.limit > 0 && std::ssize(out.tokens.ids) > flags.limit)
    out.tokens.ids.resize(static_cast<size_t>(flags.limit));
  out.context = flags.context > 0 ? flags.context : kDefaultContext;
  const int64_t size = out.context - (out.tokens.bos ? 1 : 0);
  out.stride = flags.stride > 0 ? flags.stride : size;
  if (out.stride > size)
    throw UsageError("[eval] --stride: expected at most {} (the tokens of a window), got {}", size,
                     out.stride);
  return out;
}

EvalModel open(const Flags& flags, const fs::path& folder, bool exact, Plan& plan,
               Progress& progress) {
  progress.show(fmt::format("loading {}", folder.string()));
  if (flags.context == 0) {
    // A short model has no window of the default size.
    const LoadedModel loaded = load_model(folder);
    const int64_t trained = loaded.spec.max_position_embeddings;
    if (trained > 0 && trained < plan.context) {
      plan.context = trained;
      plan.stride = std::min(plan.stride, trained - (plan.tokens.bos ? 1 : 0));
    }
  }
  return EvalModel(folder, flags.options(exact, plan.context));
}

Row measure(const std::string& name, EvalModel& model, bool exact, EvalModel* reference,
            const Plan& plan, Progress& progress) {
  Row out;
  out.name = name;
  out.route = route_of(exact);
  out.format = main_format(model.loaded());
  out.bytes = model.loaded().weights->bytes();
  const auto parameters = static_cast<double>(std::max<int64_t>(1, parameters_of(model.loaded())));
  out.bits_per_weight = 8 * static_cast<double>(out.bytes) / parameters;
  out.found = evaluate(model, reference, plan.tokens, plan.context, plan.stride,
                       [&](int64_t done, int64_t count) {
                         check_signals();
                         progress.show(fmt::format("{}: window {} of {}", name, done + 1, count));
                       });
  return out;
}

Json number_of(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json json_of(const Perplexity& perplexity) {
  Json out = Json::object();
  out["tokens"] = perplexity.tokens;
  out["perplexity"] = number_of(perplexity.value());
  out["perplexity_error"] = number_of(perplexity.error());
  out["nll"] = number_of(perplexity.nll);
  out["nll_error"] = number_of(perplexity.nll_error);
  return out;
}

Json json_of(const Row& row) {
  Json out = Json::object();
  out["model"] = row.name;
  out["route"] = row.route;
  out["format"] = row.format;
  out["bytes"] = row.bytes;
  out["bits_per_weight"] = row.bits_per_weight;
  out.update(json_of(row.found.model));
  if (!row.found.divergence) return out;
  const Divergence& divergence = *row.found.divergence;
  Json& kl = out["kl"] = Json::object();
  kl["mean"] = number_of(divergence.mean);
  kl["p50"] = number_of(divergence.p50);
  kl["p90"] = number_of(divergence.p90);
  kl["p99"] = number_of(divergence.p99);
  kl["p99.9"] = number_of(divergence.p999);
  kl["max"] = number_of(divergence.max);
  out["top1_agreement"] = divergence.top1;
  out["perplexity_difference"] = number_of(row.found.model.value() - row.found.reference->value());
  out["nll_difference"] = number_of(divergence.nll_difference);
  out["nll_difference_error"] = number_of(divergence.nll_difference_error);
  return out;
}

Json json_head(const Flags& flags, const Plan& plan, const Evaluation& any) {
  Json out = Json::object();
  out["text"] = flags.text;
  out["text_tokens"] = any.text_tokens;
  out["windows"] = any.windows;
  out["context"] = plan.context;
  out["stride"] = plan.stride;
  return out;
}

std::string text_head(const Plan& plan, const Evaluation& any) {
  return fmt::format("{} tokens in {} windows (context {}, stride {}), {} scored\n",
                     any.text_tokens, any.windows, plan.context, plan.stride, any.model.tokens);
}

std::string text_of(const Perplexity& perplexity) {
  return fmt::format("{:.4f} +- {:.4f}", perplexity.value(), perplexity.error());
}

void print_report(const Flags& flags, const Plan& plan, const Row& row,
                  const std::string& reference, const std::string& reference_route) {
  if (flags.json) {
    Json out = json_head(flags, plan, row.found);
    out.update(json_of(row));
    if (row.found.reference) {
      Json& other = out["reference"] = Json::object();
      other["model"] = reference;
      other["route"] = reference_route;
      other.update(json_of(*row.found.reference));
    }
    print(out.dump(2) + "\n");
    return;
  }
  std::string out = text_head(plan, row.found);
  out += fmt::format("model        {} ({}, {} route, {})\nperplexity   {}\n", row.name, row.format,
                     row.route, format_bytes(static_cast<uint64_t>(row.bytes)),
                     text_of(row.found.model));
  if (row.found.divergence) {
    const Divergence& kl = *row.found.divergence;
    out += fmt::format("reference    {} ({} route)\nperplexity   {}\n", reference, reference_route,
                       text_of(*row.found.reference));
    out += fmt::format(
        "difference   {:+.4f} (ln ratio {:+.6f} +- {:.6f})\n"
        "KL           mean {:.3e}, 50 % {:.3e}, 90 % {:.3e}, 99 % {:.3e}, 99.9 % {:.3e}, max "
        "{:.3e}\n"
        "top-1        {:.2f} % the same\n",
        row.found.model.value() - row.found.reference->value(), kl.nll_difference,
        kl.nll_difference_error, kl.mean, kl.p50, kl.p90, kl.p99, kl.p999, kl.max, 100 * kl.top1);
  }
  print(out);
}

void compare(const Flags& flags) {
  const fs::path folder = flags.model.folder();
  const bool with = !flags.reference.empty() || flags.reference_exact;
  const fs::path other = flags.reference.empty() ? folder : flags.model.folder_of(flags.reference);
  if (with && flags.reference.empty() && flags.exact)
    throw UsageError(
        "[eval] --reference-exact: expected another model or MODEL without --exact, got "
        "the same route twice");
  Progress progress;
  Plan plan = plan_for(flags, folder);
  EvalModel model = open(flags, folder, flags.exact, plan, progress);
  std::optional<EvalModel> reference;
  if (with) {
    reference.emplace(open(flags, other, flags.reference_exact, plan, progress));
    check_same_tokens(model, *reference, plan.text);
  }
  const Row row =
      measure(flags.model.model, model, flags.exact, with ? &*reference : nullptr, plan, progress);
  progress.clear();
  print_report(flags, plan, row, flags.reference.empty() ? flags.model.model : flags.reference,
               route_of(flags.reference_exact));
}

void print_table(const Flags& flags, const Plan& plan, const std::vector<Row>& rows) {
  if (flags.json) {
    Json out = json_head(flags, plan, rows.front().found);
    out["rows"] = Json::array();
    for (const Row& row : rows) out["rows"].push_back(json_of(row));
    print(out.dump(2) + "\n");
    return;
  }
  std::string out = text_head(plan, rows.front().found);
  out += fmt::format("{:<14} {:>7} {:>11} {:>20} {:>10} {:>10} {:>10} {:>8}\n", "format", "bits/w",
                     "size", "perplexity", "KL mean", "KL 99 %", "KL max", "top-1");
  for (const Row& row : rows) {
    out += fmt::format("{:<14} {:>7.3f} {:>11} {:>20}", row.name, row.bits_per_weight,
                       format_bytes(static_cast<uint64_t>(row.bytes)), text_of(row.found.model));
    if (const auto& kl = row.found.divergence)
      out += fmt::format(" {:>10.3e} {:>10.3e} {:>10.3e} {:>6.2f} %\n", kl->mean, kl->p99, kl->max,
                         100 * kl->top1);
    else
      out += fmt::format(" {:>10} {:>10} {:>10} {:>8}\n", "-", "-", "-", "-");
  }
  print(out);
}

// One quantised copy is on the disk at a time; the unquantised model is the reference of all.
void sweep(const Flags& flags) {
  if (!flags.reference.empty())
    throw UsageError("[eval] --formats compares with MODEL itself: it takes no --reference");
  const fs::path folder = flags.model.folder();
  std::vector<Recipe> recipes;
  for (const std::string& format : flags.formats) recipes.push_back(recipe_for(folder, format));
  Progress progress;
  Plan plan = plan_for(flags, folder);
  EvalModel reference = open(flags, folder, flags.reference_exact, plan, progress);
  std::vector<Row> rows;
  rows.push_back(measure(main_format(reference.loaded()), reference, flags.reference_exact, nullptr,
                         plan, progress));
  for (size_t i = 0; i < recipes.size(); ++i) {
    const TemporaryFolder temporary("decant-eval");
    const fs::path target = temporary.path() / "model";
    QuantizeOptions options;
    options.progress = [&](const std::string& module, size_t done, size_t count) {
      progress.show(fmt::format("{}: {}/{} {}", flags.formats[i], done, count, module));
    };
    quantize_checkpoint(folder, target, recipes[i], options);
    EvalModel model(target, flags.options(flags.exact, plan.context));
    rows.push_back(measure(flags.formats[i], model, flags.exact, &reference, plan, progress));
  }
  progress.clear();
  print_table(flags, plan, rows);
}

}  // namespace

Verb add_eval(CLI::App& root) {
  CLI::App& app = add_verb(root, "eval", "Perplexity of a text, and divergence from another model");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->model)->required();
  app.add_option("--text", flags->text, "The text, UTF-8 (- for stdin)")
      ->type_name("FILE")
      ->required();
  app.add_option("--reference", flags->reference,
                 "A second model for the same tokens: KL(reference || MODEL), top-1, difference")
      ->type_name("MODEL");
  app.add_flag("--reference-exact", flags->reference_exact,
               "The reference in float32; without --reference it is MODEL itself");
  app.add_flag("--exact", flags->exact, "MODEL with float32 products and caches");
  app.add_option(
         "--formats", flags->formats,
         "Quantise MODEL in each of these (4bit,3bit-g32,mxfp4,nvfp4,mixed-4-6 ...) and compare")
      ->delimiter(',');
  app.add_option("--context", flags->context,
                 "Positions of a window (default: 512, or what the model has)")
      ->check(whole_number(2, std::numeric_limits<int32_t>::max()));
  app.add_option("--stride", flags->stride,
                 "Tokens from one window to the next (default: windows do not overlap)")
      ->check(whole_number(1, std::numeric_limits<int32_t>::max()));
  app.add_option("--limit", flags->limit, "Only the first N tokens of the text")
      ->check(whole_number(2, std::numeric_limits<int64_t>::max()));
  app.add_option("--device", flags->device, "Where it runs")
      ->check(device_name())
      ->capture_default_str();
  app.add_option("--threads", flags->threads, "CPU threads (0: one per core)")
      ->check(whole_number(0, 1024))
      ->capture_default_str();
  app.add_flag("--json", flags->json, "Print JSON");
  finish_verb(app,
              "  decant eval Qwen3-0.6B-4bit --text notes.txt\n"
              "  decant eval Qwen3-0.6B-4bit --text notes.txt --reference Qwen/Qwen3-0.6B\n"
              "  decant eval Qwen/Qwen3-0.6B --text notes.txt --formats 8bit,nvfp4,mixed-4-6\n"
              "  decant eval model --text notes.txt --reference-exact --json\n");
  return {&app, [flags] { flags->formats.empty() ? compare(*flags) : sweep(*flags); }};
}

}  // namespace decant::cli
