#include "backend/mlx/mlx_backend.h"

#include <cstdlib>
#include <mutex>
#include <set>

#include "backend/mlx/step.h"
#include "ops/attention.h"
#include "ops/rope.h"
#include "ops/sample.h"
#include "program/passes.h"
#include "program/schedule.h"
#include "sampling/sampler.h"

namespace decant::mlx {
namespace {

const Lowering* find_lowering(const Op& op) {
  for (const auto list : {row_lowerings(), product_lowerings(), sequence_lowerings()})
    for (const Lowering& lowering : list)
      if (lowering.op == &op) return &lowering;
  return nullptr;
}

/// What this backend lacks for a graph; all of it is named at once.
void check_support(const Graph& graph) {
  Problems problems;
  std::set<int> sampled;
  for (const Node& node : graph.nodes()) {
    const std::string where = graph.describe(node);
    if (find_lowering(*node.op) == nullptr) {
      std::string types;
      for (const int id : node.inputs)
        types += fmt::format(" {} {}", name_of(graph.value(id).type.dtype),
                             graph.value(id).type.shape.to_string());
      problems.add(fmt::format("{}: expected an op that mlx lowers, got{}", where,
                               types.empty() ? " one without inputs" : types));
    }
    if (node.op == &rope_op() && !node.as<RopeParams>().axes.empty())
      problems.add(fmt::format("{}: expected one axis of positions, got several", where));
    if (node.op == &attention_op() && node.as<AttentionParams>().both_ways)
      problems.add(fmt::format("{}: expected queries that see back only, got both ways", where));
    for (const Weight* weight : node.weights)
      if (const std::string reason = unsupported_reason(*weight); !reason.empty())
        problems.add(fmt::format("{}: weight {}: expected a kind that mlx holds, got {} {} ({})",
                                 where, weight->name, weight->format.name(),
                                 weight->shape.to_string(), reason));
    for (const int id : node.inputs)
      if (sampled.contains(graph.storage_of(id)))
        problems.add(fmt::format(
            "{}: expected tokens of this step only as an output, got them as an input", where));
    if (node.op == &sample_op()) sampled.insert(node.outputs[0]);
  }
  if (!problems.empty())
    throw RuntimeError("{}", problems.text("[mlx] this graph cannot be lowered"));
}

class MlxProgram final : public Program {
 public:
  MlxProgram(Graph graph, MlxPools& pools, WeightStore& store)
      : graph_(std::move(graph)), pools_(pools) {
    check_support(graph_);
    arena_bytes_ = plan_memory(graph_, schedule_by_levels(graph_)).arena_bytes;
    for (const Node& node : graph_.nodes()) {
      const Lowering& lowering = *find_lowering(*node.op);
      auto& held = weights_.emplace_back();
      for (const Weight* weight : node.weights)
        held.push_back(store.get(*weight, held.empty() ? lowering.use : WeightUse::kProduct));
      lowerings_.push_back(&lowering);
    }
  }
  const Graph& graph() const override { return graph_; }
  const Capacity& capacity() const override { return graph_.capacity(); }
  /// What a plan would take: MLX allocates by itself and reuses buffers in a like manner.
  int64_t arena_bytes() const override { return arena_bytes_; }

  void set_input(int index, std::span<const float> values) override {
    inputs_[index] = {{values.begin(), values.end()}, {}};
  }
  void set_input(int index, std::span<const int32_t> values) override {
    inputs_[index] = {{}, {values.begin(), values.end()}};
  }

  void run(const Batch& batch) override {
    const Capacity& most = capacity();
    DECANT_ASSERT(batch.num_tokens() <= most.tokens && batch.num_sequences() <= most.sequences &&
                      batch.num_outputs() <= most.outputs,
                  "a batch fits the capacity of its program");
    if (pools_.lost)
      throw RuntimeError("[mlx] the caches were lost by a step that failed: make new ones");
    try {
      evaluate(batch);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw RuntimeError("[mlx] the step failed: {}", quote(error.what(), 400));
    }
    live_tokens_ = batch.num_tokens();
    live_outputs_ = batch.num_outputs();
    sample_on_host(batch);
  }

  std::span<const float> output(int index) const override {
    const mx::array& value = results_.at(static_cast<size_t>(index));
    return {value.data<float>(), live_elements(index)};
  }
  std::span<const int32_t> int_output(int index) const override {
    if (const auto sampled = sampled_.find(output_id(index)); sampled != sampled_.end())
      return sampled->second;
    const mx::array& value = results_.at(static_cast<size_t>(index));
    return {value.data<int32_t>(), live_elements(index)};
  }

  std::vector<int64_t> distinct_experts() const override {
    std::vector<int64_t> counts(graph_.nodes().size(), -1);
    for (const auto& [node, ids] : expert_ids_) {
      const int64_t live =
          live_rows(graph_.value(graph_.nodes()[static_cast<size_t>(node)].inputs[1]).type) *
          ids.shape(1);
      const auto* first = ids.data<int32_t>();
      counts[static_cast<size_t>(node)] =
          static_cast<int64_t>(std::set<int32_t>(first, first + live).size());
    }
    return counts;
  }

