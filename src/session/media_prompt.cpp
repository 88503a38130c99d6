#include "session/media_prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "base/errors.h"
#include "media/audio.h"
#include "media/image.h"
#include "media/media.h"
#include "media/video.h"
#include "session/tower_inputs.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr size_t kKeptFiles = 64;
constexpr int64_t kKeptBytes = int64_t{512} << 20;

std::optional<Medium> medium_of(const Json& part) {
  const auto type = part.find("type");
  if (type == part.end() || !type->is_string()) return std::nullopt;
  for (const Medium medium : {Medium::kImage, Medium::kVideo, Medium::kAudio})
    if (*type == name_of(medium)) return medium;
  return std::nullopt;
}

std::pair<Json, std::string> read_settings(const fs::path& folder,
                                           std::initializer_list<const char*> names) {
  if (auto found = find_processor_settings(folder, names)) return *std::move(found);
  throw ConfigError("[media] {}: expected {}, got no such file", folder.string(),
                    fmt::join(names, " or "));
}

}  // namespace

std::optional<std::pair<Json, std::string>> find_processor_settings(
    const fs::path& folder, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const fs::path path = folder / name;
    std::error_code error;
    if (fs::exists(path, error)) return std::pair(read_json_file(path), path.string());
  }
  return std::nullopt;
}

std::vector<MediaPart> media_parts(const Json& messages) {
  std::vector<MediaPart> out;
  if (!messages.is_array()) return out;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) continue;
    const auto content = messages[i].find("content");
    if (content == messages[i].end() || !content->is_array()) continue;
    for (size_t j = 0; j < content->size(); ++j) {
      const Json& part = (*content)[j];
      if (!part.is_object()) continue;
      const std::optional<Medium> medium = medium_of(part);
      if (!medium) continue;
      const auto path = part.find("path");
      if (path == part.end() || !path->is_string())
        throw RequestError(
            "[messages] messages[{}].content[{}].path: expected a file's name, got {}", i, j,
            path == part.end() ? "none" : describe(*path));
      out.push_back({*medium, path->get<std::string>()});
    }
  }
  return out;
}

MediaPrompter::MediaPrompter(fs::path folder, const Model& model, const Tokenizer& tokenizer)
    : folder_(std::move(folder)), model_(model), tokenizer_(tokenizer) {}

MediaPrompter::~MediaPrompter() = default;

const media::ImageProcessor& MediaPrompter::image_processor() {
  const std::lock_guard lock(mutex_);
  if (!images_) {
    const auto [json, name] =
        read_settings(folder_, {"preprocessor_config.json", "processor_config.json"});
    images_ = media::make_image_processor(model_.spec().model_type, json, name);
  }
  return *images_;
}

const media::AudioProcessor& MediaPrompter::audio_processor() {
  const std::lock_guard lock(mutex_);
  if (!sounds_) {
    const auto [json, name] =
        read_settings(folder_, {"processor_config.json", "preprocessor_config.json"});
    sounds_ = media::make_audio_processor(model_.spec().model_type, json, name);
  }
  return *sounds_;
}

const media::VideoProcessor& MediaPrompter::video_processor() {
  const std::lock_guard lock(mutex_);
  if (videos_) return *videos_;
  // A section for videos counts before the files of older days, as in Transformers.
  if (const auto sections = find_processor_settings(folder_, {"processor_config.json"})) {
    const auto& [json, name] = *sections;
    if (json.is_object() && json.contains("video_processor")) {
      videos_ = media::make_video_processor(model_.spec().model_type, json, name);
      return *videos_;
    }
  }
  const auto [json, name] =
      read_settings(folder_, {"video_preprocessor_config.json", "preprocessor_config.json"});
  videos_ = media::make_video_processor(model_.spec().model_type, json, name);
  return *videos_;
}

