#include "engine/engine.h"

#include <algorithm>

#include "base/checked.h"
#include "base/log.h"
#include "base/units.h"
#include "sampling/sampler.h"
#include "sampling/token_history.h"

namespace decant {
namespace {

double seconds(Engine::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

/// Why a step gave no token.
std::string no_token_text(int32_t cause, int64_t index) {
  if (cause == kAllBanned)
    return fmt::format(
        "[engine] logit_bias: expected a possible token at position {} of the answer, got all of "
        "them banned",
        index);
  return fmt::format("[engine] logits of token {}: expected finite numbers, got {}", index,
                     cause == kNanLogits ? "NaN" : "an infinite one or none");
}

ErrorKind kind_of(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return ours != nullptr ? ours->kind() : ErrorKind::kRuntime;
}

}  // namespace

struct Engine::Active {
  Request request;
  int64_t max_tokens = 0;
  int64_t generated = 0;
  int32_t last_token = -1;
  bool in_decode = false;  // its last step was a decode step: the slot's log holds a token
  bool cancelled = false;
  Clock::time_point submitted, admitted, first_chunk, first_token, last_time;
  Placed placed;
  TokenHistory history;  // empty unless there are penalties
  RequestResult result;

  SamplingRow sampling_row() const {
    const SamplingParams& s = request.sampling;
    return {.temperature = s.temperature,
            .top_k = s.top_k,
            .top_p = s.top_p,
            .min_p = s.min_p,
            .typical_p = s.typical_p,
            .repetition_penalty = s.repetition_penalty,
            .presence_penalty = s.presence_penalty,
            .frequency_penalty = s.frequency_penalty,
            .seed = s.seed,
            .counter = static_cast<uint64_t>(generated),
            .bias = s.logit_bias,
            .history = history.counts()};
  }
};

Engine::Engine(std::shared_ptr<const Model> model, Backend& backend, const EngineOptions& options)
    : model_(std::move(model)), backend_(backend), options_(options) {
  if (options_.max_sequences < 1 || options_.max_sequences > 4096)
    throw UsageError("[engine] max_sequences: expected 1 to 4096, got {}", options_.max_sequences);
  if (options_.prefill_chunk < 1 || options_.prefill_chunk > 1 << 16)
    throw UsageError("[engine] prefill_chunk: expected 1 to {}, got {}", 1 << 16,
                     options_.prefill_chunk);
  if (options_.memory_budget_bytes < 0)
    throw UsageError("[engine] memory_budget_bytes: expected 0 or more, got {}",
                     options_.memory_budget_bytes);
  if (options_.exact) options_.kv_dtype = DType::kF32;
  const ModelSpec& spec = model_->spec();
  const bool recurrent = !spec.states.empty();
  const int asked_chunk = options_.prefill_chunk;
  if (takes_media() && spec.media.both_ways)
    options_.prefill_chunk =
        std::max(asked_chunk, narrow<int>(round_up(spec.media.longest_span, int64_t{kPageSize})));
  if (recurrent)
    options_.prefill_chunk =
        narrow<int>(round_up(int64_t{options_.prefill_chunk}, int64_t{kPageSize}));

  PoolRequest request;
  request.ctx_size = options_.ctx_size;
  request.max_sequences = options_.max_sequences;
  request.ahead = options_.prefill_chunk;
  request.recycle = options_.recycle_windows;
  request.kv_dtype = options_.kv_dtype;
  build_programs(request);
  options_.ctx_size = memory_.ctx_size;

  kv_ =
      std::make_unique<KvPages>(KvPages::Options{spec.windows, pools_->spec().pages_per_group,
                                                 options_.prefill_chunk, options_.recycle_windows});
  if (recurrent) slots_ = std::make_unique<SlotPool>(options_.max_sequences);
  scheduler_ = std::make_unique<Scheduler>(
      SchedulerLimits{
          options_.max_sequences,
          recurrent ? options_.prefill_chunk : std::min(asked_chunk, options_.prefill_chunk),
          std::min(options_.max_sequences, kMaxPrefillSequences), recurrent,
          options_.prefill_chunk},
      *kv_, slots_.get());
  if (takes_media())
    towers_ = std::make_unique<TowerRunner>(
        *model_, backend_,
        TowerRunner::Options{
            .compile = {options_.exact, options_.reference_route, options_.dense_attention},
            .budget = memory_.budget - memory_.kv - memory_.states});
  log_debug("engine on {}:\n{}", backend_.description(), memory_.text());
}

Engine::~Engine() = default;

bool Engine::takes_media() const {
  if (!backend_.takes_media()) return false;
  for (const Medium medium : {Medium::kImage, Medium::kVideo, Medium::kAudio})
    if (model_->tower(medium) != nullptr) return true;
  return false;
}

// What caches and the arena may take. Mapped weights occupy memory that still counts as free;
// `made` of them do not.
int64_t Engine::budget_beside(int64_t weights, int64_t made) const {
  if (options_.memory_budget_bytes > 0) return options_.memory_budget_bytes;
  constexpr double kUsableShare = 0.9;  // the rest is for the system and what others ask meanwhile
  const auto usable =
      static_cast<int64_t>(static_cast<double>(backend_.free_bytes()) * kUsableShare);
  if (!backend_.maps_weights()) return usable;
  const int64_t mapped = weights - made;
  if (mapped < usable) return usable - mapped;
  if (options_.weights_from_disk) return usable / 2;
  int64_t per_token = 0;
  for (const KvSpec& kv : model_->spec().kv)
    per_token += kv_page_bytes(kv, options_.kv_dtype) / kPageSize;
  throw MemoryError(
      "[memory] weights: expected at most {0} of free memory, got {1} (a format of fewer bits may "
      "fit; --weights-from-disk reads in every step what does not)\n"
      "weights  {1}\nKV cache {2} per token\nfree     {0}",
      format_bytes(static_cast<uint64_t>(usable)), format_bytes(static_cast<uint64_t>(weights)),
      format_bytes(static_cast<uint64_t>(per_token)));
}

// The arena's size is known once programs are compiled, programs need pools, and the pools take
// what the arena leaves. So the largest programs are compiled on pools of the smallest size first;
// a backend whose scratch grows with the pools is met by a second try with what it then wanted.
void Engine::build_programs(const PoolRequest& asked) {
  const ModelSpec& spec = model_->spec();
  const CompileOptions compile{options_.exact, options_.reference_route, options_.dense_attention};
  const std::vector<Capacity> ladder =
      capacity_ladder(options_.max_sequences, options_.prefill_chunk, takes_media());
  PoolRequest request = asked;
  const Graph step = record_step(*model_, ladder.front());
  request.weights = weight_bytes(step);
  request.budget = budget_beside(request.weights, made_weight_bytes(step));
  {
    PoolSpec smallest;
    smallest.kv = spec.kv;
    smallest.states = spec.states;
    smallest.kv_dtype = request.kv_dtype;
    smallest.pages_per_group.assign(spec.windows.size(), 1);
    smallest.slots = spec.states.empty() ? 0 : 1;
    const auto pools = backend_.make_pools(smallest);
    ProgramSet programs(*model_, backend_, *pools, compile, takes_media());
    for (Phase phase : {Phase::kDecode, Phase::kPrefill})
      programs.compile({*std::find_if(ladder.rbegin(), ladder.rend(),
                                      [&](const Capacity& c) { return c.phase == phase; })});
    request.arena = programs.arena_bytes();
  }
  for (int attempt = 0;; ++attempt) {
    const PoolPlan plan = plan_pools(spec, request);
    pools_ = backend_.make_pools(plan.pools);
    programs_ = std::make_unique<ProgramSet>(*model_, backend_, *pools_, compile, takes_media());
    programs_->compile(ladder);
    memory_ = plan.memory;
    memory_.arena = programs_->arena_bytes();
    if (memory_.needed() <= memory_.budget) return;
    programs_.reset();
    pools_.reset();
    if (attempt == 2)
      throw MemoryError("[memory] arena: expected {} bytes, got {}\n{}", request.arena,
                        memory_.arena, memory_.text());
    request.arena = std::max(request.arena, memory_.arena);
  }
}

void Engine::check_tokens(std::span<const int32_t> tokens) const {
  if (tokens.empty()) throw RequestError("[request] prompt: expected at least 1 token, got 0");
  const int64_t vocab = model_->spec().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= vocab)
      throw RequestError("[request] prompt[{}]: expected a token id of 0 to {}, got {}", i,
                         vocab - 1, tokens[i]);
}

void Engine::check(const Request& request) const {
  check_tokens(request.prompt);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt >= options_.ctx_size)
    throw RequestError(
        "[request] prompt: expected at most {} tokens (context of {}, one of them for the answer), "
        "got {}",
        options_.ctx_size - 1, options_.ctx_size, prompt);
  throw_request_problems(request_problems(request, model_->spec().vocab_size));
  check_media(request.prompt, request.media);
  const int64_t room = options_.ctx_size - prompt;
  const int64_t tokens = request.max_tokens > 0 ? std::min(request.max_tokens, room) : room;
  if (!kv_->can_ever_hold(prompt + tokens - 1))
    throw RequestError(
        "[request] prompt and answer: expected at most {} tokens (the cache), got {}",
        memory_.kv_tokens, prompt + tokens);
}

