// What one token costs in nodes and in roundings, by family: a graph that grows is noticed here.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/lowering.h"
#include "base/file.h"
#include "base/json.h"
#include "models/load_model.h"
#include "ops/sample.h"

namespace decant {
namespace {

namespace fs = std::filesystem;

/// The decode step of one sequence, sampled: what every token of a conversation runs.
///
/// Casts. Activations are f32 from embedding to logits, so a rounding to another type can only be
///   rows      an f32 value stored as int8 in groups for a product (cpu.quantize_rows), or
///   cache     a row stored in a KV pool that is not f32 (a new version of a cache).
/// Any other value that is neither f32 nor an index (i32) counts too: an op that hands on bf16 or
/// f16 activations would show as one. Widening (weights and cached rows read as f32) is exact and
/// is none. What a kernel rounds inside one node cannot be seen in a graph: the parity tests bound
/// that.
struct Counts {
  int recorded = 0;  // nodes as the model records them
  int compiled = 0;  // nodes the CPU runs: expanded, fused, lowered
  int casts = 0;
  bool operator==(const Counts&) const = default;
};

fs::path zoo() { return fs::path(DECANT_TEST_DATA) / "zoo"; }

std::vector<std::string> zoo_families() {
  std::vector<std::string> out;
  for (const auto& entry : fs::directory_iterator(zoo()))
    // A tower by itself is no model.
    if (fs::exists(entry.path() / "config.json") &&
        !entry.path().filename().string().ends_with("_tower"))
      out.push_back(entry.path().filename());
  std::sort(out.begin(), out.end());
  return out;
}

std::unique_ptr<Pools> small_pools(Backend& backend, const ModelSpec& model, DType kv) {
  PoolSpec spec;
  spec.kv = model.kv;
  if (model.draft) spec.kv.insert(spec.kv.end(), model.draft->kv.begin(), model.draft->kv.end());
  spec.states = model.states;
  spec.kv_dtype = kv;
  spec.pages_per_group.assign(model.windows.size(), 2);
  spec.slots = 1;
  return backend.make_pools(spec);
}

int casts_of(const Graph& graph, DType kv) {
  int casts = 0;
  for (const Node& node : graph.nodes()) {
    const bool from_float = std::any_of(node.inputs.begin(), node.inputs.end(), [&](int id) {
      return graph.value(id).type.dtype == DType::kF32;
    });
    for (const int id : node.outputs) {
      const ValueInfo& value = graph.value(id);
      if (value.external == ExternalKind::kKvCache) {
        casts += kv != DType::kF32;
      } else if (from_float) {
        casts += value.type.dtype != DType::kF32 && value.type.dtype != DType::kI32;
      }
    }
  }
  return casts;
}

class DecodeGraphs : public ::testing::Test {
 protected:
  static Graph record(const Model& model) {
    Graph graph({Phase::kDecode, 1, 1, 1});
    const Value logits = model.forward(graph);
    graph.mark_output(logits, "logits");
    graph.mark_output(sample(logits), "tokens");
    return graph;
  }
  std::unique_ptr<Program> compile(const LoadedModel& loaded, const Graph& graph, bool exact) {
    pools_ = small_pools(*backend_, loaded.spec, exact ? DType::kF32 : DType::kBF16);
    return backend_->compile(graph, *pools_, {.exact = exact});
  }
  static Graph record_draft(const Model& model) {
    Graph graph({Phase::kDecode, 1, 1, 1});
    const Shape shape{1, model.spec().hidden_size};
    const auto [logits, hidden] =
        model.draft(graph, graph.input(0, {DType::kF32, shape, Rows::kTokens}));
    graph.mark_output(logits, "logits");
    graph.mark_output(hidden, "hidden");
    graph.mark_output(sample(logits), "tokens");
    return graph;
  }
  /// Of 4-bit weights: the route most conversations take, and the one with most conversions. A
  /// draft layer is counted with the weights of its fixture, which are dense.
  Counts count(const std::string& family) {
    const bool draft = family.starts_with("mtp/");
    const LoadedModel loaded =
        draft ? load_model(fs::path(DECANT_TEST_DATA) / family, {.draft = true})
              : load_dummy(zoo() / family);
    const Graph graph = draft ? record_draft(*loaded.model) : record(*loaded.model);
    const auto program = compile(loaded, graph, false);
    return {static_cast<int>(graph.nodes().size()),
            static_cast<int>(program->graph().nodes().size()),
            casts_of(program->graph(), DType::kBF16)};
  }

