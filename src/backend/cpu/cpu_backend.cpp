#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>

#include "backend/cpu/bindings.h"
#include "backend/cpu/lowering.h"
#include "backend/cpu/read_probe.h"
#include "backend/cpu/thread_team.h"
#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/units.h"
#include "ops/latent.h"
#include "program/passes.h"
#include "program/schedule.h"

namespace decant::cpu {

const Binding* find_binding(const Op& op) {
  static const std::vector<Binding> all = [] {
    std::vector<Binding> joined;
    for (auto part : {product_bindings(), row_bindings(), attention_bindings(), routing_bindings(),
                      recurrent_bindings(), latent_bindings(), feature_bindings(),
                      picture_bindings(), frame_bindings()})
      joined.insert(joined.end(), part.begin(), part.end());
    return joined;
  }();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Binding& binding) { return binding.op == &op; });
  return found == all.end() ? nullptr : &*found;
}

namespace {

using Clock = std::chrono::steady_clock;

class CpuQuery final : public BindQuery {
 public:
  bool binds(const Graph&, const Node& node) const override {
    return find_binding(*node.op) != nullptr || !node.op->composite();
  }
  bool wants(const Op& fused) const override { return find_binding(fused) != nullptr; }
};

/// A range of addresses that never moves; pages are taken when first touched. Programs share it and
/// run in order.
class Arena {
 public:
  explicit Arena(int64_t reserve) : bytes_(reserve) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      throw MemoryError("[cpu] arena: the system refused {} of addresses",
                        format_bytes(static_cast<uint64_t>(bytes_)));
    data_ = static_cast<std::byte*>(memory);
    madvise(memory, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  }
  ~Arena() { munmap(data_, static_cast<size_t>(bytes_)); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  int64_t bytes_;
};

/// What all programs of one backend share.
struct Machine {
  Machine(int threads, Isa set)
      : isa(set),
        linear(linear_kernels(set)),
        vector(vector_kernels(set)),
        team(threads),
        arena(int64_t{64} << 30),
        scratch_memory(static_cast<size_t>(team.size()) * Scratch::kBytes + 64) {
    const auto base = (reinterpret_cast<uintptr_t>(scratch_memory.data()) + 63) / 64 * 64;
    for (int i = 0; i < team.size(); ++i)
      scratch.push_back({reinterpret_cast<std::byte*>(base) + i * Scratch::kBytes});
  }
  Isa isa;
  const LinearKernels& linear;
  const VectorKernels& vector;
  ThreadTeam team;
  Arena arena;
  std::vector<std::byte> scratch_memory;
  std::vector<Scratch> scratch;
};

class CpuProgram final : public Program {
 public:
  CpuProgram(const Graph& recorded, HostPools& pools, const CompileOptions& options,
             std::shared_ptr<Machine> machine)
      : graph_(lowered(recorded, options)), pools_(pools), machine_(std::move(machine)) {
    const Schedule schedule = schedule_by_levels(graph_);
    std::vector<WorkspaceRequest> requests;
    std::vector<int> request_of(graph_.nodes().size(), -1);
    for (const Node& node : graph_.nodes()) {
      const Binding* binding = find_binding(*node.op);
      if (binding == nullptr)
        throw RuntimeError("[cpu] {}: no kernel for {} {}", graph_.describe(node),
                           name_of(graph_.value(node.outputs[0]).type.dtype),
                           graph_.value(node.outputs[0]).type.shape.to_string());
      if (binding->workspace_bytes == nullptr) continue;
      request_of[static_cast<size_t>(node.id)] = static_cast<int>(requests.size());
      requests.push_back({node.id, binding->workspace_bytes(graph_, node, pools_.spec())});
    }
    plan_ = plan_memory(graph_, schedule, requests);
    if (plan_.arena_bytes > machine_->arena.bytes())
      throw MemoryError("[cpu] arena: expected at most {}, got {}",
                        format_bytes(static_cast<uint64_t>(machine_->arena.bytes())),
                        format_bytes(static_cast<uint64_t>(plan_.arena_bytes)));
    for (const auto& info : graph_.values())
      if (info.external == ExternalKind::kInput && info.base < 0) {
        auto& buffer = inputs_[info.external_index];
        buffer.resize(static_cast<size_t>(value_bytes(info.type)) + MemoryPlan::kAlignment);
      }
    kernels_.resize(graph_.nodes().size());
    for (const Node& node : graph_.nodes()) {
      BindContext context{graph_,
                          node,
                          {},
                          {},
                          nullptr,
                          pools_.spec(),
                          machine_->linear,
                          machine_->vector,
                          machine_->team.size()};
      for (int id : node.inputs) context.inputs.push_back(tensor(id));
      for (int id : node.outputs) context.outputs.push_back(tensor(id));
      if (const int request = request_of[static_cast<size_t>(node.id)]; request >= 0)
        context.workspace =
            machine_->arena.data() + plan_.workspace_offset[static_cast<size_t>(request)];
      kernels_[static_cast<size_t>(node.id)] = find_binding(*node.op)->make(context);
    }
    for (const auto& phase : schedule.phases) {
      int stages = 0;
      for (int node : phase)
        stages = std::max(stages, kernels_[static_cast<size_t>(node)]->stages());
      for (int stage = 0; stage < stages; ++stage) {
        Round round;
        for (int node : phase)
          if (stage < kernels_[static_cast<size_t>(node)]->stages())
            round.work.push_back({kernels_[static_cast<size_t>(node)].get(), node, stage, 0});
        rounds_.push_back(std::move(round));
      }
    }
    counters_ = std::vector<Counter>(rounds_.size());
    seconds_.assign(static_cast<size_t>(machine_->team.size()),
                    std::vector<double>(graph_.nodes().size(), 0.0));
  }

