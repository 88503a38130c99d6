#include <gtest/gtest.h>

#include <map>

#include "checkpoint/testing.h"
#include "checkpoint/weight_load.h"

namespace decant {
namespace {

using ::testing::HasSubstr;
using testing::model_error;

/// Tensors of float32 whose element i is i.
class Counting : public TensorSource {
 public:
  void add(const std::string& name, const std::vector<int64_t>& dims) {
    TensorInfo info;
    info.name = name;
    info.rank = static_cast<uint8_t>(dims.size());
    size_t count = 1;
    for (size_t i = 0; i < dims.size(); ++i) {
      info.sizes.at(i) = dims[i];
      count *= static_cast<size_t>(dims[i]);
    }
    auto& values = values_[name];
    for (size_t i = 0; i < count; ++i) values.push_back(static_cast<float>(i));
    info.bytes = std::as_bytes(std::span(values));
    infos_[name] = info;
  }
  TensorRef find(std::string_view name) const override {
    const auto found = infos_.find(std::string(name));
    return {found == infos_.end() ? nullptr : &found->second, nullptr};
  }
  std::vector<std::string_view> names() const override {
    std::vector<std::string_view> out;
    for (const auto& [name, info] : infos_) out.push_back(name);
    return out;
  }
  const QuantizationConfig& quantization() const override { return quantization_; }
  std::string description() const override { return "counting"; }

 private:
  std::map<std::string, TensorInfo> infos_;
  std::map<std::string, std::vector<float>> values_;
  QuantizationConfig quantization_;
};

std::vector<float> values_of(const Weight& weight) {
  std::vector<float> out;
  for (int64_t i = 0; i < weight.shape.count(); ++i)
    out.push_back(load_float(weight.view().data, weight.format.dtype, i));
  return out;
}

TEST(Kernels, ComeAsRowsOfTapsOfChannels) {
  const auto source = std::make_shared<Counting>();
  source->add("first.weight", {2, 2, 1, 3});
  source->add("last.weight", {2, 1, 3, 2});
  source->add("pixel.weight", {2, 3, 1, 1});
  WeightLoad load(source);
  const WeightScope root = load.root();
  const Weight* first = (root / "first").kernel({.out = 2, .in = 2, .rows = 1, .columns = 3});
  const Weight* last = (root / "last").kernel({.out = 2, .in = 2, .rows = 1, .columns = 3});
  const Weight* pixel = (root / "pixel").kernel({.out = 2, .in = 3});
  EXPECT_EQ(load.finish()->weights().size(), 3u);
  EXPECT_EQ(first->shape, (Shape{2, 6}));
  EXPECT_EQ(values_of(*first), (std::vector<float>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
  EXPECT_EQ(values_of(*last), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(values_of(*pixel), (std::vector<float>{0, 1, 2, 3, 4, 5}));
}

// Three taps of three channels: only the caller can know which order it is.
TEST(Kernels, OfTwoPossibleOrdersTakeTheGivenOne) {
  for (const bool channels_last : {false, true}) {
    const auto source = std::make_shared<Counting>();
    source->add("k.weight", {1, 3, 3, 3});
    WeightLoad load(source);
    const Weight* kernel = (load.root() / "k").kernel({1, 3, 3, 3, channels_last});
    load.finish();
    EXPECT_EQ(values_of(*kernel)[1], channels_last ? 1 : 9);
    EXPECT_EQ(values_of(*kernel)[3], channels_last ? 3 : 1);
  }
}

TEST(Kernels, OfSingleChannelsComeTapByTap) {
  const auto source = std::make_shared<Counting>();
  source->add("first.weight", {3, 1, 2, 2});
  source->add("last.weight", {3, 2, 2, 1});
  WeightLoad load(source);
  const Weight* first = (load.root() / "first").taps(3, 2, 2);
  const Weight* last = (load.root() / "last").taps(3, 2, 2);
  load.finish();
  EXPECT_EQ(first->shape, (Shape{4, 3}));
  EXPECT_EQ(first->format, Format::dense(DType::kF32));
  EXPECT_EQ(values_of(*first), (std::vector<float>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
  EXPECT_EQ(values_of(*last), values_of(*first));
}

TEST(Kernels, OfOtherShapesAreReportedTogether) {
  const auto source = std::make_shared<Counting>();
  source->add("square.weight", {2, 3, 3, 3});
  source->add("flat.weight", {2, 27});
  WeightLoad load(source);
  (load.root() / "square").kernel({.out = 2, .in = 4, .rows = 3, .columns = 3});
  (load.root() / "flat").kernel({.out = 2, .in = 3, .rows = 3, .columns = 3});
  (load.root() / "none").taps(5, 3, 3);
  const std::string error = model_error([&] { load.finish(); });
  EXPECT_THAT(error, HasSubstr("1 missing, 2 of another shape"));
  EXPECT_THAT(error, HasSubstr("square.weight: expected F32, F16 or BF16 (2,4,3,3) or (2,3,3,4), "
                               "got F32 (2,3,3,3)"));
  EXPECT_THAT(error, HasSubstr("flat.weight: expected"));
  EXPECT_THAT(error, HasSubstr("none.weight: expected (5,1,3,3) or (5,3,3,1)"));
}

}  // namespace
}  // namespace decant
