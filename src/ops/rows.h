#pragma once

#include "graph/graph.h"

namespace decant {

/// From here on only the rows whose logits are needed: y[i] = x[outputs[i]]. Shapes  x [N, ...]; y
/// [outputs, ...].
Value narrow_rows(Value x);

enum class Reduce : uint8_t { kMean, kVariance };
struct ReduceParams : OpParams {
  Reduce kind = Reduce::kMean;
  std::string text() const override { return kind == Reduce::kMean ? "mean" : "variance"; }
};
/// Mean or population variance of each row. Shapes  x [N, ...]; y [N, 1]. Dtypes  f32.
Value reduce(Value x, Reduce kind);

/// Columns of every row in another order: the concatenation of runs {first column, count}. For
/// products whose heads lie interleaved in a file, e.g. [query | gate] per head.
/// Shapes  x [N, ...]; y [N, inner...] with as many elements as the runs have.
struct ColumnRun {
  int64_t first = 0;
  int64_t count = 0;
  bool operator==(const ColumnRun&) const = default;
};
Value gather_columns(Value x, std::vector<ColumnRun> runs, const Shape& inner);
/// The runs of `count` columns from `first` on in each of `groups` groups of `stride` columns.
std::vector<ColumnRun> column_runs(int64_t groups, int64_t stride, int64_t first, int64_t count);
struct GatherColumnsParams : OpParams {
  std::vector<ColumnRun> runs;
  Shape inner;
  std::string text() const override;
};

const Op& narrow_rows_op();
const Op& gather_columns_op();
const Op& reduce_op();

}  // namespace decant
