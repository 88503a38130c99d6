#pragma once

// Runs a tower on any backend: helpers of tests only.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "base/checked.h"
#include "models/tower.h"

namespace decant::testing {

/// A tower's program for inputs of one size, with caches of its own whose pages lie in a scrambled
/// order.
class TowerProgram {
 public:
  TowerProgram(Backend& backend, const Tower& tower, const TowerInput& input,
               const CompileOptions& options = {.exact = true})
      : tower_(tower), size_(tower.size(input)) {
    PoolSpec spec;
    spec.kv = tower.kv();
    spec.kv_dtype = DType::kF32;
    // The rows of a run may be many short sequences, each with a page begun for it.
    pages_ = size_.capacity.tokens / kPageSize + size_.capacity.sequences;
    for (const KvSpec& kv : spec.kv) groups_ = std::max(groups_, kv.group + 1);
    spec.pages_per_group.assign(static_cast<size_t>(groups_), pages_);
    pools_ = backend.make_pools(spec);
    Graph graph(size_.capacity);
    graph.mark_output(tower.forward(graph, size_), "features");
    program_ = backend.compile(graph, *pools_, options);
  }

  /// The features of this input [rows, hidden], which is of the runner's size.
  std::vector<float> run(const TowerInput& input) {
    EXPECT_EQ(tower_.size(input).key(), size_.key()) << "the runner was made for another size";
    TowerFeed feed;
    tower_.feed(input, feed);
    for (const auto& [index, values] : feed.floats)
      program_->set_input(index, std::span<const float>(values));
    for (const auto& [index, values] : feed.ints)
      program_->set_input(index, std::span<const int32_t>(values));
    std::vector<std::vector<int32_t>> tables;
    for (int group = 0; group < groups_; ++group) {
      int64_t next = 0;
      for (const Batch::Sequence& sequence : feed.batch.sequences) {
        auto& table = tables.emplace_back();
        for (int64_t at = 0; at < sequence.past + sequence.count; at += kPageSize)
          table.push_back(static_cast<int32_t>(pages_ - 1 - next++));
        EXPECT_LE(next, pages_) << "more sequences or tokens than the size's capacity";
      }
    }
    feed.batch.page_tables.clear();
    for (const auto& table : tables) feed.batch.page_tables.push_back(table.data());
    program_->run(feed.batch);
    const std::span<const float> all = program_->output(0);
    const auto taken = tower_.taken(input);
    std::vector<float> out;
    if (taken.empty()) {
      out.assign(all.begin(), all.end());
    } else {
      const int64_t width =
          program_->graph().value(program_->graph().outputs()[0].second).type.width();
      for (const int64_t row : taken) {
        const auto from = all.subspan(static_cast<size_t>(row * width), static_cast<size_t>(width));
        out.insert(out.end(), from.begin(), from.end());
      }
    }
    return out;
  }
  Program& program() { return *program_; }

 private:
  const Tower& tower_;
  TowerSize size_;
  int64_t pages_ = 0;
  int groups_ = 0;
  std::unique_ptr<Pools> pools_;
  std::unique_ptr<Program> program_;
};

inline std::vector<float> run_tower(Backend& backend, const Tower& tower, const TowerInput& input,
                                    const CompileOptions& options = {.exact = true}) {
  return TowerProgram(backend, tower, input, options).run(input);
}

}  // namespace decant::testing
