#include "backend/backend.h"

namespace decant {

int64_t PoolSpec::bytes() const {
  int64_t total = 0;
  for (const KvSpec& spec : kv)
    total += kv_page_bytes(spec, kv_dtype) * pages_per_group.at(static_cast<size_t>(spec.group));
  return total + slots * slot_bytes();
}

int64_t PoolSpec::slot_bytes() const {
  int64_t total = 0;
  for (const StateSpec& spec : states)
    total += (spec.width + spec.log_width * spec.log_tokens) * static_cast<int64_t>(sizeof(float));
  return total;
}

}  // namespace decant
