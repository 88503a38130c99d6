#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>

#include "base/errors.h"

namespace decant {
namespace {

// The table the SIGBUS handler reads: only lock-free atomics, because a handler may use nothing
// else.
struct MappingSlot {
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> damaged{false};
};
constexpr size_t kMaxMappings = 4096;
std::array<MappingSlot, kMaxMappings> mappings;
std::atomic<bool> any_damage{false};
std::mutex mappings_mutex;
std::array<const MappedFile*, kMaxMappings> mapped_files{};  // guarded by mappings_mutex
struct sigaction previous_action;

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (MappingSlot& slot : mappings) {
    const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
    const uintptr_t end = slot.end.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= end) continue;
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t start = address / page * page;
    void* mapped = mmap(reinterpret_cast<void*>(start), page, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (mapped == MAP_FAILED) break;
    slot.damaged.store(true, std::memory_order_release);
    any_damage.store(true, std::memory_order_release);
    return;
  }
  // Not ours: whoever handled it before does, or the default action ends the process.
  if ((previous_action.sa_flags & SA_SIGINFO) != 0 && previous_action.sa_sigaction != nullptr) {
    previous_action.sa_sigaction(signal, info, context);
    return;
  }
  std::signal(SIGBUS, SIG_DFL);
  std::raise(SIGBUS);
}

void install_handler() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction action{};
    action.sa_sigaction = on_bus_error;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_action);
  });
}

std::string reason() { return std::strerror(errno); }

}  // namespace

std::string read_text_file(const std::filesystem::path& path, uint64_t limit_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw RuntimeError("[file] cannot open {}: {}", path.string(), reason());
  std::string text;
  char block[1 << 16];
  while (true) {
    const ssize_t got = ::read(fd, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 || text.size() + static_cast<size_t>(got) > limit_bytes) {
      const std::string why =
          got < 0 ? reason() : fmt::format("expected at most {} bytes, got more", limit_bytes);
      ::close(fd);
      throw RuntimeError("[file] cannot read {}: {}", path.string(), why);
    }
    if (got == 0) break;
    text.append(block, static_cast<size_t>(got));
  }
  ::close(fd);
  return text;
}

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  install_handler();
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw RuntimeError("[file] cannot open {}: {}", path.string(), reason());
  struct stat info{};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    throw RuntimeError("[file] cannot map {}: expected a regular file", path.string());
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->size_ = static_cast<size_t>(info.st_size);
  if (file->size_ > 0) {
    void* data = mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
      const std::string why = reason();
      ::close(fd);
      throw RuntimeError("[file] cannot map {}: {}", path.string(), why);
    }
    file->data_ = static_cast<const std::byte*>(data);
    std::lock_guard lock(mappings_mutex);
    for (size_t i = 0; i < mappings.size(); ++i) {
      if (mappings[i].begin.load() != 0) continue;
      mappings[i].damaged.store(false);
      mappings[i].end.store(reinterpret_cast<uintptr_t>(data) + file->size_);
      mappings[i].begin.store(reinterpret_cast<uintptr_t>(data));
      mapped_files[i] = file.get();
      file->slot_ = static_cast<int>(i);
      break;
    }
    if (file->slot_ < 0) {
      ::close(fd);
      throw RuntimeError("[file] cannot map {}: {} files are mapped already", path.string(),
                         kMaxMappings);
    }
  }
  ::close(fd);
  return file;
}

MappedFile::~MappedFile() {
  if (slot_ >= 0) {
    std::lock_guard lock(mappings_mutex);
    MappingSlot& slot = mappings[static_cast<size_t>(slot_)];
    mapped_files[static_cast<size_t>(slot_)] = nullptr;
    slot.begin.store(0);
    slot.end.store(0);
    slot.damaged.store(false);
    bool damage = false;
    for (const MappingSlot& other : mappings) damage = damage || other.damaged.load();
    any_damage.store(damage);
  }
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

bool MappedFile::damaged() const {
  return slot_ >= 0 && mappings[static_cast<size_t>(slot_)].damaged.load(std::memory_order_acquire);
}

std::string damaged_mapping() {
  if (!any_damage.load(std::memory_order_acquire)) return {};
  std::lock_guard lock(mappings_mutex);
  for (size_t i = 0; i < mappings.size(); ++i)
    if (mappings[i].damaged.load() && mapped_files[i] != nullptr)
      return mapped_files[i]->path().string();
  return {};
}

AtomicFile::AtomicFile(std::filesystem::path target, unsigned mode) : target_(std::move(target)) {
  std::string pattern = target_.string() + ".partial-XXXXXX";
  fd_ = mkostemp(pattern.data(), O_CLOEXEC);
  if (fd_ < 0) throw RuntimeError("[file] cannot create {}: {}", pattern, reason());
  temporary_ = pattern;
  fchmod(fd_, static_cast<mode_t>(mode));
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd_, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw RuntimeError("[file] cannot write {}: {}", target_.string(), reason());
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
}

void AtomicFile::commit() {
  if (fsync(fd_) != 0 || ::close(fd_) != 0) {
    fd_ = -1;
    throw RuntimeError("[file] cannot finish {}: {}", target_.string(), reason());
  }
  fd_ = -1;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0)
    throw RuntimeError("[file] cannot rename {} to {}: {}", temporary_.string(), target_.string(),
                       reason());
  temporary_.clear();
  // The name itself must survive a crash too.
  const std::filesystem::path folder = target_.has_parent_path() ? target_.parent_path() : ".";
  const int directory = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory >= 0) {
    fsync(directory);
    ::close(directory);
  }
}

}  // namespace decant
