#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "ops/case.h"
#include "ops/rope.h"

namespace decant::proof {

/// A small decoder with random weights, shaped like qwen3 (or qwen3_moe) and recorded directly from
/// ops.
struct TinyConfig {
  std::string name;
  Format format = Format::dense(DType::kF32);
  DType kv_dtype = DType::kF32;
  bool routed = false;     // routed experts instead of a gated MLP
  bool sliding = false;    // the last layer sees 40 positions and has page tables of its own
  bool recurrent = false;  // every layer has a leaky_sum beside its attention
  int layers = 2;
  int64_t hidden = 128;
  int heads = 4, kv_heads = 2, head_dim = 32;
  int64_t inner = 192;  // of the MLP, or of an expert
  int64_t vocab = 211;
  int64_t experts = 8;
  int top_k = 3;
  int draft_tokens = 4;  // log of the recurrent state
};

class TinyModel {
 public:
  TinyModel(const TinyConfig& config, uint64_t seed);
  const TinyConfig& config() const { return config_; }
  /// Outputs: 0 logits [outputs, V], 1 sampled ids [outputs, 1], then per routed layer the ids of
  /// the chosen experts [N, K].
  Graph record(const Capacity& capacity) const;
  PoolSpec pools(int64_t pages, int64_t slots) const;
  int groups() const { return config_.sliding ? 2 : 1; }
  int window(int group) const { return group == 1 ? 40 : 0; }
  /// Largest difference of a logit two correct backends may have, in parts of the largest logit:
  /// the roundings along the longest chain of additions at this context, or of a bf16 cache.
  double bound(int64_t context) const;

 private:
  struct Layer {
    const Weight *input_norm, *q, *k, *v, *o, *q_norm, *k_norm, *post_norm;
    const Weight *gate, *up, *down, *router;
    const Weight *mix_in, *mix_gate, *mix_out;
  };
  TinyConfig config_;
  CaseBuilder weights_;
  const Weight *embedding_, *final_norm_, *head_;
  std::vector<Layer> layers_;
  std::shared_ptr<const RopeParams> rope_;
};

}  // namespace decant::proof
