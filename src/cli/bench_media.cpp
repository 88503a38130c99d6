#include "cli/bench_media.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <optional>
#include <random>
#include <utility>

#include "base/errors.h"
#include "base/json.h"
#include "engine/engine.h"
#include "media/media.h"
#include "session/media_prompt.h"
#include "session/tower_inputs.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kTextAround = 32;  // tokens before and after the placeholders

template <typename T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

media::Image picture_of(const std::string& value) {
  const size_t cross = value.find('x');
  const auto width = number<int64_t>(value.substr(0, cross));
  const auto height =
      cross == std::string::npos ? std::nullopt : number<int64_t>(value.substr(cross + 1));
  if (!width || !height) return media::load_image(value).image;
  if (*width < 1 || *height < 1 || *width > 10'000 || *height > 10'000)
    throw UsageError("[bench] --image: expected sides of 1 to 10000, got {}", value);
  media::Image out{*width, *height, {}};
  out.rgb.resize(static_cast<size_t>(*width * *height * 3));
  std::mt19937 random(1);
  for (uint8_t& level : out.rgb) level = static_cast<uint8_t>(random());
  return out;
}

media::Audio sound_of(const std::string& value, int64_t rate) {
  const auto seconds = number<double>(value);
  if (!seconds) return media::load_audio(value, rate).audio;
  if (!(*seconds > 0 && *seconds <= 600))
    throw UsageError("[bench] --audio: expected more than 0 and at most 600 seconds, got {}",
                     value);
  media::Audio out{rate, {}};
  out.samples.resize(static_cast<size_t>(std::llround(*seconds * static_cast<double>(rate))));
  std::mt19937 random(1);
  std::normal_distribution<float> noise(0, 0.1f);
  for (float& sample : out.samples) sample = noise(random);
  return out;
}

struct Timed {
  RequestStats stats;
  bool better(const Timed& other) const {
    return stats.prefill_seconds < other.stats.prefill_seconds;
  }
};

Timed run(Engine& engine, const std::vector<int32_t>& prompt, const std::vector<PromptMedia>& media,
          int64_t tokens) {
  Timed out;
  Request request;
  request.prompt = prompt;
  request.media = media;
  request.max_tokens = tokens;
  std::string error;
  request.on_finish = [&](const RequestResult& result) {
    out.stats = result.stats;
    if (result.reason == FinishReason::kError) error = result.error;
  };
  engine.submit(std::move(request));
  while (engine.step()) {
  }
  if (!error.empty()) throw RuntimeError("{}", error);
  return out;
}

}  // namespace

MediaBench::MediaBench(Backend& backend, const LoadedModel& loaded, MediaChoice choice,
                       const BenchRunner::Limits& limits)
    : backend_(backend), model_(*loaded.model), choice_(std::move(choice)), limits_(limits) {
  const auto found = find_processor_settings(choice_.folder,
                                             {"preprocessor_config.json", "processor_config.json"});
  const auto [json, where] =
      found ? *found : std::pair(Json(Json::object()), std::string("default settings"));
  const std::string& family = loaded.spec.model_type;
  if (choice_.type == "image") {
    const auto processor = media::make_image_processor(family, json, where);
    input_ = std::make_shared<TowerInput>(
        to_tower_input(processor->process(picture_of(choice_.value)), Medium::kImage));
  } else {
    const auto processor = media::make_audio_processor(family, json, where);
    input_ = std::make_shared<TowerInput>(
        to_tower_input(processor->process(sound_of(choice_.value, processor->sample_rate()))));
  }
  if (model_.tower(input_->medium) == nullptr)
    throw RequestError("[bench] --{}: expected a model that takes it, got {}, which does not",
                       choice_.type, family);
}

std::vector<BenchRow> MediaBench::rows(int64_t tokens, int repeats, ReadProbe* probe) {
  const int64_t rows = model_.tower(input_->medium)->rows(*input_);
  const int64_t length = rows + 2 * kTextAround;
  EngineOptions options;
  options.ctx_size = length + tokens;
  options.max_sequences = 1;
  options.prefill_chunk = static_cast<int>(limits_.chunk);
  options.exact = limits_.exact;
  options.dense_attention = limits_.dense_attention;
  // The model outlives the engine.
  Engine engine(std::shared_ptr<const Model>(&model_, [](const Model*) {}), backend_, options);

  std::vector<BenchRow> out;
  double tower = 0;
  for (int i = 0; i <= repeats; ++i) {
    const double before = engine.stats().tower_seconds;
    engine.features(*input_);
    const double seconds = engine.stats().tower_seconds - before;
    if (i == 1 || (i > 1 && seconds < tower)) tower = seconds;
  }
  out.push_back({.phase = "tower " + choice_.type,
                 .tokens = rows,
                 .tok_s = static_cast<double>(rows) / tower,
                 .seconds = tower});

  std::mt19937 random(7);
  std::vector<int32_t> text;
  for (int64_t i = 0; i < length; ++i)
    text.push_back(static_cast<int32_t>(
        10 + random() %
                 static_cast<uint64_t>(std::min<int64_t>(model_.spec().vocab_size - 10, 100'000))));
  const MediaSpec& spec = model_.spec().media;
  const int32_t placeholder =
      input_->medium == Medium::kImage ? spec.image_token : spec.audio_token;
  for (int32_t& id : text)
    if (id == spec.image_token || id == spec.audio_token || id == spec.video_token) id = 9;
  std::vector<int32_t> mixed = text;
  std::fill_n(mixed.begin() + kTextAround, rows, placeholder);
  const std::vector<PromptMedia> media = {{kTextAround, input_, "bench"}};

  struct Measured {
    Timed prefill;
    double decode = 0;
    ProbeReading probe;
  };
  const auto measure = [&](const std::vector<int32_t>& prompt,
                           const std::vector<PromptMedia>& with) {
    Measured best;
    for (int i = 0; i <= repeats; ++i) {
      ProbeReading reading;
      if (probe != nullptr) reading.read(*probe);
      const Timed next = run(engine, prompt, with, tokens);
      if (probe != nullptr) reading.read(*probe);
      readings_.add(reading);
      if (i == 0) continue;
      if (const double decode = next.stats.decode_tokens_per_second(); decode > best.decode) {
        best.decode = decode;
        best.probe = reading;
      }
      if (i == 1 || next.better(best.prefill)) best.prefill = next;
    }
    return best;
  };
  // In pairs, so that neither meets a quieter machine.
  const std::pair<std::string, Measured> measured[] = {{"text", measure(text, {})},
                                                       {choice_.type, measure(mixed, media)}};
  double bytes = 0;
  for (const auto& program : engine.programs().programs())
    if (program->capacity().phase == Phase::kDecode && bytes == 0)
      bytes = step_bytes(*program, batch_for_costs(Phase::kDecode, 1, length + tokens / 2, 1), {});
  for (const auto& [name, best] : measured)
    out.push_back({.phase = "prefill " + name,
                   .context = length,
                   .tokens = length,
                   .tok_s = best.prefill.stats.prefill_tokens_per_second()});
  for (const auto& [name, best] : measured)
    out.push_back({.phase = "decode " + name,
                   .context = length,
                   .tokens = tokens,
                   .tok_s = best.decode,
                   .gb_s = best.decode * bytes / 1e9,
                   .probe_gb_s = best.probe.gb_s()});
  return out;
}

}  // namespace decant::cli
