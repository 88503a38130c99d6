#pragma once

#include <cstdint>
#include <optional>

namespace decant::cli {

/// Bytes typed at a terminal, and what else ends the wait for one. One object at a time.
class TerminalInput {
 public:
  enum class Event : uint8_t { kByte, kEnd, kWake, kResize };

  /// Errors: RuntimeError with the system's reason.
  explicit TerminalInput(int fd);
  ~TerminalInput();
  TerminalInput(const TerminalInput&) = delete;
  TerminalInput& operator=(const TerminalInput&) = delete;

  /// Waits; sets `byte` for kByte only.
  Event next(unsigned char& byte);
  /// Gives a byte back, to be read again.
  void unread(unsigned char byte) { unread_ = byte; }
  /// Ends the present or the next wait with kWake, from any thread.
  void wake();

 private:
  int fd_;
  int pipe_[2] = {-1, -1};
  std::optional<unsigned char> unread_;
};

}  // namespace decant::cli
