#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/json.h"
#include "base/units.h"
#include "cli/bench_model.h"
#include "cli/console.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "engine/memory.h"
#include "engine/programs.h"
#include "program/ledger.h"
#include "program/passes.h"

namespace decant::cli {
namespace {

struct Flags {
  ModelArgument model;
  int64_t ctx_size = 0;
  bool json = false;
};

// Modules of one kind (the same path in every layer) that are stored alike.
struct Kind {
  std::string name;
  std::string shape;
  std::string format;
  std::string source;  // how the file has it where another tool quantised it
  int64_t count = 0;
  int64_t parameters = 0;
  int64_t bytes = 0;
};

struct Summary {
  std::string model_type;
  int64_t layers = 0;
  int64_t parameters = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  int64_t ctx_size = 0;
  std::vector<Kind> kinds;
  Cost decode;  // of one token at batch 1 with the context full
  int64_t weights = 0;
  int64_t made = 0;  // of those: converted at load
  int64_t kv = 0;
  int64_t states = 0;
  std::optional<int64_t> draft;  // bytes of a layer that drafts tokens: not part of the others
  int64_t total() const { return weights + kv + states; }
};

// "model.layers.3.self_attn.q_proj.weight" -> "layers.*.self_attn.q_proj"
std::string kind_of(const std::string& name) {
  std::string out;
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    const std::string part = name.substr(at, dot - at);
    at = dot + 1;
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    if ((part == "weight" && at > name.size()) || (out.empty() && part == "model")) continue;
    out += (out.empty() ? "" : ".") + (number ? std::string("*") : part);
  }
  return out;
}

// Small parameters are held as float32; what counts here is how the file has them.
std::string stored_format(const LoadedModel& loaded, const Weight& weight) {
  if (weight.format.is_dense() && weight.source.empty())
    for (const char* suffix : {"", ".weight"})
      if (const TensorRef tensor = loaded.checkpoint->find(weight.name + suffix))
        return is_dense_float(tensor->dtype) ? Format::dense(tensor->dtype).name()
                                             : std::string(name_of(tensor->dtype));
  return weight.format.name();
}

std::vector<Kind> kinds_of(const LoadedModel& loaded) {
  std::vector<Kind> out;
  std::map<std::string, size_t> index;
  for (const Weight* weight : loaded.weights->weights()) {
    Kind kind{kind_of(weight->name), weight->shape.to_string(), stored_format(loaded, *weight),
              weight->source};
    const auto [at, fresh] =
        index.try_emplace(kind.name + kind.shape + kind.format + kind.source, out.size());
    if (fresh) out.push_back(std::move(kind));
    Kind& entry = out[at->second];
    ++entry.count;
    entry.parameters += weight->shape.count();
    entry.bytes += weight->bytes();
  }
  return out;
}

Summary summarise(const Flags& flags) {
  const LoadedModel loaded = load_model(flags.model.folder(), {.contents = false});
  Summary out;
  out.model_type = loaded.spec.model_type;
  out.layers = std::ssize(loaded.spec.kv);
  out.parameters = parameters_of(loaded);
  out.vocab_size = loaded.spec.vocab_size;
  out.max_positions = loaded.spec.max_position_embeddings;
  out.kinds = kinds_of(loaded);
  out.weights = loaded.weights->bytes();
  if (loaded.spec.draft)
    out.draft =
        load_model(flags.model.folder(), {.draft = true, .contents = false}).weights->bytes() -
        out.weights;
  for (const Weight* weight : loaded.weights->weights()) out.made += weight->made_bytes;

  PoolRequest request;
  request.ctx_size = flags.ctx_size > 0 ? flags.ctx_size : out.max_positions;
  request.budget = std::numeric_limits<int64_t>::max() / 4;  // what it would take, not what fits
  const PoolPlan plan = plan_pools(loaded.spec, request);
  out.ctx_size = plan.memory.ctx_size;
  out.kv = plan.memory.kv;
  out.states = plan.memory.states;

  const Graph graph =
      expand_composites(record_step(*loaded.model, {Phase::kDecode, 1, 1, 1}), bind_primitives());
  out.decode = total(ledger(graph, batch_for_costs(Phase::kDecode, 1, out.ctx_size - 1, 1)));
  return out;
}

std::string bytes_text(double bytes) { return format_bytes(static_cast<uint64_t>(bytes)); }
std::string bytes_text(int64_t bytes) { return format_bytes(static_cast<uint64_t>(bytes)); }

std::string text_of(const Summary& summary) {
  std::string out =
      fmt::format("family      {}\nparameters  {}\nvocabulary  {}\ncontext     up to {}\n",
                  summary.model_type, format_count(static_cast<uint64_t>(summary.parameters)),
                  summary.vocab_size, summary.max_positions);
  if (summary.draft)
    out += fmt::format("draft layer {}, not counted below\n", bytes_text(*summary.draft));
  out += "\n";
  const auto format_text = [](const Kind& kind) {
    return kind.source.empty() ? kind.format : kind.source + " -> " + kind.format;
  };
  size_t width = 10;
  for (const Kind& kind : summary.kinds) width = std::max(width, format_text(kind).size());
  out += fmt::format("{:<44} {:>6} {:<18} {:<{}} {:>11}\n", "module", "count", "shape", "format",
                     width, "bytes");
  for (const Kind& kind : summary.kinds)
    out += fmt::format("{:<44} {:>6} {:<18} {:<{}} {:>11}\n", kind.name, kind.count, kind.shape,
                       format_text(kind), width, bytes_text(kind.bytes));
  out += fmt::format("\nread per generated token (batch 1, {} positions cached)\n",
                     summary.ctx_size - 1);
  out += fmt::format("  weights   {}\n  kv        {}\n  total     {}\n",
                     bytes_text(summary.decode.weight_bytes), bytes_text(summary.decode.kv_bytes),
                     bytes_text(summary.decode.weight_bytes + summary.decode.kv_bytes));
  const std::string made =
      summary.made > 0 ? fmt::format(" ({} converted at load)", bytes_text(summary.made)) : "";
  out += fmt::format("\nmemory at a context of {}\n  weights   {}{}\n  kv        {}\n",
                     summary.ctx_size, bytes_text(summary.weights), made, bytes_text(summary.kv));
  if (summary.states > 0) out += fmt::format("  states    {}\n", bytes_text(summary.states));
  return out + fmt::format("  total     {}\n", bytes_text(summary.total()));
}

Json json_of(const Summary& summary) {
  Json out = Json::object();
  out["family"] = summary.model_type;
  out["parameters"] = summary.parameters;
  out["vocab_size"] = summary.vocab_size;
  out["max_position_embeddings"] = summary.max_positions;
  if (summary.draft) out["draft_layer_bytes"] = *summary.draft;
  out["modules"] = Json::array();
  for (const Kind& kind : summary.kinds) {
    Json entry = Json::object();
    entry["module"] = kind.name;
    entry["count"] = kind.count;
    entry["shape"] = kind.shape;
    entry["format"] = kind.format;
    if (!kind.source.empty()) entry["stored_as"] = kind.source;
    entry["parameters"] = kind.parameters;
    entry["bytes"] = kind.bytes;
    out["modules"].push_back(std::move(entry));
  }
  Json& token = out["bytes_per_token"] = Json::object();
  token["weights"] = static_cast<int64_t>(summary.decode.weight_bytes);
  token["kv"] = static_cast<int64_t>(summary.decode.kv_bytes);
  token["total"] = static_cast<int64_t>(summary.decode.weight_bytes + summary.decode.kv_bytes);
  Json& memory = out["memory"] = Json::object();
  memory["ctx_size"] = summary.ctx_size;
  memory["weights"] = summary.weights;
  memory["converted"] = summary.made;
  memory["kv"] = summary.kv;
  memory["states"] = summary.states;
  memory["total"] = summary.total();
  return out;
}

void run(const Flags& flags) {
  const Summary summary = summarise(flags);
  print(flags.json ? json_of(summary).dump(2) + "\n" : text_of(summary));
}

}  // namespace

Verb add_inspect(CLI::App& root) {
  CLI::App& app = add_verb(root, "inspect", "Family, formats and memory of a model");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->model)->required();
  app.add_option("--ctx-size", flags->ctx_size,
                 "Context length to count for (default: the model's)")
      ->check(whole_number(1, std::numeric_limits<int32_t>::max()));
  app.add_flag("--json", flags->json, "Print JSON");
  finish_verb(app,
              "  decant inspect demo/model\n"
              "  decant inspect Qwen3-8B-4bit --ctx-size 32768 --json\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
