#include <cstddef>
#include <cstdint>
#include <span>

#include "base/errors.h"
#include "base/json.h"
#include "media/audio.h"
#include "media/audio_processor.h"
#include "media/codec_leaks.h"

// Any bytes as a sound, then through a family's processor: a result or one of our errors.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace decant::media;  // NOLINT(google-build-using-namespace)
  static const auto gemma =
      make_audio_processor("gemma4", decant::parse_json("{}", "fuzz"), "fuzz");
  const AudioLimits limits = {.file_bytes = 1 << 18, .seconds = 2};
  try {
    gemma->process(decode_audio(std::as_bytes(std::span(data, size)), "fuzz", 16'000, limits));
  } catch (const decant::InternalError&) {
    throw;
  } catch (const decant::Error&) {
  }
  return 0;
}