  std::unique_ptr<Backend> backend_ = make_cpu_backend({.threads = 1});
  std::unique_ptr<Pools> pools_;
};

std::map<std::string, Counts> expected_counts() {
  std::map<std::string, Counts> out;
  std::istringstream in(read_text_file(fs::path(DECANT_TEST_DATA) / "decode_graphs.tsv"));
  std::string line;
  while (std::getline(in, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream row(line);
    std::string family;
    Counts counts;
    row >> family >> counts.recorded >> counts.compiled >> counts.casts;
    EXPECT_FALSE(row.fail()) << "decode_graphs.tsv: " << line;
    out[family] = counts;
  }
  return out;
}

// Nodes may grow by 2 % against the table, casts not at all; a new family needs a row.
TEST_F(DecodeGraphs, StayLean) {
  auto expected = expected_counts();
  std::string table = "# family\trecorded\tcompiled\tcasts\n";
  bool smaller = false;
  std::vector<std::string> families = zoo_families();
  for (const char* draft : {"mtp/glm4_moe", "mtp/glm_moe_dsa", "mtp/qwen3_5", "mtp/qwen3_5_moe"})
    families.emplace_back(draft);
  for (const std::string& family : families) {
    const Counts now = count(family);
    table += fmt::format("{}\t{}\t{}\t{}\n", family, now.recorded, now.compiled, now.casts);
    const auto row = expected.find(family);
    if (row == expected.end()) {
      ADD_FAILURE() << family << ": no row in decode_graphs.tsv";
      continue;
    }
    const Counts was = row->second;
    expected.erase(row);
    EXPECT_LE(now.recorded * 100, was.recorded * 102) << family << ": recorded nodes";
    EXPECT_LE(now.compiled * 100, was.compiled * 102) << family << ": compiled nodes";
    EXPECT_LE(now.casts, was.casts) << family << ": casts";
    smaller |= now.recorded < was.recorded || now.compiled < was.compiled || now.casts < was.casts;
  }
  for (const auto& [family, counts] : expected)
    ADD_FAILURE() << family << ": a row in decode_graphs.tsv, but no fixture";
  fmt::print("nodes and casts per decoded token (4-bit weights, bf16 KV)\n{}", table);
  if (smaller)
    fmt::print("some graphs shrank: put these rows into tests/fixtures/decode_graphs.tsv\n");
}

// The table speaks for all families only if each has a fixture.
TEST_F(DecodeGraphs, EveryFamilyIsCounted) {
  std::set<std::string> types;
  for (const std::string& family : zoo_families())
    types.insert(read_json_file(zoo() / family / "config.json")["model_type"].get<std::string>());
  for (const Family& family : families())
    EXPECT_TRUE(std::any_of(family.model_types.begin(), family.model_types.end(),
                            [&](const std::string& type) { return types.contains(type); }))
        << family.model_types.front() << ": no folder in tests/fixtures/zoo";
}

// What goldens are compared with rounds nothing on the way.
TEST_F(DecodeGraphs, ExactOnesHaveNoCasts) {
  for (const std::string& family : zoo_families()) {
    const LoadedModel loaded = load_dummy(zoo() / family);
    const Graph graph = record(*loaded.model);
    EXPECT_EQ(casts_of(compile(loaded, graph, true)->graph(), DType::kF32), 0) << family;
  }
}

// The parts of the count, each against what it stands for: one conversion per cache and none of a
// value that was converted before.
TEST_F(DecodeGraphs, CastsAreCachesAndDistinctRows) {
  for (const std::string& family : zoo_families()) {
    const LoadedModel loaded = load_dummy(zoo() / family);
    const Graph graph = record(*loaded.model);
    const auto program = compile(loaded, graph, false);
    const Graph& run = program->graph();
    std::set<int> caches, rows;
    int quantised = 0;
    for (const Node& node : run.nodes()) {
      if (node.op == &cpu::quantize_rows_op()) {
        ++quantised;
        rows.insert(node.inputs[0]);
      }
      for (const int id : node.outputs)
        if (run.value(id).external == ExternalKind::kKvCache)
          caches.insert(run.value(id).external_index);
    }
    EXPECT_EQ(caches.size(), loaded.spec.kv.size()) << family;
    EXPECT_EQ(rows.size(), static_cast<size_t>(quantised)) << family << ": a value is cast twice";
    EXPECT_EQ(casts_of(run, DType::kBF16), quantised + static_cast<int>(caches.size())) << family;
  }
}

}  // namespace
}  // namespace decant
