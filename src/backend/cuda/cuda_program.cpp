#include "backend/cuda/cuda_program.h"

#include <algorithm>

#include "ops/altup.h"
#include "ops/attention.h"
#include "ops/binary.h"
#include "ops/embed.h"
#include "ops/experts.h"
#include "ops/leaky_sum.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rows.h"
#include "ops/sample.h"
#include "ops/unary.h"
#include "sampling/sampler.h"

namespace decant::cuda {

// The kernels repeat these; the enums are cast.
static_assert(kPageSize == 64 && kAttentionSplit == 16);
static_assert(static_cast<int>(UnaryKind::kScale) == static_cast<int>(Unary::kScale) &&
              static_cast<int>(UnaryKind::kGeluErf) == static_cast<int>(Unary::kGeluErf) &&
              static_cast<int>(UnaryKind::kSoftplus) == static_cast<int>(Unary::kSoftplus));
static_assert(static_cast<int>(BinaryKind::kMul) == static_cast<int>(Binary::kMul));

/// One launcher per op: reads the node, calls the kernel.
struct Launchers {
  using Launcher = void (*)(const CudaProgram&, const Node&);

  static void embed(const CudaProgram& p, const Node& n) {
    launch_embed(p.stream(), p.weight(n, 0), n.as<EmbedParams>().out_of_range_is_row_zero,
                 p.batch_.view(), p.output_of(n, 0));
  }
  static void linear(const CudaProgram& p, const Node& n) {
    launch_linear(p.stream(), p.weight(n, 0), p.input(n, 0),
                  n.weights.size() > 1 ? p.weight(n, 1) : Matrix{}, Tensor{}, p.output_of(n, 0));
  }
  static void linear_add(const CudaProgram& p, const Node& n) {
    launch_linear(p.stream(), p.weight(n, 0), p.input(n, 1), Matrix{}, p.input(n, 0),
                  p.output_of(n, 0));
  }
  static void unary(const CudaProgram& p, const Node& n) {
    const auto& params = n.as<UnaryParams>();
    launch_unary(p.stream(), static_cast<UnaryKind>(params.kind), params.constant, p.input(n, 0),
                 p.output_of(n, 0));
  }
  static void act_mul(const CudaProgram& p, const Node& n) {
    const auto& params = n.as<UnaryParams>();
    launch_act_mul(p.stream(), static_cast<UnaryKind>(params.kind), params.constant, p.input(n, 0),
                   p.input(n, 1), p.output_of(n, 0));
  }
  static void binary(const CudaProgram& p, const Node& n) {
    const bool from_weight = n.inputs.size() == 1;
    launch_binary(p.stream(), static_cast<BinaryKind>(n.as<BinaryParams>().kind), p.input(n, 0),
                  from_weight ? Tensor{} : p.input(n, 1), from_weight ? p.vector(n, 0) : nullptr,
                  from_weight ? n.weights[0]->shape.count() : 0, p.output_of(n, 0));
  }
  static void concat(const CudaProgram& p, const Node& n) {
    int64_t column = 0;
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      const Tensor part = p.input(n, i);
      launch_copy_columns(p.stream(), part, p.output_of(n, 0), column);
      column += part.width;
    }
  }
  static int64_t last_dimension(const CudaProgram& p, const Node& n) {
    return p.graph_.value(n.inputs[0]).type.shape.back();
  }
  static const float* norm_weight(const CudaProgram& p, const Node& n) {
    return n.weights.empty() ? nullptr : p.vector(n, 0);
  }
  static void rms_norm(const CudaProgram& p, const Node& n) {
    launch_rms_norm(p.stream(), p.input(n, 0), last_dimension(p, n), norm_weight(p, n),
                    n.as<NormParams>().eps, p.output_of(n, 0));
  }
  static void add_rms_norm(const CudaProgram& p, const Node& n) {
    launch_add_rms_norm(p.stream(), p.input(n, 0), p.input(n, 1), last_dimension(p, n),
                        norm_weight(p, n), n.as<NormParams>().eps, p.output_of(n, 0),
                        p.output_of(n, 1));
  }
  static RopeView rope_view(const CudaProgram& p, const RopeParams& params) {
    return {reinterpret_cast<const float*>(p.inv_freq_.at(&params).data()),
            static_cast<int32_t>(params.inv_freq.size()), params.attention_factor,
            params.interleaved};
  }
  static void rope(const CudaProgram& p, const Node& n) {
    launch_rope(p.stream(), p.batch_.view(), rope_view(p, n.as<RopeParams>()), p.input(n, 0),
                last_dimension(p, n), p.output_of(n, 0));
  }
  static void norm_rope(const CudaProgram& p, const Node& n) {
    const auto& params = n.as<NormRopeParams>();
    launch_norm_rope(p.stream(), p.batch_.view(), rope_view(p, *params.rope), p.input(n, 0),
                     last_dimension(p, n), norm_weight(p, n), params.eps, p.output_of(n, 0));
  }
  static void match_magnitude(const CudaProgram& p, const Node& n) {
    launch_match_magnitude(p.stream(), p.input(n, 0), p.input(n, 1), n.as<NormParams>().eps,
                           p.output_of(n, 0));
  }
  static void kv_append(const CudaProgram& p, const Node& n) {
    launch_kv_append(p.stream(), p.batch_.view(), p.pools_.kv(p.external(n, 2)), p.input(n, 0),
                     p.input(n, 1));
  }
  static void attention(const CudaProgram& p, const Node& n) {
    const auto& params = n.as<AttentionParams>();
    const ValueType& q = p.graph_.value(n.inputs[0]).type;
    launch_attention(p.stream(), p.batch_.view(), p.pools_.kv(p.external(n, 1)),
                     q.rows == Rows::kOutputs, p.input(n, 0), q.shape[1], params.scale,
                     params.softcap, p.output_of(n, 0));
  }
  static void narrow_rows(const CudaProgram& p, const Node& n) {
    launch_narrow_rows(p.stream(), p.batch_.view(), p.input(n, 0), p.output_of(n, 0));
  }
  static void reduce(const CudaProgram& p, const Node& n) {
    launch_reduce(p.stream(), n.as<ReduceParams>().kind == Reduce::kVariance, p.input(n, 0),
                  p.output_of(n, 0));
  }
  static void top_k_route(const CudaProgram& p, const Node& n) {
    const auto& params = n.as<RouteParams>();
    launch_top_k_route(
        p.stream(),
        {params.has_bias ? p.vector(n, 0) : nullptr, params.top_k, params.groups, params.top_groups,
         params.score == RouteScore::kSigmoid, params.normalize, params.scale,
         params.has_expert_scale ? p.vector(n, n.weights.size() - 1) : nullptr},
        p.input(n, 0), p.output_of(n, 0), p.output_of(n, 1));
  }
  static void expert_linear(const CudaProgram& p, const Node& n) {
    launch_expert_linear(p.stream(), p.weight(n, 0), p.input(n, 0),
                         p.graph_.value(n.inputs[0]).type.shape.rank() == 3, p.input(n, 1),
                         p.output_of(n, 0));
  }
  static void combine_experts(const CudaProgram& p, const Node& n) {
    launch_combine_experts(p.stream(), p.input(n, 0), p.input(n, 1), p.output_of(n, 0));
  }
  static void sample(const CudaProgram& p, const Node& n) {
    auto* room = reinterpret_cast<double*>(p.arena_->memory.data() + p.workspace_.at(n.id));
    launch_sample(p.stream(), p.batch_.view(), p.input(n, 0), room, p.output_of(n, 0));
  }
  static void leaky_sum(const CudaProgram& p, const Node& n) {
    launch_leaky_sum(p.stream(), p.batch_.view(), p.pools_.state(p.external(n, 1)), p.input(n, 0),
                     p.vector(n, 0), p.output_of(n, 0));
  }
  static int64_t streams(const CudaProgram& p, const Node& n) {
    return p.graph_.value(n.inputs[0]).type.shape[1];
  }
  static void altup_mix(const CudaProgram& p, const Node& n) {
    launch_altup_mix(p.stream(), p.input(n, 0), p.input(n, 1), streams(p, n), p.output_of(n, 0));
  }
  static void altup_update(const CudaProgram& p, const Node& n) {
    launch_altup_update(p.stream(), p.input(n, 0), p.input(n, 1), p.input(n, 2), streams(p, n),
                        p.output_of(n, 0));
  }
  static void add_to_inactive(const CudaProgram& p, const Node& n) {
    launch_add_to_inactive(p.stream(), p.input(n, 0), p.input(n, 1), streams(p, n),
                           p.output_of(n, 0));
  }

