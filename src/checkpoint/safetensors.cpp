#include "checkpoint/safetensors.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>

#include "base/checked.h"
#include "base/errors.h"
#include "base/utf8.h"

namespace decant {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the cap of the official reader
constexpr int kMaxDepth = 64;                 // of values under keys we do not know

struct Entry {
  TensorInfo tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

// A parser for exactly this header: a general one would either hide duplicate keys or build a tree
// that is many times as large as the text.
class HeaderParser {
 public:
  HeaderParser(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  void parse(std::vector<Entry>& entries, SafetensorsMetadata& metadata) {
    bool seen_metadata = false;
    object([&](std::string key) {
      if (key == "__metadata__") {
        if (std::exchange(seen_metadata, true)) duplicate(key);
        if (!null()) parse_metadata(metadata);  // MLX writes null where it has none
      } else {
        parse_tensor(std::move(key), entries.emplace_back());
      }
    });
    skip_space();
    if (position_ != text_.size()) fail("the end of the header");
  }

 private:
  [[noreturn]] void fail(std::string_view expected) const {
    const std::string got = position_ < text_.size() ? quote(text_.substr(position_, 16))
                                                     : std::string("the end of the header");
    throw WeightError("[safetensors] {}: header byte {}: expected {}, got {}", source_, position_,
                      expected, got);
  }
  [[noreturn]] void duplicate(std::string_view key) const {
    throw WeightError("[safetensors] {}: expected every key once, got {} twice", source_,
                      quote(key));
  }

  bool null() {
    skip_space();
    if (!text_.substr(position_).starts_with("null")) return false;
    position_ += 4;
    return true;
  }

  void skip_space() {
    while (position_ < text_.size() && (text_[position_] == ' ' || text_[position_] == '\t' ||
                                        text_[position_] == '\n' || text_[position_] == '\r'))
      ++position_;
  }
  char peek() {
    skip_space();
    return position_ < text_.size() ? text_[position_] : '\0';
  }
  void take(char c, std::string_view what) {
    if (peek() != c || position_ >= text_.size()) fail(what);
    ++position_;
  }

  // Calls `member(key)` at each value of the object that starts here.
  template <typename F>
  void object(const F& member) {
    take('{', "'{'");
    if (peek() == '}') {
      ++position_;
      return;
    }
    while (true) {
      std::string key = string();
      take(':', "':'");
      member(std::move(key));
      if (peek() == ',') {
        ++position_;
        continue;
      }
      take('}', "',' or '}'");
      return;
    }
  }

  // Calls `element()` at each value of the array that starts here.
  template <typename F>
  void array(const F& element) {
    take('[', "'['");
    if (peek() == ']') {
      ++position_;
      return;
    }
    while (true) {
      element();
      if (peek() == ',') {
        ++position_;
        continue;
      }
      take(']', "',' or ']'");
      return;
    }
  }

  unsigned hex4() {
    unsigned value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = position_ < text_.size() ? text_[position_] : '\0';
      unsigned digit;
      if (c >= '0' && c <= '9') {
        digit = static_cast<unsigned>(c - '0');
      } else if (c >= 'a' && c <= 'f') {
        digit = static_cast<unsigned>(c - 'a' + 10);
      } else if (c >= 'A' && c <= 'F') {
        digit = static_cast<unsigned>(c - 'A' + 10);
      } else {
        fail("four hexadecimal digits");
      }
      value = value << 4 | digit;
      ++position_;
    }
    return value;
  }

  std::string string() {
    take('"', "a string");
    std::string out;
    size_t plain = position_;
    while (true) {
      if (position_ >= text_.size()) fail("the end of a string");
      const auto c = static_cast<unsigned char>(text_[position_]);
      if (c < 0x20) fail("no control character in a string");
      if (c != '"' && c != '\\') {
        ++position_;
        continue;
      }
      out.append(text_.substr(plain, position_ - plain));
      ++position_;
      if (c == '"') return out;
      escape(out);
      plain = position_;
    }
  }

  void escape(std::string& out) {
    const char c = position_ < text_.size() ? text_[position_] : '\0';
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    if (const size_t at = kNames.find(c); c != '\0' && at != std::string_view::npos) {
      out += kValues[at];
      ++position_;
      return;
    }
    if (c != 'u') fail("a known escape");
    ++position_;
    unsigned code = hex4();
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(position_, 2) != "\\u") fail("the second half of a surrogate pair");
      position_ += 2;
      const unsigned low = hex4();
      if (low < 0xDC00 || low > 0xDFFF) fail("the second half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      fail("no lone surrogate");
    }
    append_utf8(out, code);
  }