std::shared_ptr<const MediaPrompter::Loaded> MediaPrompter::load_image(
    const std::vector<std::byte>& bytes, const MediaPart& file, const std::string& key) {
  const media::Image image = media::decode_image(bytes, file.path);
  auto out = std::make_shared<Loaded>();
  out->inputs.push_back(std::make_shared<TowerInput>(
      to_tower_input(image_processor().process(image, file.path), Medium::kImage)));
  out->keys.push_back(key);
  out->bytes = std::ssize(out->inputs.back()->values) * int64_t{sizeof(float)};
  return out;
}

std::shared_ptr<const MediaPrompter::Loaded> MediaPrompter::load_audio(
    const std::vector<std::byte>& bytes, const MediaPart& file, const std::string& key) {
  const media::AudioProcessor& processor = audio_processor();
  const media::Audio audio = media::decode_audio(bytes, file.path, processor.sample_rate());
  auto out = std::make_shared<Loaded>();
  out->inputs.push_back(
      std::make_shared<TowerInput>(to_tower_input(processor.process(audio, file.path))));
  out->keys.push_back(key);
  out->bytes = std::ssize(out->inputs.back()->values) * int64_t{sizeof(float)};
  return out;
}

std::shared_ptr<const MediaPrompter::Loaded> MediaPrompter::load_video(const MediaPart& file,
                                                                       const std::string& key) {
  const media::VideoProcessor& processor = video_processor();
  const std::unique_ptr<media::Video> video = media::open_video(file.path);
  media::VideoInputs inputs = processor.process(*video, file.path);
  auto out = std::make_shared<Loaded>();
  for (media::ImageInputs& part : inputs.parts) {
    out->keys.push_back(fmt::format("{} {}", key, out->inputs.size()));
    out->inputs.push_back(
        std::make_shared<TowerInput>(to_tower_input(std::move(part), Medium::kVideo)));
    out->bytes += std::ssize(out->inputs.back()->values) * int64_t{sizeof(float)};
  }
  out->captions = std::move(inputs.captions);
  return out;
}

std::shared_ptr<const MediaPrompter::Loaded> MediaPrompter::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(kept_.begin(), kept_.end(), [&](const auto& kept) { return kept.first == key; });
  if (found == kept_.end()) return nullptr;
  kept_.splice(kept_.begin(), kept_, found);
  return found->second;
}

void MediaPrompter::keep(const std::string& key, std::shared_ptr<const Loaded> loaded) {
  const std::lock_guard lock(mutex_);
  // Two prompts may have read the same file at a time.
  if (std::any_of(kept_.begin(), kept_.end(), [&](const auto& kept) { return kept.first == key; }))
    return;
  kept_bytes_ += loaded->bytes;
  kept_.emplace_front(key, std::move(loaded));
  while (kept_.size() > 1 && (kept_.size() > kKeptFiles || kept_bytes_ > kKeptBytes)) {
    kept_bytes_ -= kept_.back().second->bytes;
    kept_.pop_back();
  }
}

std::shared_ptr<const MediaPrompter::Loaded> MediaPrompter::load(const MediaPart& file) {
  if (model_.tower(file.medium) == nullptr || model_.spec().media.placeholder(file.medium) < 0)
    throw RequestError("[media] {}: expected a model that takes {} input, got {}, which does not",
                       file.path, name_of(file.medium), model_.spec().model_type);
  const bool video = file.medium == Medium::kVideo, image = file.medium == Medium::kImage;
  std::vector<std::byte> bytes;  // of a video they are not kept
  if (!video)
    bytes = media::read_media_file(
        file.path, image ? media::ImageLimits{}.file_bytes : media::AudioLimits{}.file_bytes);
  const std::string key = fmt::format(
      "{} {}", name_of(file.medium),
      media::to_string(video ? media::video_hash(file.path) : media::content_hash(bytes)));
  if (auto found = find(key)) return found;
  auto loaded = video   ? load_video(file, key)
                : image ? load_image(bytes, file, key)
                        : load_audio(bytes, file, key);
  keep(key, loaded);
  return loaded;
}

std::string MediaPrompter::token_text(int32_t id) const {
  return id < 0 ? std::string() : std::string(tokenizer_.id_to_token(id));
}