  static const std::map<const Op*, Launcher>& table() {
    static const std::map<const Op*, Launcher> all = {{&embed_op(), embed},
                                                      {&linear_op(), linear},
                                                      {&linear_add_op(), linear_add},
                                                      {&unary_op(), unary},
                                                      {&act_mul_op(), act_mul},
                                                      {&binary_op(), binary},
                                                      {&concat_op(), concat},
                                                      {&rms_norm_op(), rms_norm},
                                                      {&add_rms_norm_op(), add_rms_norm},
                                                      {&rope_op(), rope},
                                                      {&norm_rope_op(), norm_rope},
                                                      {&match_magnitude_op(), match_magnitude},
                                                      {&kv_append_op(), kv_append},
                                                      {&attention_op(), attention},
                                                      {&narrow_rows_op(), narrow_rows},
                                                      {&reduce_op(), reduce},
                                                      {&top_k_route_op(), top_k_route},
                                                      {&expert_linear_op(), expert_linear},
                                                      {&combine_experts_op(), combine_experts},
                                                      {&sample_op(), sample},
                                                      {&leaky_sum_op(), leaky_sum},
                                                      {&altup_mix_op(), altup_mix},
                                                      {&altup_update_op(), altup_update},
                                                      {&add_to_inactive_op(), add_to_inactive}};
    return all;
  }
};

