#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "base/errors.h"
#include "media/codec.h"

namespace decant::media {
namespace {

struct DeleteDemuxer {
  void operator()(WebPDemuxer* demuxer) const { WebPDemuxDelete(demuxer); }
};
struct DeleteDecoder {
  void operator()(WebPAnimDecoder* decoder) const { WebPAnimDecoderDelete(decoder); }
};

std::span<const std::byte> chunk(const WebPDemuxer* demuxer, const char* name) {
  WebPChunkIterator found;
  std::span<const std::byte> bytes;
  if (WebPDemuxGetChunk(demuxer, name, 1, &found) != 0) {
    // The chunk is a view of the file, which outlives the iterator.
    bytes = std::as_bytes(std::span(found.chunk.bytes, found.chunk.size));
    WebPDemuxReleaseChunkIterator(&found);
  }
  return bytes;
}

}  // namespace

DecodedImage decode_webp(std::span<const std::byte> file, std::string_view name,
                         const ImageLimits& limits) {
  const WebPData data = {reinterpret_cast<const uint8_t*>(file.data()), file.size()};
  const std::unique_ptr<WebPDemuxer, DeleteDemuxer> demuxer(WebPDemux(&data));
  if (!demuxer) refuse(name, "a readable WebP", "a damaged or cut file");
  const int64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH);
  const int64_t height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  const size_t bytes = checked_rgb_bytes(width, height, name, limits);

  // The animation decoder also reads stills, and composes the first frame on its canvas.
  WebPAnimDecoderOptions options;
  if (WebPAnimDecoderOptionsInit(&options) == 0) {
    throw RuntimeError("[media] {}: libwebp is not the version decant was built with", name);
  }
  options.color_mode = MODE_RGBA;
  const std::unique_ptr<WebPAnimDecoder, DeleteDecoder> decoder(
      WebPAnimDecoderNew(&data, &options));
  uint8_t* rgba = nullptr;
  int timestamp = 0;
  if (!decoder || WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp) == 0) {
    refuse(name, "a readable WebP", "damaged picture data");
  }
  DecodedImage out;
  out.image.width = width;
  out.image.height = height;
  out.image.rgb.resize(bytes);
  for (size_t i = 0; i < bytes / 3; ++i) {
    for (size_t c = 0; c < 3; ++c) out.image.rgb[3 * i + c] = rgba[4 * i + c];
  }
  const auto exif = chunk(demuxer.get(), "EXIF");
  out.exif.assign(exif.begin(), exif.end());
  out.has_exif = !exif.empty();
  const auto xmp = chunk(demuxer.get(), "XMP ");
  out.xmp.assign(reinterpret_cast<const char*>(xmp.data()), xmp.size());
  return out;
}

}  // namespace decant::media