  const Graph& graph() const override { return graph_; }
  const Capacity& capacity() const override { return graph_.capacity(); }
  int64_t arena_bytes() const override { return plan_.arena_bytes; }
  void set_input(int index, std::span<const float> values) override {
    fill(index, std::as_bytes(values));
  }
  void set_input(int index, std::span<const int32_t> values) override {
    fill(index, std::as_bytes(values));
  }

  void run(const Batch& batch) override {
    DECANT_ASSERT(batch.num_tokens() <= graph_.capacity().tokens &&
                      batch.num_sequences() <= graph_.capacity().sequences &&
                      batch.num_outputs() <= graph_.capacity().outputs,
                  "a step fits the capacity of its program");
    tokens_ = batch.num_tokens();
    outputs_ = batch.num_outputs();
    const StepContext context{batch, pools_.kv(), pools_.states()};
    for (size_t i = 0; i < rounds_.size(); ++i) {
      rounds_[i].total = 0;
      for (Work& work : rounds_[i].work) {
        work.tiles = work.kernel->tiles(context, work.stage);
        rounds_[i].total += work.tiles;
      }
      counters_[i].next.store(0, std::memory_order_relaxed);
      counters_[i].done.store(0, std::memory_order_relaxed);
    }
    if (profiling_)
      for (auto& row : seconds_) std::fill(row.begin(), row.end(), 0.0);
    failed_.store(false, std::memory_order_relaxed);
    const std::function<void(int)> job = [&](int worker) { work_through(context, worker); };
    machine_->team.run(job);
    if (failed_.load(std::memory_order_relaxed)) {
      std::exception_ptr failure;
      std::swap(failure, failure_);
      std::rethrow_exception(failure);
    }
    if (const std::string damaged = damaged_mapping(); !damaged.empty())
      throw RuntimeError("[weights] {}: the file was cut or became unreadable while in use",
                         damaged);
  }
  std::span<const float> output(int index) const override { return view<float>(index); }
  std::span<const int32_t> int_output(int index) const override { return view<int32_t>(index); }
  std::vector<int64_t> distinct_experts() const override {
    std::vector<int64_t> counts(graph_.nodes().size(), -1);
    std::vector<int64_t> of_plan(graph_.values().size(), -1);
    for (const Node& node : graph_.nodes()) {
      const int64_t own = kernels_[static_cast<size_t>(node.id)]->distinct_experts();
      if (own >= 0) of_plan[static_cast<size_t>(node.outputs[0])] = own;
      if (node.op == &expert_product_op())
        counts[static_cast<size_t>(node.id)] = of_plan[static_cast<size_t>(node.inputs[3])];
    }
    return counts;
  }
  void set_profiling(bool on) override { profiling_ = on; }
  std::vector<NodeTime> node_times() const override {
    std::vector<NodeTime> times;
    for (const Node& node : graph_.nodes()) {
      // A node's time is what its slowest thread spent in it: that is what the step waited for.
      double longest = 0;
      for (const auto& row : seconds_)
        longest = std::max(longest, row[static_cast<size_t>(node.id)]);
      times.push_back({node.id, longest});
    }
    return times;
  }

