#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/quantization.h"
#include "checkpoint/safetensors.h"

namespace decant {

/// A tensor and the file that owns its bytes.
struct TensorRef {
  const TensorInfo* info = nullptr;
  std::shared_ptr<const SafetensorsFile> file;

  explicit operator bool() const { return info != nullptr; }
  const TensorInfo* operator->() const { return info; }
};

/// One thing a family asked of its weight scopes.
struct WeightRequest {
  enum class Kind { kVector, kMatrix, kExperts, kStack, kPlain };
  Kind kind = Kind::kVector;
  std::string path;        // of the parameter (vector) or of the module; experts: of their parent
  std::string projection;  // experts only
  Shape shape;             // [n] or [a, b], [out, in], [experts or stacked, out, in]
  std::vector<int64_t> dims = {};  // kPlain: of the parameter; `shape` is the matrix it is seen as
};

/// Where WeightLoad takes tensors from: a checkpoint, or a recording that has none.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  /// The tensor of exactly this stored name, or an empty reference.
  virtual TensorRef find(std::string_view name) const = 0;
  /// All stored names, sorted; valid as long as the source.
  virtual std::vector<std::string_view> names() const = 0;
  virtual const QuantizationConfig& quantization() const = 0;
  /// What error messages call this source.
  virtual std::string description() const = 0;

  /// The format placeholders get when this source has no tensors and only records what is asked.
  virtual std::optional<Format> recording() const { return std::nullopt; }
  /// Called for every request, in order, with stored names.
  virtual void record(const WeightRequest&) const {}
};

}  // namespace decant
