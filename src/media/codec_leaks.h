#pragma once

// For one file of a test program. libsndfile 1.2.0 forgets a few kilobytes of libvorbis and others
// when it refuses a damaged file; LeakSanitizer asks for what to leave out.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming,misc-definitions-in-headers)
extern "C" const char* __lsan_default_suppressions() {
  return "leak:libsndfile.so\nleak:libvorbis\nleak:libFLAC\nleak:libopus\nleak:libmpg123\nleak:"
         "libogg\n";
}
