#pragma once

// Drives a model through any backend step by step and compares it with reference outputs: helpers
// of tests only.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "backend/backend.h"
#include "base/checked.h"
#include "checkpoint/safetensors.h"
#include "models/load_model.h"

namespace decant::testing {

struct RunOptions {
  CompileOptions compile{.exact = true};
  DType kv_dtype = DType::kF32;
  double bound = 1e-4;  // of the range of the golden logits
};

/// What the fixtures' random nets make of rounding: an input change of 1e-7 moves logits by up to
/// 2e-4 of their range where a gated delta net is on the way.
inline double golden_bound(const Model& model) { return model.spec().states.empty() ? 1e-4 : 2e-4; }

/// Sequences of one model on one backend. Pages are handed out in a scrambled order; those a window
/// has left behind go back to the pool and are marked -1.
class ModelRunner {
 public:
  ModelRunner(Backend& backend, const Model& model, const RunOptions& options,
              int64_t max_tokens = 512, int64_t max_sequences = 1)
      : backend_(backend), model_(model), options_(options) {
    PoolSpec spec;
    spec.kv = model.spec().kv;
    spec.states = model.spec().states;
    spec.kv_dtype = options.kv_dtype;
    spec.slots = max_sequences;
    const int64_t pages = max_sequences * (max_tokens / kPageSize + 2);
    spec.pages_per_group.assign(model.spec().windows.size(), pages);
    pools_ = backend.make_pools(spec);
    free_.resize(model.spec().windows.size());
    for (auto& list : free_) {
      for (int64_t i = 0; i < pages; ++i) list.push_back(static_cast<int32_t>(i));
      for (size_t i = 0; i + 1 < list.size(); i += 2) std::swap(list[i], list[i + 1]);
    }
  }

  int add_sequence() {
    sequences_.push_back({0, std::vector<std::vector<int32_t>>(free_.size()), 0});
    return static_cast<int>(sequences_.size()) - 1;
  }

  struct Part {
    int sequence = 0;
    std::vector<int32_t> tokens;
    std::vector<int32_t> outputs;  // indices into tokens
  };
  /// One step; returns the logits of all outputs, row after row.
  std::vector<float> step(Phase phase, const std::vector<Part>& parts) {
    Batch batch;
    batch.phase = phase;
    for (const Part& part : parts) {
      Sequence& state = sequences_[static_cast<size_t>(part.sequence)];
      Batch::Sequence sequence;
      sequence.first = static_cast<int32_t>(batch.tokens.size());
      sequence.count = static_cast<int32_t>(part.tokens.size());
      sequence.past = state.length;
      sequence.slot = part.sequence;
      sequence.commit = state.uncommitted;
      for (int32_t output : part.outputs) batch.outputs.push_back(sequence.first + output);
      for (size_t i = 0; i < part.tokens.size(); ++i) {
        batch.tokens.push_back(part.tokens[i]);
        batch.positions.push_back(static_cast<int32_t>(state.length + static_cast<int64_t>(i)));
        batch.sequence_of.push_back(static_cast<int32_t>(batch.sequences.size()));
      }
      batch.sequences.push_back(sequence);
      take_pages(state, sequence.count);
    }
    batch.sampling.resize(batch.outputs.size());
    for (size_t group = 0; group < free_.size(); ++group)
      for (const Part& part : parts)
        batch.page_tables.push_back(
            sequences_[static_cast<size_t>(part.sequence)].pages[group].data());
    Program& program = program_for(phase, batch);
    program.run(batch);
    for (const Part& part : parts) {
      Sequence& state = sequences_[static_cast<size_t>(part.sequence)];
      state.length += static_cast<int64_t>(part.tokens.size());
      state.uncommitted = phase == Phase::kDecode ? static_cast<int32_t>(part.tokens.size()) : 0;
    }
    const auto out = program.output(0);
    return {out.begin(), out.end()};
  }
  /// All rows of one sequence's tokens.
  std::vector<float> feed(Phase phase, std::span<const int32_t> tokens, int sequence = 0) {
    Part part{sequence, {tokens.begin(), tokens.end()}, {}};
    for (size_t i = 0; i < tokens.size(); ++i) part.outputs.push_back(static_cast<int32_t>(i));
    return step(phase, {part});
  }
  /// Forgets the last `count` tokens of the decode step before.
  void take_back(int count, int sequence = 0) {
    Sequence& state = sequences_[static_cast<size_t>(sequence)];
    ASSERT_LE(count, state.uncommitted) << "only what is not committed can be taken back";
    state.length -= count;
    state.uncommitted -= count;
  }
  Pools& pools() { return *pools_; }
  int64_t length(int sequence) const { return sequences_[static_cast<size_t>(sequence)].length; }
  /// Back to `length` tokens, the last `uncommitted` of which lie in the slot's log: for tests that
  /// restore the slot themselves.
  void rewind(int sequence, int64_t length, int32_t uncommitted) {
    sequences_[static_cast<size_t>(sequence)].length = length;
    sequences_[static_cast<size_t>(sequence)].uncommitted = uncommitted;
  }
  /// The row after the last token, the others not asked for.
  std::vector<float> feed_last(Phase phase, std::span<const int32_t> tokens, int sequence = 0) {
    return step(
        phase,
        {{sequence, {tokens.begin(), tokens.end()}, {static_cast<int32_t>(tokens.size()) - 1}}});
  }