void Engine::check_media(std::span<const int32_t> tokens,
                         std::span<const PromptMedia> media) const {
  if (media.empty()) return;
  if (!backend_.takes_media())
    throw RequestError("[request] {}: expected the cpu device, got {}",
                       name_of(media.front().input->medium), backend_.name());
  place_media(*model_, tokens, media, options_.prefill_chunk);
}

std::shared_ptr<const Features> Engine::features(const TowerInput& input, const std::string& key) {
  const Tower* tower = model_->tower(input.medium);
  if (towers_ == nullptr || tower == nullptr)
    throw RequestError("[request] {}: expected a model and a device that take it, got {} on {}",
                       name_of(input.medium), model_->spec().model_type, backend_.name());
  tower->rows(input);
  return towers_->run(input, key);
}

void Engine::run_towers(Placed& placed) {
  const Placement& placement = placed.placement;
  for (size_t i = placed.features.size(); i < placement.inputs.size(); ++i)
    placed.features.push_back(towers_->run(*placement.inputs[i], placement.keys[i]));
}

RequestId Engine::submit(Request request) {
  check(request);
  if (static_cast<size_t>(scheduler_->waiting()) >= options_.queue_limit)
    throw QueueFullError("[engine] queue: expected at most {} waiting requests, got one more",
                         options_.queue_limit);
  const RequestId id = new_id();
  enqueue(id, std::move(request), Clock::now());
  return id;
}

