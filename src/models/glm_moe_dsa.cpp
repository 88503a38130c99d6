// GLM-5 to 5.3: GLM-4.7 Flash's decoder whose layers read only the positions that an indexer
// chooses; in 5.2 and later most layers use the choice of one before them.
// Source  transformers, modeling_glm_moe_dsa.py; glm_moe_dsa.md.
#include <algorithm>

#include "models/latent_decoder.h"
#include "models/registry.h"

namespace decant {
namespace {

// Layers that choose for themselves: those that indexer_types or index_topk_pattern name, else by
// frequency and offset.
std::vector<bool> read_choosing(const ConfigReader& c, int64_t num_layers) {
  std::vector<bool> out;
  std::string key = "index_topk_freq";
  if (c.has("indexer_types") || c.is_list("index_topk_pattern")) {
    key = c.has("indexer_types") ? "indexer_types" : "index_topk_pattern";
    for (const std::string& type : c.strings(key, num_layers)) {
      const bool full = type == "full" || type == "F";
      if (!full && type != "shared" && type != "S") c.fail(key, "\"full\" or \"shared\"");
      out.push_back(full);
    }
  } else if (c.has("index_topk_pattern")) {
    key = "index_topk_pattern";
    const auto pattern = c.require<std::string>(key);
    if (static_cast<int64_t>(pattern.size()) != num_layers ||
        pattern.find_first_not_of("FS") != std::string::npos)
      c.fail(key, "a letter F or S for each layer");
    for (const char letter : pattern) out.push_back(letter == 'F');
  } else {
    const int64_t every = c.positive_or(key, 1);
    const int64_t offset = c.in_range_or("index_skip_topk_offset", 2, 0, ConfigReader::kMaxLayers);
    for (int64_t i = 0; i < num_layers; ++i)
      out.push_back(std::max<int64_t>(i - offset + 1, 0) % every == 0);
  }
  if (!out[0]) c.fail(key, "a first layer that chooses for itself");
  return out;
}

std::unique_ptr<Model> build(const Json& json, const std::string& where,
                             const WeightScope& weights) {
  const ConfigReader c(json, where);
  LatentDecoderConfig config = LatentDecoderConfig::read(c, 202752);
  if (config.attention.q_rank == 0) c.fail("q_lora_rank", "the width that the indexer reads");
  config.indexer = layers::IndexerConfig::read(c, config.attention);
  config.has_indexer = read_choosing(c, config.decoder.num_layers);
  return std::make_unique<LatentDecoder>(c, std::move(config), weights);
}

}  // namespace

Family glm_moe_dsa_family() { return {.model_types = {"glm_moe_dsa"}, .build = build}; }

}  // namespace decant
