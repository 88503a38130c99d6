#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "media/testing.h"

namespace decant::media {
namespace {

void write(std::ofstream& out, int64_t width, int64_t height, const void* data, size_t size) {
  out.write(reinterpret_cast<const char*>(&width), 8);
  out.write(reinterpret_cast<const char*>(&height), 8);
  out.write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
}

ResizeFilter filter_of(const std::string& name) {
  if (name == "bilinear") return ResizeFilter::kBilinear;
  return name == "bicubic" ? ResizeFilter::kBicubic : ResizeFilter::kLanczos;
}

// Two numbers (width and height, or samples and 0) and the data; of a refused file only the
// message.
void run_case(const Json& item, std::ofstream& out) {
  const auto file = item.at("file").get<std::string>();
  try {
    if (item.contains("rate")) {
      const Audio audio = load_audio(file, item.at("rate").get<int64_t>()).audio;
      write(out, static_cast<int64_t>(audio.samples.size()), 0, audio.samples.data(),
            audio.samples.size() * sizeof(float));
      return;
    }
    Image image = load_image(file).image;
    if (item.contains("filter")) {
      image = resize(image, item.at("width").get<int64_t>(), item.at("height").get<int64_t>(),
                     filter_of(item.at("filter").get<std::string>()), ResizeArithmetic::kPillow);
    }
    write(out, image.width, image.height, image.rgb.data(), image.rgb.size());
  } catch (const Error& error) {
    const std::string message = error.what();
    write(out, 0, 0, message.data(), message.size());
  }
}

// The engine's side of scripts/differential/media.py, which compares what is written here.
TEST(MediaDifferential, RunsTheScriptsCases) {
  const char* path = std::getenv("DECANT_MEDIA_CASES");
  if (path == nullptr) GTEST_SKIP() << "run by scripts/differential/media.py";
  for (const Json& item : read_json_file(path)) {
    std::ofstream out(item.at("out").get<std::string>(), std::ios::binary);
    run_case(item, out);
    ASSERT_TRUE(out.good());
  }
}

}  // namespace
}  // namespace decant::media
