#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace decant {

/// Gives an engine its thread: any thread submits and cancels, the engine's thread steps while
/// there is work and sleeps while there is none. All callbacks of requests run on that thread and
/// may call submit and cancel.
class EngineThread {
 public:
  explicit EngineThread(std::unique_ptr<Engine> engine);
  /// Cancels what is left and joins.
  ~EngineThread();
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;

  /// Errors: those of Engine::check, at once; QueueFullError; RuntimeError after stop().
  RequestId submit(Request request);
  /// Ends a request before the next program runs; unknown ids are ignored.
  void cancel(RequestId id);
  /// Takes no more requests; with `drain` the ones it has are finished first, else cancelled.
  /// Returns once the thread has ended. Not to be called from a callback.
  void stop(bool drain);
  /// Runs `work` on the engine's thread between two steps and waits for it; what it throws is
  /// thrown here. Not to be called from a callback. Errors: RuntimeError after stop().
  void call(const std::function<void(Engine&)>& work);

  /// As of the last step or the last request that finished, its on_finish included.
  EngineStats stats() const;
  /// Seconds since the loop last came round while it has work; 0 while it sleeps. For a watchdog.
  double stalled_seconds() const;
  const MemoryBreakdown& memory() const { return memory_; }
  const EngineOptions& options() const { return options_; }

 private:
  struct Submitted {
    RequestId id;
    Request request;
    Engine::Clock::time_point time;
  };
  void loop();

  std::unique_ptr<Engine> engine_;  // touched by the loop's thread only, but for check and new_id
  const MemoryBreakdown memory_;
  const EngineOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Submitted> submitted_;
  std::vector<RequestId> cancelled_;
  std::vector<const std::function<void()>*> calls_;
  EngineStats stats_;
  Engine::Clock::time_point beat_;
  bool working_ = false;
  bool closed_ = false;  // no more requests
  bool abort_ = false;   // cancel what is left
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace decant
