#include "models/registry.h"

#include "base/errors.h"
#include "checkpoint/config_reader.h"

namespace decant {

const std::vector<Family>& families() {
  static const std::vector<Family> all = {
      llama_family(),    qwen3_family(),         qwen3_moe_family(),   gemma3n_family(),
      gemma4_family(),   qwen3_5_family(),       qwen3_5_moe_family(), qwen3_next_family(),
      glm4_moe_family(), glm4_moe_lite_family(), glm_moe_dsa_family()};
  return all;
}

const Family& family_of(const Json& config, const std::string& where) {
  const ConfigReader reader(config, where);
  const auto type = reader.require<std::string>("model_type");
  std::string supported;
  for (const Family& family : families())
    for (const std::string& name : family.model_types) {
      if (name == type) return family;
      supported += (supported.empty() ? "" : ", ") + name;
    }
  reader.fail("model_type", "one of " + supported, quote(type));
}

}  // namespace decant
