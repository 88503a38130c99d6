#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/memory.h"
#include "engine/programs.h"
#include "engine/request.h"
#include "engine/scheduler.h"

namespace decant {

struct EngineOptions {
  int64_t ctx_size = 0;             // tokens of one sequence; 0: the model's, or what fits
  int max_sequences = 8;            // sequences that run at a time
  int prefill_chunk = 1024;         // prompt tokens of one step; any size gives the same results
  int64_t memory_budget_bytes = 0;  // for caches and arena; 0: what the backend has free
  bool weights_from_disk = false;   // weights larger than memory are read anew in every step
  DType kv_dtype = DType::kBF16;    // bf16 or f32
  bool exact = false;               // f32 products and an f32 cache
  bool reference_route = false;     // reference kernels only
  bool dense_attention = false;     // sparse attention reads all positions
  bool recycle_windows = true;      // false keeps what a window has left behind (for comparison)
  size_t queue_limit = 512;         // requests that may wait
};

/// What an engine has done since it was made.
struct EngineStats {
  int64_t steps = 0;
  int64_t prompt_tokens = 0;      // computed
  int64_t completion_tokens = 0;  // sampled
  int64_t finished = 0;
  int64_t failed_steps = 0;
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t peak_running = 0;
  int64_t used_pages = 0;  // of all groups
  int64_t peak_used_pages = 0;
  double tower_seconds = 0;     // in towers
  int64_t towers_computed = 0;  // pictures and sounds
  int64_t towers_reused = 0;    // whose features were kept
  double prefill_seconds = 0;   // in prefill and decode programs
  double decode_seconds = 0;
  int64_t peak_process_bytes = 0;
};

/// How the rows of `Engine::score` are computed.
struct ScoreOptions {
  int chunk = 0;             // tokens per prefill chunk; 0: the engine's
  int64_t decode_from = -1;  // positions from here on in the decode class, one per step; -1: none
  std::vector<std::vector<PromptMedia>> media = {};  // by row; empty: none
};

/// Runs requests on a model: one step after the other, each a decode program over all decoding
/// sequences and a prefill program over chunks of waiting prompts. Not thread safe; EngineThread
/// gives it a thread and takes requests from any.
class Engine {
 public:
  /// Compiles all programs and reserves arena and caches, so that no step needs memory afterwards.
  /// `backend` must outlive the engine. Errors: UsageError for options out of range, MemoryError
  /// with the breakdown when it does not fit; those of Backend::compile.
  Engine(std::shared_ptr<const Model> model, Backend& backend, const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Throws RequestError if the request can never run: no tokens, ids outside the vocabulary, a
  /// prompt that does not fit the context or the cache, parameters out of range. Safe from any
  /// thread.
  void check(const Request& request) const;
  /// The features of an input, from its tower or from those kept. On the thread that steps the
  /// engine. Errors: RequestError for what the model or the device does not take.
  std::shared_ptr<const Features> features(const TowerInput& input, const std::string& key = {});
  /// Takes a request. Errors: those of check(); QueueFullError.
  RequestId submit(Request request);
  /// The two halves of submit for EngineThread: an id from any thread, then a checked request.
  RequestId new_id() { return next_id_.fetch_add(1, std::memory_order_relaxed); }
  using Clock = std::chrono::steady_clock;
  void enqueue(RequestId id, Request request, Clock::time_point submitted);
  /// Ends a request before the next program runs; unknown and finished ids are ignored. May be
  /// called from a callback.
  void cancel(RequestId id);
  /// One step. True while requests are left.
  bool step();
  bool idle() const { return requests_.empty(); }
  /// Ends all requests with this reason.
  void finish_all(FinishReason reason, const std::string& error = {});

  /// Logits of every position of these token rows, which run side by side: the tokens before
  /// options.decode_from in prefill chunks, the rest as one decode batch. `take` gets each row's
  /// positions in ascending order; the logits are valid during the call. For goldens and `decant
  /// logits`. Errors: those of check(); RequestError for more rows than sequences or pages now.
  using TakeLogits =
      std::function<void(size_t row, int64_t position, std::span<const float> logits)>;
  void score(std::span<const std::vector<int32_t>> rows, const ScoreOptions& options,
             const TakeLogits& take);

  const Model& model() const { return *model_; }
  const EngineOptions& options() const { return options_; }
  const MemoryBreakdown& memory() const { return memory_; }
  const ProgramSet& programs() const { return *programs_; }
  const KvPages& pages() const { return *kv_; }
  EngineStats stats() const;
  /// Pages, slots and requests agree. Errors: InternalError.
  void check_integrity() const;

 private:
  friend class RowScoring;
  struct Active;
  /// The media of a prompt: where they stand and what their towers made of them.
  struct Placed {
    Placement placement;
    std::vector<std::shared_ptr<const Features>> features;  // of its inputs
  };
  struct Row {  // one sequence's part of a batch
    OwnerId owner;
    int32_t slot;
    int64_t past;
    int32_t commit;
    std::span<const int32_t> tokens;
    const Placed* placed = nullptr;  // null: text
  };
  bool takes_media() const;
  int64_t budget_beside(int64_t weights, int64_t made) const;
  void build_programs(const PoolRequest& request);
  /// Sequences, positions and page tables of rows; outputs and sampling are left empty.
  Batch batch_of(Phase phase, std::span<const Row> rows);
  /// Adds what rows take from towers: to the batch, and to the input of `program`.
  void feed_media(std::span<const Row> rows, Batch& batch, Program* program);
  void run_towers(Placed& placed);
  void drop_cancelled();
  void run_decode(std::span<const RequestId> ids);
  void run_prefill(std::span<const StepPlan::Chunk> chunks);
  /// Runs and reads the sampled tokens; false if the step failed, which fails its requests.
  bool run(Program& program, const Batch& batch, std::span<const RequestId> ids,
           std::vector<int32_t>& tokens);
  void deliver(RequestId id, int32_t token, Program& program, size_t output);
  /// The token just given takes its embedding from a tower, which steps of prompts only do.
  void prefill_generated(RequestId id);
  void finish(RequestId id, FinishReason reason, const std::string& error = {},
              ErrorKind kind = ErrorKind::kRuntime);
  void check_tokens(std::span<const int32_t> tokens) const;
  void check_media(std::span<const int32_t> tokens, std::span<const PromptMedia> media) const;
  /// Positions [begin, end) of a row whose first tokens are `tokens`, in chunks.
  void score_prefill(size_t index, OwnerId owner, int32_t slot, std::span<const int32_t> tokens,
                     size_t begin, int chunk, const Placed* placed, const TakeLogits& take);
  int score_chunk(int asked) const;

  std::shared_ptr<const Model> model_;
  Backend& backend_;
  EngineOptions options_;
  MemoryBreakdown memory_;
  std::unique_ptr<KvPages> kv_;
  std::unique_ptr<SlotPool> slots_;  // null: no recurrent states
  std::unique_ptr<Pools> pools_;
  std::unique_ptr<ProgramSet> programs_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<TowerRunner> towers_;  // null: the model or the backend takes text only
  std::vector<float> step_features_;     // [rows, hidden] of the step
  std::unordered_map<RequestId, std::unique_ptr<Active>> requests_;
  std::vector<RequestId> cancelled_;
  std::atomic<RequestId> next_id_{1};
  EngineStats stats_;
};

/// One row of tokens scored piece by piece, so that several engines can go through it side by side
/// without anyone keeping all its logits. Holds pages and a slot of the engine while it lives.
class RowScoring {
 public:
  /// Errors: those of Engine::score.
  RowScoring(Engine& engine, std::vector<int32_t> tokens);
  ~RowScoring();
  RowScoring(const RowScoring&) = delete;
  RowScoring& operator=(const RowScoring&) = delete;

  /// Tokens one advance() computes.
  int chunk() const { return chunk_; }
  bool done() const { return next_ == tokens_.size(); }
  /// The logits of the next chunk() positions, or of as many as are left.
  void advance(const std::function<void(int64_t position, std::span<const float> logits)>& take);

 private:
  Engine& engine_;
  std::vector<int32_t> tokens_;
  size_t next_ = 0;
  int chunk_ = 0;
  OwnerId owner_ = 0;
  int32_t slot_ = -1;
};

}  // namespace decant