 private:
  struct Sequence {
    int64_t length = 0;
    std::vector<std::vector<int32_t>> pages;  // by group
    int32_t uncommitted = 0;  // tokens of the last decode step: their slot's log holds them
  };

  void take_pages(Sequence& sequence, int64_t count) {
    for (size_t group = 0; group < free_.size(); ++group) {
      auto& pages = sequence.pages[group];
      const int window = model_.spec().windows[group];
      const int64_t first =
          window > 0 ? std::max<int64_t>(0, sequence.length - window + 1) / kPageSize : 0;
      for (int64_t i = 0; i < std::min<int64_t>(first, std::ssize(pages)); ++i) {
        int32_t& page = pages[static_cast<size_t>(i)];
        if (page >= 0) free_[group].push_back(page);
        page = -1;
      }
      while (std::ssize(pages) * kPageSize < sequence.length + count) {
        ASSERT_FALSE(free_[group].empty()) << "the runner was made for fewer tokens";
        pages.push_back(free_[group].back());
        free_[group].pop_back();
      }
    }
  }

  Program& program_for(Phase phase, const Batch& batch) {
    const Capacity capacity{phase, static_cast<int>(batch.num_tokens()),
                            static_cast<int>(batch.num_sequences()),
                            static_cast<int>(batch.num_outputs())};
    auto& slot =
        programs_[{static_cast<int>(phase), capacity.tokens, capacity.sequences, capacity.outputs}];
    if (!slot) {
      Graph graph(capacity);
      graph.mark_output(model_.forward(graph), "logits");
      slot = backend_.compile(graph, *pools_, options_.compile);
    }
    return *slot;
  }

  Backend& backend_;
  const Model& model_;
  RunOptions options_;
  std::unique_ptr<Pools> pools_;
  std::vector<std::vector<int32_t>> free_;
  std::vector<Sequence> sequences_;
  std::map<std::tuple<int, int, int, int>, std::unique_ptr<Program>> programs_;
};

/// Tensors of a folder's golden.safetensors, or of another golden file in it.
class Golden {
 public:
  explicit Golden(const std::filesystem::path& folder, const char* file = "golden.safetensors")
      : file_(SafetensorsFile::open(folder / file)) {}
  bool has(std::string_view name) const { return file_->find(name) != nullptr; }
  std::vector<float> floats(std::string_view name) const { return read<float>(name); }
  std::vector<int32_t> ints(std::string_view name) const { return read<int32_t>(name); }

