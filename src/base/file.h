#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace decant {

/// The whole text of a small file. Errors: RuntimeError if it cannot be read or is larger than
/// `limit_bytes`.
std::string read_text_file(const std::filesystem::path& path, uint64_t limit_bytes = 256u << 20);

/// A read-only mapping of a whole file.
///
/// A file that is cut while mapped must not end the process: the first touch behind the new end
/// raises SIGBUS, which the handler installed with the first mapping answers by mapping zeros there
/// and marking the file; whoever runs the step asks damaged() afterwards and fails it.
class MappedFile {
 public:
  /// Maps `path`. Errors: RuntimeError naming the path and the system's reason.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  uint64_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }
  /// True once a page of this file could not be read (the file was cut or its medium failed).
  bool damaged() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int slot_ = -1;
};

/// Path of the first mapped file that turned out damaged, or empty. Cheap: one atomic load while
/// nothing is wrong.
std::string damaged_mapping();

/// Writes a file so that a reader sees either the old content or the whole new one: a temporary
/// beside the target, fsync, rename. The temporary is removed if commit() was not reached.
class AtomicFile {
 public:
  /// `mode` are the permissions of the file. Errors: RuntimeError naming the path and the system's
  /// reason (also in write and commit).
  explicit AtomicFile(std::filesystem::path target, unsigned mode = 0644);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int fd_ = -1;
};

}  // namespace decant
