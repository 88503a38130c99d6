#include "media/audio.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "base/errors.h"
#include "media/audio_libraries.h"
#include "media/codec.h"

namespace decant::media {
namespace {

constexpr int64_t kBlockFrames = 16384;

// The file as libsndfile's virtual stream.
struct Stream {
  std::span<const std::byte> file;
  sf_count_t at = 0;

  sf_count_t size() const { return static_cast<sf_count_t>(file.size()); }
  static Stream& of(void* self) { return *static_cast<Stream*>(self); }
  static sf_count_t length(void* self) { return of(self).size(); }
  static sf_count_t tell(void* self) { return of(self).at; }
  static sf_count_t seek(sf_count_t offset, int whence, void* self) {
    Stream& s = of(self);
    const sf_count_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? s.at : s.size();
    sf_count_t to = 0;
    if (__builtin_add_overflow(base, offset, &to) || to < 0 || to > s.size()) return -1;
    return s.at = to;
  }
  static sf_count_t read(void* to, sf_count_t count, void* self) {
    Stream& s = of(self);
    count = std::clamp<sf_count_t>(count, 0, s.size() - s.at);
    if (count != 0) std::memcpy(to, s.file.data() + s.at, static_cast<size_t>(count));
    s.at += count;
    return count;
  }
  static sf_count_t write(const void*, sf_count_t, void*) { return 0; }
};

struct CloseSound {
  void operator()(SNDFILE* sound) const { sound_file_library().close(sound); }
};

struct DeleteResampler {
  void operator()(soxr_t resampler) const { resampler_library().destroy(resampler); }
};

bool begins(std::span<const std::byte> file, std::string_view magic, size_t at = 0) {
  return file.size() >= at + magic.size() &&
         std::memcmp(file.data() + at, magic.data(), magic.size()) == 0;
}

// libsndfile also reads two dozen formats of old sound cards and editors; files of users are one of
// these, and the others' readers are where its bugs are found.
bool known_format(std::span<const std::byte> file) {
  if (begins(file, "WAVE", 8))
    return begins(file, "RIFF") || begins(file, "RIFX") || begins(file, "RF64");
  if (begins(file, "FORM")) return begins(file, "AIFF", 8) || begins(file, "AIFC", 8);
  if (begins(file, "fLaC") || begins(file, "OggS") || begins(file, "ID3")) return true;
  return file.size() >= 2 && file[0] == std::byte{0xff} &&
         (file[1] & std::byte{0xe0}) == std::byte{0xe0};
}

// Takes blocks of one channel and collects them at the rate asked for.
class Collector {
 public:
  Collector(int64_t from, int64_t to, std::string_view name) : name_(name), same_(from == to) {
    if (same_) return;
    const ResamplerLibrary& library = resampler_library();
    ratio_ = static_cast<double>(to) / static_cast<double>(from);
    const soxr_quality_spec_t quality = library.quality(SOXR_HQ, 0);
    soxr_error_t error = nullptr;
    resampler_.reset(library.create(static_cast<double>(from), static_cast<double>(to), 1, &error,
                                    nullptr, &quality, nullptr));
    if (error != nullptr || !resampler_) fail(error);
    block_.resize(static_cast<size_t>(std::ceil(kBlockFrames * ratio_)) + 64);
  }

  void add(const float* samples, size_t count) {
    frames_ += count;
    if (same_) {
      out_.insert(out_.end(), samples, samples + count);
      return;
    }
    while (count != 0) {
      size_t used = 0;
      size_t made = 0;
      check(resampler_library().process(resampler_.get(), samples, count, &used, block_.data(),
                                        block_.size(), &made));
      if (used == 0 && made == 0) fail("no progress");
      out_.insert(out_.end(), block_.begin(), block_.begin() + static_cast<ptrdiff_t>(made));
      samples += used;
      count -= used;
    }
  }