 private:
  template <typename T>
  std::vector<T> read(std::string_view name) const {
    const TensorInfo* tensor = file_->find(name);
    if (tensor == nullptr) {
      ADD_FAILURE() << "no golden tensor " << name;
      return {};
    }
    std::vector<T> out(tensor->bytes.size() / sizeof(T));
    std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
    return out;
  }
  std::shared_ptr<const SafetensorsFile> file_;
};

inline double range_of(std::span<const float> values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return static_cast<double>(*high) - *low;
}

/// Largest difference; infinite for other sizes or NaN.
inline double max_difference(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(got[i]) - want[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
  }
  return worst;
}

/// Index of the largest value and its distance to the second.
inline std::pair<int32_t, double> top_of(std::span<const float> row) {
  const auto top = std::max_element(row.begin(), row.end());
  float second = -INFINITY;
  for (auto it = row.begin(); it != row.end(); ++it)
    if (it != top) second = std::max(second, *it);
  return {static_cast<int32_t>(top - row.begin()), static_cast<double>(*top) - second};
}

/// Compares a model with `folder`/golden.safetensors: the prompt in one step and in chunks, rows
/// that are asked for alone, fixed ids one by one, and greedy decoding; then two sequences at once.
inline void expect_golden(Backend& backend, const Model& model, const std::filesystem::path& folder,
                          const RunOptions& options = {}) {
  SCOPED_TRACE(folder.string());
  const Golden golden(folder);
  const auto vocab = static_cast<size_t>(model.spec().vocab_size);
  const auto prompt = golden.ints("input_ids");
  const auto want = golden.floats("logits");
  ASSERT_EQ(want.size(), prompt.size() * vocab);
  const double bound = options.bound * range_of(want);
  const auto row = [&](std::span<const float> logits, size_t i) {
    return logits.subspan(i * vocab, vocab);
  };

  for (size_t chunk : {prompt.size(), size_t{16}, size_t{7}, size_t{1}}) {
    ModelRunner runner(backend, model, options);
    runner.add_sequence();
    std::vector<float> got;
    for (size_t at = 0; at < prompt.size(); at += chunk) {
      const auto rows = runner.feed(
          Phase::kPrefill, std::span(prompt).subspan(at, std::min(chunk, prompt.size() - at)));
      got.insert(got.end(), rows.begin(), rows.end());
    }
    EXPECT_LE(max_difference(got, want), bound) << "prefill in chunks of " << chunk;
  }

  // Only the rows that are asked for, then fixed ids with the cache.
  const auto forced = golden.ints("forced_ids");
  const auto forced_want = golden.floats("forced_logits");
  {
    ModelRunner runner(backend, model, options);
    runner.add_sequence();
    const auto first = static_cast<int32_t>(prompt.size() / 3);
    const auto last = static_cast<int32_t>(prompt.size() - 1);
    const auto got = runner.step(Phase::kPrefill, {{0, prompt, {first, last}}});
    EXPECT_LE(max_difference(row(got, 0), row(want, static_cast<size_t>(first))), bound);
    EXPECT_LE(max_difference(row(got, 1), row(want, static_cast<size_t>(last))), bound);
    double worst = 0;
    for (size_t i = 0; i < forced.size(); ++i)
      worst = std::max(
          worst, max_difference(runner.feed(Phase::kDecode, {&forced[i], 1}), row(forced_want, i)));
    EXPECT_LE(worst, bound) << "fixed ids one by one";
  }

  if (golden.has("greedy_ids")) {
    const auto greedy = golden.ints("greedy_ids");
    const auto logits =
        golden.has("greedy_logits") ? golden.floats("greedy_logits") : std::vector<float>();
    ModelRunner runner(backend, model, options);
    runner.add_sequence();
    auto got = runner.feed_last(Phase::kPrefill, prompt);
    for (size_t i = 0; i < greedy.size(); ++i) {
      if (!logits.empty()) {
        EXPECT_LE(max_difference(got, row(logits, i)), bound) << "greedy step " << i;
      }
      // Where the best two are nearer than the bound, either is right.
      const auto [token, margin] =
          top_of(logits.empty() ? std::span<const float>(got) : row(logits, i));
      if (margin > 2 * bound) {
        EXPECT_EQ(top_of(got).first, greedy[i]) << "greedy step " << i;
      }
      got = runner.feed(Phase::kDecode, {&greedy[i], 1});
    }
  }

  // Two sequences at different places in one step: prefill of one beside the end of the other, then
  // both decode.
  {
    ModelRunner runner(backend, model, options, 512, 2);
    const int a = runner.add_sequence(), b = runner.add_sequence();
    const size_t half = prompt.size() / 2;
    const std::vector<int32_t> head(prompt.begin(), prompt.begin() + static_cast<int64_t>(half));
    const std::vector<int32_t> tail(prompt.begin() + static_cast<int64_t>(half), prompt.end());
    runner.feed_last(Phase::kPrefill, prompt, b);
    runner.feed_last(Phase::kPrefill, head, a);
    const auto mixed = runner.step(
        Phase::kPrefill,
        {{a, tail, {static_cast<int32_t>(tail.size()) - 1}}, {b, {forced[0], forced[1]}, {0, 1}}});
    EXPECT_LE(max_difference(row(mixed, 0), row(want, prompt.size() - 1)), bound);
    EXPECT_LE(max_difference(row(mixed, 1), row(forced_want, 0)), bound);
    EXPECT_LE(max_difference(row(mixed, 2), row(forced_want, 1)), bound);
    const auto both = runner.step(Phase::kDecode, {{a, {forced[0]}, {0}}, {b, {forced[2]}, {0}}});
    EXPECT_LE(max_difference(row(both, 0), row(forced_want, 0)), bound);
    EXPECT_LE(max_difference(row(both, 1), row(forced_want, 2)), bound);
  }
}

/// How much of a trained model's reference outputs is run.
struct DemoScope {
  int64_t texts = 8;             // held-out texts
  size_t tokens = 384;           // of each
  size_t longest_answer = 1000;  // greedy answers of at most this length
  size_t chunk = 128;            // of a prefill
};

/// Compares a trained model with `folder`/golden.safetensors: the loss of each held-out token, the
/// logits after each prompt, and greedy answers.
inline void expect_demo_golden(Backend& backend, const Model& model,
                               const std::filesystem::path& folder, const DemoScope& scope = {},
                               const RunOptions& options = {}) {
  const Golden golden(folder);
  const auto vocab = static_cast<size_t>(model.spec().vocab_size);
  const auto ids = golden.ints("heldout_ids");
  const auto losses = golden.floats("heldout_nll");
  const size_t length = 384;
  ASSERT_EQ(losses.size() / (length - 1), ids.size() / length);
  for (size_t text = 0; text < std::min(ids.size() / length, static_cast<size_t>(scope.texts));
       ++text) {
    ModelRunner runner(backend, model, options);
    runner.add_sequence();
    double got_sum = 0, want_sum = 0, worst = 0;
    const size_t end = std::min(length, scope.tokens);
    for (size_t at = 0; at < end; at += scope.chunk) {
      const size_t count = std::min(scope.chunk, end - at);
      const auto rows =
          runner.feed(Phase::kPrefill, std::span(ids).subspan(text * length + at, count));
      for (size_t i = 0; i < count && at + i + 1 < length; ++i) {
        const auto row = std::span(rows).subspan(i * vocab, vocab);
        double total = 0;
        const float top = *std::max_element(row.begin(), row.end());
        for (float logit : row) total += std::exp(static_cast<double>(logit) - top);
        const auto next = static_cast<size_t>(ids[text * length + at + i + 1]);
        const double loss = std::log(total) + top - row[next];
        const double want = losses[text * (length - 1) + at + i];
        got_sum += loss;
        want_sum += want;
        worst = std::max(worst, std::fabs(loss - want) / std::max(want, 0.1));
      }
    }
    EXPECT_NEAR(got_sum / want_sum, 1, 1e-5) << "held-out text " << text;
    EXPECT_LE(worst, 1e-3) << "held-out text " << text;
  }

  for (int i = 0; golden.has(fmt::format("prompt{}_ids", i)); ++i) {
    const auto want = golden.floats(fmt::format("prompt{}_last_logits", i));
    const auto answer = golden.ints(fmt::format("prompt{}_greedy", i));
    ModelRunner runner(backend, model, options);
    runner.add_sequence();
    auto got = runner.feed_last(Phase::kPrefill, golden.ints(fmt::format("prompt{}_ids", i)));
    const double bound = options.bound * range_of(want);
    EXPECT_LE(max_difference(got, want), bound) << "prompt " << i;
    if (answer.size() > scope.longest_answer) continue;
    for (size_t token = 0; token < answer.size(); ++token) {
      const auto [best, margin] = top_of(got);
      if (margin > 2 * bound) {
        EXPECT_EQ(best, answer[token]) << "prompt " << i << " token " << token;
      }
      if (token + 1 < answer.size()) got = runner.feed(Phase::kDecode, {&answer[token], 1});
    }
  }
}

}  // namespace decant::testing