namespace {

class CudaBindings final : public BindQuery {
 public:
  bool binds(const Graph&, const Node& node) const override {
    return Launchers::table().contains(node.op);
  }
  bool wants(const Op& fused) const override { return Launchers::table().contains(&fused); }
};

const RopeParams* rope_params(const Node& node) {
  if (node.op == &rope_op()) return &node.as<RopeParams>();
  if (node.op == &norm_rope_op()) return node.as<NormRopeParams>().rope.get();
  return nullptr;
}

/// What no kernel here computes of a node whose op has one; empty: nothing.
std::string missing_kind(const Node& node) {
  if (const RopeParams* rope = rope_params(node); rope != nullptr && !rope->axes.empty())
    return " over several axes";
  if (node.op == &attention_op() && node.as<AttentionParams>().both_ways) return " both ways";
  for (const Weight* weight : node.weights)
    if (!weight->format.is_dense() && weight->format.kind != Format::Kind::kAffine)
      return fmt::format(" of {}", weight->format.name());
  return {};
}

/// All nodes without a kernel, with dtype and shape of their first result.
void refuse_unbound(const Graph& graph) {
  Problems problems;
  for (const Node& node : graph.nodes()) {
    const std::string kind = missing_kind(node);
    if (Launchers::table().contains(node.op) && kind.empty()) continue;
    const ValueType& type = graph.value(node.outputs.front()).type;
    problems.add(fmt::format("{}{} {} {}: expected a kernel on cuda, got none",
                             graph.describe(node), kind, name_of(type.dtype),
                             type.shape.to_string()));
  }
  if (!problems.empty())
    throw RuntimeError(problems.text("[cuda] compile: expected every primitive to be bound"));
}

std::vector<WorkspaceRequest> workspaces(const Graph& graph) {
  std::vector<WorkspaceRequest> all;
  for (const Node& node : graph.nodes())
    if (node.op == &sample_op())
      all.push_back({node.id, graph.value(node.inputs[0]).type.shape.count() *
                                  static_cast<int64_t>(sizeof(double))});
  return all;
}

}  // namespace

const BindQuery& bind_cuda() {
  static const CudaBindings query;
  return query;
}

