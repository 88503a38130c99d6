#include "backend/cuda/device_memory.h"

#include <cstring>

#include "base/checked.h"
#include "base/units.h"

namespace decant::cuda {

void check(cudaError_t status, std::string_view call) {
  if (status == cudaSuccess) return;
  // A failed launch is also remembered as the last error; the next call shall not report it again.
  cudaGetLastError();
  const std::string message = fmt::format("[cuda] {}: expected success, got {} ({})", call,
                                          cudaGetErrorString(status), cudaGetErrorName(status));
  if (status == cudaErrorMemoryAllocation) throw MemoryError(message);
  throw RuntimeError(message);
}

Device::Device(int index) : index_(index) {
  use();
  // In order with the default stream, which plain copies and clearings use.
  check(cudaStreamCreate(&stream_), "cudaStreamCreate");
}

Device::~Device() {
  cudaSetDevice(index_);
  cudaStreamDestroy(stream_);
}

DeviceBuffer::DeviceBuffer(int64_t bytes, std::string_view what) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = nullptr;
  check(cudaMalloc(&memory, static_cast<size_t>(bytes)),
        fmt::format("cudaMalloc of {} for {}", format_bytes(static_cast<uint64_t>(bytes)), what));
  data_ = static_cast<std::byte*>(memory);
}

void DeviceBuffer::release() {
  if (data_ != nullptr) cudaFree(data_);
  data_ = nullptr;
  bytes_ = 0;
}

PinnedBuffer::PinnedBuffer(int64_t bytes) : bytes_(bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, static_cast<size_t>(bytes)), "cudaMallocHost");
  data_ = static_cast<std::byte*>(memory);
}

PinnedBuffer::~PinnedBuffer() { cudaFreeHost(data_); }

void Arena::reserve(int64_t bytes) {
  if (bytes <= memory.bytes()) return;
  memory.release();  // first, so that old and new need not fit together
  ++generation;
  last_run = nullptr;
  memory = DeviceBuffer(bytes, "the activations of a step");
}

namespace {

Element element_of(DType dtype) {
  return dtype == DType::kF32   ? Element::kF32
         : dtype == DType::kF16 ? Element::kF16
                                : Element::kBF16;
}

}  // namespace

DeviceWeight::DeviceWeight(const Weight& weight) {
  const MatrixView& first = weight.view();
  const Format& format = first.format;
  const bool dense = format.is_dense() && is_dense_float(format.dtype);
  const bool affine = format.kind == Format::Kind::kAffine &&
                      affine_supported(format.bits, format.group) && is_dense_float(format.dtype) &&
                      first.cols % format.group == 0;
  if (!dense && !affine)
    throw RuntimeError(
        "[cuda] weight {} {} {}: expected a dense or affine format, got one without "
        "a kernel on cuda",
        weight.name, format.name(), weight.shape.to_string());
  const auto tables = static_cast<int64_t>(weight.views.size());
  const int64_t data = first.rows * format.data_row_bytes(first.cols);
  const int64_t scales = first.rows * format.scale_row_bytes(first.cols);
  const int64_t biases = first.rows * format.bias_row_bytes(first.cols);
  const int64_t scales_at = round_up(tables * data, int64_t{256});
  const int64_t biases_at = scales_at + round_up(tables * scales, int64_t{256});
  memory_ = DeviceBuffer(biases_at + tables * biases, weight.name);
  const auto upload = [&](int64_t at, const std::byte* from, int64_t bytes) {
    if (bytes > 0)
      check(
          cudaMemcpy(memory_.data() + at, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice),
          fmt::format("cudaMemcpy of weight {}", weight.name));
  };
  for (int64_t t = 0; t < tables; ++t) {
    const MatrixView& table = weight.views[static_cast<size_t>(t)];
    DECANT_ASSERT(table.format == format && table.rows == first.rows && table.cols == first.cols,
                  "the tables of a weight are alike");
    upload(t * data, table.data, data);
    upload(scales_at + t * scales, table.scales, scales);
    upload(biases_at + t * biases, table.biases, biases);
  }
  const auto* base = reinterpret_cast<const uint8_t*>(memory_.data());
  matrix_ = {base,
             base + scales_at,
             base + biases_at,
             element_of(format.dtype),
             dense ? 0 : format.bits,
             format.group,
             first.rows,
             first.cols};
}

