#pragma once

#include <filesystem>
#include <functional>

namespace decant::cli {

/// Thrown by check_signals(): the program ends with 128 + signal once everything is cleaned up.
struct Interrupted {
  int signal = 0;
};

/// Takes SIGINT and SIGTERM away from all threads and gives them to one that waits for them; makes
/// a closed pipe and a file grown too large errors of write. Call it first, before any thread
/// starts.
///
/// A signal that no SignalHandler takes ends the process: temporary folders are removed, the exit
/// code is 130 or 143. So does a second one, whatever handlers there are.
void watch_signals();

/// While it lives, the next signal is given to `handler` instead of ending the process. The handler
/// runs on the watching thread and returns whether it took the signal. Handlers nest.
class SignalHandler {
 public:
  explicit SignalHandler(std::function<bool(int)> handler);
  ~SignalHandler();
  SignalHandler(const SignalHandler&) = delete;
  SignalHandler& operator=(const SignalHandler&) = delete;

 private:
  std::function<bool(int)> previous_;
};

/// While it lives, a signal waits until check_signals() or the end of the scope (where it ends the
/// process).
class DeferSignals {
 public:
  DeferSignals();
  ~DeferSignals();
  DeferSignals(const DeferSignals&) = delete;
  DeferSignals& operator=(const DeferSignals&) = delete;

 private:
  SignalHandler handler_;
};

/// Throws Interrupted if a deferred signal has come.
void check_signals();
/// The signal a handler took counts as dealt with: the next one is a first one again.
void forget_signal();

/// A new folder below $TMPDIR, removed at the end of the scope or by a signal.
class TemporaryFolder {
 public:
  /// Errors: RuntimeError with the system's reason.
  explicit TemporaryFolder(const char* prefix);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace decant::cli
