#include "media/audio_processor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/errors.h"
#include "media/codec.h"
#include "media/settings.h"
#include "media/spectrum.h"

namespace decant::media {
namespace {

constexpr int64_t kLongestSamples = 480'000;
constexpr int64_t kPadMultiple = 128;

// How the two families' log-mel features differ, beside their numbers.
struct LogMelStyle {
  bool pad_left;        // half a frame of silence in front, which counts as filling
  bool add_floor;       // log(mel + floor) instead of log(max(mel, floor))
  bool zero_filling;    // frames that are filling become 0
  bool float_window;    // the Hann window is computed in float32
  int64_t soft_tokens;  // fixed number of placeholders; 0: one per four frames of sound
};

struct LogMelDefaults {
  double frame_ms;
  double low;
  double high;
  double preemphasis;
  bool double_fft;
  double floor;
};

// Windows of `frame` + 1 samples every `hop`; the first `frame` of them, after pre-emphasis, are
// windowed in float32 as the reference does; the rest is double.
class LogMel : public AudioProcessor {
 public:
  LogMel(const Settings& settings, const LogMelDefaults& defaults, const LogMelStyle& style)
      : style_(style),
        rate_(settings.integer_or("sampling_rate", 16'000, 1'000, 192'000)),
        bins_(settings.integer_or("feature_size", 128, 1, 1024)),
        frame_(samples_of(settings, "frame_length_ms", defaults.frame_ms)),
        hop_(samples_of(settings, "hop_length_ms", 10.0)),
        emphasis_(settings.number_or("preemphasis", defaults.preemphasis, 0.0, 1.0)),
        htk_(settings.flag_or("preemphasis_htk_flavor", true)),
        scale_(settings.number_or("input_scale_factor", 1.0, 1e-6, 1e6)),
        floor_(settings.number_or("mel_floor", defaults.floor, 1e-30, 1.0)),
        spectrum_(std::bit_ceil(static_cast<size_t>(frame_)) *
                  (settings.flag_or("fft_overdrive", defaults.double_fft) ? 2 : 1)),
        filters_(bins_, low_of(settings, defaults), high_of(settings, defaults),
                 static_cast<double>(rate_), spectrum_.length()),
        mean_(per_bin(settings, "per_bin_mean", 0.0)),
        deviation_(per_bin(settings, "per_bin_stddev", 1.0)) {
    settings.expect("dither", 0.0);
    settings.expect("padding_value", 0.0);
    settings.expect_one_of("padding_side", {"right"});
    if (std::find(deviation_.begin(), deviation_.end(), 0.0) != deviation_.end()) {
      settings.fail("per_bin_stddev", "numbers that are not 0");
    }
    window_.resize(static_cast<size_t>(frame_));
    for (int64_t i = 0; i < frame_; ++i) {
      window_[static_cast<size_t>(i)] = style_.float_window ? hann_float(i) : hann(i);
    }
  }

  int64_t sample_rate() const override { return rate_; }

  AudioInputs process(const Audio& audio, std::string_view name) const override {
    DECANT_ASSERT(audio.sample_rate == rate_, "a sound has its processor's sample rate");
    const int64_t real = std::min(static_cast<int64_t>(audio.samples.size()), kLongestSamples);
    const int64_t left = style_.pad_left ? frame_ / 2 : 0;
    const int64_t total = left + round_up(real, kPadMultiple);
    const int64_t frames = total < frame_ + 1 ? 0 : (total - frame_ - 1) / hop_ + 1;
    if (frames == 0 || real == 0) {
      refuse(name, fmt::format("a sound of at least {} ms", (frame_ + 1 - left) * 1000 / rate_ + 1),
             fmt::format("{} samples at {} Hz", real, rate_));
    }
    std::vector<float> samples(static_cast<size_t>(total));
    for (int64_t i = 0; i < real; ++i) {
      const float value = audio.samples[static_cast<size_t>(i)];
      samples[static_cast<size_t>(left + i)] =
          scale_ == 1.0 ? value : value * static_cast<float>(scale_);
    }
    AudioInputs out;
    out.input_features.shape = {1, frames, bins_};
    out.input_features.data.resize(static_cast<size_t>(frames * bins_));
    out.input_features_mask.shape = {1, frames};
    out.input_features_mask.data.resize(static_cast<size_t>(frames));
    Spectrum spectrum = spectrum_;  // its scratch is this call's own
    std::vector<double> signal(spectrum.length());
    std::vector<double> magnitudes(spectrum.length() / 2 + 1);
    std::vector<double> mel(static_cast<size_t>(bins_));
    for (int64_t f = 0; f < frames; ++f) {
      const int64_t start = f * hop_;
      // Filled up on the right, a frame counts by its last sample; otherwise by its first.
      const int64_t last = style_.pad_left ? start + frame_ - left : start;
      const bool valid = last >= 0 && last < real;
      out.input_features_mask.data[static_cast<size_t>(f)] = valid ? 1 : 0;
      if (!valid && style_.zero_filling) continue;
      emphasise(samples.data() + start, signal.data());
      spectrum.magnitudes(signal.data(), magnitudes.data());
      filters_.apply(magnitudes.data(), mel.data());
      float* row = out.input_features.data.data() + f * bins_;
      for (size_t b = 0; b < mel.size(); ++b) {
        const double energy = style_.add_floor ? mel[b] + floor_ : std::max(mel[b], floor_);
        row[b] = static_cast<float>((std::log(energy) - mean_[b]) / deviation_[b]);
      }
    }
    out.soft_tokens = style_.soft_tokens != 0 ? style_.soft_tokens : tokens_of(out);
    return out;
  }

 private:
  static int64_t samples_of(const Settings& settings, std::string_view key, double fallback) {
    const auto rate =
        static_cast<double>(settings.integer_or("sampling_rate", 16'000, 1'000, 192'000));
    const double samples =
        std::nearbyint(rate * settings.number_or(key, fallback, 0.1, 1'000.0) / 1000.0);
    if (samples < 2.0 || samples > 32'768.0) settings.fail(key, "2 to 32768 samples");
    return static_cast<int64_t>(samples);
  }
  static double low_of(const Settings& settings, const LogMelDefaults& defaults) {
    return settings.number_or("min_frequency", defaults.low, 0.0, 96'000.0);
  }
  static double high_of(const Settings& settings, const LogMelDefaults& defaults) {
    const double high = settings.number_or("max_frequency", defaults.high, 0.0, 96'000.0);
    if (!(high > low_of(settings, defaults))) {
      settings.fail("max_frequency", "a number above min_frequency");
    }
    return high;
  }
  std::vector<double> per_bin(const Settings& settings, std::string_view key, double value) const {
    return settings.numbers_or(key, std::vector<double>(static_cast<size_t>(bins_), value));
  }

  float hann_float(int64_t i) const {
    const float turn = static_cast<float>(2.0 * std::numbers::pi) * static_cast<float>(i);
    return 0.5f * (1.0f - std::cos(turn / static_cast<float>(frame_)));
  }
  float hann(int64_t i) const {
    const double turn =
        2.0 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(frame_);
    return static_cast<float>(0.5 - 0.5 * std::cos(turn));
  }

  // The windowed frame, float32 products in the reference's order, filled up with zeros.
  void emphasise(const float* samples, double* signal) const {
    const auto k = static_cast<float>(emphasis_);
    for (int64_t i = 0; i < frame_; ++i) {
      float value = samples[i];
      if (emphasis_ > 0.0 && !htk_) {
        value = samples[i + 1] - k * samples[i];
      } else if (emphasis_ > 0.0) {
        value = i == 0 ? samples[0] * static_cast<float>(1.0 - emphasis_)
                       : samples[i] - k * samples[i - 1];
      }
      signal[i] = static_cast<double>(value * window_[static_cast<size_t>(i)]);
    }
    std::fill(signal + frame_, signal + spectrum_.length(), 0.0);
  }

  // The tower halves the frames twice and keeps every second entry of the mask.
  static int64_t tokens_of(const AudioInputs& inputs) {
    const std::vector<uint8_t>& mask = inputs.input_features_mask.data;
    int64_t tokens = 0;
    for (size_t i = 0; i < mask.size(); i += 4) tokens += mask[i];
    return tokens;
  }

  LogMelStyle style_;
  int64_t rate_;
  int64_t bins_;
  int64_t frame_;
  int64_t hop_;
  double emphasis_;
  bool htk_;
  double scale_;
  double floor_;
  Spectrum spectrum_;
  MelFilters filters_;
  std::vector<double> mean_;
  std::vector<double> deviation_;
  std::vector<float> window_;
};

// Encoder-free: each 40 ms of samples is one token.
class RawFrames : public AudioProcessor {
 public:
  explicit RawFrames(const Settings& settings)
      : rate_(settings.integer_or("sampling_rate", 16'000, 1'000, 192'000)),
        frame_(settings.integer_or("audio_samples_per_token", 640, 1, 65'536)) {
    settings.expect("padding_value", 0.0);
    settings.expect_one_of("padding_side", {"right"});
    if (settings.integer_or("feature_size", frame_, 1, 65'536) != frame_) {
      settings.fail("feature_size", fmt::format("{}, as audio_samples_per_token", frame_));
    }
  }

  int64_t sample_rate() const override { return rate_; }

  AudioInputs process(const Audio& audio, std::string_view name) const override {
    DECANT_ASSERT(audio.sample_rate == rate_, "a sound has its processor's sample rate");
    if (audio.samples.empty()) refuse(name, "a sound of at least one sample", "none");
    const int64_t frames = div_up(static_cast<int64_t>(audio.samples.size()), frame_);
    AudioInputs out;
    out.soft_tokens = frames;
    out.input_features.shape = {1, frames, frame_};
    out.input_features.data = audio.samples;
    out.input_features.data.resize(static_cast<size_t>(frames * frame_), 0.0f);
    out.input_features_mask.shape = {1, frames};
    out.input_features_mask.data.assign(static_cast<size_t>(frames), 1);
    return out;
  }

 private:
  int64_t rate_;
  int64_t frame_;
};

}  // namespace

std::unique_ptr<AudioProcessor> make_audio_processor(std::string_view family, const Json& config,
                                                     std::string_view where) {
  const Settings file(config, std::string(where), {});
  const Settings settings(config, std::string(where), {"feature_extractor", "audio_processor"});
  if (family == "gemma3n") {
    settings.expect_one_of("feature_extractor_type", {"Gemma3nAudioFeatureExtractor"});
    const int64_t tokens = file.integer_or("audio_seq_length", 188, 1, 65'536);
    return std::make_unique<LogMel>(settings, LogMelDefaults{32.0, 125.0, 7600.0, 0.97, true, 1e-5},
                                    LogMelStyle{false, false, false, true, tokens});
  }
  if (family == "gemma4") {
    settings.expect_one_of("feature_extractor_type", {"Gemma4AudioFeatureExtractor"});
    return std::make_unique<LogMel>(settings, LogMelDefaults{20.0, 0.0, 8000.0, 0.0, false, 1e-3},
                                    LogMelStyle{true, true, true, false, 0});
  }
  if (family == "gemma4_unified") {
    settings.expect_one_of("feature_extractor_type", {"Gemma4UnifiedAudioFeatureExtractor"});
    return std::make_unique<RawFrames>(settings);
  }
  throw ConfigError("[media] {}: expected a family that hears sounds, got {}", where,
                    quote(family));
}

}  // namespace decant::media
