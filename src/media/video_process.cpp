#include "media/video_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "base/errors.h"
#include "media/codec.h"

namespace decant::media {
namespace {

constexpr size_t kKeptComplaints = 4096;

void close_fd(int& fd) {
  if (fd >= 0) close(fd);
  fd = -1;
}

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  explicit Pipe(std::string_view name) {
    std::array<int, 2> ends{};
#ifdef __linux__
    if (pipe2(ends.data(), O_CLOEXEC) != 0)
#else
    if (pipe(ends.data()) != 0)
#endif
      refuse(name, "a pipe to a program", std::strerror(errno));
    read_end = ends[0];
    write_end = ends[1];
    for (const int fd : ends) fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  ~Pipe() {
    close_fd(read_end);
    close_fd(write_end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
};

/// Variables that would make a program write reports or speak another language stay behind.
std::vector<std::string> environment() {
  std::vector<std::string> out = {"LC_ALL=C", "AV_LOG_FORCE_NOCOLOR=1"};
  for (const char* name : {"PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH"})
    if (const char* value = std::getenv(name)) out.push_back(std::string(name) + "=" + value);
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

struct SpawnActions {
  posix_spawn_file_actions_t files{};
  posix_spawnattr_t attributes{};
  SpawnActions() {
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnActions() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnActions(const SpawnActions&) = delete;
  SpawnActions& operator=(const SpawnActions&) = delete;
};

}  // namespace

VideoProgram::VideoProgram(const std::filesystem::path& program, std::vector<std::string> arguments,
                           std::string_view name, std::chrono::milliseconds limit)
    : program_(program.filename().string()),
      name_(name),
      limit_(limit),
      deadline_(std::chrono::steady_clock::now() + limit) {
  Pipe output(name), errors(name);
  SpawnActions actions;
  posix_spawn_file_actions_addopen(&actions.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions.files, output.write_end, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions.files, errors.write_end, STDERR_FILENO);
#if defined(__GLIBC__)
#if __GLIBC_PREREQ(2, 34)
  posix_spawn_file_actions_addclosefrom_np(&actions.files, STDERR_FILENO + 1);
#endif
#endif
  // A writer without a reader must end, and Ctrl-C is for us to answer.
  sigset_t all, none;
  sigfillset(&all);
  sigdelset(&all, SIGKILL);
  sigdelset(&all, SIGSTOP);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&actions.attributes, &all);
  posix_spawnattr_setsigmask(&actions.attributes, &none);
  posix_spawnattr_setpgroup(&actions.attributes, 0);
  posix_spawnattr_setflags(
      &actions.attributes,
      static_cast<short>(POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK));
  arguments.insert(arguments.begin(), program.string());
  std::vector<std::string> variables = environment();
  const int problem = posix_spawn(&pid_, program.c_str(), &actions.files, &actions.attributes,
                                  pointers(arguments).data(), pointers(variables).data());
  if (problem != 0) {
    pid_ = -1;
    refuse(name_, fmt::format("a {} that starts", program_), std::strerror(problem));
  }
#ifdef __linux__
  const auto seconds = static_cast<rlim_t>(limit.count() / 1000 + 60) *
                       std::max(1u, std::thread::hardware_concurrency());
  const rlimit processor_time = {seconds, seconds};
  prlimit(pid_, RLIMIT_CPU, &processor_time, nullptr);
#endif
  std::swap(output_, output.read_end);
  std::swap(errors_, errors.read_end);
}

VideoProgram::~VideoProgram() { end(); }

void VideoProgram::end() {
  close_fd(output_);
  close_fd(errors_);
  if (pid_ < 0) return;
  kill(-pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
}

void VideoProgram::refuse_time() const {
  refuse(
      name_,
      fmt::format("{} to end within {} s", program_, std::chrono::duration<double>(limit_).count()),
      "a program that still runs");
}

void VideoProgram::take_complaints() {
  std::array<char, 1024> text{};
  const ssize_t got = ::read(errors_, text.data(), text.size());
  if (got < 0 && errno == EINTR) return;
  if (got <= 0) return close_fd(errors_);
  const size_t room = kKeptComplaints - complaints_.size();
  complaints_.append(text.data(), std::min(room, static_cast<size_t>(got)));
}

bool VideoProgram::wait(int timeout_ms) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline_ - std::chrono::steady_clock::now());
  if (left.count() <= 0) refuse_time();
  std::array<pollfd, 2> files = {{{output_, POLLIN, 0}, {errors_, POLLIN, 0}}};
  const auto most = static_cast<int>(std::min<int64_t>(left.count(), timeout_ms));
  if (poll(files.data(), files.size(), most) <= 0) return false;
  if (files[1].revents != 0) take_complaints();
  return files[0].revents != 0;
}

size_t VideoProgram::read(std::span<char> to) {
  size_t have = 0;
  while (have < to.size() && output_ >= 0) {
    if (!wait(1000)) continue;
    const ssize_t got = ::read(output_, to.data() + have, to.size() - have);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      close_fd(output_);
      break;
    }
    have += static_cast<size_t>(got);
  }
  return have;
}

std::string VideoProgram::finish() {
  close_fd(output_);
  siginfo_t state{};
  for (;;) {
    state.si_pid = 0;
    // It stays a zombie until its group is ended, so that the group's number is still its own.
    const int got = waitid(P_PID, static_cast<id_t>(pid_), &state, WEXITED | WNOHANG | WNOWAIT);
    if (got < 0 && errno != EINTR) break;  // somebody else waits for all children
    if (got == 0 && state.si_pid == pid_) break;
    wait(20);
  }
  // What it had said is in the pipe; children of its own may hold the pipe open.
  pollfd rest = {errors_, POLLIN, 0};
  while (errors_ >= 0 && poll(&rest, 1, 0) > 0) {
    take_complaints();
    rest.fd = errors_;
  }
  end();
  if (state.si_pid == 0 || (state.si_code == CLD_EXITED && state.si_status == 0)) return {};
  std::string_view text = complaints_;
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
  if (const size_t line = text.rfind('\n'); line != std::string_view::npos)
    text.remove_prefix(line + 1);
  const std::string how =
      fmt::format("{} ended by {} {}", program_,
                  state.si_code == CLD_EXITED ? "exit status" : "signal", state.si_status);
  return text.empty() ? how : fmt::format("{}: {}", how, quote(text, 300));
}

}  // namespace decant::media