void Engine::enqueue(RequestId id, Request request, Clock::time_point submitted) {
  auto active = std::make_unique<Active>();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t room = options_.ctx_size - prompt;
  active->max_tokens = request.max_tokens > 0 ? std::min(request.max_tokens, room) : room;
  active->request = std::move(request);
  if (towers_ != nullptr)
    active->placed.placement =
        place_media(*model_, active->request.prompt, active->request.media, options_.prefill_chunk);
  // Presence and frequency look at the answer alone.
  if (active->request.sampling.repetition_penalty != 1)
    active->history.add_prompt(active->request.prompt);
  active->submitted = submitted;
  active->result.stats.prompt_tokens = prompt;
  // The last token is never computed: it is only given out.
  scheduler_->enqueue(id, prompt, prompt + active->max_tokens - 1, active->placed.placement.spans);
  requests_.emplace(id, std::move(active));
}

void Engine::cancel(RequestId id) {
  const auto at = requests_.find(id);
  if (at == requests_.end() || at->second->cancelled) return;
  at->second->cancelled = true;
  cancelled_.push_back(id);
}

void Engine::drop_cancelled() {
  // Callbacks may cancel more.
  while (!cancelled_.empty()) {
    const std::vector<RequestId> ids = std::exchange(cancelled_, {});
    for (RequestId id : ids) finish(id, FinishReason::kCancelled);
  }
}