CudaProgram::CudaProgram(std::shared_ptr<const Device> device, std::shared_ptr<Arena> arena,
                         WeightCache& weights, const Graph& graph, DevicePools& pools)
    : device_(std::move(device)),
      arena_(std::move(arena)),
      graph_(fuse_neighbours(expand_composites(graph, bind_cuda()), bind_cuda())),
      pools_(pools),
      schedule_(schedule_by_levels(graph_)),
      batch_(graph_.capacity(), pools.spec()) {
  refuse_unbound(graph_);
  DECANT_ASSERT(graph_.capacity().tokens <= 65535,
                "the rows of a program fit a grid's second axis");
  const std::vector<WorkspaceRequest> wanted = workspaces(graph_);
  plan_ = plan_memory(graph_, schedule_, wanted);
  for (size_t i = 0; i < wanted.size(); ++i) workspace_[wanted[i].node] = plan_.workspace_offset[i];
  for (const Node& node : graph_.nodes()) {
    for (const Weight* weight : node.weights) weights_[weight] = weights.get(*weight);
    if (const RopeParams* rope = rope_params(node); rope != nullptr && !inv_freq_.contains(rope)) {
      const auto bytes = static_cast<int64_t>(rope->inv_freq.size() * sizeof(float));
      DeviceBuffer made(bytes, "rotary frequencies");
      if (bytes > 0)
        check(cudaMemcpy(made.data(), rope->inv_freq.data(), static_cast<size_t>(bytes),
                         cudaMemcpyHostToDevice),
              "cudaMemcpy of rotary frequencies");
      inv_freq_.emplace(rope, std::move(made));
    }
  }
  for (size_t id = 0; id < graph_.values().size(); ++id) {
    const ValueInfo& info = graph_.values()[id];
    if (info.base < 0 && info.external == ExternalKind::kInput)
      inputs_.emplace(static_cast<int>(id), DeviceBuffer(value_bytes(info.type), "an input"));
  }
  arena_->reserve(plan_.arena_bytes);
  capture();
}

CudaProgram::~CudaProgram() {
  cudaStreamSynchronize(device_->stream());
  drop_graph();
}

void CudaProgram::drop_graph() {
  if (replay_ != nullptr) cudaGraphExecDestroy(replay_);
  replay_ = nullptr;
}

Tensor CudaProgram::tensor(int id) const {
  const ValueInfo& info = graph_.value(id);
  const int storage = graph_.storage_of(id);
  const ValueInfo& base = graph_.value(storage);
  std::byte* data = base.external == ExternalKind::kInput
                        ? inputs_.at(storage).data()
                        : arena_->memory.data() + plan_.offset[static_cast<size_t>(storage)];
  Tensor out;
  out.data = data + graph_.column_of(id) * size_of(base.type.dtype);
  out.stride = base.type.width();
  out.width = info.type.width();
  out.capacity = static_cast<int32_t>(info.type.shape[0]);
  out.live = info.type.rows == Rows::kTokens    ? batch_.view().live_tokens
             : info.type.rows == Rows::kOutputs ? batch_.view().live_outputs
                                                : nullptr;
  return out;
}

const Matrix& CudaProgram::weight(const Node& node, size_t i) const {
  return weights_.at(node.weights.at(i))->matrix();
}

const float* CudaProgram::vector(const Node& node, size_t i) const {
  const Matrix& matrix = weight(node, i);
  DECANT_ASSERT(matrix.bits == 0 && matrix.element == Element::kF32, "a vector weight is f32");
  return reinterpret_cast<const float*>(matrix.data);
}

void CudaProgram::launch_all() const {
  for (const std::vector<int>& phase : schedule_.phases)
    for (int id : phase) {
      const Node& node = graph_.nodes()[static_cast<size_t>(id)];
      Launchers::table().at(node.op)(*this, node);
      const cudaError_t status = cudaGetLastError();
      if (status != cudaSuccess) check(status, fmt::format("launch of {}", graph_.describe(node)));
    }
}

