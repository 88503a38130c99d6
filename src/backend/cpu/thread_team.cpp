#include "backend/cpu/thread_team.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace decant::cpu {
namespace {

constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

std::vector<int> allowed_processors() {
  std::vector<int> processors;
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int i = 0; i < CPU_SETSIZE; ++i)
      if (CPU_ISSET(i, &set)) processors.push_back(i);
#endif
  return processors;
}

void pin_to(int processor) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
  (void)processor;
#endif
}

// The first processor of the physical core that `processor` belongs to.
int core_of(int processor) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(processor) +
                     "/topology/thread_siblings_list");
  int first = processor;
  if (file >> first) return first;
  return processor;
}

}  // namespace

int default_threads() {
  std::set<int> cores;
  for (int processor : allowed_processors()) cores.insert(core_of(processor));
  if (!cores.empty()) return static_cast<int>(cores.size());
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadTeam::ThreadTeam(int threads) : size_(std::max(1, threads)) {
  // The caller keeps its own placement: it belongs to whoever called us.
  const std::vector<int> processors = allowed_processors();
  for (int worker = 1; worker < size_; ++worker)
    threads_.emplace_back([this, worker, processors] {
      if (static_cast<size_t>(size_) <= processors.size())
        pin_to(processors[static_cast<size_t>(worker)]);
      loop(worker);
    });
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true, std::memory_order_relaxed);
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::wait_while(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

void ThreadTeam::wait_until(const std::atomic<uint32_t>& word, uint32_t value) {
  for (int i = 0; i < kSpins; ++i) {
    if (word.load(std::memory_order_acquire) == value) return;
    relax();
  }
  for (uint32_t now = word.load(std::memory_order_acquire); now != value;
       now = word.load(std::memory_order_acquire))
    word.wait(now, std::memory_order_acquire);
}

void ThreadTeam::run(const std::function<void(int)>& job) {
  if (size_ == 1) {
    job(0);
    return;
  }
  job_ = &job;
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
  job(0);
  barrier();
}

void ThreadTeam::loop(int worker) {
  uint32_t seen = 0;
  while (true) {
    wait_while(start_, seen);
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    (*job_)(worker);
    barrier();
  }
}

void ThreadTeam::barrier() {
  if (size_ == 1) return;
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  } else {
    wait_while(generation_, generation);
  }
}

}  // namespace decant::cpu
