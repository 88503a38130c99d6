#pragma once

#include <sndfile.h>
#include <soxr.h>

namespace decant::media {

/// The functions of libsndfile that are used.
struct SoundFileLibrary {
  decltype(&sf_open_virtual) open_virtual;
  decltype(&sf_readf_float) read_frames;
  decltype(&sf_close) close;
  decltype(&sf_error) error;
  decltype(&sf_strerror) error_text;
};

/// The functions of libsoxr that are used.
struct ResamplerLibrary {
  decltype(&soxr_create) create;
  decltype(&soxr_process) process;
  decltype(&soxr_delete) destroy;
  decltype(&soxr_quality_spec) quality;
};

/// The libraries: linked, or, in a self-contained program, opened on first use (Debian has no
/// static archives of them). Errors: RuntimeError naming the library when it cannot be opened.
const SoundFileLibrary& sound_file_library();
const ResamplerLibrary& resampler_library();

}  // namespace decant::media
