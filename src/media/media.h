#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "media/audio.h"
#include "media/audio_processor.h"
#include "media/content_hash.h"
#include "media/image.h"
#include "media/image_processor.h"

/// Pictures and sounds from files to what a family's towers are given:
///   const auto processor = make_image_processor(model_type, config, "preprocessor_config.json");
///   const LoadedImage picture = load_image(path);
///   const ImageInputs inputs = processor->process(picture.image, path.string());
namespace decant::media {

/// A picture and the hash of the file it came from.
struct LoadedImage {
  Image image;
  ContentHash hash{};
};

/// A sound and the hash of the file it came from.
struct LoadedAudio {
  Audio audio;
  ContentHash hash{};
};

/// The bytes of a regular file. Errors: RequestError `[media] PATH: expected X, got Y` when it is
/// missing, no regular file, or larger than `limit` (told before it is read).
std::vector<std::byte> read_media_file(const std::filesystem::path& path, uint64_t limit);

/// Reads and decodes a picture. Errors: as read_media_file and decode_image.
LoadedImage load_image(const std::filesystem::path& path, const ImageLimits& limits = {});

/// Reads and decodes a sound at `sample_rate`. Errors: as read_media_file and decode_audio.
LoadedAudio load_audio(const std::filesystem::path& path, int64_t sample_rate,
                       const AudioLimits& limits = {});

}  // namespace decant::media
