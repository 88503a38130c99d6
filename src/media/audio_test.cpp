#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "media/codec_leaks.h"
#include "media/spectrum.h"
#include "media/testing.h"

namespace decant::media {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<std::byte> sound_bytes(const std::string& name) {
  return fixture_bytes("sounds/" + name);
}

class SoundFile : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string missing = missing_sound_libraries();
    if (!missing.empty()) GTEST_SKIP() << missing;
  }
};

// Expected samples are of soundfile and soxr, as librosa calls them
// (scripts/differential/media.py).
TEST_F(SoundFile, EqualsLibrosa) {
  size_t count = 0;
  const Json manifest = read_json_file(fixture("manifest.json"));
  for (const Json& item : manifest.at("sounds")) {
    const auto name = item.at("file").get<std::string>();
    const Audio audio = load_audio(fixture("sounds/" + name), 16000).audio;
    const std::vector<std::byte> bytes = sound_bytes(name + ".f32");
    ASSERT_EQ(audio.samples.size(), item.at("samples").get<size_t>()) << name;
    ASSERT_EQ(audio.samples.size(), bytes.size() / 4) << name;
    std::vector<float> want(audio.samples.size());
    std::memcpy(want.data(), bytes.data(), bytes.size());
    double largest = 0.0;
    double loudest = 0.0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::fabs(static_cast<double>(audio.samples[i] - want[i])));
      loudest = std::max(loudest, std::fabs(static_cast<double>(want[i])));
    }
    EXPECT_LE(largest, item.at("tolerance").get<double>()) << name;
    EXPECT_GT(loudest, 0.1) << name;
    ++count;
  }
  EXPECT_EQ(count, 10u);
}

TEST_F(SoundFile, CutAndDamagedFilesAreReadOrRefused) {
  const AudioLimits limits = {.seconds = 5};
  for (const char* name : {"pcm16.wav", "ulaw.wav", "pcm16.aiff", "pcm24.flac", "vorbis.ogg",
                           "opus.ogg", "layer3.mp3"}) {
    std::vector<std::byte> bytes = sound_bytes(name);
    const auto decode = [&](size_t size) {
      const std::string message = error_of([&] {
        const Audio audio = decode_audio(std::span(bytes).first(size), name, 16000, limits);
        ASSERT_LE(audio.samples.size(), 5u * 16000u);
        for (const float sample : audio.samples) ASSERT_TRUE(std::isfinite(sample));
      });
      if (!message.empty()) {
        EXPECT_THAT(message, StartsWith(std::string("[media] ") + name)) << size;
      }
      return message;
    };
    EXPECT_EQ(decode(bytes.size()), "") << name;
    for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 40) decode(size);
    EXPECT_NE(decode(12), "") << name;
    for (size_t i = 0; i < std::min<size_t>(bytes.size(), 400); i += 3) {
      const std::byte old = bytes[i];
      bytes[i] ^= std::byte{static_cast<uint8_t>(1 + i * 7 % 255)};
      decode(bytes.size());
      bytes[i] = old;
    }
  }
}

// A RIFF head of one 16-bit channel in front of `samples`.
std::vector<std::byte> wav(uint32_t rate, uint16_t channels, const std::vector<float>& samples) {
  std::vector<std::byte> out;
  const auto add = [&](const void* data, size_t size) {
    const auto* bytes = static_cast<const std::byte*>(data);
    out.insert(out.end(), bytes, bytes + size);
  };
  const auto number = [&](auto value) { add(&value, sizeof(value)); };
  const auto size = static_cast<uint32_t>(samples.size() * 4);
  add("RIFF", 4);
  number(36 + size);
  add("WAVEfmt ", 8);
  number(uint32_t{16});
  number(uint16_t{3});  // float
  number(channels);
  number(rate);
  number(rate * channels * 4);
  number(static_cast<uint16_t>(channels * 4));
  number(uint16_t{32});
  add("data", 4);
  number(size);
  add(samples.data(), size);
  return out;
}

TEST_F(SoundFile, LimitsHold) {
  const std::vector<float> samples(3000, 0.5f);
  const auto refusal = [&](uint32_t rate, uint16_t channels, const AudioLimits& limits = {}) {
    return error_of([&] { decode_audio(wav(rate, channels, samples), "x.wav", 16000, limits); });
  };
  EXPECT_EQ(refusal(1000, 1), "");
  EXPECT_EQ(refusal(1000, 1, {.seconds = 2}),
            "[media] x.wav: expected a sound of at most 2 seconds, got a longer one");
  EXPECT_THAT(refusal(999, 1), HasSubstr("expected 1000 to 384000 samples a second, got 999"));
  EXPECT_THAT(refusal(400000, 1), HasSubstr("got 400000"));
  EXPECT_THAT(refusal(16000, 40), HasSubstr("expected 1 to 32 channels, got 40"));
  EXPECT_THAT(refusal(16000, 1, {.file_bytes = 100}),
              HasSubstr("expected a sound of at most 100 bytes"));
  EXPECT_THAT(error_of([&] { decode_audio(wav(16000, 1, {}), "x.wav", 16000); }),
              HasSubstr("expected a sound of at least one sample, got none"));
}

TEST_F(SoundFile, WhatIsNoNumberBecomesSilence) {
  const Audio audio = decode_audio(
      wav(16000, 2, {0.25f, 0.75f, NAN, 0.5f, INFINITY, 0.0f, -1.0f, 0.0f}), "x", 16000);
  EXPECT_THAT(audio.samples, ::testing::ElementsAre(0.5f, 0.0f, 0.0f, -0.5f));
}

TEST_F(SoundFile, RefusesOtherFiles) {
  const auto refusal = [](std::string_view text) {
    return error_of([&] { decode_audio(std::as_bytes(std::span(text)), "x", 16000); });
  };
  EXPECT_EQ(refusal(""),
            "[media] x: expected a WAV, AIFF, FLAC, Ogg or MP3 sound, got an empty file");
  EXPECT_THAT(refusal("Creative Voice File"), HasSubstr("begins with \"Creative\""));
  EXPECT_THAT(refusal("RIFF\1\1\1\1WAVE"), HasSubstr("expected a readable sound, got "));
}

TEST(Spectrum, EqualsTheDefinition) {
  for (const size_t length : {size_t{4}, size_t{8}, size_t{64}, size_t{512}}) {
    std::vector<double> signal(length);
    for (size_t i = 0; i < length; ++i) {
      signal[i] = std::sin(0.37 * static_cast<double>(i * i)) + (i % 5 == 0 ? 1.0 : 0.0);
    }
    std::vector<double> got(length / 2 + 1);
    Spectrum spectrum(length);
    spectrum.magnitudes(signal.data(), got.data());
    for (size_t k = 0; k <= length / 2; ++k) {
      std::complex<double> want = 0.0;
      for (size_t i = 0; i < length; ++i) {
        const double angle = -2.0 * std::numbers::pi * static_cast<double>(i * k % length) /
                             static_cast<double>(length);
        want += signal[i] * std::polar(1.0, angle);
      }
      EXPECT_NEAR(got[k], std::abs(want), 1e-12 * static_cast<double>(length))
          << length << " " << k;
    }
  }
}

}  // namespace
}  // namespace decant::media
