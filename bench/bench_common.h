#pragma once

#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <thread>
#include <vector>

#include "backend/cpu/kernels/linear_kernels.h"

namespace decant::bench {

/// Anonymous pages of the ordinary size, as a mapped file has; never given back before exit.
class Pages {
 public:
  explicit Pages(int64_t bytes) : bytes_(bytes) {
    void* p = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    madvise(p, static_cast<size_t>(bytes), MADV_NOHUGEPAGE);
    data_ = static_cast<std::byte*>(p);
  }
  ~Pages() { munmap(data_, static_cast<size_t>(bytes_)); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  int64_t bytes_;
};

inline void fill_random(std::byte* to, int64_t bytes, uint64_t seed) {
  uint64_t state = seed * 2 + 1;
  for (int64_t i = 0; i + 8 <= bytes; i += 8) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    std::memcpy(to + i, &state, 8);
  }
}

/// How long a pass took: on the clock, and in processor time per thread. Where other processes use
/// the cores too, only the second compares one pass with another.
struct Time {
  double wall;
  double cpu;
};

inline int64_t thread_nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

/// Threads that wait between passes and draw tasks of a pass from one counter.
class Team {
 public:
  explicit Team(int threads) : start_(threads + 1), stop_(threads + 1) {
    for (int t = 0; t < threads; ++t) {
      scratch_.push_back(std::make_unique<Pages>(cpu::Scratch::kBytes));
      std::memset(scratch_.back()->data(), 0, static_cast<size_t>(cpu::Scratch::kBytes));
    }
    for (int t = 0; t < threads; ++t) threads_.emplace_back([this, t] { loop(t); });
  }
  ~Team() {
    done_ = true;
    start_.arrive_and_wait();
    for (auto& thread : threads_) thread.join();
  }
  using Task = std::function<void(int64_t task, cpu::Scratch& scratch)>;
  /// Seconds for tasks [0, count).
  Time run(int64_t count, const Task& task) {
    count_ = count;
    task_ = &task;
    next_ = 0;
    cpu_nanoseconds_ = 0;
    const auto begin = std::chrono::steady_clock::now();
    start_.arrive_and_wait();
    stop_.arrive_and_wait();
    return {std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(),
            static_cast<double>(cpu_nanoseconds_) * 1e-9 / static_cast<double>(threads_.size())};
  }

 private:
  void loop(int t) {
    cpu::Scratch scratch{scratch_[static_cast<size_t>(t)]->data()};
    for (;;) {
      start_.arrive_and_wait();
      if (done_) return;
      const int64_t before = thread_nanoseconds();
      for (int64_t i; (i = next_.fetch_add(1)) < count_;) (*task_)(i, scratch);
      cpu_nanoseconds_ += thread_nanoseconds() - before;
      stop_.arrive_and_wait();
    }
  }
  std::barrier<> start_;
  std::barrier<> stop_;
  std::vector<std::unique_ptr<Pages>> scratch_;
  std::vector<std::thread> threads_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> cpu_nanoseconds_{0};
  int64_t count_ = 0;
  const Task* task_ = nullptr;
  std::atomic<bool> done_{false};
};

/// Reads every byte of the range; the result depends on all of them.
inline uint64_t read_all(const std::byte* p, int64_t bytes) {
  using Vec [[gnu::vector_size(16)]] = uint64_t;
  Vec sum[8] = {};
  for (int64_t i = 0; i + 128 <= bytes; i += 128) {
    for (int k = 0; k < 8; ++k) {
      Vec v;
      std::memcpy(&v, p + i + k * 16, 16);
      sum[k] += v;
    }
  }
  for (int k = 1; k < 8; ++k) sum[0] += sum[k];
  return sum[0][0] ^ sum[0][1];
}

/// Seconds one read of the whole range takes the team.
inline Time probe(Team& team, const std::byte* p, int64_t bytes) {
  constexpr int64_t kPiece = 256 << 10;
  static std::atomic<uint64_t> sink{0};
  return team.run(bytes / kPiece, [&](int64_t i, cpu::Scratch&) {
    sink.fetch_add(read_all(p + i * kPiece, kPiece), std::memory_order_relaxed);
  });
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace decant::bench