  uint64_t integer() {
    const char first = peek();
    if (first < '0' || first > '9') fail("an integer that is not negative");
    const size_t start = position_;
    uint64_t value = 0;
    for (; position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9';
         ++position_) {
      const auto digit = static_cast<uint64_t>(text_[position_] - '0');
      const auto tens = checked_mul<uint64_t>(value, 10);
      const auto next = tens ? checked_add<uint64_t>(*tens, digit) : std::nullopt;
      if (!next) {
        position_ = start;
        fail("an integer of 64 bits");
      }
      value = *next;
    }
    const char after = position_ < text_.size() ? text_[position_] : '\0';
    if ((first == '0' && position_ > start + 1) || after == '.' || after == 'e' || after == 'E') {
      position_ = start;
      fail("an integer");
    }
    return value;
  }

  void parse_metadata(SafetensorsMetadata& metadata) {
    std::unordered_set<std::string> keys;
    object([&](std::string key) {
      if (!keys.insert(key).second) duplicate(key);
      std::string value = string();
      metadata.emplace_back(std::move(key), std::move(value));
    });
  }

  void parse_tensor(std::string name, Entry& entry) {
    TensorInfo& tensor = entry.tensor;
    tensor.name = std::move(name);
    unsigned seen = 0;
    constexpr unsigned kDtype = 1, kShape = 2, kOffsets = 4;
    object([&](const std::string& key) {
      const unsigned bit = key == "dtype"          ? kDtype
                           : key == "shape"        ? kShape
                           : key == "data_offsets" ? kOffsets
                                                   : 0;
      if ((seen & bit) != 0) duplicate(tensor.name + "." + key);
      seen |= bit;
      if (bit == kDtype) {
        const std::string type = string();
        const auto known = dtype_from_name(type);
        if (!known)
          throw WeightError("[safetensors] {}: {}: expected a known dtype, got {}", source_,
                            quote(tensor.name), quote(type));
        tensor.dtype = *known;
      } else if (bit == kShape) {
        parse_shape(tensor);
      } else if (bit == kOffsets) {
        parse_offsets(entry);
      } else {
        skip_value(0);  // later versions of the format may add fields; the official reader skips
      }
    });
    if (seen != (kDtype | kShape | kOffsets))
      throw WeightError("[safetensors] {}: {}: expected dtype, shape and data_offsets, got {}",
                        source_, quote(tensor.name),
                        (seen & kDtype) == 0   ? "no dtype"
                        : (seen & kShape) == 0 ? "no shape"
                                               : "no data_offsets");
  }

  void parse_shape(TensorInfo& tensor) {
    size_t rank = 0;
    array([&] {
      const uint64_t size = integer();
      if (!std::in_range<int64_t>(size))
        throw WeightError("[safetensors] {}: {}: expected sizes below 2^63, got {}", source_,
                          quote(tensor.name), size);
      if (rank == TensorInfo::kMaxRank)
        throw WeightError("[safetensors] {}: {}: expected at most {} dimensions, got more", source_,
                          quote(tensor.name), TensorInfo::kMaxRank);
      tensor.sizes[rank++] = static_cast<int64_t>(size);
    });
    tensor.rank = static_cast<uint8_t>(rank);
  }

  void parse_offsets(Entry& entry) {
    size_t count = 0;
    array([&] {
      const uint64_t value = integer();
      if (count == 0) entry.begin = value;
      if (count == 1) entry.end = value;
      ++count;
    });
    if (count != 2)
      throw WeightError("[safetensors] {}: {}: data_offsets: expected 2 numbers, got {}", source_,
                        quote(entry.tensor.name), count);
  }

  void skip_value(int depth) {
    if (depth > kMaxDepth) fail(fmt::format("at most {} levels of nesting", kMaxDepth));
    const char c = peek();
    if (c == '{') {
      object([&](const std::string&) { skip_value(depth + 1); });
    } else if (c == '[') {
      array([&] { skip_value(depth + 1); });
    } else if (c == '"') {
      string();
    } else {
      const size_t start = position_;
      while (position_ < text_.size() &&
             (std::isalnum(static_cast<unsigned char>(text_[position_])) != 0 ||
              std::string_view("+-.").find(text_[position_]) != std::string_view::npos))
        ++position_;
      if (start == position_ || !nlohmann::json::accept(text_.substr(start, position_ - start))) {
        position_ = start;
        fail("a JSON value");
      }
    }
  }

