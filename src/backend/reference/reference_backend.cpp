#include "backend/reference/reference_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/file.h"
#include "base/units.h"
#include "ops/latent.h"
#include "program/passes.h"

namespace decant {

HostPools::HostPools(PoolSpec spec) : spec_(std::move(spec)) {
  // Every pool starts on a cache line; anonymous memory is zero and only taken when touched.
  const auto place = [&](int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += round_up(bytes, int64_t{64});
    return at;
  };
  std::vector<std::pair<int64_t, int64_t>> kv_at, state_at;
  for (const KvSpec& kv : spec_.kv) {
    const int64_t pages = spec_.pages_per_group.at(static_cast<size_t>(kv.group));
    const int64_t keys = place(key_page_bytes(kv, spec_.kv_dtype) * pages);
    kv_at.emplace_back(keys, place(value_page_bytes(kv, spec_.kv_dtype) * pages));
  }
  for (const StateSpec& state : spec_.states) {
    const int64_t at = place(spec_.slots * state.width * 4);
    state_at.emplace_back(at, place(spec_.slots * state.log_tokens * state.log_width * 4));
  }
  if (bytes_ > 0) {
    void* memory = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
      throw MemoryError("[memory] cache pools: expected {}, got nothing from the system",
                        format_bytes(static_cast<uint64_t>(bytes_)));
    memory_ = static_cast<std::byte*>(memory);
  }
  for (size_t i = 0; i < spec_.kv.size(); ++i)
    kv_.push_back({spec_.kv[i], spec_.kv_dtype,
                   spec_.pages_per_group[static_cast<size_t>(spec_.kv[i].group)],
                   memory_ + kv_at[i].first, memory_ + kv_at[i].second});
  for (size_t i = 0; i < spec_.states.size(); ++i)
    states_.push_back({spec_.states[i], spec_.slots,
                       reinterpret_cast<float*>(memory_ + state_at[i].first),
                       reinterpret_cast<float*>(memory_ + state_at[i].second)});
}

HostPools::~HostPools() {
  if (memory_ != nullptr) munmap(memory_, static_cast<size_t>(bytes_));
}

void HostPools::reset_slot(int64_t slot) {
  for (StatePool& pool : states_) {
    std::fill_n(pool.state + slot * pool.spec.width, pool.spec.width, 0.0f);
    const int64_t log = pool.spec.log_tokens * pool.spec.log_width;
    std::fill_n(pool.log + slot * log, log, 0.0f);
  }
}

namespace {

struct HostSnapshot final : SlotSnapshot {
  std::vector<float> values;  // per layer: state, log
  int64_t bytes() const override {
    return std::ssize(values) * static_cast<int64_t>(sizeof(float));
  }
};

}  // namespace

std::unique_ptr<SlotSnapshot> HostPools::save_slot(int64_t slot) const {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  auto out = std::make_unique<HostSnapshot>();
  out->values.reserve(static_cast<size_t>(spec_.slot_bytes()) / sizeof(float));
  for (const StatePool& pool : states_) {
    const int64_t log = pool.spec.log_tokens * pool.spec.log_width;
    const float *state_at = pool.state + slot * pool.spec.width, *log_at = pool.log + slot * log;
    out->values.insert(out->values.end(), state_at, state_at + pool.spec.width);
    out->values.insert(out->values.end(), log_at, log_at + log);
  }
  return out;
}

void HostPools::restore_slot(int64_t slot, const SlotSnapshot& snapshot) {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  const auto* own = dynamic_cast<const HostSnapshot*>(&snapshot);
  DECANT_ASSERT(own != nullptr && own->bytes() == spec_.slot_bytes(),
                "a snapshot goes back into pools of its specs");
  const float* from = own->values.data();
  for (StatePool& pool : states_) {
    const int64_t log = pool.spec.log_tokens * pool.spec.log_width;
    std::copy_n(from, pool.spec.width, pool.state + slot * pool.spec.width);
    from += pool.spec.width;
    std::copy_n(from, log, pool.log + slot * log);
    from += log;
  }
}

namespace {

class ReferenceProgram final : public Program {
 public:
  ReferenceProgram(const Graph& graph, HostPools& pools)
      : graph_(expand_composites(graph, bind_primitives())),
        pools_(pools),
        buffers_(graph_.values().size()) {
    for (size_t id = 0; id < buffers_.size(); ++id) {
      const ValueInfo& info = graph_.values()[id];
      if (info.base < 0 && info.external != ExternalKind::kKvCache &&
          info.external != ExternalKind::kState) {
        buffers_[id].resize(
            static_cast<size_t>(info.type.shape.count() * size_of(info.type.dtype)));
        bytes_ += static_cast<int64_t>(buffers_[id].size());
      }
    }
  }
  const Graph& graph() const override { return graph_; }
  const Capacity& capacity() const override { return graph_.capacity(); }
  int64_t arena_bytes() const override { return bytes_; }
  void set_input(int index, std::span<const float> values) override {
    fill(index, std::as_bytes(values));
  }
  void set_input(int index, std::span<const int32_t> values) override {
    fill(index, std::as_bytes(values));
  }
  void run(const Batch& batch) override {
    tokens_ = batch.num_tokens();
    outputs_ = batch.num_outputs();
    for (const Node& node : graph_.nodes()) {
      std::vector<HostTensor> inputs, outputs;
      for (int id : node.inputs) inputs.push_back(tensor(id));
      for (int id : node.outputs) outputs.push_back(tensor(id));
      node.op->reference({node, batch, inputs, outputs, pools_.kv(), pools_.states()});
    }
    if (const std::string damaged = damaged_mapping(); !damaged.empty())
      throw RuntimeError("[weights] {}: the file was cut or became unreadable while in use",
                         damaged);
  }
  std::span<const float> output(int index) const override { return view<float>(index); }
  std::span<const int32_t> int_output(int index) const override { return view<int32_t>(index); }

