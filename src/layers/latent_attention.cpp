#include "layers/latent_attention.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "layers/config.h"
#include "layers/rope.h"
#include "ops/binary.h"
#include "ops/rows.h"

namespace decant::layers {
namespace {

constexpr int64_t kMaxHeads = 65536;
constexpr int64_t kMaxRank = 4096;   // of a cached latent, and of a head's parts
constexpr int64_t kMaxTopK = 16384;  // positions a row may choose

// A yarn rotation also sharpens the scores.
double sharpening(const ConfigReader& config) {
  const ConfigReader nested = config.object_or_empty("rope_parameters");
  const ConfigReader scaling = nested.has("rope_type") || nested.has("type")
                                   ? nested
                                   : config.object_or_empty("rope_scaling");
  if (!scaling.has("mscale_all_dim")) return 1;
  const double all = scaling.number_in_range("mscale_all_dim", 0, 100);
  const double factor = scaling.number_in_range_or("factor", 1, 1, 1e9);
  const double mscale = factor <= 1 ? 1 : 0.1 * all * std::log(factor) + 1;
  return mscale * mscale;
}

std::shared_ptr<const RopeParams> with_pairs(const RopeParams& from, bool interleaved) {
  auto out = std::make_shared<RopeParams>(from);
  out->interleaved = interleaved;
  return out;
}

}  // namespace

LatentConfig LatentConfig::read(const ConfigReader& config, int64_t hidden_size, float eps) {
  LatentConfig out;
  out.hidden_size = hidden_size;
  out.eps = eps;
  out.num_heads = config.in_range("num_attention_heads", 1, kMaxHeads);
  if (config.in_range_or("num_key_value_heads", out.num_heads, 1, kMaxHeads) != out.num_heads)
    config.fail("num_key_value_heads", fmt::format("{}, as many as heads", out.num_heads));
  if (config.has("q_lora_rank")) out.q_rank = read_width(config, "q_lora_rank");
  out.kv_rank = config.in_range("kv_lora_rank", 1, kMaxRank);
  out.nope = config.in_range("qk_nope_head_dim", 1, kMaxRank);
  out.rotary = config.in_range("qk_rope_head_dim", 2, kMaxRank);
  if (out.rotary % 2 != 0) config.fail("qk_rope_head_dim", "an even number");
  out.value = config.in_range("v_head_dim", 1, kMaxRank);
  const int64_t head = out.nope + out.rotary;
  if (config.in_range_or("qk_head_dim", head, 1, kMaxWidth) != head)
    config.fail("qk_head_dim", fmt::format("{}, the sum of its parts", head));
  if (out.num_heads * (out.nope + out.value + out.rotary) > kMaxWidth)
    config.fail("num_attention_heads",
                fmt::format("heads times their parts of at most {}", kMaxWidth));
  out.bias = config.value_or("attention_bias", false);
  out.scale = static_cast<float>(sharpening(config) / std::sqrt(static_cast<double>(head)));
  out.rotation =
      with_pairs(*read_rope(config, out.rotary), config.value_or("rope_interleave", true));
  return out;
}

IndexerConfig IndexerConfig::read(const ConfigReader& config, const LatentConfig& latent) {
  IndexerConfig out;
  out.num_heads = config.in_range("index_n_heads", 1, kMaxHeads);
  out.head_dim = config.in_range("index_head_dim", latent.rotary, kMaxRank);
  if (out.num_heads * out.head_dim > kMaxWidth)
    config.fail("index_n_heads",
                fmt::format("heads times index_head_dim of at most {}", kMaxWidth));
  out.top_k = static_cast<int>(config.in_range_or("index_topk", 2048, 1, kMaxTopK));
  out.rotation = with_pairs(*latent.rotation, config.value_or("indexer_rope_interleave", true));
  return out;
}

Indexer::Indexer(const IndexerConfig& c, const LatentConfig& latent, const WeightScope& w)
    : wq_b(w / "wq_b", c.num_heads * c.head_dim, latent.q_rank),
      wk(w / "wk", c.head_dim, latent.hidden_size),
      weights_proj(w / "weights_proj", c.num_heads, latent.hidden_size),
      k_norm(w / "k_norm", c.head_dim, c.eps),
      config(c) {}

Value Indexer::operator()(Value x, Value asking, Value qr, Value cache) const {
  const Graph::ScopeGuard guard(x.graph(), "indexer");
  Value k = rope(k_norm(wk(x)).reshape({1, config.head_dim}), config.rotation);
  cache = row_append(k, cache);
  Value q = rope(wq_b(qr).reshape({config.num_heads, config.head_dim}), config.rotation);
  const double scale = 1 / std::sqrt(static_cast<double>(config.num_heads * config.head_dim));
  return index_top_k(q, weights_proj(asking), cache, config.top_k, static_cast<float>(scale));
}

LatentAttention::LatentAttention(const LatentConfig& c, const IndexerConfig* index,
                                 const WeightScope& w)
    : kv_a_proj_with_mqa(w / "kv_a_proj_with_mqa", c.kv_rank + c.rotary, c.hidden_size, c.bias),
      kv_a_layernorm(w / "kv_a_layernorm", c.kv_rank, c.eps),
      o_proj(w / "o_proj", c.hidden_size, c.num_heads * c.value, c.bias),
      config(c) {
  const int64_t width = c.num_heads * (c.nope + c.rotary);
  if (c.q_rank > 0) {
    q_a_proj.emplace(w / "q_a_proj", c.q_rank, c.hidden_size, c.bias);
    q_a_layernorm.emplace(w / "q_a_layernorm", c.q_rank, c.eps);
    q_b_proj.emplace(w / "q_b_proj", width, c.q_rank);
  } else {
    q_proj.emplace(w / "q_proj", width, c.hidden_size);
  }
  const WeightScope kv_b = w / "kv_b_proj";
  if (kv_b.has("weight")) {
    const int64_t stride = c.nope + c.value;
    embed_q = kv_b.cut({c.num_heads, stride, 0, c.nope, c.kv_rank, true});
    unembed_out = kv_b.cut({c.num_heads, stride, c.nope, c.value, c.kv_rank, false});
  } else {
    embed_q = (w / "embed_q").stack(c.num_heads, c.kv_rank, c.nope);
    unembed_out = (w / "unembed_out").stack(c.num_heads, c.value, c.kv_rank);
  }
  if (index != nullptr) indexer.emplace(*index, c, w / "indexer");
}

Value LatentAttention::operator()(Value x, Value asking, Value cache, Value index_cache,
                                  Value& chosen) const {
  const Graph::ScopeGuard guard(x.graph(), "self_attn");
  const LatentConfig& c = config;
  Value ckv = kv_a_proj_with_mqa(x);
  const std::array<Value, 2> row{
      kv_a_layernorm(ckv.columns(0, {c.kv_rank})),
      rope(ckv.columns(c.kv_rank, {1, c.rotary}), c.rotation).reshape({c.rotary})};
  cache = row_append(concat(row, {1, c.kv_rank + c.rotary}), cache);

  Value qr = q_a_proj ? (*q_a_layernorm)((*q_a_proj)(asking)) : asking;
  if (indexer) chosen = (*indexer)(x, asking, qr, index_cache);
  if (chosen.valid() && chosen.type().rows != asking.type().rows) chosen = narrow_rows(chosen);
  Value q = (q_b_proj ? *q_b_proj : *q_proj)(qr).reshape({c.num_heads, c.nope + c.rotary});
  Value y = latent_attention(head_linear(q, embed_q), rope_columns(q, c.nope, c.rotation), cache,
                             c.scale, chosen);
  return o_proj(head_linear(y, unembed_out).reshape({c.num_heads * c.value}));
}

}  // namespace decant::layers
