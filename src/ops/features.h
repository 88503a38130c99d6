#pragma once

#include "graph/graph.h"

namespace decant {

// Between towers and the text model: rows that become fewer, and rows that take another's place.

/// y[n] = features[feature_of[n]] where the batch names a row for token n, else x[n].
/// Shapes  x, y [N, D]; features [N, D], of which a step fills as many rows as it has.
Value merge_features(Value x, Value features);

enum class Fold : uint8_t { kConcat, kMean };
struct FoldParams : OpParams {
  Fold kind = Fold::kConcat;
  int64_t count = 1;
  std::string text() const override;
};
/// `count` rows become one: row i of y is rows count i .. count i + count - 1 of x side by side, or
/// their mean. Of tokens the batch has as many outputs as that leaves rows; of fixed rows N is a
/// multiple of count. Shapes  x [N, D]; y [outputs or N / count, count D], or [.., D]. Dtypes  sums
/// in f32.
Value fold_rows(Value x, int64_t count, Fold kind);

/// y[n] = sum over k ascending of weights[n, k] * table[ids[n, k]]: rows of a table of positions
/// that may lie between its entries. An id of -1 adds nothing.
/// Shapes  table [V, D] dense; ids [N, K] i32; weights [N, K]; y [N, D].
Value weighted_rows(Value ids, Value weights, const Weight* table);

const Op& merge_features_op();
const Op& fold_rows_op();
const Op& weighted_rows_op();

}  // namespace decant
