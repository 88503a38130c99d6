// clang-format off
#include <cstdio>  // jpeglib.h needs it first
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include <csetjmp>
#include <cstring>

#include "base/errors.h"
#include "media/codec.h"

namespace decant::media {
namespace {

constexpr int kApp1 = JPEG_APP0 + 1;
constexpr std::string_view kExifHead("Exif\0\0", 6);
constexpr std::string_view kXmpHead("http://ns.adobe.com/xap/1.0/\0", 29);

// libjpeg reports an error by a call that must not return: it jumps back to run(). Frames between
// the two hold nothing with a destructor; what is allocated belongs to this object.
class JpegReader {
 public:
  JpegReader(std::span<const std::byte> file, int max_scans) : max_scans_(max_scans) {
    info_.err = jpeg_std_error(&errors_);
    errors_.error_exit = on_error;
    errors_.emit_message = [](j_common_ptr, int) {};
    errors_.output_message = [](j_common_ptr) {};
    info_.client_data = this;
    source_.next_input_byte = reinterpret_cast<const JOCTET*>(file.data());
    source_.bytes_in_buffer = file.size();
    source_.init_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = on_end;
    source_.skip_input_data = on_skip;
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.term_source = [](j_decompress_ptr) {};
    progress_.progress_monitor = on_progress;
  }
  ~JpegReader() { jpeg_destroy_decompress(&info_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  /// Runs a step of the decoder; false when it failed, and failure() tells why.
  bool run(void (JpegReader::*step)()) {
    if (setjmp(jump_) != 0) return false;
    (this->*step)();
    return true;
  }
  const char* failure() const { return failure_; }
  const jpeg_decompress_struct& info() const { return info_; }

  void read_header() {
    jpeg_create_decompress(&info_);
    info_.src = &source_;
    info_.progress = &progress_;
    jpeg_save_markers(&info_, kApp1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
  }
  void start() {
    info_.out_color_space = info_.num_components == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&info_);
  }
  void set_target(uint8_t* pixels, uint8_t* row) {
    pixels_ = pixels;
    row_ = row;
  }
  void read_rows() {
    const size_t width = info_.output_width;
    while (info_.output_scanline < info_.output_height) {
      uint8_t* to = pixels_ + info_.output_scanline * width * 3;
      uint8_t* from = info_.num_components == 4 ? row_ : to;
      if (jpeg_read_scanlines(&info_, &from, 1) != 1) ERREXIT(&info_, JERR_INPUT_EOF);
      if (info_.num_components == 4) cmyk_to_rgb(row_, to, width);
    }
  }
  void finish() { jpeg_finish_decompress(&info_); }

 private:
  static JpegReader& self(j_common_ptr info) {
    return *static_cast<JpegReader*>(info->client_data);
  }
  [[noreturn]] static void on_error(j_common_ptr info) {
    JpegReader& reader = self(info);
    info->err->format_message(info, reader.failure_);
    longjmp(reader.jump_, 1);
  }
  static boolean on_end(j_decompress_ptr info) {
    ERREXIT(info, JERR_INPUT_EOF);
    return FALSE;
  }
  static void on_skip(j_decompress_ptr info, long count) {
    if (count <= 0) return;
    if (static_cast<size_t>(count) > info->src->bytes_in_buffer) ERREXIT(info, JERR_INPUT_EOF);
    info->src->next_input_byte += count;
    info->src->bytes_in_buffer -= static_cast<size_t>(count);
  }
  // A progressive file of a few kilobytes may pass over millions of pixels thousands of times.
  static void on_progress(j_common_ptr info) {
    JpegReader& reader = self(info);
    if (reader.info_.input_scan_number <= reader.max_scans_) return;
    std::snprintf(reader.failure_, sizeof(reader.failure_), "more than %d scans",
                  reader.max_scans_);
    longjmp(reader.jump_, 1);
  }
  // Adobe stores CMYK inverted, and so is every CMYK file taken to be: each value is what is left.
  static void cmyk_to_rgb(const uint8_t* from, uint8_t* to, size_t width) {
    for (size_t x = 0; x < width; ++x, from += 4, to += 3) {
      const int light = from[3];
      for (int c = 0; c < 3; ++c) {
        const int product = (255 - from[c]) * light + 128;
        const int value = light - (((product >> 8) + product) >> 8);
        to[c] = static_cast<uint8_t>(value < 0 ? 0 : value);
      }
    }
  }

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  jmp_buf jump_{};
  char failure_[JMSG_LENGTH_MAX] = {};
  int max_scans_;
  uint8_t* pixels_ = nullptr;
  uint8_t* row_ = nullptr;
};

// Exif may be cut into several segments; they are joined in file order, heads of later ones
// removed.
void collect_metadata(const jpeg_decompress_struct& info, DecodedImage& out) {
  for (const jpeg_marker_struct* m = info.marker_list; m != nullptr; m = m->next) {
    const std::string_view data(reinterpret_cast<const char*>(m->data), m->data_length);
    if (data.starts_with(kExifHead)) {
      const auto body = std::as_bytes(std::span(data.substr(out.has_exif ? kExifHead.size() : 0)));
      out.exif.insert(out.exif.end(), body.begin(), body.end());
      out.has_exif = true;
    } else if (data.starts_with(kXmpHead)) {
      out.xmp = data.substr(kXmpHead.size());
    }
  }
}

}  // namespace

DecodedImage decode_jpeg(std::span<const std::byte> file, std::string_view name,
                         const ImageLimits& limits) {
  JpegReader reader(file, limits.scans);
  const auto step = [&](void (JpegReader::*what)()) {
    if (!reader.run(what)) refuse(name, "a readable JPEG", reader.failure());
  };
  step(&JpegReader::read_header);
  const jpeg_decompress_struct& info = reader.info();
  const size_t bytes = checked_rgb_bytes(info.image_width, info.image_height, name, limits);
  const int components = info.num_components;
  if (components != 1 && components != 3 && components != 4) {
    refuse(name, "a JPEG of 1, 3 or 4 components", fmt::format("{}", components));
  }
  DecodedImage out;
  collect_metadata(info, out);
  step(&JpegReader::start);
  if (info.output_width != info.image_width || info.output_height != info.image_height) {
    refuse(name, "a JPEG that decodes to the size it states", "another size");
  }
  out.image.width = info.image_width;
  out.image.height = info.image_height;
  out.image.rgb.resize(bytes);
  std::vector<uint8_t> row(components == 4 ? static_cast<size_t>(info.image_width) * 4 : 0);
  reader.set_target(out.image.rgb.data(), row.data());
  step(&JpegReader::read_rows);
  step(&JpegReader::finish);
  return out;
}

}  // namespace decant::media
