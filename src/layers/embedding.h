#pragma once

#include <utility>

#include "base/errors.h"
#include "checkpoint/weight_scope.h"
#include "layers/norm.h"
#include "ops/embed.h"
#include "ops/linear.h"
#include "ops/mlp.h"
#include "ops/rows.h"

namespace decant::layers {

/// Rows of the table `scope`.weight [vocab, width] by token id.
struct Embedding {
  const Weight* table;

  Embedding(const WeightScope& scope, int64_t vocab, int64_t width)
      : table(scope.matrix(vocab, width)) {}
  Value operator()(Graph& graph) const { return embed(graph, table); }
};

/// Final norm and logits of the rows that are asked for. A tied head is the embedding table; a copy
/// that the file may hold besides (with its scales) is dropped.
struct Head {
  RmsNorm norm;
  const Weight* table;
  float softcap;

  Head(const WeightScope& root, const RmsNorm& final_norm, const Embedding& embedding, bool tied,
       float logit_softcap = 0)
      : norm(final_norm), table(embedding.table), softcap(logit_softcap) {
    if (tied)
      root.ignore("lm_head");
    else
      table = (root / "lm_head").matrix(table->shape[0], table->shape[1]);
  }
  /// x [N or outputs, hidden] -> [outputs, vocab].
  Value operator()(Value x) const {
    if (x.type().rows == Rows::kTokens) x = narrow_rows(x);
    return lm_head(x, norm.weight, norm.eps, table, softcap);
  }
  /// x [N, hidden] -> what the call above gives, and norm(x) of every token. Without a softcap.
  std::pair<Value, Value> with_hidden(Value x) const {
    DECANT_ASSERT(softcap == 0, "models with a softcap have no draft layer");
    Value hidden = norm(x);
    return {linear(narrow_rows(hidden), table), hidden};
  }
};

}  // namespace decant::layers