bool Engine::step() {
  drop_cancelled();
  for (RequestId id : scheduler_->admit()) {
    Active& active = *requests_.at(id);
    active.admitted = Clock::now();
    active.result.stats.queue_seconds = seconds(active.admitted - active.submitted);
    if (slots_ != nullptr) pools_->reset_slot(scheduler_->slot(id));
    if (active.placed.placement.inputs.empty()) continue;
    try {
      run_towers(active.placed);
    } catch (const std::exception& error) {
      ++stats_.failed_steps;
      finish(id, FinishReason::kError, error.what(), kind_of(error));
    }
  }
  const StepPlan plan = scheduler_->plan();
  if (!plan.decode.empty() || !plan.prefill.empty()) ++stats_.steps;
  stats_.peak_running = std::max(stats_.peak_running, scheduler_->running());
  for (size_t begin = 0; begin < plan.decode.size(); begin += kMaxDecodeRows)
    run_decode(std::span(plan.decode)
                   .subspan(begin, std::min<size_t>(kMaxDecodeRows, plan.decode.size() - begin)));
  if (!plan.prefill.empty()) run_prefill(plan.prefill);
  drop_cancelled();
  return !requests_.empty();
}

Batch Engine::batch_of(Phase phase, std::span<const Row> rows) {
  Batch batch;
  batch.phase = phase;
  for (const Row& row : rows) {
    const auto count = narrow<int32_t>(row.tokens.size());
    kv_->advance(row.owner, row.past, count);
    const auto sequence = narrow<int32_t>(batch.sequences.size());
    batch.sequences.push_back(
        {narrow<int32_t>(batch.tokens.size()), count, row.past, row.slot, row.commit});
    for (int32_t i = 0; i < count; ++i) {
      batch.tokens.push_back(row.tokens[static_cast<size_t>(i)]);
      batch.positions.push_back(narrow<int32_t>(row.past + i));
      batch.sequence_of.push_back(sequence);
    }
  }
  for (int g = 0; g < kv_->groups(); ++g)
    for (const Row& row : rows) batch.page_tables.push_back(kv_->table(row.owner, g));
  int64_t used = 0;
  for (int g = 0; g < kv_->groups(); ++g) used += kv_->used_pages(g);
  stats_.peak_used_pages = std::max(stats_.peak_used_pages, used);
  return batch;
}

void Engine::feed_media(std::span<const Row> rows, Batch& batch, Program* program) {
  const auto any = [&](auto has) {
    return std::any_of(rows.begin(), rows.end(),
                       [&](const Row& row) { return row.placed != nullptr && has(*row.placed); });
  };
  const bool axes = any([](const Placed& p) { return !p.placement.axes.empty(); });
  const bool ahead = any([](const Placed& p) { return !p.placement.last_seen.empty(); });
  const bool sources = any([](const Placed& p) { return !p.placement.sources.empty(); });
  if (!axes && !ahead && !sources) return;
  const MediaSpec& spec = model_->spec().media;
  const auto width = static_cast<size_t>(model_->spec().hidden_size);
  step_features_.clear();
  size_t n = 0;
  for (const Row& row : rows) {
    const Placement* placement = row.placed != nullptr ? &row.placed->placement : nullptr;
    for (size_t i = 0; i < row.tokens.size(); ++i, ++n) {
      const int32_t position = batch.positions[n];
      const auto at = static_cast<size_t>(position);
      if (axes) {
        const bool own = placement != nullptr && !placement->axes.empty();
        const int32_t later = position + (own ? placement->shift : 0);
        batch.rope_positions.push_back(own && at < placement->axes.size()
                                           ? placement->axes[at]
                                           : std::array<int32_t, 3>{later, later, later});
      }
      if (ahead)
        batch.last_seen.push_back(placement != nullptr && at < placement->last_seen.size()
                                      ? placement->last_seen[at]
                                      : position);
      if (!sources || batch.phase == Phase::kDecode) continue;
      const Placement::Source source = placement != nullptr && at < placement->sources.size()
                                           ? placement->sources[at]
                                           : Placement::Source{};
      if (source.item < 0) {
        batch.feature_of.push_back(-1);
        continue;
      }
      batch.feature_of.push_back(narrow<int32_t>(step_features_.size() / width));
      const float* values = row.placed->features[static_cast<size_t>(source.item)]->row(source.row);
      step_features_.insert(step_features_.end(), values, values + width);
      const bool placeholder = batch.tokens[n] == spec.image_token ||
                               batch.tokens[n] == spec.video_token ||
                               batch.tokens[n] == spec.audio_token;
      if (spec.lookup_token >= 0 && placeholder) batch.tokens[n] = spec.lookup_token;
    }
  }
  if (program != nullptr && !step_features_.empty())
    program->set_input(kFeatureInput, std::span<const float>(step_features_));
}