  std::string_view text_;
  std::string_view source_;
  size_t position_ = 0;
};

// Bytes of a tensor of these sizes, or nothing on overflow. A zero anywhere makes it empty, but a
// product that wraps before it is still refused, as the official reader does.
std::optional<uint64_t> tensor_bytes(std::span<const int64_t> dims, DType dtype) {
  uint64_t bytes = static_cast<uint64_t>(size_of(dtype));
  for (int64_t dim : dims) {
    const auto next = checked_mul(bytes, static_cast<uint64_t>(dim));
    if (dim < 0 || !next) return std::nullopt;
    bytes = *next;
  }
  return bytes;
}

// `entries` lie in the order of their spans, `tensors` beside them.
void check_spans(std::span<const Entry> entries, std::span<const TensorInfo> tensors,
                 uint64_t data_bytes, std::string_view source) {
  uint64_t expected = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const TensorInfo& tensor = tensors[i];
    if (entry.end < entry.begin)
      throw WeightError("[safetensors] {}: {}: data_offsets: expected begin <= end, got [{},{}]",
                        source, quote(tensor.name), entry.begin, entry.end);
    if (entry.begin != expected)
      throw WeightError("[safetensors] {}: {}: {}: expected it at byte {} ({}), got {}", source,
                        quote(tensor.name), entry.begin < expected ? "overlap" : "hole", expected,
                        i > 0 ? "the end of " + quote(tensors[i - 1].name) : "the data's start",
                        entry.begin);
    const auto bytes = tensor_bytes(tensor.dims(), tensor.dtype);
    if (!bytes)
      throw WeightError("[safetensors] {}: {}: expected a size of 64 bits, got shape {} of {}",
                        source, quote(tensor.name), tensor.shape_text(), name_of(tensor.dtype));
    if (*bytes != entry.end - entry.begin)
      throw WeightError("[safetensors] {}: {}: expected {} bytes for {} of {}, got {}", source,
                        quote(tensor.name), *bytes, tensor.shape_text(), name_of(tensor.dtype),
                        entry.end - entry.begin);
    expected = entry.end;
  }
  if (expected > data_bytes)
    throw WeightError(
        "[safetensors] {}: incomplete file: expected {} bytes of tensors, got {} (download it "
        "again)",
        source, expected, data_bytes);
  if (expected < data_bytes)
    throw WeightError(
        "[safetensors] {}: expected the file to end after {} bytes of tensors, got {} more", source,
        expected, data_bytes - expected);
}

}  // namespace

std::string dims_text(std::span<const int64_t> dims) {
  std::string out = "(";
  for (size_t i = 0; i < dims.size(); ++i) out += (i > 0 ? "," : "") + std::to_string(dims[i]);
  return out + ")";
}

std::string TensorInfo::shape_text() const { return dims_text(dims()); }

std::optional<Shape> TensorInfo::shape() const {
  if (rank > Shape::kMaxRank) return std::nullopt;
  return Shape(dims());
}

