// GLM-4.7 Flash: the mixture of GLM-4.5 under multi-head latent attention, as in DeepSeek V3.
// Source  transformers, modeling_glm4_moe_lite.py; glm_moe_dsa.md section 10.2.
#include "models/latent_decoder.h"
#include "models/registry.h"

namespace decant {
namespace {

std::unique_ptr<Model> build(const Json& json, const std::string& where,
                             const WeightScope& weights) {
  const ConfigReader c(json, where);
  return std::make_unique<LatentDecoder>(c, LatentDecoderConfig::read(c, 202752), weights);
}

}  // namespace

Family glm4_moe_lite_family() { return {.model_types = {"glm4_moe_lite"}, .build = build}; }

}  // namespace decant
