#include "graph/graph.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "backend/backend.h"
#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/units.h"
#include "cli/answer_json.h"
#include "cli/bench_model.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "engine/programs.h"
#include "program/ledger.h"

namespace decant::cli {
namespace {

struct Flags {
  ModelChoice choice;
  std::string phase = "decode";
  int tokens = 128;
  int batch = 1;
  int64_t context = 512;
  std::string device = "auto";
  bool exact = false;
  std::string dot;
  bool histogram = false;
  bool json = false;
};

std::string engineering(double value) {
  return value >= 1e9   ? fmt::format("{:.2f} G", value / 1e9)
         : value >= 1e6 ? fmt::format("{:.2f} M", value / 1e6)
         : value >= 1e3 ? fmt::format("{:.2f} k", value / 1e3)
                        : fmt::format("{:.0f}", value);
}

std::string bytes_text(double bytes) {
  return bytes > 0 ? format_bytes(static_cast<uint64_t>(bytes)) : "-";
}

std::string table_of(const Graph& graph, const Batch& batch) {
  const std::vector<LedgerRow> rows = ledger(graph, batch);
  std::string out = fmt::format("{:>5} {:<18} {:<30} {:<16} {:>11} {:>11} {:>11} {:>10}\n", "node",
                                "op", "scope", "result", "weights", "kv", "activations", "flops");
  for (const LedgerRow& row : rows) {
    const Node& node = graph.nodes()[static_cast<size_t>(row.node)];
    const std::string shape =
        node.outputs.empty() ? "" : graph.value(node.outputs.front()).type.shape.to_string();
    out += fmt::format("{:>5} {:<18} {:<30} {:<16} {:>11} {:>11} {:>11} {:>10}\n", row.node, row.op,
                       row.scope, shape, bytes_text(row.cost.weight_bytes),
                       bytes_text(row.cost.kv_bytes), bytes_text(row.cost.activation_bytes),
                       engineering(row.cost.flops));
  }
  const Cost sum = total(rows);
  return out + fmt::format("{:>5} {:<18} {:<30} {:<16} {:>11} {:>11} {:>11} {:>10}\n", "",
                           fmt::format("{} nodes", rows.size()), "", "",
                           bytes_text(sum.weight_bytes), bytes_text(sum.kv_bytes),
                           bytes_text(sum.activation_bytes), engineering(sum.flops));
}

Json cost_json(const Cost& cost) {
  return {{"weight_bytes", cost.weight_bytes},
          {"kv_bytes", cost.kv_bytes},
          {"activation_bytes", cost.activation_bytes},
          {"flops", cost.flops}};
}

Json json_of(const Graph& graph, const Batch& batch) {
  const std::vector<LedgerRow> rows = ledger(graph, batch);
  Json nodes = Json::array();
  for (const LedgerRow& row : rows) {
    Json entry = {
        {"node", row.node}, {"op", row.op}, {"scope", row.scope}, {"shapes", Json::array()}};
    for (const int id : graph.nodes()[static_cast<size_t>(row.node)].outputs) {
      const Shape& shape = graph.value(id).type.shape;
      Json sizes = Json::array();
      for (int i = 0; i < shape.rank(); ++i) sizes.push_back(shape[i]);
      entry["shapes"].push_back(std::move(sizes));
    }
    entry.update(cost_json(row.cost));
    nodes.push_back(std::move(entry));
  }
  Json counts = Json::object();
  for (const auto& [op, count] : histogram(graph)) counts[op] = count;
  return {{"total", cost_json(total(rows))},
          {"histogram", std::move(counts)},
          {"nodes", std::move(nodes)}};
}

void run(const Flags& flags) {
  if (flags.json && (flags.dot == "-" || flags.histogram))
    throw UsageError("[graph] --json: expected no {} beside it, got both",
                     flags.histogram ? "--histogram" : "--dot -");
  const auto backend = make_backend(flags.device, {});
  const LoadedModel loaded = load_choice(flags.choice);
  const ModelSpec& spec = loaded.model->spec();
  // The caches are never used: one page each is enough to compile against.
  PoolSpec pool_spec;
  pool_spec.kv = spec.kv;
  pool_spec.states = spec.states;
  pool_spec.kv_dtype = flags.exact ? DType::kF32 : DType::kBF16;
  pool_spec.slots = 1;
  pool_spec.pages_per_group.assign(spec.windows.size(), 1);
  const auto pools = backend->make_pools(pool_spec);
  const bool decode = flags.phase == "decode";
  const Capacity capacity = decode ? Capacity{Phase::kDecode, flags.batch, flags.batch, flags.batch}
                                   : Capacity{Phase::kPrefill, flags.tokens, 1, 1};
  CompileOptions options;
  options.exact = flags.exact;
  const auto program = backend->compile(record_step(*loaded.model, capacity), *pools, options);
  const Graph& graph = program->graph();
  if (!flags.dot.empty()) {
    const std::string picture =
        to_dot(graph, fmt::format("{} {} on {}", spec.model_type, flags.phase, backend->name()));
    if (flags.dot == "-") {
      print(picture);
    } else {
      AtomicFile file(flags.dot);
      file.write(picture);
      file.commit();
    }
  }
  if (flags.histogram)
    for (const auto& [op, count] : histogram(graph)) print(fmt::format("{:>6} {}\n", count, op));
  if (!flags.json && (!flags.dot.empty() || flags.histogram)) return;
  const Batch batch = decode ? batch_for_costs(Phase::kDecode, flags.batch, flags.context, 1)
                             : batch_for_costs(Phase::kPrefill, 1, 0, flags.tokens);
  print(flags.json ? json_text(json_of(graph, batch)) : table_of(graph, batch));
}

}  // namespace

Verb add_graph(CLI::App& root) {
  CLI::App& app = add_verb(root, "graph", "Show the compiled step: ops, bytes, FLOPs, picture");
  auto flags = std::make_shared<Flags>();
  add_model_flags(app, flags->choice);
  app.add_option("--phase", flags->phase, "Which step")
      ->check(one_of({"decode", "prefill"}))
      ->capture_default_str();
  app.add_option("--tokens", flags->tokens, "Tokens of a prefill step")
      ->check(whole_number(1, 8192))
      ->capture_default_str();
  app.add_option("--batch", flags->batch, "Sequences of a decode step")
      ->check(whole_number(1, 64))
      ->capture_default_str();
  app.add_option("--context", flags->context, "Cached positions that decode reads")
      ->check(whole_number(0, 1 << 24))
      ->capture_default_str();
  app.add_option("--device", flags->device, "Whose compiled graph")
      ->check(device_name())
      ->capture_default_str();
  app.add_flag("--exact", flags->exact, "As compiled for --exact");
  app.add_option("--dot", flags->dot, "Write the graph in the DOT language (- for stdout)")
      ->type_name("FILE");
  app.add_flag("--histogram", flags->histogram, "How often each op occurs");
  app.add_flag("--json", flags->json,
               "Print JSON: every node, the total, how often each op occurs");
  finish_verb(app,
              "  decant graph demo/model --histogram\n"
              "  decant graph --dummy configs/qwen3-8b.json --phase prefill --tokens 512\n"
              "  decant graph demo/model --dot step.dot && dot -Tsvg step.dot > step.svg\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
