#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "graph/graph.h"

namespace decant {

/// What stands in a prompt beside text. Frames of a video are pictures of their own to a tower, but
/// have placeholders of their own.
enum class Medium : uint8_t { kImage, kVideo, kAudio };
std::string_view name_of(Medium medium);

/// What the official processor makes of one picture, one group of frames or one sound: what
/// `pixel_values` or `input_features` hold of it, without a dimension for the batch.
struct TowerInput {
  Medium medium = Medium::kImage;
  std::vector<int64_t> shape;  // gemma3n [3, height, width]; gemma4, qwen3_5 [patches, values];
                               // audio [frames, values]
  std::vector<float> values;
  std::array<int64_t, 3> grid{};                  // qwen3_5: frames, rows, columns of patches
  std::vector<std::array<int32_t, 2>> positions;  // gemma4: column and row of each patch; (-1, -1)
                                                  // is filling
  std::vector<uint8_t> mask;                      // audio: 1 valid; empty: all
  std::vector<int32_t> ids;  // MediaSpec::tower_tokens instead of a picture or sound: a row each
};

/// What a tower's program is recorded for. Programs of equal sizes are one; a program whose rows
/// are the tokens of a batch serves every batch that fits its capacity.
struct TowerSize {
  Capacity capacity{Phase::kPrefill, 1, 1, 1};
  std::array<int64_t, 4> fixed{};  // what else the graph depends on; the tower knows what it means
  auto key() const {
    return std::tuple(capacity.tokens, capacity.sequences, capacity.outputs, fixed);
  }
};

/// What one run of a tower's program is given beside weights.
struct TowerFeed {
  Batch batch;                               // page tables are filled by who runs it
  std::map<int, std::vector<float>> floats;  // by index of the graph's input
  std::map<int, std::vector<int32_t>> ints;
};

/// Turns pictures or sounds into rows that take the place of their placeholders' embeddings: a
/// program of its own, on caches of its own that live for one run.
class Tower {
 public:
  virtual ~Tower() = default;
  Tower() = default;
  Tower(const Tower&) = delete;
  Tower& operator=(const Tower&) = delete;

  /// Caches its attention writes keys and values of the run to (float32); none by default.
  virtual std::vector<KvSpec> kv() const { return {}; }
  /// Rows of features this input gives. Errors: RequestError naming the input for shapes, grids
  /// and positions that are not the family's.
  virtual int64_t rows(const TowerInput& input) const = 0;
  /// The program an input that rows() accepts needs.
  virtual TowerSize size(const TowerInput& input) const = 0;
  /// Records the program: [rows, hidden] of the text model. `size` is one that size() gave.
  virtual Value forward(Graph& graph, const TowerSize& size) const = 0;
  /// Fills what a run on this input reads.
  virtual void feed(const TowerInput& input, TowerFeed& feed) const = 0;
  /// Places among the program's output rows, in order, that are the features; empty: all of them.
  virtual std::vector<int64_t> taken(const TowerInput&) const { return {}; }
};

/// The smallest of 64, 128, 256, ... that is at least `rows`: what towers compile for, so that
/// pictures of all sizes share a few programs.
int rows_capacity(int64_t rows);

}  // namespace decant
