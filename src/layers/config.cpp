#include "layers/config.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "base/json.h"

namespace decant::layers {
namespace {

constexpr std::array<std::pair<std::string_view, Unary>, 6> kActivations = {{
    {"silu", Unary::kSilu},
    {"swish", Unary::kSilu},
    {"gelu_pytorch_tanh", Unary::kGeluTanh},
    {"gelu_new", Unary::kGeluTanh},
    {"gelu", Unary::kGeluErf},
    {"relu", Unary::kRelu},
}};
constexpr size_t kMaxEos = 64;

}  // namespace

int64_t read_width(const ConfigReader& config, std::string_view key) {
  return config.in_range(key, 1, kMaxWidth);
}

int64_t read_width_or(const ConfigReader& config, std::string_view key, int64_t fallback) {
  return config.in_range_or(key, fallback, 1, kMaxWidth);
}

float read_eps(const ConfigReader& config, std::string_view key) {
  // Smaller ones are zero in float32, and rows of zeros would become NaN.
  return static_cast<float>(config.number_in_range_or(key, 1e-6, 1e-30, 1));
}

Unary read_activation(const ConfigReader& config, std::string_view key, std::string_view fallback) {
  const auto name = config.value_or<std::string>(key, std::string(fallback));
  std::string known;
  for (const auto& [candidate, kind] : kActivations) {
    if (name == candidate) return kind;
    known += fmt::format("{}\"{}\"", known.empty() ? "" : ", ", candidate);
  }
  config.fail(key, "one of " + known);
}

std::vector<int32_t> read_eos(const ConfigReader& config) {
  constexpr std::string_view kKey = "eos_token_id";
  std::vector<int32_t> out;
  if (!config.has(kKey)) return out;
  std::vector<int64_t> ids;
  if (config.is_list(kKey)) {
    ids = config.ints(kKey);
    if (ids.size() > kMaxEos) config.fail(kKey, fmt::format("at most {} ids", kMaxEos));
  } else {
    ids.push_back(config.require<int64_t>(kKey));
  }
  for (int64_t id : ids) {
    if (!std::in_range<int32_t>(id) || id < 0) config.fail(kKey, "token ids");
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

DecoderConfig DecoderConfig::read(const ConfigReader& config, int64_t max_positions) {
  config.require_keys({"vocab_size", "hidden_size", "num_hidden_layers"});
  DecoderConfig out;
  out.vocab_size = read_width(config, "vocab_size");
  out.hidden_size = read_width(config, "hidden_size");
  out.num_layers = config.layers();
  out.max_positions = config.positive_or("max_position_embeddings", max_positions);
  out.eps = read_eps(config);
  return out;
}

bool read_tied(const ConfigReader& config, const WeightScope& root) {
  return config.value_or("tie_word_embeddings", !(root / "lm_head").has("weight"));
}

}  // namespace decant::layers
