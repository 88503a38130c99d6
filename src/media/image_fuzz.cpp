#include <cstddef>
#include <cstdint>
#include <span>

#include "base/errors.h"
#include "base/json.h"
#include "media/image.h"
#include "media/image_processor.h"

// Any bytes as a picture, then through a family's processor: a result or one of our errors. Limits
// are small so that a run is quick; the checks are the same.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace decant::media;  // NOLINT(google-build-using-namespace)
  static const auto qwen = make_image_processor(
      "qwen3_5",
      decant::parse_json(R"({"size": {"shortest_edge": 1024, "longest_edge": 9216}})", "fuzz"),
      "fuzz");
  static const auto gemma = make_image_processor(
      "gemma4", decant::parse_json(R"({"max_soft_tokens": 70})", "fuzz"), "fuzz");
  const ImageLimits limits = {.file_bytes = 1 << 20, .pixels = 1 << 18, .side = 8192, .scans = 20};
  try {
    const Image image = decode_image(std::as_bytes(std::span(data, size)), "fuzz", limits);
    if (image.width * image.height <= 4096) {
      gemma->soft_tokens({image.width, image.height});
      qwen->process(image);
    }
  } catch (const decant::InternalError&) {
    throw;
  } catch (const decant::Error&) {
  }
  return 0;
}