  std::vector<float> finish() {
    if (same_) return std::move(out_);
    for (size_t made = 1; made != 0;) {
      check(resampler_library().process(resampler_.get(), nullptr, 0, nullptr, block_.data(),
                                        block_.size(), &made));
      out_.insert(out_.end(), block_.begin(), block_.begin() + static_cast<ptrdiff_t>(made));
    }
    out_.resize(static_cast<size_t>(std::ceil(static_cast<double>(frames_) * ratio_)));
    return std::move(out_);
  }

 private:
  void check(soxr_error_t error) {
    if (error != nullptr) fail(error);
  }
  [[noreturn]] void fail(const char* why) {
    throw RuntimeError("[media] {}: the resampler failed: {}", name_,
                       why == nullptr ? "out of memory" : why);
  }

  std::string name_;
  bool same_;
  double ratio_ = 1.0;
  size_t frames_ = 0;
  std::unique_ptr<soxr, DeleteResampler> resampler_;
  std::vector<float> block_;
  std::vector<float> out_;
};

}  // namespace

Audio decode_audio(std::span<const std::byte> file, std::string_view name, int64_t sample_rate,
                   const AudioLimits& limits) {
  DECANT_ASSERT(sample_rate >= 1 && sample_rate <= 384'000, "a model's sample rate is a usual one");
  if (file.size() > limits.file_bytes) {
    refuse(name, fmt::format("a sound of at most {} bytes", limits.file_bytes),
           fmt::format("{} bytes", file.size()));
  }
  if (!known_format(file)) {
    const std::string_view head(reinterpret_cast<const char*>(file.data()),
                                std::min<size_t>(file.size(), 8));
    refuse(name, "a WAV, AIFF, FLAC, Ogg or MP3 sound",
           file.empty() ? "an empty file" : "a file that begins with " + quote(head));
  }
  const SoundFileLibrary& library = sound_file_library();
  Stream stream = {file};
  SF_VIRTUAL_IO io = {Stream::length, Stream::seek, Stream::read, Stream::write, Stream::tell};
  SF_INFO info = {};
  const std::unique_ptr<SNDFILE, CloseSound> sound(
      library.open_virtual(&io, SFM_READ, &info, &stream));
  if (!sound) refuse(name, "a readable sound", library.error_text(nullptr));
  if (info.samplerate < limits.lowest_rate || info.samplerate > limits.highest_rate) {
    refuse(name, fmt::format("{} to {} samples a second", limits.lowest_rate, limits.highest_rate),
           fmt::format("{}", info.samplerate));
  }
  if (info.channels < 1 || info.channels > limits.channels) {
    refuse(name, fmt::format("1 to {} channels", limits.channels),
           fmt::format("{}", info.channels));
  }
  // The stated number of frames is not trusted: what comes out is counted.
  const int64_t max_frames = limits.seconds * info.samplerate;
  const auto channels = static_cast<size_t>(info.channels);
  std::vector<float> block(static_cast<size_t>(kBlockFrames) * channels);
  std::vector<float> mono(static_cast<size_t>(kBlockFrames));
  Collector collector(info.samplerate, sample_rate, name);
  int64_t total = 0;
  while (true) {
    const sf_count_t got = library.read_frames(sound.get(), block.data(), kBlockFrames);
    if (got <= 0) break;
    total += got;
    if (total > max_frames) {
      refuse(name, fmt::format("a sound of at most {} seconds", limits.seconds), "a longer one");
    }
    const auto frames = static_cast<size_t>(got);
    for (size_t i = 0; i < frames; ++i) {
      float sum = 0.0f;
      for (size_t c = 0; c < channels; ++c) sum += block[i * channels + c];
      // A float file may hold anything; what is no number would spoil every sample it meets.
      mono[i] = std::isfinite(sum) ? sum / static_cast<float>(channels) : 0.0f;
    }
    collector.add(mono.data(), frames);
  }
  if (library.error(sound.get()) != 0) {
    refuse(name, "a readable sound", library.error_text(sound.get()));
  }
  if (total == 0) refuse(name, "a sound of at least one sample", "none");
  return {sample_rate, collector.finish()};
}

}  // namespace decant::media
