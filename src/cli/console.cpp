#include "cli/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/errors.h"

namespace decant::cli {
namespace {

[[noreturn]] void output_failed() {
  if (errno == EPIPE) throw BrokenPipe{};
  throw RuntimeError("[output] cannot write to stdout: {}", std::strerror(errno));
}

}  // namespace

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) output_failed();
}

void flush_output() {
  if (std::fflush(stdout) != 0) output_failed();
}

bool stdin_is_terminal() { return isatty(STDIN_FILENO) == 1; }
bool stdout_is_terminal() { return isatty(STDOUT_FILENO) == 1; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }

int terminal_columns() {
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    winsize size{};
    if (isatty(fd) == 1 && ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  }
  return 0;
}

bool stderr_takes_escapes() {
  const char* term = std::getenv("TERM");
  return stderr_is_terminal() && term != nullptr && *term != '\0' &&
         std::string_view(term) != "dumb";
}

bool stderr_takes_colour() {
  const char* no_colour = std::getenv("NO_COLOR");
  return stderr_takes_escapes() && (no_colour == nullptr || *no_colour == '\0');
}

void note(std::string_view text) {
  std::string line(text);
  line += '\n';
  // One call: lines of different threads do not mix.
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void Progress::show(std::string_view text) {
  if (!stderr_takes_escapes()) return;
  const std::string line = "\r\033[K" + std::string(text.substr(0, 100));
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  shown_ = true;
}

void Progress::clear() {
  if (!shown_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  shown_ = false;
}

std::string read_stdin(size_t limit_bytes) {
  std::string out;
  char block[1 << 16];
  while (true) {
    const ssize_t got = ::read(STDIN_FILENO, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw RuntimeError("[input] cannot read stdin: {}", std::strerror(errno));
    if (got == 0) return out;
    if (out.size() + static_cast<size_t>(got) > limit_bytes)
      throw RequestError("[input] stdin: expected at most {} bytes, got more", limit_bytes);
    out.append(block, static_cast<size_t>(got));
  }
}

}  // namespace decant::cli
