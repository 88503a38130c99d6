#include "cli/bench_runner.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>

#include "backend/reference/reference_backend.h"
#include "base/checked.h"
#include "base/errors.h"
#include "engine/programs.h"

namespace decant::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kProbeInterval = 0.05;              // seconds of steps between readings
constexpr int64_t kProbeBytes = int64_t{256} << 20;  // of a reading

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

// Untouched anonymous memory is one shared page of zeros that never leaves the cache: a cache that
// is to be read at the speed of memory must have been written. Values are about +-1, so that
// attention sees finite numbers.
void fill_caches(Pools& pools) {
  auto* host = dynamic_cast<HostPools*>(&pools);
  if (host == nullptr) return;
  uint64_t state = 0x9E3779B97F4A7C15u;
  for (KvPool& pool : host->kv()) {
    const std::pair<std::byte*, int64_t> planes[] = {
        {pool.keys, pool.pages * key_page_bytes(pool.spec, pool.dtype)},
        {pool.values, pool.pages * value_page_bytes(pool.spec, pool.dtype)}};
    for (const auto& [plane, bytes] : planes) {
      for (int64_t at = 0; at < bytes; at += 8) {
        // Sign and mantissa are random, the exponent is that of [0.5, 1) or [1, 2).
        const bool wide = pool.dtype == DType::kF32;
        const uint64_t random = next_random(state);
        const uint64_t word = wide ? (random & 0x80FFFFFF80FFFFFFu) | 0x3F0000003F000000u
                                   : (random & 0x80FF80FF80FF80FFu) | 0x3F003F003F003F00u;
        std::memcpy(plane + at, &word, 8);
      }
    }
  }
}

}  // namespace

double step_bytes(const Program& program, const Batch& batch,
                  const std::vector<int64_t>& distinct_experts) {
  const Cost cost = total(ledger(program.graph(), batch, distinct_experts));
  return cost.weight_bytes + cost.kv_bytes;
}

void ProbeReading::read(ReadProbe& probe) {
  seconds += probe.read(kProbeBytes);
  bytes += static_cast<double>(kProbeBytes);
}

void ProbeReading::add(const ProbeReading& other) {
  bytes += other.bytes;
  seconds += other.seconds;
}

BenchRunner::BenchRunner(Backend& backend, const Model& model, const Limits& limits,
                         ReadProbe* probe)
    : backend_(backend), model_(model), limits_(limits), probe_(probe) {
  const ModelSpec& spec = model.spec();
  const int64_t pages = div_up(limits.positions, int64_t{kPageSize}) + 1;
  PoolSpec pools;
  pools.kv = spec.kv;
  pools.states = spec.states;
  pools.kv_dtype = limits.exact ? DType::kF32 : DType::kBF16;
  pools.slots = limits.sequences;
  pools.pages_per_group.assign(spec.windows.size(), pages * limits.sequences);
  pools_ = backend.make_pools(pools);
  fill_caches(*pools_);
  for (int s = 0; s < limits.sequences; ++s) {
    std::vector<int32_t> table;
    for (int64_t i = 0; i < pages; ++i) table.push_back(narrow<int32_t>(s * pages + i));
    tables_.push_back(std::move(table));
    if (!spec.states.empty()) pools_->reset_slot(s);
  }
}

BenchRunner::~BenchRunner() = default;

Program& BenchRunner::program(const Capacity& capacity) {
  for (const auto& [key, program] : programs_)
    if (key == capacity) return *program;
  CompileOptions options;
  options.exact = limits_.exact;
  options.dense_attention = limits_.dense_attention;
  programs_.emplace_back(capacity,
                         backend_.compile(record_step(model_, capacity), *pools_, options));
  return *programs_.back().second;
}

Batch BenchRunner::batch_of(Phase phase, int sequences, int64_t past, int64_t count, bool output) {
  Batch batch = batch_for_costs(phase, sequences, past, static_cast<int>(count));
  for (int32_t& token : batch.tokens)
    token = static_cast<int32_t>(next_random(random_) %
                                 static_cast<uint64_t>(model_.spec().vocab_size));
  if (!output) {
    batch.outputs.clear();
    batch.sampling.clear();
  }
  const size_t groups = model_.spec().windows.size();
  for (size_t group = 0; group < groups; ++group)
    for (int s = 0; s < sequences; ++s)
      batch.page_tables.push_back(tables_[static_cast<size_t>(s)].data());
  if (!model_.spec().states.empty())
    for (int s = 0; s < sequences; ++s) batch.sequences[static_cast<size_t>(s)].slot = s;
  return batch;
}

