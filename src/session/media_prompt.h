#pragma once

#include <filesystem>
#include <initializer_list>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "chat/jinja.h"
#include "decant/decant.h"
#include "engine/media.h"
#include "media/audio_processor.h"
#include "media/content_hash.h"
#include "media/image_processor.h"
#include "media/video_processor.h"
#include "tokenizer/tokenizer.h"

namespace decant {

/// Pictures and sounds of a prompt and where they stand in it.
class PromptAttachments {
 public:
  explicit PromptAttachments(std::vector<PromptMedia> placed) : media(std::move(placed)) {}
  std::vector<PromptMedia> media;
};

/// A file that a message's content part names.
struct MediaPart {
  Medium medium = Medium::kImage;
  std::string path;
};

/// The parts {"type": "image" | "audio" | "video", "path": ...} of messages, in order. Errors:
/// RequestError for a part of these types without a path, naming it.
std::vector<MediaPart> media_parts(const Json& messages);

/// The processors' settings of a model folder, of the first of these files it has, and that file's
/// name; nothing where it has none. Errors: ConfigError for a file that is no JSON.
std::optional<std::pair<Json, std::string>> find_processor_settings(
    const std::filesystem::path& folder, std::initializer_list<const char*> names);

/// Turns files into tower inputs and writes their placeholders into a rendered prompt. What a file
/// became is kept by the hash of its bytes. Safe to use from several threads.
class MediaPrompter {
 public:
  /// `folder` holds the processors' settings, which are read when they are first needed.
  MediaPrompter(std::filesystem::path folder, const Model& model, const Tokenizer& tokenizer);
  ~MediaPrompter();

  /// The rendered prompt with every placeholder that the template wrote replaced by as many as the
  /// file has rows, and what belongs around them; and the prompt's tokens and media. Errors:
  /// RequestError for files that cannot be read, media the model does not take, or a template that
  /// wrote another number of placeholders; ConfigError for processors' settings.
  Prompt prompt(const std::vector<RenderedPart>& rendered, const std::vector<MediaPart>& files,
                bool parse_special);

 private:
  struct Loaded {
    std::vector<std::shared_ptr<const TowerInput>> inputs;  // of a video: by frame
    std::vector<std::string> keys;
    std::vector<std::string> captions;  // before each: the time of a frame; empty: none
    int64_t bytes = 0;                  // of the inputs
  };
  std::shared_ptr<const Loaded> load(const MediaPart& file);
  std::shared_ptr<const Loaded> load_image(const std::vector<std::byte>& bytes,
                                           const MediaPart& file, const std::string& key);
  std::shared_ptr<const Loaded> load_audio(const std::vector<std::byte>& bytes,
                                           const MediaPart& file, const std::string& key);
  std::shared_ptr<const Loaded> load_video(const MediaPart& file, const std::string& key);
  const media::ImageProcessor& image_processor();
  const media::AudioProcessor& audio_processor();
  const media::VideoProcessor& video_processor();
  std::shared_ptr<const Loaded> find(const std::string& key);
  void keep(const std::string& key, std::shared_ptr<const Loaded> loaded);
  std::string token_text(int32_t id) const;
  std::string expanded(const Loaded& loaded, Medium medium) const;
  /// Takes what the template wrote around a placeholder away, where every part of a video has it.
  void unwrap(std::string& before, std::string_view& after) const;

  std::filesystem::path folder_;
  const Model& model_;
  const Tokenizer& tokenizer_;
  std::mutex mutex_;  // of the processors' making and of what is kept
  std::unique_ptr<media::ImageProcessor> images_;
  std::unique_ptr<media::AudioProcessor> sounds_;
  std::unique_ptr<media::VideoProcessor> videos_;
  std::list<std::pair<std::string, std::shared_ptr<const Loaded>>> kept_;  // the last used first
  int64_t kept_bytes_ = 0;
};

}  // namespace decant