 private:
  struct Work {
    CpuKernel* kernel;
    int node;
    int stage;
    int64_t tiles;
  };
  struct Round {
    std::vector<Work> work;
    int64_t total = 0;
  };
  struct alignas(64) Counter {
    std::atomic<int64_t> next{0};               // the tile to draw
    alignas(64) std::atomic<uint32_t> done{0};  // tiles finished
    Counter() = default;
    Counter(const Counter&) noexcept {}
  };

  static Graph lowered(const Graph& recorded, const CompileOptions& options) {
    const CpuQuery query;
    const Graph whole =
        options.dense_attention ? without_choice(recorded) : Graph(recorded.capacity());
    const Graph& wanted = options.dense_attention ? whole : recorded;
    return lower(fuse_neighbours(expand_composites(wanted, query), query), options.exact);
  }
  void work_through(const StepContext& context, int worker) {
    Scratch& scratch = machine_->scratch[static_cast<size_t>(worker)];
    for (size_t i = 0; i < rounds_.size(); ++i) {
      const Round& round = rounds_[i];
      if (round.total == 0) continue;
      const auto total = static_cast<uint32_t>(round.total);
      std::atomic<uint32_t>& done = counters_[i].done;
      while (true) {
        int64_t tile = counters_[i].next.fetch_add(1, std::memory_order_relaxed);
        if (tile >= round.total) break;
        for (const Work& work : round.work) {
          if (tile >= work.tiles) {
            tile -= work.tiles;
            continue;
          }
          run_tile(context, work, tile, worker, scratch);
          break;
        }
        if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == total) done.notify_all();
      }
      // The round ends with its tiles, not with its threads: one that another process holds up
      // keeps nobody waiting unless it has drawn a tile.
      ThreadTeam::wait_until(done, total);
    }
  }
  void run_tile(const StepContext& context, const Work& work, int64_t tile, int worker,
                Scratch& scratch) {
    if (failed_.load(std::memory_order_relaxed)) return;
    const auto start = profiling_ ? Clock::now() : Clock::time_point{};
    try {
      work.kernel->run(context, work.stage, tile, scratch);
    } catch (...) {
      const std::lock_guard lock(failure_mutex_);
      if (!failed_.exchange(true)) failure_ = std::current_exception();
    }
    if (profiling_)
      seconds_[static_cast<size_t>(worker)][static_cast<size_t>(work.node)] +=
          std::chrono::duration<double>(Clock::now() - start).count();
  }

