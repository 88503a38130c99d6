#pragma once

#include <string_view>

#include "graph/graph.h"

namespace decant {

/// What the passes ask a backend: which ops it has a kernel for.
class BindQuery {
 public:
  virtual ~BindQuery() = default;
  /// True if the backend runs this node as it is. For a composite, false means it is expanded.
  virtual bool binds(const Graph& graph, const Node& node) const = 0;
  /// True if the backend has a kernel for this fused op: its rewrite may fire.
  virtual bool wants(const Op& fused) const = 0;
};

/// Binds primitives only and wants nothing fused: what the reference runs.
const BindQuery& bind_primitives();

/// Replaces every composite the backend does not bind by its expansion, until none is left.
Graph expand_composites(const Graph& graph, const BindQuery& query);

/// The rewrite list. Each replaces a pattern of neighbours by one composite whose expansion is that
/// pattern; it fires when the backend wants the result and the value in between has no other use
/// (or the result offers it too):
///   linear_add    add(r, linear(x, W))          -> linear_add(r, x, W)
///   norm_rope     rope(rms_norm(x, w))          -> norm_rope(x, w)
///   act_mul       mul(act(g), u)                -> act_mul(g, u)
///   add_rms_norm  s = add(a, b); rms_norm(s, w) -> s, y = add_rms_norm(a, b, w)
Graph fuse_neighbours(const Graph& graph, const BindQuery& query);

}  // namespace decant