std::shared_ptr<const DeviceWeight> WeightCache::get(const Weight& weight) {
  // A dead entry may belong to a weight that once had this address.
  std::erase_if(weights_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<const DeviceWeight>& entry = weights_[&weight];
  if (auto known = entry.lock()) return known;
  auto made = std::make_shared<const DeviceWeight>(weight);
  entry = made;
  return made;
}

DevicePools::DevicePools(std::shared_ptr<const Device> device, PoolSpec spec)
    : device_(std::move(device)), spec_(std::move(spec)) {
  const auto zeroed = [&](int64_t bytes, std::string_view what) {
    DeviceBuffer made(bytes, what);
    if (bytes > 0) check(cudaMemset(made.data(), 0, static_cast<size_t>(bytes)), "cudaMemset");
    return made;
  };
  for (const KvSpec& kv : spec_.kv) {
    const int64_t pages = spec_.pages_per_group.at(static_cast<size_t>(kv.group));
    kv_.push_back({zeroed(key_page_bytes(kv, spec_.kv_dtype) * pages, "a pool of keys"),
                   zeroed(value_page_bytes(kv, spec_.kv_dtype) * pages, "a pool of values")});
  }
  for (const StateSpec& state : spec_.states)
    states_.push_back({zeroed(spec_.slots * state.width * 4, "recurrent state"),
                       zeroed(spec_.slots * state.log_tokens * state.log_width * 4,
                              "the log of recurrent state")});
}

void DevicePools::reset_slot(int64_t slot) {
  device_->use();
  for (size_t i = 0; i < states_.size(); ++i) {
    const auto clear = [&](const DeviceBuffer& buffer) {
      const auto bytes = static_cast<size_t>(buffer.bytes() / spec_.slots);
      if (bytes > 0)
        check(cudaMemsetAsync(buffer.data() + static_cast<size_t>(slot) * bytes, 0, bytes,
                              device_->stream()),
              "cudaMemsetAsync of a state slot");
    };
    clear(states_[i].state);
    clear(states_[i].log);
  }
}

namespace {

struct DeviceSnapshot final : SlotSnapshot {
  explicit DeviceSnapshot(int64_t size) : memory(size, "a snapshot of recurrent state") {}
  DeviceBuffer memory;  // per layer: state, log
  int64_t bytes() const override { return memory.bytes(); }
};

}  // namespace

// Stream-ordered after the step that wrote the slot and before the next one.
std::unique_ptr<SlotSnapshot> DevicePools::save_slot(int64_t slot) const {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  device_->use();
  auto out = std::make_unique<DeviceSnapshot>(spec_.slot_bytes());
  std::byte* to = out->memory.data();
  for (const State& state : states_)
    for (const DeviceBuffer* buffer : {&state.state, &state.log}) {
      const auto bytes = static_cast<size_t>(buffer->bytes() / spec_.slots);
      if (bytes == 0) continue;
      check(cudaMemcpyAsync(to, buffer->data() + static_cast<size_t>(slot) * bytes, bytes,
                            cudaMemcpyDeviceToDevice, device_->stream()),
            "cudaMemcpyAsync of a state slot");
      to += bytes;
    }
  return out;
}

void DevicePools::restore_slot(int64_t slot, const SlotSnapshot& snapshot) {
  DECANT_ASSERT(slot >= 0 && slot < spec_.slots, "a state slot exists");
  const auto* own = dynamic_cast<const DeviceSnapshot*>(&snapshot);
  DECANT_ASSERT(own != nullptr && own->bytes() == spec_.slot_bytes(),
                "a snapshot goes back into pools of its specs");
  device_->use();
  const std::byte* from = own->memory.data();
  for (const State& state : states_)
    for (const DeviceBuffer* buffer : {&state.state, &state.log}) {
      const auto bytes = static_cast<size_t>(buffer->bytes() / spec_.slots);
      if (bytes == 0) continue;
      check(cudaMemcpyAsync(buffer->data() + static_cast<size_t>(slot) * bytes, from, bytes,
                            cudaMemcpyDeviceToDevice, device_->stream()),
            "cudaMemcpyAsync of a state slot");
      from += bytes;
    }
}

void DevicePools::expect_same(const KvPool& pool, size_t index) const {
  const KvSpec& spec = spec_.kv.at(index);
  DECANT_ASSERT(pool.spec == spec && pool.dtype == spec_.kv_dtype &&
                    pool.pages == spec_.pages_per_group[static_cast<size_t>(spec.group)],
                "a pool is copied to one like it");
}

void DevicePools::expect_same(const StatePool& pool, size_t index) const {
  DECANT_ASSERT(pool.spec == spec_.states.at(index) && pool.slots == spec_.slots,
                "recurrent state is copied to one like it");
}

namespace {

void copy_in(const Device& device, const DeviceBuffer& to, const void* from) {
  device.use();
  device.finish();
  if (to.bytes() > 0)
    check(cudaMemcpy(to.data(), from, static_cast<size_t>(to.bytes()), cudaMemcpyHostToDevice),
          "cudaMemcpy into a pool");
}

void copy_out(const Device& device, const DeviceBuffer& from, void* to) {
  device.use();
  device.finish();
  if (from.bytes() > 0)
    check(cudaMemcpy(to, from.data(), static_cast<size_t>(from.bytes()), cudaMemcpyDeviceToHost),
          "cudaMemcpy out of a pool");
}

}  // namespace

void DevicePools::load(int index, const KvPool& from) {
  const auto i = static_cast<size_t>(index);
  expect_same(from, i);
  copy_in(*device_, kv_[i].keys, from.keys);
  copy_in(*device_, kv_[i].values, from.values);
}

void DevicePools::store(int index, const KvPool& to) const {
  const auto i = static_cast<size_t>(index);
  expect_same(to, i);
  copy_out(*device_, kv_[i].keys, to.keys);
  copy_out(*device_, kv_[i].values, to.values);
}

void DevicePools::load(int index, const StatePool& from) {
  const auto i = static_cast<size_t>(index);
  expect_same(from, i);
  copy_in(*device_, states_[i].state, from.state);
  copy_in(*device_, states_[i].log, from.log);
}

void DevicePools::store(int index, const StatePool& to) const {
  const auto i = static_cast<size_t>(index);
  expect_same(to, i);
  copy_out(*device_, states_[i].state, to.state);
  copy_out(*device_, states_[i].log, to.log);
}

KvView DevicePools::kv(int index) const {
  const auto i = static_cast<size_t>(index);
  const KvSpec& spec = spec_.kv.at(i);
  return {kv_[i].keys.data(), kv_[i].values.data(), spec_.kv_dtype == DType::kBF16,
          spec.kv_heads,      spec.head_dim,        spec.window,
          spec.group};
}

StateView DevicePools::state(int index) const {
  const auto i = static_cast<size_t>(index);
  const StateSpec& spec = spec_.states.at(i);
  return {reinterpret_cast<float*>(states_[i].state.data()),
          reinterpret_cast<float*>(states_[i].log.data()), narrow<int32_t>(spec.width),
          spec.log_tokens};
}

}  // namespace decant::cuda
