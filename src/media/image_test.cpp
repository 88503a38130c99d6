#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <algorithm>
#include <fstream>

#include "media/orientation.h"
#include "media/testing.h"

namespace decant::media {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string hash_of(const Image& image) {
  return to_string(content_hash(std::as_bytes(std::span(image.rgb))));
}

std::vector<std::byte> picture_bytes(const std::string& name) {
  return fixture_bytes("pictures/" + name);
}

Json read_manifest() { return read_json_file(fixture("manifest.json")); }

// The hashes are Pillow's (scripts/differential/media.py --freeze).
TEST(Image, EqualsPillow) {
  const Json manifest = read_manifest();
  size_t count = 0;
  for (const Json& item : manifest.at("pictures")) {
    const auto name = item.at("file").get<std::string>();
    const Image image = load_image(fixture("pictures/" + name)).image;
    EXPECT_EQ(image.width, item.at("width").get<int64_t>()) << name;
    EXPECT_EQ(image.height, item.at("height").get<int64_t>()) << name;
    EXPECT_EQ(hash_of(image), item.at("sha256").get<std::string>()) << name;
    ++count;
  }
  EXPECT_EQ(count, 62u);
}

TEST(Image, ResizesAsPillow) {
  const Json manifest = read_manifest();
  const Image image = load_image(fixture("picture.png")).image;
  size_t count = 0;
  for (const Json& item : manifest.at("resizes")) {
    const auto filter = item.at("filter").get<std::string>();
    const auto width = item.at("width").get<int64_t>();
    const auto height = item.at("height").get<int64_t>();
    const ResizeFilter kind = filter == "bilinear"  ? ResizeFilter::kBilinear
                              : filter == "bicubic" ? ResizeFilter::kBicubic
                                                    : ResizeFilter::kLanczos;
    const Image resized = resize(image, width, height, kind, ResizeArithmetic::kPillow);
    EXPECT_EQ(hash_of(resized), item.at("sha256").get<std::string>())
        << filter << " " << width << " x " << height;
    ++count;
  }
  EXPECT_EQ(count, 21u);
}

// A file cut anywhere is refused, or, where only metadata is lost, gives the whole picture.
TEST(Image, CutFilesAreRefused) {
  const Json manifest = read_manifest();
  for (const Json& item : manifest.at("pictures")) {
    const auto name = item.at("file").get<std::string>();
    const std::vector<std::byte> bytes = picture_bytes(name);
    size_t refused = 0;
    for (size_t size = 0; size < bytes.size(); size += 1 + bytes.size() / 97) {
      const std::string message = error_of([&] {
        const Image image = decode_image(std::span(bytes).first(size), name);
        ASSERT_EQ(image.rgb.size(), static_cast<size_t>(image.width * image.height * 3));
      });
      if (message.empty()) continue;
      EXPECT_THAT(message, StartsWith("[media] " + name + ": expected ")) << size;
      ++refused;
    }
    EXPECT_GE(refused, 10u) << name;
    EXPECT_NE(error_of([&] { decode_image(std::span(bytes).first(bytes.size() / 2), name); }), "")
        << name;
  }
}

// Every byte in turn is changed: a picture of the right size or one of our errors.
TEST(Image, DamagedFilesAreReadOrRefused) {
  const ImageLimits limits = {.pixels = 1 << 20};
  for (const char* name : {"progressive.jpg", "cmyk.jpg", "exif.jpg", "type3-4-interlaced.png",
                           "exif.png", "lossy-alpha.webp", "animation.webp"}) {
    std::vector<std::byte> bytes = picture_bytes(name);
    for (size_t i = 0; i < bytes.size(); i += 1 + bytes.size() / 700) {
      const std::byte old = bytes[i];
      bytes[i] ^= std::byte{static_cast<uint8_t>(1 + i % 255)};
      EXPECT_NO_FATAL_FAILURE((void)error_of([&] {
        const Image image = decode_image(bytes, name, limits);
        ASSERT_EQ(image.rgb.size(), static_cast<size_t>(image.width * image.height * 3));
      }));
      bytes[i] = old;
    }
  }
}

TEST(Image, RefusesOtherFiles) {
  const auto refusal = [](std::string_view text) {
    return error_of([&] { decode_image(std::as_bytes(std::span(text)), "x"); });
  };
  EXPECT_EQ(refusal(""), "[media] x: expected a JPEG, PNG or WebP picture, got an empty file");
  EXPECT_THAT(refusal("GIF89a..."), HasSubstr("got a GIF"));
  EXPECT_THAT(refusal("%PDF-1.7"), HasSubstr("got a PDF"));
  EXPECT_THAT(refusal("hello\n"), HasSubstr("got a file that begins with \"hello\\x0a\""));
  EXPECT_THAT(refusal("\xff\xd8\xff"), HasSubstr("[media] x: expected a readable JPEG, got "));
}

// A head may state any size; it is refused before memory of that size is asked for.
TEST(Image, LimitsAreCheckedBeforeAllocation) {
  std::vector<std::byte> png = picture_bytes("exif.png");
  const auto set_size = [&](uint32_t width, uint32_t height) {
    for (size_t i = 0; i < 4; ++i) {
      png[16 + i] = static_cast<std::byte>(width >> (24 - 8 * i));
      png[20 + i] = static_cast<std::byte>(height >> (24 - 8 * i));
    }
    uint32_t crc = 0xffffffff;  // of the chunk's name and data
    for (size_t i = 12; i < 29; ++i) {
      crc ^= std::to_integer<uint32_t>(png[i]);
      for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
    }
    for (size_t i = 0; i < 4; ++i) png[29 + i] = static_cast<std::byte>(~crc >> (24 - 8 * i));
    return error_of([&] { decode_image(png, "x.png"); });
  };
  EXPECT_EQ(set_size(8000, 6251),
            "[media] x.png: expected at most 50000000 pixels and sides of 1 to 65535, got 8000 x "
            "6251");
  EXPECT_THAT(set_size(0x7fffffff, 0x7fffffff), HasSubstr("got 2147483647 x 2147483647"));
  EXPECT_THAT(set_size(70000, 1), HasSubstr("got 70000 x 1"));
  EXPECT_THAT(set_size(0, 1), HasSubstr("[media] x.png: expected a readable PNG"));
  EXPECT_THAT(set_size(5000, 5000), HasSubstr("[media] x.png: expected a readable PNG"));

  for (const char* name :
       {"444.jpg", "lossless.webp", "lossy.webp", "animation.webp", "cmyk.jpg"}) {
    EXPECT_THAT(error_of([&] { decode_image(picture_bytes(name), name, {.pixels = 1}); }),
                HasSubstr("expected at most 1 pixels"));
  }
  EXPECT_THAT(error_of([&] { decode_image(png, "x.png", {.file_bytes = 10}); }),
              HasSubstr("expected a picture of at most 10 bytes, got "));
  EXPECT_THAT(
      error_of([&] { decode_image(picture_bytes("progressive.jpg"), "x.jpg", {.scans = 3}); }),
      HasSubstr("got more than 3 scans"));
}

TEST(Image, OrientationOfDamagedMetadataIsIgnored) {
  const auto of = [](std::string_view text) {
    return exif_orientation(std::as_bytes(std::span(text)));
  };
  const std::string head("II*\0\x08\0\0\0", 8);
  const std::string entry("\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 12);
  const std::string one("\x01\0", 2);
  EXPECT_EQ(of(head + one + entry), 6);
  EXPECT_EQ(of(std::string("Exif\0\0", 6) + head + one + entry), 6);
  EXPECT_EQ(of(head + std::string("\xff\xff", 2) + entry), 6);  // more entries than there are
  EXPECT_EQ(of(head + one + entry.substr(0, 9)), 0);            // its value is cut off
  EXPECT_EQ(of(head + one), std::nullopt);
  EXPECT_EQ(of(std::string("II*\0\xff\xff\xff\xff", 8) + entry), std::nullopt);
  EXPECT_EQ(of("II"), std::nullopt);
  EXPECT_EQ(of("Exif\0\0"), std::nullopt);
  EXPECT_EQ(xmp_orientation("a tiff:Orientation b tiff:Orientation=\"8\""), 8);
  EXPECT_EQ(xmp_orientation("tiff:Orientation>3<"), 3);
  EXPECT_EQ(xmp_orientation("tiff:Orientation=\""), std::nullopt);
}

TEST(MediaFile, RefusesWhatIsNoFile) {
  const std::filesystem::path folder = ::testing::TempDir();
  EXPECT_THAT(error_of([&] { load_image(folder / "absent.png"); }),
              HasSubstr("absent.png: expected a file that can be read, got No such file"));
  EXPECT_THAT(error_of([&] { load_image(folder); }), HasSubstr("a regular file, got a folder"));
  const std::filesystem::path pipe = folder / "decant_media_pipe";
  std::filesystem::remove(pipe);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] { load_image(pipe); }), HasSubstr("a regular file, got another kind"));
  std::filesystem::remove(pipe);
  const std::filesystem::path large = folder / "decant_media_large";
  std::ofstream(large).close();
  std::filesystem::resize_file(large, 20'000'001);
  EXPECT_THAT(error_of([&] { load_image(large); }),
              HasSubstr("expected a file of at most 20000000 bytes, got 20000001 bytes"));
  std::filesystem::remove(large);
}

TEST(ContentHash, IsSha256) {
  const auto of = [](std::string_view text) {
    return to_string(content_hash(std::as_bytes(std::span(text))));
  };
  EXPECT_EQ(of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(of(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace decant::media