bool TensorInfo::has_shape(const Shape& shape) const {
  return std::ranges::equal(dims(), shape.dims());
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view source) {
  if (file.size() < kLengthBytes)
    throw WeightError("[safetensors] {}: expected at least {} bytes, got {}", source, kLengthBytes,
                      file.size());
  uint64_t length;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeader)
    throw WeightError("[safetensors] {}: header length: expected at most {}, got {}", source,
                      kMaxHeader, length);
  if (length > file.size() - kLengthBytes)
    throw WeightError(
        "[safetensors] {}: incomplete file: expected {} bytes of header, got {} "
        "(download it again)",
        source, length, file.size() - kLengthBytes);
  // A copy: the file may change under its mapping between one check and the next.
  const std::string text(reinterpret_cast<const char*>(file.data()) + kLengthBytes,
                         static_cast<size_t>(length));
  if (text.empty() || text.front() != '{')
    throw WeightError("[safetensors] {}: header: expected '{{' first, got {}", source,
                      text.empty() ? "an empty header" : quote(text.substr(0, 8)));
  if (const size_t bad = utf8_first_error(text); bad != std::string_view::npos)
    throw WeightError("[safetensors] {}: header byte {}: expected UTF-8, got byte 0x{:02x}", source,
                      bad, static_cast<unsigned char>(text[bad]));

  std::vector<Entry> entries;
  SafetensorsHeader header;
  HeaderParser(text, source).parse(entries, header.metadata);
  header.data_offset = kLengthBytes + length;
  const auto before = [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  };
  if (!std::is_sorted(entries.begin(), entries.end(), before))
    std::sort(entries.begin(), entries.end(), before);
  header.tensors.reserve(entries.size());
  for (Entry& entry : entries) header.tensors.push_back(std::move(entry.tensor));
  header.by_name.reserve(entries.size());
  for (uint32_t i = 0; i < header.tensors.size(); ++i)
    if (header.by_name.insert(header.tensors[i].name, i))
      throw WeightError("[safetensors] {}: expected every key once, got {} twice", source,
                        quote(header.tensors[i].name));
  check_spans(entries, header.tensors, file.size() - header.data_offset, source);
  for (size_t i = 0; i < entries.size(); ++i)
    header.tensors[i].bytes =
        file.subspan(static_cast<size_t>(header.data_offset + entries[i].begin),
                     static_cast<size_t>(entries[i].end - entries[i].begin));
  return header;
}

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  std::shared_ptr<SafetensorsFile> out(new SafetensorsFile);
  try {
    out->file_ = MappedFile::open(path);
  } catch (const RuntimeError& error) {
    throw WeightError("[safetensors] {}: {}", path.string(), error.what());
  }
  out->header_ = parse_safetensors(out->file_->bytes(), path.string());
  return out;
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = header_.by_name.find(name);
  return found ? &header_.tensors[*found] : nullptr;
}

uint64_t TensorDeclaration::bytes() const {
  const auto bytes = tensor_bytes(shape, dtype);
  if (!bytes)
    throw WeightError("[safetensors] {}: expected a size of 64 bits, got shape {}", quote(name),
                      dims_text(shape));
  return *bytes;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorDeclaration> tensors,
                                     const SafetensorsMetadata& metadata,
                                     std::optional<int> data_offset_mod64)
    : file_(path) {
  const auto text_of = [](const std::string& text) { return nlohmann::json(text).dump(); };
  std::unordered_set<std::string_view> names{"__metadata__"};
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      header +=
          text_of(key) + ":" + text_of(value) + (&value == &metadata.back().second ? "}" : ",");
  }
  for (const TensorDeclaration& tensor : tensors) {
    if (!names.insert(tensor.name).second)
      throw WeightError("[safetensors] {}: expected every name once, got {} twice", path.string(),
                        quote(tensor.name));
    if (tensor.shape.size() > TensorInfo::kMaxRank)
      throw WeightError("[safetensors] {}: {}: expected at most {} dimensions, got {}",
                        path.string(), quote(tensor.name), TensorInfo::kMaxRank,
                        tensor.shape.size());
    const auto end = checked_add(data_bytes_, tensor.bytes());
    if (!end)
      throw WeightError("[safetensors] {}: expected a file size of 64 bits, got more at {}",
                        path.string(), quote(tensor.name));
    if (header.size() > 1) header += ",";
    header += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          text_of(tensor.name), name_of(tensor.dtype), fmt::join(tensor.shape, ","),
                          data_bytes_, *end);
    data_bytes_ = *end;
  }
  header += "}";
  const uint64_t modulus = data_offset_mod64 ? 64 : 8;
  const uint64_t target = data_offset_mod64 ? static_cast<uint64_t>(*data_offset_mod64) % 64 : 0;
  header.append((target + 2 * modulus - (kLengthBytes + header.size()) % modulus) % modulus, ' ');
  if (header.size() > kMaxHeader)
    throw WeightError("[safetensors] {}: header length: expected at most {}, got {}", path.string(),
                      kMaxHeader, header.size());
  const uint64_t length = header.size();
  file_.write(std::as_bytes(std::span(&length, 1)));
  file_.write(header);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  DECANT_ASSERT(bytes.size() <= data_bytes_ - written_, "no more data than was declared");
  file_.write(bytes);
  written_ += bytes.size();
}

void SafetensorsWriter::commit() {
  DECANT_ASSERT(written_ == data_bytes_, "every declared tensor was written");
  file_.commit();
}

}  // namespace decant
