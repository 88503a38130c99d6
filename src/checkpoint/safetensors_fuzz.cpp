#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/errors.h"
#include "checkpoint/safetensors.h"

// Any bytes: either a WeightError, or tensors whose bytes lie within the input.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    const auto header = decant::parse_safetensors(file, "fuzz");
    size_t total = 0;
    for (const auto& tensor : header.tensors) {
      if (tensor.bytes.data() < file.data() ||
          tensor.bytes.data() + tensor.bytes.size() > file.data() + file.size())
        std::abort();
      total += tensor.bytes.size();
    }
    if (header.data_offset + total != size) std::abort();
  } catch (const decant::WeightError&) {
  }
  return 0;
}
