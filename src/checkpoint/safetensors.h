#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "checkpoint/name_table.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace decant {

/// Key and value pairs of a file's `__metadata__`, in file order.
using SafetensorsMetadata = std::vector<std::pair<std::string, std::string>>;

/// "(96,64)"
std::string dims_text(std::span<const int64_t> dims);

/// One tensor of a safetensors file: its name, type, shape and where its bytes lie.
struct TensorInfo {
  static constexpr size_t kMaxRank = 8;

  std::string name;
  DType dtype = DType::kF32;
  uint8_t rank = 0;
  std::array<int64_t, kMaxRank> sizes{};  // the first `rank` count
  std::span<const std::byte> bytes;       // row-major, any alignment, owned by the file

  std::span<const int64_t> dims() const { return {sizes.data(), rank}; }
  /// "(96,64)"
  std::string shape_text() const;
  /// The dimensions as a Shape, or nothing when there are more than it holds.
  std::optional<Shape> shape() const;
  bool has_shape(const Shape& shape) const;
};

/// What the header of a safetensors file says, checked in full against the size of the file.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of their data
  NameTable by_name;                // indices into tensors
  SafetensorsMetadata metadata;
  uint64_t data_offset = 0;  // of the first tensor's byte in the file
};

/// Parses and validates a whole file in memory: header length (at most 100 MB, within the file),
/// UTF-8, no duplicate key, spans in order without hole or overlap up to the end of the file, and
/// shape times element size equal to the span. Nothing is allocated in proportion to a number in
/// the header. Errors: WeightError `[safetensors] SOURCE: what`.
/// Source: safetensors/src/tensor.rs, format notes of huggingface/safetensors.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view source);

/// A mapped and validated safetensors file. Tensors stay where they are in the mapping.
class SafetensorsFile {
 public:
  /// Errors: WeightError naming the file (and tensor) and both numbers.
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);

  /// All tensors in the order of their data.
  std::span<const TensorInfo> tensors() const { return header_.tensors; }
  /// The tensor of this name, or null.
  const TensorInfo* find(std::string_view name) const;
  const SafetensorsMetadata& metadata() const { return header_.metadata; }
  const std::filesystem::path& path() const { return file_->path(); }
  uint64_t data_offset() const { return header_.data_offset; }
  /// True once a page of the mapping could not be read.
  bool damaged() const { return file_->damaged(); }

 private:
  SafetensorsFile() = default;
  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
};

/// A tensor to be written.
struct TensorDeclaration {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  /// Bytes of the tensor. Errors: WeightError if the product overflows.
  uint64_t bytes() const;
};

/// Writes a safetensors file: names, types and shapes are declared first, data follows in that
/// order and in pieces of any size. The file appears under its name only with commit().
class SafetensorsWriter {
 public:
  /// `data_offset_mod64` moves the first data byte to this remainder modulo 64 (by padding the
  /// header with spaces); without it the data starts at a multiple of 8, as the official writer
  /// does. Errors: WeightError for duplicate names or a header past the cap; RuntimeError when the
  /// file cannot be written (also in write and commit).
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorDeclaration> tensors,
                    const SafetensorsMetadata& metadata = {},
                    std::optional<int> data_offset_mod64 = std::nullopt);

  /// The next bytes of the data.
  void write(std::span<const std::byte> bytes);
  /// Ends the file; every declared byte must have been written.
  void commit();
  uint64_t data_bytes() const { return data_bytes_; }

 private:
  AtomicFile file_;
  uint64_t data_bytes_ = 0;
  uint64_t written_ = 0;
};

}  // namespace decant
