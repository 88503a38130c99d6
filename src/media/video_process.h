#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace decant::media {

/// A program that runs beside us and whose output is read.
///
/// It is started from an argument vector, never through a shell; it has no input, none of our open
/// files, a fixed environment, and a process group that ends with this object. Where we end first,
/// its next write finds no reader, which ends it too; a share of processor time bounds one that
/// neither writes nor ends (Linux).
class VideoProgram {
 public:
  /// Starts `program`. `name` stands for the video in messages. Errors: RequestError when it
  /// cannot be started.
  VideoProgram(const std::filesystem::path& program, std::vector<std::string> arguments,
               std::string_view name, std::chrono::milliseconds limit);
  ~VideoProgram();
  VideoProgram(const VideoProgram&) = delete;
  VideoProgram& operator=(const VideoProgram&) = delete;

  /// Reads until `to` is full or the output ends; returns the bytes read. Errors: RequestError
  /// when the time is over.
  size_t read(std::span<char> to);
  /// Waits for the end and tells what went wrong: its last complaint, how it ended; empty: nothing.
  /// Errors: as read.
  std::string finish();
  /// What it said on its error output, the first 4 KiB; whole once finish() has returned.
  const std::string& complaints() const { return complaints_; }

 private:
  bool wait(int timeout_ms);  // true: there is output, or its end
  void take_complaints();
  [[noreturn]] void refuse_time() const;
  void end();

  std::string program_;
  std::string name_;
  std::chrono::milliseconds limit_;
  std::chrono::steady_clock::time_point deadline_;
  pid_t pid_ = -1;
  int output_ = -1;
  int errors_ = -1;
  std::string complaints_;
};

}  // namespace decant::media
