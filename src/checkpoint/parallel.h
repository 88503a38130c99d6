#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace decant {

/// Calls `work(begin, end)` for pieces of [0, count) on as many threads as the machine has, each
/// piece at least `grain` long. For the offline tools of this folder: threads are made per call.
/// `work` must not throw.
template <typename F>
void parallel_ranges(int64_t count, int64_t grain, const F& work) {
  const auto cores = std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t pieces = std::clamp<int64_t>(count / std::max<int64_t>(grain, 1), 1, cores);
  const auto edge = [&](int64_t i) { return count / pieces * i + std::min(i, count % pieces); };
  std::vector<std::jthread> threads;
  for (int64_t i = 1; i < pieces; ++i) threads.emplace_back([&, i] { work(edge(i), edge(i + 1)); });
  work(edge(0), edge(1));
}

}  // namespace decant
