#include "media/audio_libraries.h"

#include "base/errors.h"

#ifdef DECANT_OPEN_AUDIO_LIBRARIES
#include <dlfcn.h>
#endif

namespace decant::media {

#ifdef DECANT_OPEN_AUDIO_LIBRARIES
namespace {

// Opened once and kept: the functions are used as long as the process runs.
void* open_library(const char* file, const char* package) {
  void* handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw RuntimeError(
        "[media] sound: expected {} on this machine, got none (Debian: apt install {})", file,
        package);
  }
  return handle;
}

template <typename Function>
void load(void* handle, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(handle, name));
  if (function == nullptr) throw RuntimeError("[media] sound: expected {} in its library", name);
}

SoundFileLibrary open_sound_file() {
  void* handle = open_library("libsndfile.so.1", "libsndfile1");
  SoundFileLibrary out{};
  load(handle, "sf_open_virtual", out.open_virtual);
  load(handle, "sf_readf_float", out.read_frames);
  load(handle, "sf_close", out.close);
  load(handle, "sf_error", out.error);
  load(handle, "sf_strerror", out.error_text);
  return out;
}

ResamplerLibrary open_resampler() {
  void* handle = open_library("libsoxr.so.0", "libsoxr0");
  ResamplerLibrary out{};
  load(handle, "soxr_create", out.create);
  load(handle, "soxr_process", out.process);
  load(handle, "soxr_delete", out.destroy);
  load(handle, "soxr_quality_spec", out.quality);
  return out;
}

}  // namespace

const SoundFileLibrary& sound_file_library() {
  static const SoundFileLibrary library = open_sound_file();
  return library;
}

const ResamplerLibrary& resampler_library() {
  static const ResamplerLibrary library = open_resampler();
  return library;
}
#else
const SoundFileLibrary& sound_file_library() {
  static constexpr SoundFileLibrary kLibrary = {sf_open_virtual, sf_readf_float, sf_close, sf_error,
                                                sf_strerror};
  return kLibrary;
}

const ResamplerLibrary& resampler_library() {
  static constexpr ResamplerLibrary kLibrary = {soxr_create, soxr_process, soxr_delete,
                                                soxr_quality_spec};
  return kLibrary;
}
#endif

}  // namespace decant::media
