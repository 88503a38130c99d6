#pragma once

// Compares a model's draft layer with reference outputs, on any backend: helpers of tests only.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <tuple>
#include <vector>

#include "models/golden_testing.h"

namespace decant::testing {

/// One sequence of a model and of its draft layer, which share pages.
class DraftRunner {
 public:
  DraftRunner(Backend& backend, const Model& model, const RunOptions& options)
      : backend_(backend), model_(model), options_(options) {
    PoolSpec spec;
    spec.kv = model.spec().kv;
    spec.kv.insert(spec.kv.end(), model.spec().draft->kv.begin(), model.spec().draft->kv.end());
    spec.states = model.spec().states;
    spec.kv_dtype = options.kv_dtype;
    spec.slots = 1;
    spec.pages_per_group.assign(model.spec().windows.size(), std::ssize(table_));
    pools_ = backend.make_pools(spec);
  }

  struct Rows {
    std::vector<float> logits;  // of every row
    std::vector<float> hidden;
    void add(const Rows& more) {
      logits.insert(logits.end(), more.logits.begin(), more.logits.end());
      hidden.insert(hidden.end(), more.hidden.begin(), more.hidden.end());
    }
  };
  enum class Kind { kForward, kForwardAndHidden, kDraft };

  /// Tokens of one step at positions from `past` on; `hidden` for draft steps.
  Rows step(Kind kind, Phase phase, int64_t past, std::span<const int32_t> tokens,
            std::span<const float> hidden = {}) {
    const auto count = static_cast<int>(tokens.size());
    Batch batch;
    batch.phase = phase;
    batch.tokens.assign(tokens.begin(), tokens.end());
    batch.positions.resize(tokens.size());
    std::iota(batch.positions.begin(), batch.positions.end(), static_cast<int32_t>(past));
    batch.sequence_of.assign(tokens.size(), 0);
    batch.outputs.resize(tokens.size());
    std::iota(batch.outputs.begin(), batch.outputs.end(), 0);
    batch.sampling.resize(tokens.size());
    batch.sequences = {{.first = 0, .count = count, .past = past, .slot = 0, .commit = commit_}};
    batch.page_tables.assign(model_.spec().windows.size(), table_.data());
    Program& program = program_for(kind, phase, count);
    if (kind == Kind::kDraft) program.set_input(0, hidden);
    program.run(batch);
    if (kind != Kind::kDraft) commit_ = phase == Phase::kDecode ? count : 0;
    Rows out;
    out.logits.assign(program.output(0).begin(), program.output(0).end());
    if (kind != Kind::kForward)
      out.hidden.assign(program.output(1).begin(), program.output(1).end());
    return out;
  }
  Pools& pools() { return *pools_; }

 private:
  Program& program_for(Kind kind, Phase phase, int count) {
    auto& slot = programs_[{static_cast<int>(kind), static_cast<int>(phase), count}];
    if (slot) return *slot;
    Graph graph({phase, count, 1, count});
    LogitsAndHidden out;
    if (kind == Kind::kForward) {
      out.logits = model_.forward(graph);
    } else if (kind == Kind::kForwardAndHidden) {
      out = model_.forward_and_hidden(graph);
    } else {
      const Shape shape{count, model_.spec().hidden_size};
      out = model_.draft(graph, graph.input(0, {DType::kF32, shape, decant::Rows::kTokens}));
    }
    graph.mark_output(out.logits, "logits");
    if (out.hidden.valid()) graph.mark_output(out.hidden, "hidden");
    slot = backend_.compile(graph, *pools_, options_.compile);
    return *slot;
  }

  Backend& backend_;
  const Model& model_;
  RunOptions options_;
  std::vector<int32_t> table_ = {2, 0, 3, 1};
  std::unique_ptr<Pools> pools_;
  int32_t commit_ = 0;  // tokens of the last decode step of the model
  std::map<std::tuple<int, int, int>, std::unique_ptr<Program>> programs_;
};

/// The model's hidden states, the draft layer over a whole prompt in chunks of several sizes, and
/// chained steps on its own states, against `folder`/golden.safetensors (scripts/goldens/mtp.py).
inline void expect_draft_golden(Backend& backend, const Model& model,
                                const std::filesystem::path& folder,
                                const RunOptions& options = {}) {
  SCOPED_TRACE(folder.string());
  ASSERT_TRUE(model.spec().draft && model.spec().draft->loaded);
  using Kind = DraftRunner::Kind;
  const Golden golden(folder);
  const auto prompt = golden.ints("input_ids"), chain = golden.ints("chain_ids");
  std::vector<int32_t> shifted(prompt.begin() + 1, prompt.end());
  shifted.push_back(golden.ints("next_id")[0]);
  const auto near = [&](std::span<const float> got, const char* name, size_t row = 0) {
    const auto all = golden.floats(name);
    const auto want = std::span<const float>(all).subspan(row * got.size());
    EXPECT_LE(max_difference(got, want.first(std::min(got.size(), want.size()))),
              options.bound * range_of(all))
        << name << " row " << row;
  };
  const auto width = static_cast<size_t>(model.spec().hidden_size);
  for (size_t chunk : {prompt.size(), size_t{16}, size_t{7}, size_t{1}}) {
    SCOPED_TRACE(chunk);
    const Phase phase = chunk == 1 ? Phase::kDecode : Phase::kPrefill;
    DraftRunner runner(backend, model, options);
    DraftRunner plain(backend, model, options);
    DraftRunner::Rows main, draft, without;
    for (size_t at = 0; at < prompt.size(); at += chunk) {
      const size_t count = std::min(chunk, prompt.size() - at);
      const auto past = static_cast<int64_t>(at);
      const auto tokens = std::span(prompt).subspan(at, count);
      main.add(runner.step(Kind::kForwardAndHidden, phase, past, tokens));
      without.add(plain.step(Kind::kForward, phase, past, tokens));
      draft.add(runner.step(Kind::kDraft, phase, past, std::span(shifted).subspan(at, count),
                            std::span(main.hidden).subspan(at * width)));
    }
    near(main.logits, "logits");
    near(main.hidden, "hidden");
    near(draft.logits, "draft_logits");
    near(draft.hidden, "draft_hidden");
    EXPECT_EQ(main.logits, without.logits) << "asking for hidden states changed the logits";

    std::vector<float> state(draft.hidden.end() - static_cast<std::ptrdiff_t>(width),
                             draft.hidden.end());
    for (size_t i = 0; i < chain.size(); ++i) {
      const auto next = runner.step(Kind::kDraft, Phase::kDecode,
                                    static_cast<int64_t>(prompt.size() + i), {&chain[i], 1}, state);
      near(next.logits, "chain_logits", i);
      state = next.hidden;
    }
    // What was drafted is taken back: the same steps again, over the caches as they are.
    const auto last = static_cast<int64_t>(prompt.size());
    const std::span<const float> h(draft.hidden.data() + (prompt.size() - 1) * width, width);
    near(runner.step(Kind::kDraft, Phase::kDecode, last, {chain.data(), 1}, h).logits,
         "chain_logits");
  }
}

}  // namespace decant::testing
