#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <chrono>

#include "checkpoint/testing.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using namespace decant::testing;

std::string error_of(const std::string& file) {
  return model_error(
      [&] { parse_safetensors(std::as_bytes(std::span(file.data(), file.size())), "f"); });
}

constexpr std::string_view kTwo =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},)"
    R"("a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}} )";

TEST(Safetensors, ReadsTensorsInDataOrder) {
  TemporaryFolder folder;
  std::string text = safetensors_text(kTwo, 12);
  text[text.size() - 12] = 7;
  write_file(folder / "f.safetensors", text);
  const auto file = SafetensorsFile::open(folder / "f.safetensors");
  ASSERT_EQ(file->tensors().size(), 2u);
  EXPECT_EQ(file->tensors()[0].name, "a");
  EXPECT_EQ(file->tensors()[0].bytes[0], std::byte{7});
  EXPECT_EQ(file->tensors()[1].shape(), Shape({2}));
  EXPECT_EQ(file->find("b")->dtype, DType::kF32);
  EXPECT_EQ(file->find("b")->bytes.size(), 8u);
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->metadata(), (SafetensorsMetadata{{"format", "pt"}}));
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  // Empty tensors, rank 0, rank 8, escapes in names, fields in any order, unknown fields.
  const auto parse = [](std::string_view header, size_t data) {
    const std::string text = safetensors_text(header, data);
    return parse_safetensors(std::as_bytes(std::span(text.data(), text.size())), "f");
  };
  EXPECT_EQ(parse("{}", 0).tensors.size(), 0u);
  EXPECT_EQ(parse("{}   ", 0).tensors.size(), 0u);
  EXPECT_TRUE(parse(R"({"__metadata__": null })", 0).metadata.empty());  // as MLX writes it
  const auto header =
      parse(R"({"z":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]},)"
            R"("s":{"shape":[],"data_offsets":[0,2],"dtype":"BF16","later":[{"x":[1e5,null,-3]}]},)"
            R"("r":{"dtype":"I8","shape":[1,1,1,1,1,1,1,2],"data_offsets":[2,4]},)"
            R"("q\u00e9\"\ud83d\ude00":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
            4);
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.tensors[1].shape(), Shape());
  EXPECT_EQ(header.tensors[2].rank, 8);
  EXPECT_EQ(header.tensors[2].shape(), std::nullopt);
  EXPECT_EQ(header.tensors[3].name, "q\xc3\xa9\"\xf0\x9f\x98\x80");
}

TEST(Safetensors, RefusesEveryTruncation) {
  const std::string text = safetensors_text(kTwo, 12);
  ASSERT_EQ(error_of(text), "");
  for (size_t size = 0; size < text.size(); ++size)
    EXPECT_NE(error_of(text.substr(0, size)), "") << size;
}

struct BadCase {
  std::string header;
  size_t data;
  std::string message;
};

std::string tensor(std::string_view name, std::string_view rest) {
  return fmt::format(R"("{}":{{{}}})", name, rest);
}
std::string u8(std::string_view name, size_t begin, size_t end) {
  return tensor(name, fmt::format(R"("dtype":"U8","shape":[{}],"data_offsets":[{},{}])",
                                  end - begin, begin, end));
}

TEST(Safetensors, RefusesBadHeaders) {
  const std::vector<BadCase> cases = {
      {"", 0, "empty header"},
      {" {}", 0, "'{' first"},
      {"[]", 0, "'{' first"},
      {"{", 0, "header byte 1"},
      {"{}x", 0, "the end of the header"},
      {"{}{}", 0, "the end of the header"},
      {"{\"\xff\":{}}", 0, "UTF-8"},
      {"{\"a\n\":1}", 0, "control character"},
      {"{\"\\q\":1}", 0, "escape"},
      {"{\"\\ud800\":1}", 0, "surrogate"},
      {"{\"\\udc00\":1}", 0, "surrogate"},
      {"{" + u8("a", 0, 1) + "," + u8("a", 1, 2) + "}", 2, "\"a\" twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "\"__metadata__\" twice"},
      {R"({"__metadata__":{"x":"1","x":"2"}})", 0, "\"x\" twice"},
      {R"({"__metadata__":{"x":1}})", 0, "a string"},
      {R"({"__metadata__":nul})", 0, "'{'"},
      {R"({"__metadata__":nullx})", 0, "',' or '}'"},
      {"{" + u8("a", 0, 2) + "," + u8("b", 1, 3) + "}", 3, "\"b\": overlap: expected it at byte 2"},
      {"{" + u8("a", 0, 2) + "," + u8("b", 3, 4) + "}", 4, "\"b\": hole: expected it at byte 2"},
      {"{" + u8("a", 1, 2) + "}", 2, "hole: expected it at byte 0 (the data's start), got 1"},
      {"{" + u8("a", 0, 2) + "}", 3, "expected the file to end after 2 bytes of tensors, got 1"},
      {"{" + u8("a", 0, 2) + "}", 1, "incomplete file: expected 2 bytes of tensors, got 1"},
      {"{}", 1, "got 1 more"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[1],"data_offsets":[1,0])") + "}", 1,
       "begin <= end"},
      {"{" + tensor("a", R"("dtype":"F32","shape":[1],"data_offsets":[0,3])") + "}", 3,
       "expected 4 bytes for (1) of F32, got 3"},
      {"{" + tensor("a", R"("dtype":"F99","shape":[1],"data_offsets":[0,3])") + "}", 3,
       "known dtype, got \"F99\""},
      {"{" + tensor("a", R"("dtype":"U8","shape":[-1],"data_offsets":[0,3])") + "}", 3,
       "not negative"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[1.0],"data_offsets":[0,3])") + "}", 3,
       "an integer"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[3],"data_offsets":[0,3e0])") + "}", 3,
       "an integer"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[03],"data_offsets":[0,3])") + "}", 3,
       "an integer"},
      {"{" + tensor("a", R"("dtype":"U8","shape":"3","data_offsets":[0,3])") + "}", 3, "'['"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,0])") +
           "}",
       0, "64 bits"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,0])") +
           "}",
       0, "2^63"},
      {"{" + tensor("a", R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0])") +
           "}",
       0, "expected a size of 64 bits"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])") + "}",
       1, "at most 8 dimensions"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[1],"data_offsets":[0])") + "}", 1, "2 numbers"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[1],"data_offsets":[0,1,1])") + "}", 1,
       "2 numbers"},
      {"{" + tensor("a", R"("dtype":"U8","shape":[1])") + "}", 1, "no data_offsets"},
      {"{" + tensor("a", R"("shape":[1],"data_offsets":[0,1])") + "}", 1, "no dtype"},
      {"{" + tensor("a", R"("dtype":"U8","data_offsets":[0,1])") + "}", 1, "no shape"},
      {"{" + tensor("a", R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])") + "}", 1,
       "\"a.dtype\" twice"},
      {R"({"a":{"x":)" + std::string(100000, '[') + "}}", 0, "levels of nesting"},
      {R"({"a":{"x":bogus}})", 0, "a JSON value"},
      {R"({"a":{},})", 0, "no dtype"},
      {R"({"__metadata__":{},})", 0, "a string"},
  };
  for (const BadCase& bad : cases) {
    const std::string message = error_of(safetensors_text(bad.header, bad.data));
    EXPECT_THAT(message, HasSubstr(bad.message)) << bad.header.substr(0, 200);
    EXPECT_THAT(message, HasSubstr("[safetensors] f: ")) << bad.header.substr(0, 200);
  }
}

