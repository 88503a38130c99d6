#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "media/array.h"
#include "media/audio_libraries.h"
#include "media/media.h"

namespace decant::media {

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(DECANT_TEST_DATA) / "media" / name;
}

inline std::vector<std::byte> fixture_bytes(const std::string& name) {
  return read_media_file(fixture(name), 64 << 20);
}

/// The tensors of golden.safetensors: outputs of Transformers' processors for picture.png and one
/// second of sound (scripts/goldens/make_zoo.py).
class Golden {
 public:
  Golden() : bytes_(fixture_bytes("golden.safetensors")) {
    uint64_t size = 0;
    std::memcpy(&size, bytes_.data(), 8);
    data_ = 8 + size;
    header_ = parse_json({reinterpret_cast<const char*>(bytes_.data()) + 8, size}, "golden");
  }
  template <typename T>
  Array<T> read(const std::string& name) const {
    const Json& entry = header_.at(name);
    Array<T> out;
    out.shape = entry.at("shape").get<std::vector<int64_t>>();
    const auto begin = entry.at("data_offsets").at(0).get<size_t>();
    const auto end = entry.at("data_offsets").at(1).get<size_t>();
    out.data.resize((end - begin) / sizeof(T));
    std::memcpy(out.data.data(), bytes_.data() + data_ + begin, end - begin);
    return out;
  }

 private:
  std::vector<std::byte> bytes_;
  size_t data_ = 0;
  Json header_;
};

/// Why sounds cannot be read here: a self-contained program opens their libraries, which a machine
/// may lack. Empty where they can.
inline std::string missing_sound_libraries() {
  try {
    sound_file_library();
    resampler_library();
  } catch (const RuntimeError& error) {
    return error.what();
  }
  return "";
}

/// The message of the error that `body` throws; empty when it throws none.
template <typename Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace decant::media