bool Engine::run(Program& program, const Batch& batch, std::span<const RequestId> ids,
                 std::vector<int32_t>& tokens) {
  const auto begin = Clock::now();
  try {
    program.run(batch);
    const std::span<const int32_t> out = program.int_output(ProgramSet::kTokens);
    tokens.assign(out.begin(), out.end());
    DECANT_ASSERT(tokens.size() == batch.outputs.size(), "a step gives a token per output row");
  } catch (const std::exception& error) {
    ++stats_.failed_steps;
    for (RequestId id : ids) finish(id, FinishReason::kError, error.what(), kind_of(error));
    return false;
  }
  (batch.phase == Phase::kDecode ? stats_.decode_seconds : stats_.prefill_seconds) +=
      seconds(Clock::now() - begin);
  return true;
}

void Engine::run_decode(std::span<const RequestId> ids) {
  std::vector<Row> rows;
  for (RequestId id : ids) {
    Active& active = *requests_.at(id);
    rows.push_back({id,
                    scheduler_->slot(id),
                    scheduler_->past(id),
                    slots_ != nullptr && active.in_decode ? 1 : 0,
                    {&active.last_token, 1},
                    &active.placed});
    active.in_decode = true;
  }
  Batch batch = batch_of(Phase::kDecode, rows);
  for (size_t i = 0; i < ids.size(); ++i) {
    batch.outputs.push_back(narrow<int32_t>(i));
    batch.sampling.push_back(requests_.at(ids[i])->sampling_row());
  }
  feed_media(rows, batch, nullptr);
  const int64_t n = batch.num_tokens();
  Program& program = programs_->find(Phase::kDecode, n, n, n);
  std::vector<int32_t> tokens;
  if (!run(program, batch, ids, tokens)) return;
  for (size_t i = 0; i < ids.size(); ++i) {
    scheduler_->decoded(ids[i]);
    deliver(ids[i], tokens[i], program, i);
  }
}

void Engine::run_prefill(std::span<const StepPlan::Chunk> chunks) {
  std::vector<Row> rows;
  std::vector<RequestId> ids;
  const auto now = Clock::now();
  for (const StepPlan::Chunk& chunk : chunks) {
    Active& active = *requests_.at(chunk.id);
    if (chunk.past == 0) active.first_chunk = now;
    rows.push_back({chunk.id, scheduler_->slot(chunk.id), chunk.past, 0,
                    std::span(active.request.prompt)
                        .subspan(static_cast<size_t>(chunk.past), static_cast<size_t>(chunk.count)),
                    &active.placed});
    ids.push_back(chunk.id);
  }
  Batch batch = batch_of(Phase::kPrefill, rows);
  for (size_t i = 0; i < chunks.size(); ++i) {
    if (!chunks[i].last) continue;
    batch.outputs.push_back(batch.sequences[i].first + batch.sequences[i].count - 1);
    batch.sampling.push_back(requests_.at(ids[i])->sampling_row());
  }
  Program& program = programs_->find(Phase::kPrefill, batch.num_tokens(), batch.num_sequences(),
                                     batch.num_outputs());
  feed_media(rows, batch, &program);
  std::vector<int32_t> tokens;
  if (!run(program, batch, ids, tokens)) return;
  stats_.prompt_tokens += batch.num_tokens();
  size_t output = 0;
  for (const StepPlan::Chunk& chunk : chunks) {
    scheduler_->prefilled(chunk.id, chunk.count);
    if (!chunk.last) continue;
    deliver(chunk.id, tokens[output], program, output);
    ++output;
  }
}

