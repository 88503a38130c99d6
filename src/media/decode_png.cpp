#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "base/errors.h"
#include "media/codec.h"

namespace decant::media {
namespace {

// Metadata is small: a compressed text chunk may unpack to so much, and there may be so many of
// them.
constexpr png_alloc_size_t kChunkBytes = 1u << 20;
constexpr int kMaxTextChunks = 64;
// What libpng may need at once beside a chunk of the file: unpacked metadata, and a few rows.
constexpr size_t kWorkBytes = 4u << 20;

// As in decode_jpeg.cpp: libpng's errors jump back to run(), past frames without destructors.
class PngReader {
 public:
  explicit PngReader(std::span<const std::byte> file)
      : rest_(file), max_block_(file.size() + kWorkBytes) {
    png_ = png_create_read_struct_2(
        PNG_LIBPNG_VER_STRING, this, on_error, [](png_structp, png_const_charp) {}, this, allocate,
        [](png_structp, png_voidp block) { std::free(block); });
    if (png_ == nullptr) return;
    info_ = png_create_info_struct(png_);
    tail_ = png_create_info_struct(png_);
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, &tail_); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  bool usable() const { return png_ != nullptr && info_ != nullptr && tail_ != nullptr; }
  bool run(void (PngReader::*step)()) {
    if (setjmp(jump_) != 0) return false;
    (this->*step)();
    return true;
  }
  const char* failure() const { return failure_; }

  void read_header() {
    png_set_read_fn(png_, this, on_read);
    png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // ours are checked by the caller
    png_set_chunk_cache_max(png_, kMaxTextChunks);
    png_set_chunk_malloc_max(png_, kChunkBytes);
    png_read_info(png_, info_);
    png_get_IHDR(png_, info_, &width, &height, &bits, &type, nullptr, nullptr, nullptr);
  }
  // Asks for 8-bit RGB, but for 16-bit grey, which the caller clips.
  void start() {
    if (type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png_);
    if (type == PNG_COLOR_TYPE_GRAY && bits < 8) png_set_expand_gray_1_2_4_to_8(png_);
    if (bits == 16 && !wide_grey()) png_set_strip_16(png_);
    if ((type & PNG_COLOR_MASK_ALPHA) != 0 || type == PNG_COLOR_TYPE_PALETTE) {
      png_set_strip_alpha(png_);
    }
    if ((type & PNG_COLOR_MASK_COLOR) == 0 && !wide_grey()) png_set_gray_to_rgb(png_);
    passes_ = png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    row_bytes = png_get_rowbytes(png_, info_);
  }
  void set_target(uint8_t* pixels) { pixels_ = pixels; }
  void read_rows() {
    for (int pass = 0; pass < passes_; ++pass) {
      for (size_t y = 0; y < height; ++y) png_read_row(png_, pixels_ + y * row_bytes, nullptr);
    }
  }
  void read_tail() { png_read_end(png_, tail_); }

  bool wide_grey() const { return type == PNG_COLOR_TYPE_GRAY && bits == 16; }
  void collect_metadata(DecodedImage& out) {
    for (png_infop info : {info_, tail_}) {
      png_uint_32 size = 0;
      png_bytep exif = nullptr;
      if (png_get_eXIf_1(png_, info, &size, &exif) != 0 && size != 0) {
        const auto bytes = std::as_bytes(std::span(exif, size));
        out.exif.assign(bytes.begin(), bytes.end());
        out.has_exif = true;
      }
    }
    for (png_infop info : {info_, tail_}) {
      png_textp texts = nullptr;
      const int count = png_get_text(png_, info, &texts, nullptr);
      for (int i = 0; i < count; ++i) {
        if (texts[i].key == nullptr || texts[i].text == nullptr) continue;
        const std::string_view key = texts[i].key;
        if (key == "XML:com.adobe.xmp") out.xmp = texts[i].text;
        if (key == "Raw profile type exif" && !out.has_exif) {
          out.exif = raw_profile(texts[i].text);
          out.has_exif = true;
        }
      }
    }
  }

