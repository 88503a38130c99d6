#include "backend/cpu/read_probe.h"

#include <algorithm>
#include <chrono>

namespace decant::cpu {
namespace {

constexpr int64_t kWords = (int64_t{512} << 20) / 8;  // far more than any cache holds
constexpr int64_t kLine = 8;

}  // namespace

HostReadProbe::HostReadProbe(ThreadTeam& team)
    : team_(team),
      memory_(static_cast<size_t>(kWords)),
      sums_(static_cast<size_t>(team.size() * kLine)) {
  // Written once: untouched memory is one page of zeros.
  for (size_t i = 0; i < memory_.size(); ++i) memory_[i] = i * 0x9E3779B97F4A7C15u;
}

double HostReadProbe::read(int64_t bytes) {
  double seconds = 0;
  for (int64_t left = bytes / 8; left > 0;) {
    const int64_t end = std::min(kWords, next_ + left);
    seconds += read_part(next_, end);
    left -= end - next_;
    next_ = end == kWords ? 0 : end;
  }
  return seconds;
}

double HostReadProbe::read_part(int64_t begin, int64_t end) {
  const auto start = std::chrono::steady_clock::now();
  team_.run([&](int worker) {
    const int64_t share = (end - begin) / team_.size();
    const int64_t first = begin + share * worker,
                  last = worker + 1 == team_.size() ? end : first + share;
    // Independent sums, so that the loop waits for memory and not for additions.
    uint64_t part[16] = {};
    int64_t i = first;
    for (; i + 16 <= last; i += 16)
      for (int64_t j = 0; j < 16; ++j) part[j] += memory_[static_cast<size_t>(i + j)];
    for (; i < last; ++i) part[0] += memory_[static_cast<size_t>(i)];
    // Kept, so that reading cannot be optimised away.
    for (uint64_t p : part) sums_[static_cast<size_t>(worker * kLine)] += p;
  });
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace decant::cpu
