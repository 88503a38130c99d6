#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/weight.h"

namespace decant {

class WeightLoad;

/// The handle a family builds itself from: a path in the checkpoint (`scope / "self_attn" /
/// "q_proj"`) that hands out weights by the shape the family expects.
///
/// Nothing is thrown while a family asks: a missing or mis-shaped tensor is noted and a placeholder
/// of the asked shape is returned, so that WeightLoad::finish() can report every problem together.
/// Returned pointers stay valid as long as the WeightLoad's result does.
class WeightScope {
 public:
  WeightScope(WeightLoad& load, std::string path) : load_(&load), path_(std::move(path)) {}
  WeightScope operator/(std::string_view name) const;
  WeightScope operator/(int index) const;
  const std::string& path() const { return path_; }

  /// The plain parameter `path`.`name`, of this shape ([n] or [a, b]), never quantised. Converted
  /// to float32 when the file holds another dense type (vectors are small; kernels read norms as
  /// f32). With `clip`, values are limited to [-clip, clip]; `offset` is added to each, in f32.
  const Weight* vector(std::string_view name, const Shape& shape, float clip = 0,
                       float offset = 0) const;

  /// The matrix of the module at this path, [out, in]: `path`.weight with its scales and biases
  /// when it is quantised. Used for linears and embeddings alike.
  const Weight* matrix(int64_t out, int64_t in) const;

  /// The plain parameter `path`.`name` of these dimensions, of any number, seen as the matrix
  /// [rows, the rest]: convolution kernels, tables of positions. Never quantised, nothing copied.
  const Weight* plain(std::string_view name, std::span<const int64_t> dims, int64_t rows) const;

  /// A table of `experts` matrices [out, in] below this path (the module that holds the experts,
  /// e.g. "model.layers.0.mlp"), for projection `projection` ("gate_proj", "up_proj", "down_proj"),
  /// in whichever form the file has: `switch_mlp.<projection>` stacked (MLX),
  /// `experts.<e>.<projection>` separate (HF), or `experts.gate_up_proj` / `experts.down_proj`
  /// fused (transformers 5). Nothing is copied.
  const Weight* experts(std::string_view projection, int64_t experts, int64_t out,
                        int64_t in) const;

  /// `count` matrices [out, in] stacked in the module at this path.
  const Weight* stack(int64_t count, int64_t out, int64_t in) const;

  /// The same cut out of the matrix [count * stride, cols] at this path: of each `stride` rows
  /// those from `first` on, `rows` of them. `transposed` gives [cols, rows] matrices, which are
  /// copies: of the stored type where it is dense, of float32 where it is quantised (groups run
  /// along the other axis then). Otherwise nothing is copied.
  struct Cut {
    int64_t count = 0, stride = 0, first = 0, rows = 0, cols = 0;
    bool transposed = false;
  };
  const Weight* cut(const Cut& cut) const;

  /// The convolution of the module at this path as a matrix [out, rows * columns * in] whose
  /// columns lie (row, column, channel): `path`.weight as [out, in, rows, columns] or [out, rows,
  /// columns, in], whichever its shape is; `channels_last` tells where that fits both. Of the
  /// stored dense type; a copy where the order differs.
  struct Kernel {
    int64_t out = 0, in = 0, rows = 1, columns = 1;
    bool channels_last = false;
  };
  const Weight* kernel(const Kernel& kernel) const;
  /// The depthwise convolution of the module at this path in float32, [rows * columns, channels]:
  /// `path`.weight as [channels, 1, rows, columns] or [channels, rows, columns, 1]. A copy.
  const Weight* taps(int64_t channels, int64_t rows, int64_t columns) const;

  /// True if the checkpoint has a tensor of this name below the path ("weight", "bias", ...).
  bool has(std::string_view name) const;
  /// The shape of the tensor of this name as the file has it; empty where there is none. For
  /// families that tell spellings of a checkpoint apart by a shape.
  std::vector<int64_t> dims(std::string_view name) const;
  /// Tensors below this path (or this very tensor) are known and not used: they do not count as
  /// left over.
  void ignore(std::string_view name) const;
  /// True where a layer that drafts tokens is to be read as well; else a family leaves it alone.
  bool with_draft() const;

 private:
  WeightLoad* load_;
  std::string path_;
};

}  // namespace decant