  void fill(int index, std::span<const std::byte> bytes) {
    auto found = inputs_.find(index);
    DECANT_ASSERT(
        found != inputs_.end() && bytes.size() + MemoryPlan::kAlignment <= found->second.size(),
        "an input of this program, within its capacity");
    std::memcpy(aligned(found->second.data()), bytes.data(), bytes.size());
  }
  static std::byte* aligned(std::byte* data) {
    return reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(data) + 63) / 64 * 64);
  }
  TensorRef tensor(int id) {
    const ValueInfo& info = graph_.value(id);
    const int storage = graph_.storage_of(id);
    const ValueInfo& base = graph_.value(storage);
    TensorRef out;
    out.dtype = info.type.dtype;
    out.rows = info.type.rows;
    out.shape = info.type.shape;
    if (base.external == ExternalKind::kKvCache || base.external == ExternalKind::kState) {
      out.external = base.external_index;
      return out;
    }
    out.width = info.type.width();
    out.row_stride = base.type.width();
    std::byte* at = base.external == ExternalKind::kInput
                        ? aligned(inputs_.at(base.external_index).data())
                        : machine_->arena.data() + plan_.offset[static_cast<size_t>(storage)];
    out.data = at + graph_.column_of(id) * size_of(base.type.dtype);
    return out;
  }
  template <typename T>
  std::span<const T> view(int index) const {
    const int id = graph_.outputs().at(static_cast<size_t>(index)).second;
    const TensorRef value = const_cast<CpuProgram*>(this)->tensor(id);
    DECANT_ASSERT(value.contiguous(), "an output is no view");
    const int64_t rows = value.rows == Rows::kTokens    ? tokens_
                         : value.rows == Rows::kOutputs ? outputs_
                                                        : value.shape[0];
    return {reinterpret_cast<const T*>(value.data), static_cast<size_t>(rows * value.width)};
  }

  Graph graph_;
  HostPools& pools_;
  std::shared_ptr<Machine> machine_;
  MemoryPlan plan_;
  std::map<int, std::vector<std::byte>> inputs_;
  std::vector<std::unique_ptr<CpuKernel>> kernels_;
  std::vector<Round> rounds_;
  std::vector<Counter> counters_;
  std::vector<std::vector<double>> seconds_;  // [worker][node]
  bool profiling_ = false;
  int64_t tokens_ = 0;
  int64_t outputs_ = 0;
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, Isa isa) : machine_(std::make_shared<Machine>(threads, isa)) {}
  std::string_view name() const override { return "cpu"; }
  std::string description() const override {
    return fmt::format("{}, {}, {} threads", processor_name(), name_of(machine_->isa),
                       machine_->team.size());
  }
  std::unique_ptr<Pools> make_pools(const PoolSpec& spec) override {
    if (spec.bytes() > free_bytes())
      throw MemoryError("[memory] cache pools: expected at most {} free, got {}",
                        format_bytes(static_cast<uint64_t>(free_bytes())),
                        format_bytes(static_cast<uint64_t>(spec.bytes())));
    return std::make_unique<HostPools>(spec);
  }
  std::unique_ptr<Program> compile(const Graph& graph, Pools& pools,
                                   const CompileOptions& options) override {
    auto* host = dynamic_cast<HostPools*>(&pools);
    DECANT_ASSERT(host != nullptr, "the CPU runs on pools in host memory");
    if (options.reference) return make_reference_backend()->compile(graph, pools, options);
    return std::make_unique<CpuProgram>(graph, *host, options, machine_);
  }
  std::unique_ptr<ReadProbe> make_read_probe() override {
    return std::make_unique<HostReadProbe>(machine_->team);
  }
  bool maps_weights() const override { return true; }
  bool takes_media() const override { return true; }
  int64_t free_bytes() const override { return available_memory(); }

 private:
  static std::string processor_name() {
    std::ifstream file("/proc/cpuinfo");
    std::string line;
    while (std::getline(file, line))
      if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    return "processor";
  }
  std::shared_ptr<Machine> machine_;
};

}  // namespace

}  // namespace decant::cpu

namespace decant {

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options, cpu::Isa isa) {
  return std::make_unique<cpu::CpuBackend>(
      options.threads > 0 ? options.threads : cpu::default_threads(), isa);
}

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  return make_cpu_backend(options, cpu::selected_isa());
}

}  // namespace decant