BenchRunner::Pass BenchRunner::decode_pass(Program& program, int batch, int64_t context,
                                           int64_t tokens) {
  std::vector<Batch> steps;
  for (int64_t i = 0; i < tokens; ++i)
    steps.push_back(batch_of(Phase::kDecode, batch, context + i, 1, true));
  std::vector<std::vector<int64_t>> experts(steps.size());
  // The end of the first step starts the clock: n tokens have n - 1 intervals between them.
  program.run(steps.front());
  const std::vector<int64_t> counts = program.distinct_experts();
  const bool counted = std::any_of(counts.begin(), counts.end(), [](int64_t n) { return n >= 0; });
  Pass pass;
  double unprobed = kProbeInterval;
  for (size_t i = 1; i < steps.size(); ++i) {
    if (probe_ != nullptr && unprobed >= kProbeInterval) {
      pass.probe.read(*probe_);
      unprobed = 0;
    }
    const auto start = Clock::now();
    program.run(steps[i]);
    if (counted) experts[i] = program.distinct_experts();
    const double seconds = seconds_since(start);
    pass.seconds += seconds;
    unprobed += seconds;
  }
  readings_.add(pass.probe);
  for (size_t i = 1; i < steps.size(); ++i) pass.bytes += step_bytes(program, steps[i], experts[i]);
  return pass;
}

BenchRow BenchRunner::decode(int batch, int64_t context, int64_t tokens, int repeats) {
  Program& step = program({Phase::kDecode, batch, batch, batch});
  decode_pass(step, batch, context, tokens);
  Pass best;
  for (int i = 0; i < repeats; ++i) {
    const Pass pass = decode_pass(step, batch, context, tokens);
    if (i == 0 || pass.seconds < best.seconds) best = pass;
  }
  return {.phase = "decode",
          .batch = batch,
          .context = context,
          .tokens = tokens,
          .tok_s = static_cast<double>(batch * (tokens - 1)) / best.seconds,
          .gb_s = best.bytes / best.seconds / 1e9,
          .probe_gb_s = best.probe.gb_s()};
}

double BenchRunner::prefill_pass(int64_t prompt) {
  struct Step {
    Program* program;
    Batch batch;
  };
  std::vector<Step> steps;
  for (int64_t past = 0; past < prompt; past += limits_.chunk) {
    const int64_t count = std::min(limits_.chunk, prompt - past);
    const Capacity capacity{Phase::kPrefill, static_cast<int>(std::min(limits_.chunk, prompt)), 1,
                            1};
    Batch batch = batch_of(Phase::kPrefill, 1, past, count, past + count == prompt);
    steps.push_back({&program(capacity), std::move(batch)});
  }
  if (!model_.spec().states.empty()) pools_->reset_slot(0);
  const auto start = Clock::now();
  for (Step& step : steps) step.program->run(step.batch);
  return seconds_since(start);
}

BenchRow BenchRunner::prefill(int64_t prompt, int repeats) {
  prefill_pass(prompt);
  double best = prefill_pass(prompt);
  for (int i = 1; i < repeats; ++i) best = std::min(best, prefill_pass(prompt));
  // Bytes of one pass, as the executed programs count them.
  double bytes = 0;
  for (int64_t past = 0; past < prompt; past += limits_.chunk) {
    const int64_t count = std::min(limits_.chunk, prompt - past);
    const Capacity capacity{Phase::kPrefill, static_cast<int>(std::min(limits_.chunk, prompt)), 1,
                            1};
    bytes += step_bytes(program(capacity),
                        batch_of(Phase::kPrefill, 1, past, count, past + count == prompt), {});
  }
  return {.phase = "prefill",
          .context = prompt,
          .tokens = prompt,
          .tok_s = static_cast<double>(prompt) / best,
          .gb_s = bytes / best / 1e9};
}

std::vector<OpProfile> BenchRunner::profile(int batch, int64_t context, int steps) {
  Program& step = program({Phase::kDecode, batch, batch, batch});
  decode_pass(step, batch, context, steps);
  step.set_profiling(true);
  std::map<std::string, OpProfile> by_op;
  for (int i = 0; i < steps; ++i) {
    const Batch inputs = batch_of(Phase::kDecode, batch, context + i, 1, true);
    step.run(inputs);
    const std::vector<LedgerRow> rows = ledger(step.graph(), inputs, step.distinct_experts());
    for (const LedgerRow& row : rows) {
      OpProfile& op = by_op[row.op];
      op.op = row.op;
      op.bytes += (row.cost.weight_bytes + row.cost.kv_bytes) / steps;
      if (i == 0) ++op.nodes;
    }
    for (const NodeTime& time : step.node_times())
      by_op[std::string(step.graph().nodes()[static_cast<size_t>(time.node)].op->name())].seconds +=
          time.seconds / steps;
  }
  step.set_profiling(false);
  std::vector<OpProfile> out;
  for (auto& [name, op] : by_op) out.push_back(std::move(op));
  std::sort(out.begin(), out.end(),
            [](const OpProfile& a, const OpProfile& b) { return a.seconds > b.seconds; });
  return out;
}

}  // namespace decant::cli
