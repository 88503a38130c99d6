#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "media/array.h"
#include "media/audio.h"

namespace decant::media {

using Json = nlohmann::ordered_json;

/// What an audio tower is given for one sound, by its Hugging Face names.
struct AudioInputs {
  /// [1, frames, values]: log-mel energies, or raw samples for gemma4_unified.
  Array<float> input_features;
  /// [1, frames]: 1 where the frame is sound, 0 where it is filling.
  Array<uint8_t> input_features_mask;
  /// Placeholders that the sound takes in the prompt.
  int64_t soft_tokens = 0;
};

/// What a family makes of a sound before its audio tower hears it. Safe to share by threads.
class AudioProcessor {
 public:
  virtual ~AudioProcessor() = default;
  AudioProcessor() = default;
  AudioProcessor(const AudioProcessor&) = delete;
  AudioProcessor& operator=(const AudioProcessor&) = delete;

  /// Samples a second that process() expects.
  virtual int64_t sample_rate() const = 0;
  /// The tower's inputs of one sound; what lies behind the family's longest sound (30 s for log-mel
  /// features) is cut off. Errors: RequestError naming `name` for a sound too short for one frame.
  virtual AudioInputs process(const Audio& audio, std::string_view name = "sound") const = 0;
};

/// The processor of a family by its model_type: gemma3n, gemma4, gemma4_unified; configured by
/// preprocessor_config.json or processor_config.json, which `where` names. Errors: ConfigError for
/// another family, a value out of range, or one that would change the result and is not
/// implemented.
std::unique_ptr<AudioProcessor> make_audio_processor(std::string_view family, const Json& config,
                                                     std::string_view where);

}  // namespace decant::media
