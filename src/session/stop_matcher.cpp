#include "session/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/errors.h"

namespace decant {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
  constexpr size_t kMaxStops = 16, kMaxBytes = 1024;
  if (stops_.size() > kMaxStops)
    throw RequestError("[request] stop: expected at most {} strings, got {}", kMaxStops,
                       stops_.size());
  for (size_t i = 0; i < stops_.size(); ++i)
    if (stops_[i].empty() || stops_[i].size() > kMaxBytes)
      throw RequestError("[request] stop[{}]: expected 1 to {} bytes, got {}", i, kMaxBytes,
                         stops_[i].size());
}

std::string StopMatcher::push(std::string_view text) {
  if (matched() || text.empty()) return {};
  held_ += text;
  size_t best_end = std::string::npos, best_begin = 0;
  for (const std::string& stop : stops_) {
    const size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (best_end == std::string::npos || end < best_end ||
        (end == best_end && begin < best_begin)) {
      best_end = end;
      best_begin = begin;
      match_ = stop;
    }
  }
  if (matched()) {
    held_.resize(best_begin);
    return std::exchange(held_, {});
  }
  size_t keep = 0;  // longest end of held_ that begins a stop string
  for (const std::string& stop : stops_)
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(stop).substr(0, n))
        keep = n;
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, out.size());
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace decant
