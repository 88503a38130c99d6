#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace decant::media {

/// A decoded sound: one channel, full scale is -1 to 1.
struct Audio {
  int64_t sample_rate = 0;
  std::vector<float> samples;
};

/// What a sound may be; checked before and while it is decoded.
struct AudioLimits {
  uint64_t file_bytes = 50'000'000;
  int64_t seconds = 600;
  int64_t lowest_rate = 1'000;
  int64_t highest_rate = 384'000;
  int64_t channels = 32;
};

/// Decodes a WAV, AIFF, FLAC, Ogg (Vorbis, Opus) or MP3 file as librosa.load(f, sr=sample_rate)
/// does: float32, the mean of the channels, resampled by soxr at high quality when the rates
/// differ, ceil(frames * sample_rate / rate) samples. `name` stands for the file in messages.
/// Errors: RequestError `[media] NAME: expected X, got Y`; RuntimeError where a self-contained
/// program finds no libsndfile or libsoxr on the machine.
Audio decode_audio(std::span<const std::byte> file, std::string_view name, int64_t sample_rate,
                   const AudioLimits& limits = {});

}  // namespace decant::media