 private:
  void fill(int index, std::span<const std::byte> bytes) {
    for (size_t id = 0; id < buffers_.size(); ++id) {
      const ValueInfo& info = graph_.values()[id];
      if (info.base >= 0 || info.external != ExternalKind::kInput || info.external_index != index)
        continue;
      DECANT_ASSERT(bytes.size() <= buffers_[id].size(), "an input fits its capacity");
      std::copy(bytes.begin(), bytes.end(), buffers_[id].begin());
    }
  }
  int64_t live(const ValueType& type) const {
    return type.rows == Rows::kTokens    ? tokens_
           : type.rows == Rows::kOutputs ? outputs_
                                         : type.shape[0];
  }
  HostTensor tensor(int id) const {
    const ValueInfo& info = graph_.value(id);
    const int storage = graph_.storage_of(id);
    const ValueInfo& base = graph_.value(storage);
    HostTensor out;
    out.dtype = info.type.dtype;
    out.shape = info.type.shape;
    if (base.external == ExternalKind::kKvCache || base.external == ExternalKind::kState) {
      out.external = base.external_index;
      return out;
    }
    out.rows = live(info.type);
    out.row_stride = base.type.width();
    out.data = const_cast<std::byte*>(buffers_[static_cast<size_t>(storage)].data()) +
               graph_.column_of(id) * size_of(base.type.dtype);
    return out;
  }
  template <typename T>
  std::span<const T> view(int index) const {
    const int id = graph_.outputs().at(static_cast<size_t>(index)).second;
    const HostTensor value = tensor(id);
    DECANT_ASSERT(value.row_stride == value.width(), "an output is no view");
    return {static_cast<const T*>(value.data), static_cast<size_t>(value.rows * value.width())};
  }

  Graph graph_;
  HostPools& pools_;
  std::vector<std::vector<std::byte>> buffers_;
  int64_t bytes_ = 0;
  int64_t tokens_ = 0;
  int64_t outputs_ = 0;
};

class ReferenceBackend final : public Backend {
 public:
  std::string_view name() const override { return "reference"; }
  std::string description() const override { return "reference kernels, one thread"; }
  std::unique_ptr<Pools> make_pools(const PoolSpec& spec) override {
    return std::make_unique<HostPools>(spec);
  }
  std::unique_ptr<Program> compile(const Graph& graph, Pools& pools,
                                   const CompileOptions& options) override {
    auto* host = dynamic_cast<HostPools*>(&pools);
    DECANT_ASSERT(host != nullptr, "the reference runs on pools in host memory");
    if (options.dense_attention)
      return std::make_unique<ReferenceProgram>(without_choice(graph), *host);
    return std::make_unique<ReferenceProgram>(graph, *host);
  }
  int64_t free_bytes() const override { return int64_t{1} << 40; }
  bool takes_media() const override { return true; }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace decant
