#include "cli/terminal_input.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/errors.h"

namespace decant::cli {
namespace {

std::atomic<int> resize_pipe{-1};  // what the handler writes to

void put(int fd, char sign) {
  const ssize_t ignored = ::write(fd, &sign, 1);  // a full pipe has woken the reader already
  static_cast<void>(ignored);
}

void on_resize(int) {
  const int saved = errno;
  if (const int fd = resize_pipe.load(); fd >= 0) put(fd, 'r');
  errno = saved;
}

}  // namespace

TerminalInput::TerminalInput(int fd) : fd_(fd) {
  if (::pipe(pipe_) != 0)
    throw RuntimeError("[input] cannot make a pipe: {}", std::strerror(errno));
  for (const int end : pipe_) {
    ::fcntl(end, F_SETFD, FD_CLOEXEC);
    ::fcntl(end, F_SETFL, O_NONBLOCK);
  }
  resize_pipe.store(pipe_[1]);
  struct sigaction action{};
  action.sa_handler = on_resize;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGWINCH, &action, nullptr);
}

TerminalInput::~TerminalInput() {
  ::signal(SIGWINCH, SIG_DFL);
  resize_pipe.store(-1);
  ::close(pipe_[0]);
  ::close(pipe_[1]);
}

void TerminalInput::wake() { put(pipe_[1], 'w'); }

TerminalInput::Event TerminalInput::next(unsigned char& byte) {
  if (unread_) {
    byte = *std::exchange(unread_, std::nullopt);
    return Event::kByte;
  }
  while (true) {
    pollfd fds[] = {{pipe_[0], POLLIN, 0}, {fd_, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return Event::kEnd;
    }
    if (fds[0].revents != 0) {
      char signs[64];
      const ssize_t got = ::read(pipe_[0], signs, sizeof signs);
      // A signal counts more than any number of resizes.
      if (got > 0 && std::memchr(signs, 'w', static_cast<size_t>(got)) != nullptr)
        return Event::kWake;
      if (got > 0) return Event::kResize;
    }
    if (fds[1].revents != 0) {
      // Byte by byte: what is typed ahead stays where Ctrl-C can find it.
      const ssize_t got = ::read(fd_, &byte, 1);
      if (got == 1) return Event::kByte;
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      return Event::kEnd;  // also a terminal that has hung up
    }
  }
}

}  // namespace decant::cli
