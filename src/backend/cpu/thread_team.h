#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace decant::cpu {

/// A fixed set of threads that run one job together; the caller is worker 0.
///
/// Waiting spins for a while and then sleeps: what is waited for is microseconds away, unless
/// another process has taken a core.
class ThreadTeam {
 public:
  /// `threads` >= 1, the caller included. Each thread is pinned to a processor of its own when
  /// there are enough.
  explicit ThreadTeam(int threads);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }
  /// Runs job(worker) on every thread and returns when all have finished. Not reentrant; jobs do
  /// not throw.
  void run(const std::function<void(int)>& job);
  /// Waits until `word` has reached `value`: spins for a while, then sleeps until notified.
  static void wait_until(const std::atomic<uint32_t>& word, uint32_t value);

 private:
  void barrier();
  void loop(int worker);
  static void wait_while(const std::atomic<uint32_t>& word, uint32_t old);

  int size_;
  std::vector<std::thread> threads_;
  const std::function<void(int)>* job_ = nullptr;
  alignas(64) std::atomic<uint32_t> start_{0};    // counts jobs; a change wakes the workers
  alignas(64) std::atomic<uint32_t> arrived_{0};  // at the current barrier
  alignas(64) std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stop_{false};
};

/// Threads worth using: one per physical core this process may run on.
int default_threads();

}  // namespace decant::cpu
