#include "cli/signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/errors.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

struct Watch {
  std::mutex mutex;
  std::function<bool(int)> handler;
  std::vector<fs::path> folders;
  std::atomic<int> taken{0};  // the signal a handler has taken, until it is forgotten
};

// Never destroyed: the watching thread outlives main().
Watch& watch() {
  static Watch& it = *new Watch;
  return it;
}

// Other threads may still be writing into the folder: what they add is removed by the next round.
void remove_folders(const std::vector<fs::path>& folders) {
  for (const fs::path& folder : folders) {
    std::error_code error;
    for (int round = 0; round < 20; ++round) {
      fs::remove_all(folder, error);
      if (!fs::exists(folder, error)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
}

[[noreturn]] void end_process(int signal) {
  Watch& it = watch();
  {
    const std::lock_guard lock(it.mutex);
    remove_folders(it.folders);
  }
  _exit(128 + signal);
}

void wait_for_signals(const sigset_t& set) {
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    Watch& it = watch();
    std::function<bool(int)> handler;
    {
      const std::lock_guard lock(it.mutex);
      handler = it.handler;
    }
    // Noted before the handler runs: what it sets free may forget the signal at once.
    if (it.taken.exchange(signal) != 0 || !handler || !handler(signal)) end_process(signal);
  }
}

}  // namespace

void watch_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set] { wait_for_signals(set); }).detach();
}

SignalHandler::SignalHandler(std::function<bool(int)> handler) {
  Watch& it = watch();
  const std::lock_guard lock(it.mutex);
  previous_ = std::move(it.handler);
  it.handler = std::move(handler);
}

SignalHandler::~SignalHandler() {
  Watch& it = watch();
  const std::lock_guard lock(it.mutex);
  it.handler = std::move(previous_);
}

DeferSignals::DeferSignals() : handler_([](int) { return true; }) {}

DeferSignals::~DeferSignals() {
  // During unwinding main() ends the process itself.
  if (std::uncaught_exceptions() > 0) return;
  if (const int signal = watch().taken.load(); signal != 0) end_process(signal);
}

void check_signals() {
  if (const int signal = watch().taken.load(); signal != 0) throw Interrupted{signal};
}

void forget_signal() { watch().taken.store(0); }

TemporaryFolder::TemporaryFolder(const char* prefix) {
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  if (error) throw RuntimeError("[file] no folder for temporary files: {}", error.message());
  std::string name = (parent / (std::string(prefix) + "-XXXXXX")).string();
  Watch& it = watch();
  // Made and noted in one go: a signal in between would leave it behind.
  const std::lock_guard lock(it.mutex);
  if (mkdtemp(name.data()) == nullptr)
    throw RuntimeError("[file] cannot make the temporary folder {}: {}", name,
                       std::strerror(errno));
  path_ = name;
  it.folders.push_back(path_);
}

TemporaryFolder::~TemporaryFolder() {
  Watch& it = watch();
  const std::lock_guard lock(it.mutex);
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  std::erase(it.folders, path_);
}

}  // namespace decant::cli