 private:
  /// Records the step, hands the caches over to it and evaluates everything at once.
  void evaluate(const Batch& batch) {
    std::vector<mx::array> wanted;
    {
      Step step(graph_, batch, pools_, inputs_);
      for (size_t i = 0; i < lowerings_.size(); ++i)
        lowerings_[i]->lower(step, graph_.nodes()[i], weights_[i]);
      results_.clear();
      for (const auto& [name, id] : graph_.outputs())
        results_.push_back(mx::contiguous(step.value(id)));
      expert_ids_.clear();
      for (const auto& [node, ids] : step.expert_ids)
        expert_ids_.emplace_back(node, mx::contiguous(ids));
      host_samples_ = std::move(step.host_samples);
      for (const mx::array& result : results_) wanted.push_back(result);
      for (const auto& [node, ids] : expert_ids_) wanted.push_back(ids);
      for (const HostSample& sample : host_samples_) wanted.push_back(sample.logits);
      // From here on only the recorded graph holds the old versions: they are updated in place.
      pools_.lost = true;
      for (const auto& [index, version] : step.new_kv()) {
        pools_.kv[static_cast<size_t>(index)] = version;
        wanted.insert(wanted.end(), {version.keys, version.values});
      }
      for (const auto& [index, version] : step.new_states()) {
        pools_.states[static_cast<size_t>(index)] = version;
        wanted.insert(wanted.end(), {version.state, version.log});
      }
    }
    mx::eval(std::move(wanted));
    pools_.lost = false;
  }

  /// Rows that are not greedy get their token from the host's sampler, the others keep MLX's.
  void sample_on_host(const Batch& batch) {
    sampled_.clear();
    for (const HostSample& sample : host_samples_) {
      const auto width = static_cast<size_t>(sample.logits.shape(1));
      const auto* logits = sample.logits.data<float>();
      std::vector<int32_t>& ids = sampled_[sample.value];
      for (size_t i = 0; i < batch.outputs.size(); ++i)
        ids.push_back(sample_token({logits + i * width, width}, batch.sampling[i]));
    }
    host_samples_.clear();
  }

  int output_id(int index) const { return graph_.outputs().at(static_cast<size_t>(index)).second; }
  int64_t live_rows(const ValueType& type) const {
    return type.rows == Rows::kTokens    ? live_tokens_
           : type.rows == Rows::kOutputs ? live_outputs_
                                         : type.shape[0];
  }
  size_t live_elements(int index) const {
    const ValueType& type = graph_.value(output_id(index)).type;
    return static_cast<size_t>(live_rows(type) * type.width());
  }

  Graph graph_;
  MlxPools& pools_;
  int64_t arena_bytes_ = 0;
  std::vector<const Lowering*> lowerings_;                                 // by node
  std::vector<std::vector<std::shared_ptr<const DeviceWeight>>> weights_;  // by node
  std::map<int, Step::Input> inputs_;
  std::vector<mx::array> results_;  // by output
  std::vector<std::pair<int, mx::array>> expert_ids_;
  std::vector<HostSample> host_samples_;
  std::map<int, std::vector<int32_t>> sampled_;  // by value
  int64_t live_tokens_ = 0;
  int64_t live_outputs_ = 0;
};

std::string device_text() {
  const auto& info = mx::device_info(mx::default_device());
  const auto name = info.find("device_name");
  const auto* text = name == info.end() ? nullptr : std::get_if<std::string>(&name->second);
  return text == nullptr ? "unnamed device" : *text;
}

class MlxBackend final : public Backend {
 public:
  std::string_view name() const override { return "mlx"; }
  std::string description() const override {
    return fmt::format("MLX {} on {} ({})", mx::version(),
                       mx::default_device() == mx::Device::gpu ? "gpu" : "cpu", device_text());
  }
  std::unique_ptr<Pools> make_pools(const PoolSpec& spec) override {
    return std::make_unique<MlxPools>(spec);
  }
  std::unique_ptr<Program> compile(const Graph& graph, Pools& pools,
                                   const CompileOptions& options) override {
    if (options.reference)
      throw UsageError("[mlx] reference kernels: expected the device cpu or reference, got mlx");
    try {
      return std::make_unique<MlxProgram>(expand_composites(graph, bind_primitives()),
                                          mlx_pools(pools), store_);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw RuntimeError("[mlx] the program could not be made: {}", quote(error.what(), 400));
    }
  }
  int64_t free_bytes() const override {
    return std::max<int64_t>(0, static_cast<int64_t>(mx::get_memory_limit()) -
                                    static_cast<int64_t>(mx::get_active_memory()));
  }

 private:
  WeightStore store_;
};

/// MLX reads these once, when it starts: products of f32 stay f32 (no TF32), and its CUDA caches
/// do not throw in a process that lives long. What the user set stays.
void start_mlx() {
  static std::once_flag once;
  std::call_once(once, [] {
    setenv("MLX_ENABLE_TF32", "0", 0);
    setenv("MLX_ENABLE_CACHE_THRASHING_CHECK", "0", 0);
    // A package with CUDA names the GPU its default device even where there is none.
    if (mx::default_device() == mx::Device::gpu && !mx::is_available(mx::Device::gpu))
      mx::set_default_device(mx::Device::cpu);
  });
}

}  // namespace
}  // namespace decant::mlx

namespace decant {

std::unique_ptr<Backend> make_mlx_backend(const BackendOptions&) {
  try {
    mlx::start_mlx();
    return std::make_unique<mlx::MlxBackend>();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw RuntimeError("[mlx] MLX did not start: {}", quote(error.what(), 400));
  }
}

}  // namespace decant