void CudaProgram::capture() {
  drop_graph();
  // Once outside of a capture, with nothing live: loads every kernel, and a launch that the device
  // refuses says so here, by name.
  batch_.upload(Batch{}, device_->stream());
  launch_all();
  device_->finish();
  check(cudaStreamBeginCapture(device_->stream(), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  cudaGraph_t captured = nullptr;
  try {
    launch_all();
  } catch (...) {
    cudaStreamEndCapture(device_->stream(), &captured);
    if (captured != nullptr) cudaGraphDestroy(captured);
    throw;
  }
  check(cudaStreamEndCapture(device_->stream(), &captured), "cudaStreamEndCapture");
  const cudaError_t status = cudaGraphInstantiate(&replay_, captured, 0);
  cudaGraphDestroy(captured);
  check(status, "cudaGraphInstantiate");
  captured_generation_ = arena_->generation;
}

void CudaProgram::fill(int index, std::span<const std::byte> bytes) {
  device_->use();
  for (const auto& [id, buffer] : inputs_) {
    if (graph_.value(id).external_index != index) continue;
    DECANT_ASSERT(static_cast<int64_t>(bytes.size()) <= buffer.bytes(),
                  "an input fits its capacity");
    device_->finish();
    if (!bytes.empty())
      check(cudaMemcpy(buffer.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
            "cudaMemcpy of an input");
  }
}

void CudaProgram::run(const Batch& batch) {
  device_->use();
  fetched_.clear();
  arena_->last_run = nullptr;
  if (captured_generation_ != arena_->generation) capture();
  batch_.upload(batch, device_->stream());
  check(cudaGraphLaunch(replay_, device_->stream()), "cudaGraphLaunch");
  device_->finish();
  arena_->last_run = this;
  live_tokens_ = batch.num_tokens();
  live_outputs_ = batch.num_outputs();
  sample_on_host(batch);
}

void CudaProgram::sample_on_host(const Batch& batch) {
  const auto beyond_kernel = [](const SamplingRow& row) {
    return adjusts_logits(row) || (row.temperature > 0 && row.typical_p < 1);
  };
  for (const Node& node : graph_.nodes()) {
    if (node.op != &sample_op()) continue;
    const Tensor logits = input(node, 0), ids = output_of(node, 0);
    std::vector<float> row(static_cast<size_t>(logits.width));
    for (size_t i = 0; i < batch.sampling.size(); ++i) {
      if (!beyond_kernel(batch.sampling[i])) continue;
      const int storage = graph_.storage_of(node.inputs[0]);
      DECANT_ASSERT(graph_.value(storage).external == ExternalKind::kInput ||
                        std::any_of(graph_.outputs().begin(), graph_.outputs().end(),
                                    [&](const auto& output) {
                                      return graph_.storage_of(output.second) == storage;
                                    }),
                    "logits that the host samples from outlive the step");
      const auto at = static_cast<int64_t>(i);
      check(cudaMemcpy(row.data(), static_cast<const float*>(logits.data) + at * logits.stride,
                       row.size() * sizeof(float), cudaMemcpyDeviceToHost),
            "cudaMemcpy of logits");
      const int32_t token = sample_token(row, batch.sampling[i]);
      check(cudaMemcpy(static_cast<int32_t*>(ids.data) + at * ids.stride, &token, sizeof(token),
                       cudaMemcpyHostToDevice),
            "cudaMemcpy of a token");
    }
  }
}

template <typename T>
std::span<const T> CudaProgram::fetch(int index) const {
  const int id = graph_.outputs().at(static_cast<size_t>(index)).second;
  const ValueType& type = graph_.value(id).type;
  const int64_t rows = type.rows == Rows::kTokens    ? live_tokens_
                       : type.rows == Rows::kOutputs ? live_outputs_
                                                     : type.shape[0];
  const int64_t row_bytes = type.width() * static_cast<int64_t>(sizeof(T));
  Fetched& fetched = fetched_[index];
  if (!fetched.valid) {
    DECANT_ASSERT(arena_->last_run == this,
                  "an output is read before another program runs or is compiled");
    device_->use();
    const Tensor from = tensor(id);
    fetched.bytes.resize(static_cast<size_t>(rows * row_bytes));
    if (!fetched.bytes.empty())
      check(
          cudaMemcpy2D(fetched.bytes.data(), static_cast<size_t>(row_bytes), from.data,
                       static_cast<size_t>(from.stride) * sizeof(T), static_cast<size_t>(row_bytes),
                       static_cast<size_t>(rows), cudaMemcpyDeviceToHost),
          "cudaMemcpy2D of an output");
    fetched.valid = true;
  }
  return {reinterpret_cast<const T*>(fetched.bytes.data()),
          static_cast<size_t>(rows * type.width())};
}

template std::span<const float> CudaProgram::fetch<float>(int) const;
template std::span<const int32_t> CudaProgram::fetch<int32_t>(int) const;

}  // namespace decant::cuda
