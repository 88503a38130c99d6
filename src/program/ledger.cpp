#include "program/ledger.h"

#include <fmt/format.h>

namespace decant {

std::vector<LedgerRow> ledger(const Graph& graph, const Batch& batch,
                              const std::vector<int64_t>& distinct_experts) {
  std::vector<LedgerRow> rows;
  for (const Node& node : graph.nodes()) {
    const auto id = static_cast<size_t>(node.id);
    const StepStats stats{batch, id < distinct_experts.size() ? distinct_experts[id] : -1};
    rows.push_back(
        {node.id, std::string(node.op->name()), node.scope, node.op->cost(graph, node, stats)});
  }
  return rows;
}

Cost total(const std::vector<LedgerRow>& rows) {
  Cost sum;
  for (const LedgerRow& row : rows) sum += row.cost;
  return sum;
}

Batch batch_for_costs(Phase phase, int sequences, int64_t past, int count) {
  Batch batch;
  batch.phase = phase;
  for (int s = 0; s < sequences; ++s) {
    Batch::Sequence sequence;
    sequence.first = static_cast<int32_t>(batch.tokens.size());
    sequence.count = count;
    sequence.past = past;
    // A steady decode commits the token of the step before it.
    if (phase == Phase::kDecode) sequence.commit = count;
    batch.sequences.push_back(sequence);
    for (int i = 0; i < count; ++i) {
      batch.tokens.push_back(0);
      batch.positions.push_back(static_cast<int32_t>(past + i));
      batch.sequence_of.push_back(s);
    }
    batch.outputs.push_back(static_cast<int32_t>(batch.tokens.size()) - 1);
  }
  batch.sampling.resize(batch.outputs.size());
  return batch;
}

std::map<std::string, int> histogram(const Graph& graph) {
  std::map<std::string, int> counts;
  for (const Node& node : graph.nodes()) ++counts[std::string(node.op->name())];
  return counts;
}

std::string to_dot(const Graph& graph, const std::string& title) {
  const auto escape = [](const std::string& text) {
    std::string out;
    for (char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    return out;
  };
  std::string out = fmt::format("digraph \"{}\" {{\n  node [shape=box, fontname=\"monospace\"];\n",
                                escape(title));
  for (const Node& node : graph.nodes()) {
    std::string label = std::string(node.op->name());
    if (node.params != nullptr && !node.params->text().empty()) label += " " + node.params->text();
    for (int id : node.outputs) label += "\\n" + graph.value(id).type.shape.to_string();
    for (const Weight* weight : node.weights)
      label += "\\n" + escape(weight->name) + " " + weight->shape.to_string() + " " +
               weight->format.name();
    out +=
        fmt::format("  n{} [label=\"{}\", tooltip=\"{}\"];\n", node.id, label, escape(node.scope));
    for (int id : node.inputs) {
      const int storage = graph.storage_of(id);
      const ValueInfo& info = graph.value(storage);
      if (info.producer >= 0) {
        out += fmt::format("  n{} -> n{};\n", info.producer, node.id);
      } else {
        const char* kind = info.external == ExternalKind::kKvCache ? "kv"
                           : info.external == ExternalKind::kState ? "state"
                                                                   : "input";
        out += fmt::format("  \"{}{}\" -> n{};\n", kind, info.external_index, node.id);
      }
    }
  }
  for (const auto& [name, id] : graph.outputs())
    out +=
        fmt::format("  n{} -> \"{}\";\n", graph.value(graph.storage_of(id)).producer, escape(name));
  return out + "}\n";
}

}  // namespace decant