TEST(Safetensors, RefusesBadLengths) {
  EXPECT_THAT(error_of(""), HasSubstr("expected at least 8 bytes, got 0"));
  EXPECT_THAT(error_of(std::string(8, '\0')), HasSubstr("empty header"));
  EXPECT_THAT(error_of(std::string(8, '\xff')),
              HasSubstr("expected at most 100000000, got 18446744073709551615"));
  std::string beyond = safetensors_text("{}");
  beyond[0] = 3;
  EXPECT_THAT(error_of(beyond), HasSubstr("incomplete file: expected 3 bytes of header, got 2"));
  EXPECT_THAT(model_error([] { SafetensorsFile::open("/nonexistent/f"); }), HasSubstr("f"));
}

TEST(Safetensors, ParsesALargeHeaderQuickly) {
  std::string header = "{";
  for (size_t i = 0; header.size() < 10'000'000; ++i)
    header += (i > 0 ? "," : "") +
              u8(fmt::format("model.layers.{}.mlp.experts.gate.weight", i), i * 4, i * 4 + 4);
  header += "}";
  size_t count = 0;
  for (size_t at = 0; (at = header.find("dtype", at)) != std::string::npos; ++at) ++count;
  const std::string text = safetensors_text(header, count * 4);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(error_of(text), "");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
}

TEST(SafetensorsWriter, RoundTripsAndPlacesData) {
  TemporaryFolder folder;
  const std::vector<TensorDeclaration> tensors = {
      {"x\"\n", DType::kF32, {2, 3}}, {"empty", DType::kU8, {0, 5}}, {"s", DType::kBF16, {}}};
  std::vector<std::byte> data(26);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  for (int offset : {-1, 0, 8, 37, 63}) {
    const auto path = folder / fmt::format("f{}.safetensors", offset + 1);
    SafetensorsWriter writer(path, tensors, {{"format", "mlx"}, {"k", "v\\"}},
                             offset < 0 ? std::nullopt : std::optional(offset));
    writer.write(std::span(data).first(5));
    writer.write(std::span(data).subspan(5));
    EXPECT_FALSE(std::filesystem::exists(path));  // only commit() makes it visible
    writer.commit();
    const auto file = SafetensorsFile::open(path);
    EXPECT_EQ(file->data_offset() % (offset < 0 ? 8 : 64), offset < 0 ? 0u : unsigned(offset));
    EXPECT_EQ(file->metadata(), (SafetensorsMetadata{{"format", "mlx"}, {"k", "v\\"}}));
    ASSERT_NE(file->find("x\"\n"), nullptr);
    EXPECT_EQ(file->find("x\"\n")->bytes[23], std::byte{23});
    EXPECT_EQ(file->find("s")->bytes[1], std::byte{25});
    EXPECT_EQ(file->find("empty")->shape(), Shape({0, 5}));
  }
}

TEST(SafetensorsWriter, RefusesBadDeclarations) {
  TemporaryFolder folder;
  const auto declare = [&](std::vector<TensorDeclaration> tensors) {
    return model_error([&] { SafetensorsWriter(folder / "f", std::move(tensors)); });
  };
  EXPECT_THAT(declare({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}), HasSubstr("\"a\" twice"));
  EXPECT_THAT(declare({{"a", DType::kU8, {INT64_MAX, 4}}}), HasSubstr("64 bits"));
  EXPECT_THAT(declare({{"a", DType::kU8, {-1}}}), HasSubstr("64 bits"));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));  // nothing left behind
  EXPECT_THROW(SafetensorsWriter("/nonexistent/f", {}), RuntimeError);
  SafetensorsWriter unfinished(folder / "u", {{"a", DType::kU8, {1}}});
  EXPECT_THROW(unfinished.commit(), InternalError);
}

}  // namespace
}  // namespace decant
