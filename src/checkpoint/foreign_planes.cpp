#include "checkpoint/foreign_planes.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/checked.h"
#include "base/errors.h"
#include "base/units.h"
#include "checkpoint/parallel.h"

namespace decant {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kPieceElements = 1 << 20;
constexpr int64_t kRangeBytes = INT64_C(1) << 30;
constexpr int64_t kReleaseBytes = INT64_C(256) << 20;  // of source between two releases

// Rows of one entry.
struct Piece {
  size_t entry;
  int64_t begin;
  int64_t end;
};

}  // namespace

std::byte* ForeignPlanes::reserve(int64_t bytes) {
  if (ranges_.empty() || ranges_.back().size - ranges_.back().used < bytes) {
    const int64_t size = std::max(bytes, kRangeBytes);
    const auto length = static_cast<size_t>(size);
    void* at = mmap(nullptr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
      throw MemoryError("[memory] weights that are converted at load: cannot reserve {}",
                        format_bytes(length));
    ranges_.push_back(
        {{static_cast<std::byte*>(at), [length](std::byte* p) { munmap(p, length); }}, size, 0});
  }
  Range& range = ranges_.back();
  std::byte* out = range.begin.get() + range.used;
  range.used = std::min(range.size, range.used + round_up(bytes, kAlignment));
  return out;
}

ForeignPlanes::Room ForeignPlanes::add(ForeignModule module) {
  if (module.made_bytes() == 0) return {};
  const Format& format = module.format;
  QuantizedPlanes planes;
  const auto room = [&](bool made, int64_t row_bytes) {
    return made ? reserve(module.rows * row_bytes) : nullptr;
  };
  // One range for all three, so that it has one owner.
  std::byte* all = reserve(module.made_bytes() + 2 * kAlignment);
  ranges_.back().used = all - ranges_.back().begin.get();
  planes.data = room(module.makes_data(), format.data_row_bytes(module.cols));
  planes.scales = room(module.makes_scales(), format.scale_row_bytes(module.cols));
  planes.biases = room(module.makes_biases(), format.bias_row_bytes(module.cols));
  bytes_ += module.made_bytes();
  entries_.push_back({std::move(module), planes});
  return {planes, ranges_.back().begin};
}

std::vector<std::string> ForeignPlanes::make() {
  for (const Range& range : ranges_)
    if (mprotect(range.begin.get(), static_cast<size_t>(range.size), PROT_READ | PROT_WRITE) != 0)
      throw MemoryError("[memory] weights that are converted at load: no room for {}",
                        format_bytes(static_cast<uint64_t>(bytes_)));
  std::vector<std::atomic<bool>> good(entries_.size());
  for (auto& flag : good) flag = true;
  std::vector<Piece> pieces;
  const auto make_piece = [&](const Piece& piece) {
    const auto& [module, planes] = entries_[piece.entry];
    const Format& format = module.format;
    QuantizedPlanes out = planes;
    if (out.data != nullptr) out.data += piece.begin * format.data_row_bytes(module.cols);
    if (out.scales != nullptr) out.scales += piece.begin * format.scale_row_bytes(module.cols);
    if (out.biases != nullptr) out.biases += piece.begin * format.bias_row_bytes(module.cols);
    if (!module.make(piece.begin, piece.end, out)) good[piece.entry] = false;
  };
  for (size_t first = 0; first < entries_.size();) {
    pieces.clear();
    int64_t source = 0;
    size_t last = first;
    for (; last < entries_.size() && source < kReleaseBytes; ++last) {
      const ForeignModule& module = entries_[last].module;
      for (const TensorRef& tensor : module.tensors)
        source += static_cast<int64_t>(tensor->bytes.size());
      const int64_t step =
          round_up(std::max<int64_t>(1, kPieceElements / module.cols), ForeignModule::kRowStep);
      for (int64_t row = 0; row < module.rows; row += step)
        pieces.push_back({last, row, std::min(row + step, module.rows)});
    }
    parallel_ranges(std::ssize(pieces), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) make_piece(pieces[static_cast<size_t>(i)]);
    });
    for (; first < last; ++first)
      for (const TensorRef& tensor : entries_[first].module.tensors)
        if (entries_[first].module.makes_data())
          release_pages(tensor->bytes.data(), static_cast<int64_t>(tensor->bytes.size()));
  }
  std::vector<std::string> problems;
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (!good[i]) problems.push_back(entries_[i].module.assumption);
    for (const TensorRef& tensor : entries_[i].module.tensors)
      if (tensor.file && tensor.file->damaged())
        problems.push_back(
            fmt::format("{}: expected the file it was mapped from, got one that was "
                        "cut while it was read",
                        tensor->name));
  }
  entries_.clear();
  ranges_.clear();
  return problems;
}

void release_pages(const std::byte* begin, int64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<uintptr_t>(begin) + page - 1) / page * page;
  const auto last =
      (reinterpret_cast<uintptr_t>(begin) + static_cast<uintptr_t>(bytes)) / page * page;
  if (first < last)
    madvise(const_cast<std::byte*>(begin) + (first - reinterpret_cast<uintptr_t>(begin)),
            last - first, MADV_DONTNEED);
}

}  // namespace decant
