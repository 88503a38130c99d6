#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/quantize_rows.h"
#include "checkpoint/tensor_source.h"

namespace decant {

/// A module that another tool quantised: its tensors, what they are stored as, and what becomes of
/// them. A plane that is right as it lies in the file is given where it lies; the others are made.
struct ForeignModule {
  /// Pieces of a module are made in multiples of this many rows.
  static constexpr int64_t kRowStep = 128;

  Format format;       // what it becomes
  std::string source;  // how the file has it, for people: "fp8-128x128", "awq4-g128", ...
  int64_t rows = 0;    // of all its matrices together
  int64_t cols = 0;
  const std::byte* data = nullptr;    // null: made
  const std::byte* scales = nullptr;  // null: made, or the format has none
  const std::byte* biases = nullptr;
  std::vector<float> tensor_scales;  // nvfp4: one per matrix
  std::vector<TensorRef> tensors;    // all that belong to it, the packed weight first

  /// Writes rows [begin, end) of the planes that are made to `out`, which points at row `begin` of
  /// each (others are null); begin is a multiple of kRowStep. False if a number in the file
  /// contradicts `assumption`.
  std::function<bool(int64_t begin, int64_t end, const QuantizedPlanes& out)> make;
  std::string assumption;

  bool makes_data() const { return data == nullptr; }
  bool makes_scales() const { return scales == nullptr && format.scale_row_bytes(cols) > 0; }
  bool makes_biases() const { return biases == nullptr && format.bias_row_bytes(cols) > 0; }
  /// Bytes of the planes that are made.
  int64_t made_bytes() const;
};

/// What is wrong with the tensors of modules, one line each.
struct ForeignProblems {
  std::vector<std::string> missing;
  std::vector<std::string> wrong;
};

/// Finds the tensors of `module` as the source's foreign quantisation stores matrices of `cols`
/// inputs, stacked by all but the last of `leading`. `suffix` is that of a plain weight (".weight",
/// or nothing for experts of transformers 5). Returns false where the module is not quantised.
/// Otherwise either `out` is whole or there are problems. Reads shapes and types, single scales and
/// the order of groups, never weights.
bool find_foreign_module(const TensorSource& source, const std::string& module,
                         const std::string& suffix, std::span<const int64_t> leading, int64_t cols,
                         ForeignModule& out, ForeignProblems& problems);

/// True for tensors beside the weights that decant has no use for: scales of activations and of a
/// quantised KV cache.
bool is_activation_scale(std::string_view name);

/// "NAME: expected X, got DTYPE SHAPE (in FILE)".
std::string unlike(const TensorRef& tensor, std::string_view expected);

}  // namespace decant
