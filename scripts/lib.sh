# Shared by the scripts of this folder: source it, never run it. Leaves the shell at the repository root.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck disable=SC2034  # read by the scripts that source this file
ROOT=$PWD

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename "$0"): $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_mac() { [ "$(uname -s)" = Darwin ]; }

# How many compile jobs to run: DECANT_JOBS, or one per core.
jobs_wanted() { echo "${DECANT_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}"; }

# Prints the path of a tool of LLVM 19: as Debian names it, as Homebrew keeps it, or the plain name at version 19.
llvm_tool() {
  local candidate
  for candidate in "$1-19" "/opt/homebrew/opt/llvm@19/bin/$1" "/usr/local/opt/llvm@19/bin/$1" "$1"; do
    if have "$candidate" && "$candidate" --version 2>/dev/null | grep -Eq '(version|LLD) 19\.'; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# Configures build/<preset> unless that is done; ninja configures again by itself when a CMake file changes.
# Further arguments go to cmake.
configure_preset() {
  local preset=$1
  shift
  if [ ! -f "build/$preset/build.ninja" ] || [ CMakePresets.json -nt "build/$preset/build.ninja" ]; then
    cmake --preset "$preset" "$@"
  fi
}

# build_preset PRESET [TARGET]: configures and builds; without a target, what the preset names.
build_preset() {
  local preset=$1
  shift
  configure_preset "$preset"
  cmake --build --preset "$preset" --parallel "$(jobs_wanted)" ${1:+--target "$1"}
}

# Does build/<preset> have this target?
has_target() { ninja -C "build/$1" -t query "$2" >/dev/null 2>&1; }

# The line of `version OP wanted`, for dotted numbers: at_least 3.25.1 3.25
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