  png_uint_32 width = 0;
  png_uint_32 height = 0;
  int bits = 0;
  int type = 0;
  size_t row_bytes = 0;

 private:
  [[noreturn]] static void on_error(png_structp png, png_const_charp message) {
    auto& reader = *static_cast<PngReader*>(png_get_error_ptr(png));
    std::snprintf(reader.failure_, sizeof(reader.failure_), "%s", message);
    longjmp(reader.jump_, 1);
  }
  // libpng only warns of a chunk over its limit, and makes room for the length an eXIf chunk
  // states before it reads it.
  static png_voidp allocate(png_structp png, png_alloc_size_t bytes) {
    const auto& reader = *static_cast<const PngReader*>(png_get_mem_ptr(png));
    return bytes > reader.max_block_ ? nullptr : std::malloc(bytes);
  }
  static void on_read(png_structp png, png_bytep to, size_t count) {
    auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader.rest_.size()) png_error(png, "the file ends early");
    std::memcpy(to, reader.rest_.data(), count);
    reader.rest_ = reader.rest_.subspan(count);
  }
  // ImageMagick's way to store Exif: three lines (empty, name, length), then hexadecimal lines.
  static std::vector<std::byte> raw_profile(std::string_view text) {
    for (int line = 0; line < 3; ++line) {
      const size_t end = text.find('\n');
      if (end == std::string_view::npos) return {};
      text.remove_prefix(end + 1);
    }
    std::vector<std::byte> out;
    int high = -1;
    for (const char c : text) {
      int digit = -1;
      if (c >= '0' && c <= '9') digit = c - '0';
      if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
      if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
      if (digit < 0) continue;
      if (high < 0) {
        high = digit;
      } else {
        out.push_back(static_cast<std::byte>(high * 16 + digit));
        high = -1;
      }
    }
    return out;
  }

  std::span<const std::byte> rest_;
  size_t max_block_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  png_infop tail_ = nullptr;
  int passes_ = 1;
  uint8_t* pixels_ = nullptr;
  jmp_buf jump_{};
  char failure_[160] = {};
};

}  // namespace

DecodedImage decode_png(std::span<const std::byte> file, std::string_view name,
                        const ImageLimits& limits) {
  PngReader reader(file);
  if (!reader.usable()) throw RuntimeError("[media] {}: libpng could not be started", name);
  const auto step = [&](void (PngReader::*what)()) {
    if (!reader.run(what)) refuse(name, "a readable PNG", reader.failure());
  };
  step(&PngReader::read_header);
  const size_t bytes = checked_rgb_bytes(reader.width, reader.height, name, limits);
  step(&PngReader::start);
  const size_t pixel_bytes = reader.wide_grey() ? 2 : 3;
  DECANT_ASSERT(reader.row_bytes == reader.width * pixel_bytes, "libpng gives rows as asked");
  DecodedImage out;
  out.image.width = reader.width;
  out.image.height = reader.height;
  if (reader.wide_grey()) {
    std::vector<uint8_t> wide(bytes / 3 * 2);
    reader.set_target(wide.data());
    step(&PngReader::read_rows);
    out.image.rgb.resize(bytes);
    for (size_t i = 0; i < bytes / 3; ++i) {
      const uint8_t value = wide[2 * i] != 0 ? uint8_t{255} : wide[2 * i + 1];
      std::fill_n(out.image.rgb.data() + 3 * i, 3, value);
    }
  } else {
    out.image.rgb.resize(bytes);
    reader.set_target(out.image.rgb.data());
    step(&PngReader::read_rows);
  }
  // Pixels are all there: damage behind them costs only metadata.
  (void)reader.run(&PngReader::read_tail);
  reader.collect_metadata(out);
  return out;
}

}  // namespace decant::media