std::string MediaPrompter::expanded(const Loaded& loaded, Medium medium) const {
  const MediaSpec& spec = model_.spec().media;
  const bool audio = medium == Medium::kAudio;
  // The parts of a video are wrapped one by one.
  const bool wrapped = spec.template_wraps && medium != Medium::kVideo;
  const std::string placeholder = token_text(spec.placeholder(medium));
  const std::string begin = wrapped ? "" : token_text(audio ? spec.audio_begin : spec.image_begin);
  const std::string end = wrapped ? "" : token_text(audio ? spec.audio_end : spec.image_end);
  std::string out = spec.around;
  for (size_t i = 0; i < loaded.inputs.size(); ++i) {
    if (i < loaded.captions.size()) out += loaded.captions[i];
    out += begin;
    const int64_t rows = model_.tower(medium)->rows(*loaded.inputs[i]);
    for (int64_t r = 0; r < rows; ++r) out += placeholder;
    out += end;
  }
  return out + spec.around;
}

void MediaPrompter::unwrap(std::string& before, std::string_view& after) const {
  const MediaSpec& spec = model_.spec().media;
  const std::string begin = token_text(spec.image_begin), end = token_text(spec.image_end);
  if (!spec.template_wraps || !before.ends_with(begin) || !after.starts_with(end)) return;
  before.resize(before.size() - begin.size());
  after.remove_prefix(end.size());
}

Prompt MediaPrompter::prompt(const std::vector<RenderedPart>& rendered,
                             const std::vector<MediaPart>& files, bool parse_special) {
  std::vector<std::shared_ptr<const Loaded>> loaded;
  std::map<Medium, std::vector<size_t>> of_medium;
  for (const MediaPart& file : files) {
    of_medium[file.medium].push_back(loaded.size());
    loaded.push_back(load(file));
  }
  // Placeholders that the template wrote: those a user typed are text.
  std::map<Medium, size_t> written;
  std::vector<std::shared_ptr<const TowerInput>> inputs;
  std::vector<std::string> keys;
  std::vector<std::string> texts;
  std::vector<bool> plain;
  for (const RenderedPart& part : rendered) {
    plain.push_back(part.from_message && !parse_special);
    std::string& text = texts.emplace_back();
    if (part.from_message) {
      text = part.text;
      continue;
    }
    std::string_view rest = part.text;
    while (!rest.empty()) {
      size_t first = std::string_view::npos;
      Medium medium{};
      std::string placeholder;
      for (const auto& [candidate, indices] : of_medium) {
        const std::string token = token_text(model_.spec().media.placeholder(candidate));
        const size_t at = token.empty() ? std::string_view::npos : rest.find(token);
        if (at >= first) continue;
        first = at;
        medium = candidate;
        placeholder = token;
      }
      text += rest.substr(0, first);
      if (first == std::string_view::npos) break;
      rest.remove_prefix(first + placeholder.size());
      const size_t index = written[medium]++;
      if (index >= of_medium[medium].size()) continue;  // told below
      const Loaded& one = *loaded[of_medium[medium][index]];
      if (medium == Medium::kVideo) unwrap(text, rest);
      text += expanded(one, medium);
      inputs.insert(inputs.end(), one.inputs.begin(), one.inputs.end());
      keys.insert(keys.end(), one.keys.begin(), one.keys.end());
    }
  }
  for (const auto& [medium, indices] : of_medium)
    if (written[medium] != indices.size())
      throw RequestError(
          "[messages] {}: expected the chat template to write {} placeholders ({}), got {}",
          name_of(medium), indices.size(), token_text(model_.spec().media.placeholder(medium)),
          written[medium]);
  std::vector<Tokenizer::Part> parts;
  for (size_t i = 0; i < texts.size(); ++i) parts.push_back({texts[i], plain[i]});
  Prompt out = tokenizer_.encode_parts(parts, {.add_special_tokens = false});
  if (!inputs.empty())
    out.attachments =
        std::make_shared<PromptAttachments>(place_in_order(model_, out.tokens, inputs, keys));
  return out;
}

}  // namespace decant
