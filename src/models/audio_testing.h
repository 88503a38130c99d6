#pragma once

// Audio towers against what the official implementations make of sounds of many lengths
// (scripts/goldens/audio.py): helpers of tests only.

#include <fmt/format.h>

#include <filesystem>
#include <vector>

#include "models/golden_testing.h"
#include "models/tower_testing.h"

namespace decant::testing {

/// The first `frames` of golden.mel, `valid` of them valid.
inline TowerInput sound_of(const std::vector<float>& mel, int64_t frames, int64_t valid) {
  TowerInput input;
  input.medium = Medium::kAudio;
  input.shape = {frames, 128};
  input.values.assign(mel.begin(), mel.begin() + frames * 128);
  input.mask.assign(static_cast<size_t>(frames), 0);
  std::fill_n(input.mask.begin(), valid, uint8_t{1});
  return input;
}

/// Each sound of `folder`/golden_audio.safetensors, and the tower's own ids where it has some.
inline void expect_audio_golden(Backend& backend, const Model& model,
                                const std::filesystem::path& folder,
                                const CompileOptions& options = {.exact = true}) {
  SCOPED_TRACE(folder.string());
  const Golden golden(folder, "golden_audio.safetensors");
  const Tower* tower = model.tower(Medium::kAudio);
  ASSERT_NE(tower, nullptr);
  const auto expect = [&](const TowerInput& input, const std::string& name) {
    const auto want = golden.floats(name);
    const auto got = run_tower(backend, *tower, input, options);
    EXPECT_EQ(tower->rows(input) * model.spec().hidden_size, std::ssize(want)) << name;
    EXPECT_LE(max_difference(got, want), 1e-4 * range_of(want)) << name;
  };
  const auto mel = golden.floats("mel");
  const auto cases = golden.ints("cases");
  for (size_t i = 0; 2 * i < cases.size(); ++i)
    expect(sound_of(mel, cases[2 * i], cases[2 * i + 1]), fmt::format("features.{}", i));
  if (!golden.has("hard_ids")) return;
  TowerInput hard;
  hard.medium = Medium::kAudio;
  hard.ids = golden.ints("hard_ids");
  expect(hard, "hard_features");
}

}  // namespace decant::testing