void Engine::deliver(RequestId id, int32_t token, Program& program, size_t output) {
  Active& active = *requests_.at(id);
  if (active.cancelled) return;
  if (token < 0) {
    finish(id, FinishReason::kError, no_token_text(token, active.generated), ErrorKind::kRuntime);
    return;
  }
  active.last_time = Clock::now();
  if (active.generated == 0) active.first_token = active.last_time;
  ++active.generated;
  active.last_token = token;
  if (active.request.sampling.penalised()) active.history.add_generated(token);
  ++stats_.completion_tokens;
  bool go_on = true;
  const auto& stops = active.request.stop_ids;
  const bool stopped = std::find(stops.begin(), stops.end(), token) != stops.end();
  try {
    const auto logits = [&] {
      const auto width = static_cast<size_t>(model_->spec().vocab_size);
      return program.output(ProgramSet::kLogits).subspan(output * width, width);
    };
    if (active.request.on_logits) active.request.on_logits(logits());
    if (active.request.sampling.logprobs && !stopped) {
      active.result.logprobs.push_back(
          token_logprobs(logits(), token, *active.request.sampling.logprobs));
      if (active.request.on_logprobs) active.request.on_logprobs(active.result.logprobs.back());
    }
    if (stopped) {
      active.result.stop_id = token;
    } else {
      active.result.tokens.push_back(token);
      if (active.request.on_token) go_on = active.request.on_token(token);
    }
  } catch (const std::exception& error) {
    finish(id, FinishReason::kError, error.what(), kind_of(error));
    return;
  }
  if (stopped || !go_on)
    finish(id, FinishReason::kStop);
  else if (active.generated >= active.max_tokens)
    finish(id, FinishReason::kLength);
  else if (towers_ != nullptr && is_tower_token(model_->spec().media, token))
    prefill_generated(id);
}

void Engine::prefill_generated(RequestId id) {
  Active& active = *requests_.at(id);
  std::vector<int32_t>& prompt = active.request.prompt;
  const std::vector<int32_t>& answer = active.result.tokens;
  const int64_t missing = scheduler_->past(id) + 1 - std::ssize(prompt);
  prompt.insert(prompt.end(), answer.end() - missing, answer.end());
  place_generated(model_->spec().media, prompt, active.placed.placement);
  try {
    run_towers(active.placed);
  } catch (const std::exception& error) {
    ++stats_.failed_steps;
    finish(id, FinishReason::kError, error.what(), kind_of(error));
    return;
  }
  scheduler_->prefill_next(id);
}

void Engine::finish(RequestId id, FinishReason reason, const std::string& error, ErrorKind kind) {
  const auto at = requests_.find(id);
  if (at == requests_.end()) return;
  const std::unique_ptr<Active> active = std::move(at->second);
  requests_.erase(at);
  scheduler_->finish(id);
  ++stats_.finished;
  RequestResult& result = active->result;
  result.reason = reason;
  result.error = error;
  result.error_kind = kind;
  result.stats.completion_tokens = active->generated;
  if (active->generated > 0) {
    result.stats.ttft_seconds = seconds(active->first_token - active->submitted);
    result.stats.prefill_seconds = seconds(active->first_token - active->first_chunk);
    result.stats.decode_seconds = seconds(active->last_time - active->first_token);
  }
  if (!active->request.on_finish) return;
  try {
    active->request.on_finish(result);
  } catch (const std::exception& thrown) {
    log_warning("request {}: its on_finish threw: {}", id, thrown.what());
  }
}

void Engine::finish_all(FinishReason reason, const std::string& error) {
  std::vector<RequestId> ids;
  for (const auto& [id, active] : requests_) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  for (RequestId id : ids) finish(id, reason, error);
  cancelled_.clear();
}

EngineStats Engine::stats() const {
  EngineStats stats = stats_;
  stats.running = scheduler_->running();
  stats.waiting = scheduler_->waiting();
  for (int g = 0; g < kv_->groups(); ++g) stats.used_pages += kv_->used_pages(g);
  if (towers_ != nullptr) {
    stats.tower_seconds = towers_->stats().seconds;
    stats.towers_computed = towers_->stats().computed;
    stats.towers_reused = towers_->stats().reused;
  }
  stats.peak_process_bytes = peak_process_bytes();
  return stats;
}

void Engine::check_integrity() const {
  kv_->check_integrity();
  DECANT_ASSERT(kv_->sequences() == scheduler_->running(), "pages belong to running requests");
  if (slots_ != nullptr) {
    slots_->check_integrity();
    DECANT_ASSERT(slots_->slots() - slots_->free_slots() == scheduler_->running(),
                  "slots belong to running requests");
  }
  DECANT_ASSERT(
      static_cast<int64_t>(requests_.size()) == scheduler_->running() + scheduler_->waiting(),
      "every request waits or runs");
}

}  // namespace decant
