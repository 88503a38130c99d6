#include "engine/engine_thread.h"

#include <exception>
#include <future>

#include "base/log.h"

namespace decant {

EngineThread::EngineThread(std::unique_ptr<Engine> engine)
    : engine_(std::move(engine)),
      memory_(engine_->memory()),
      options_(engine_->options()),
      stats_(engine_->stats()),
      thread_([this] { loop(); }) {}

EngineThread::~EngineThread() { stop(false); }

RequestId EngineThread::submit(Request request) {
  engine_->check(request);
  const auto now = Engine::Clock::now();
  if (request.on_finish)  // whoever is told of an end finds it in the statistics
    request.on_finish = [this, inner = std::move(request.on_finish)](const RequestResult& result) {
      {
        const std::lock_guard lock(mutex_);
        stats_ = engine_->stats();
      }
      inner(result);
    };
  RequestId id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (closed_)
      throw RuntimeError("[engine] request: expected before the engine stops, got after");
    if (static_cast<size_t>(stats_.waiting) + submitted_.size() >= options_.queue_limit)
      throw QueueFullError("[engine] queue: expected at most {} waiting requests, got one more",
                           options_.queue_limit);
    id = engine_->new_id();
    submitted_.push_back({id, std::move(request), now});
  }
  wake_.notify_one();
  return id;
}

void EngineThread::cancel(RequestId id) {
  {
    const std::lock_guard lock(mutex_);
    cancelled_.push_back(id);
  }
  wake_.notify_one();
}

void EngineThread::stop(bool drain) {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    if (!drain) abort_ = true;
  }
  wake_.notify_one();
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void EngineThread::call(const std::function<void(Engine&)>& work) {
  std::promise<void> done;
  std::future<void> result = done.get_future();
  const std::function<void()> run = [&] {
    try {
      work(*engine_);
      done.set_value();
    } catch (...) {
      done.set_exception(std::current_exception());
    }
  };
  {
    const std::lock_guard lock(mutex_);
    if (closed_) throw RuntimeError("[engine] call: expected before the engine stops, got after");
    calls_.push_back(&run);
  }
  wake_.notify_one();
  result.get();
}

EngineStats EngineThread::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting += static_cast<int64_t>(submitted_.size());
  return stats;
}

double EngineThread::stalled_seconds() const {
  const std::lock_guard lock(mutex_);
  if (!working_) return 0;
  return std::chrono::duration<double>(Engine::Clock::now() - beat_).count();
}

void EngineThread::loop() {
  for (;;) {
    std::vector<Submitted> submitted;
    std::vector<RequestId> cancelled;
    std::vector<const std::function<void()>*> calls;
    bool abort = false;
    {
      std::unique_lock lock(mutex_);
      stats_ = engine_->stats();
      const auto wanted = [&] {
        return closed_ || !submitted_.empty() || !cancelled_.empty() || !calls_.empty();
      };
      if (engine_->idle() && !wanted()) {
        working_ = false;
        wake_.wait(lock, wanted);
      }
      working_ = true;
      beat_ = Engine::Clock::now();
      submitted.swap(submitted_);
      cancelled.swap(cancelled_);
      calls.swap(calls_);
      abort = abort_;
      if (closed_ && engine_->idle() && submitted.empty() && calls.empty()) {
        working_ = false;
        return;
      }
      // What was just taken still counts as waiting until the engine's own numbers show it.
      stats_.waiting += static_cast<int64_t>(submitted.size());
    }
    try {
      for (Submitted& each : submitted)
        engine_->enqueue(each.id, std::move(each.request), each.time);
      for (const auto* call : calls) (*call)();
      for (RequestId id : cancelled) engine_->cancel(id);
      if (abort)
        engine_->finish_all(FinishReason::kCancelled);
      else
        engine_->step();
    } catch (const std::exception& error) {
      // Only our own bugs come here: the requests end with them, the engine's thread does not.
      log_warning("engine: {}", error.what());
      engine_->finish_all(FinishReason::kError, error.what());
    }
  }
}

}  // namespace decant
