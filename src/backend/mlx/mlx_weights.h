#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "backend/mlx/mlx_arrays.h"
#include "tensor/weight.h"

namespace decant::mlx {

/// How a node reads a weight, which decides what is kept of a dense one: whole products want f32,
/// a table of which a step reads a few rows keeps its own type.
enum class WeightUse : uint8_t { kProduct, kTable };

/// A weight in MLX's memory: [n], [out, in] or [experts, out, in]. Packed: `data` is uint32
/// [.., out, in * bits / 32] with f32 scales and biases [.., out, in / group].
struct DeviceWeight {
  mx::array data;
  std::optional<mx::array> scales;
  std::optional<mx::array> biases;
  int bits = 0;
  int group = 0;
  bool packed() const { return scales.has_value(); }
};

/// Weights by identity, copied once. Programs own them; the store only finds those still alive, so
/// that a weight freed and another made at the same address are not mistaken for each other.
class WeightStore {
 public:
  /// Errors: RuntimeError when the weight's file became unreadable.
  std::shared_ptr<const DeviceWeight> get(const Weight& weight, WeightUse use);

 private:
  std::map<std::pair<const Weight*, WeightUse>, std::weak_ptr<const DeviceWeight>> known_;
};

/// Why this backend cannot hold a weight, or empty.
std::string unsupported_reason(const Weight& weight);

}  // namespace decant::mlx
