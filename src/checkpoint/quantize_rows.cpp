#include "checkpoint/quantize_rows.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "base/errors.h"

namespace decant {
namespace {

constexpr int64_t kMaxGroup = 128;
constexpr int kLanes = 8;  // of the reductions: min and max give the same in any order
using Values = std::array<float, kMaxGroup>;
using Codes = std::array<uint8_t, kMaxGroup>;

float round_to(DType dtype, float value) {
  if (dtype == DType::kBF16) return bf16_to_float(float_to_bf16(value));
  if (dtype == DType::kF16) return f16_to_float(float_to_f16(value));
  return value;
}

void store(std::byte* plane, int64_t index, DType dtype, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(plane + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  std::memcpy(plane + index * 2, &bits, 2);
}

void load_group(const std::byte* source, DType dtype, int64_t first, int64_t count, DType target,
                Values& out) {
  const auto fill = [&](auto&& value) {
    for (int64_t i = 0; i < count; ++i) out[static_cast<size_t>(i)] = value(first + i);
  };
  if (dtype == DType::kBF16)
    fill([&](int64_t i) {
      uint16_t bits;
      std::memcpy(&bits, source + i * 2, 2);
      return bf16_to_float(bits);
    });
  else
    fill([&](int64_t i) { return load_float(source, dtype, i); });
  if (dtype != target)
    for (int64_t i = 0; i < count; ++i)
      out[static_cast<size_t>(i)] = round_to(target, out[static_cast<size_t>(i)]);
}

// What a group becomes: codes, and the numbers beside them as they will be stored.
struct Coded {
  Codes codes;
  float scale = 0;
  float bias = 0;
  uint8_t scale_code = 0;
};

struct Affine {
  float scale;
  float bias;
};

// MLX's choice of scale and bias for the values from `low` to `high`.
Affine standard(float low, float high, float bins) {
  if (bins == 1.0f)
    return {high - low < 1e-7f ? 1e-7f : high - low, low};  // the codes are the edges
  const bool from_low = std::abs(low) > std::abs(high);
  const float width = (high - low) / bins;
  float scale = width < 1e-7f ? 1e-7f : width;
  if (!from_low) scale = -scale;
  const float edge = from_low ? low : high;
  const float zero = std::rint(edge / scale);
  if (zero == 0) return {scale, 0};
  return {edge / zero, edge};
}

struct Range {
  float low;
  float high;
  bool finite;
};

Range range_of(std::span<const float> values) {
  std::array<float, kLanes> low;
  std::array<float, kLanes> high;
  low.fill(std::numeric_limits<float>::infinity());
  high.fill(-std::numeric_limits<float>::infinity());
  uint32_t exponents = 0;
  for (size_t i = 0; i < values.size(); i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      const float value = values[i + k];
      low[k] = value < low[k] ? value : low[k];
      high[k] = high[k] < value ? value : high[k];
      const uint32_t exponent = std::bit_cast<uint32_t>(value) & 0x7F800000u;
      exponents |= exponent == 0x7F800000u ? 1u : 0u;
    }
  }
  for (size_t k = 1; k < kLanes; ++k) {
    low[0] = low[k] < low[0] ? low[k] : low[0];
    high[0] = high[0] < high[k] ? high[k] : high[0];
  }
  return {low[0], high[0], exponents == 0};
}

// --- affine ------------------------------------------------------------------------------------

void code_affine(std::span<const float> values, Affine affine, float bins, Codes& codes) {
  for (size_t i = 0; i < values.size(); ++i) {
    float code = (values[i] - affine.bias) / affine.scale;
    code = code > 0.0f ? code : 0.0f;  // a NaN becomes 0
    code = code < bins ? code : bins;
    // Adding 2^23 rounds to the nearest integer, ties to even, like rint but in plain arithmetic.
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>((code + 8388608.0f) - 8388608.0f));
  }
}

double error_of(std::span<const float> values, const Codes& codes, Affine stored) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const float product = stored.scale * static_cast<float>(codes[i]);
    const double error = static_cast<double>(values[i]) - (product + stored.bias);
    sum += error * error;
  }
  return sum;
}

// The scale and bias of least squared error for these codes.
Affine fit(std::span<const float> values, const Codes& codes, Affine otherwise) {
  double q = 0;
  double qq = 0;
  double v = 0;
  double qv = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double code = codes[i];
    q += code;
    qq += code * code;
    v += values[i];
    qv += code * values[i];
  }
  const auto n = static_cast<double>(values.size());
  const double spread = n * qq - q * q;
  if (spread <= 0) return otherwise;
  const double scale = (n * qv - q * v) / spread;
  return {static_cast<float>(scale), static_cast<float>((v - scale * q) / n)};
}

// Tries narrower ranges, each refitted to its codes, and keeps the best.
double search_affine(std::span<const float> values, Range range, const Format& format, float bins,
                     Coded& best, double best_error) {
  const auto attempt = [&](Affine affine) {
    const Affine stored{round_to(format.dtype, affine.scale), round_to(format.dtype, affine.bias)};
    if (stored.scale == 0 || !std::isfinite(stored.scale) || !std::isfinite(stored.bias))
      return false;
    Codes codes;
    code_affine(values, stored, bins, codes);
    const double error = error_of(values, codes, stored);
    if (!(error < best_error)) return false;
    best.codes = codes;
    best.scale = affine.scale;
    best.bias = affine.bias;
    best_error = error;
    return true;
  };
  constexpr int kSteps = 12;
  for (int step = 0; step <= kSteps; ++step) {
    const float keep = 1.0f - 0.04f * static_cast<float>(step);
    const float low = range.low * keep;
    const float high = range.high * keep;
    if (!(high > low)) break;
    const Affine tries[] = {standard(low, high, bins), {(high - low) / bins, low}};
    for (const Affine& affine : tries) attempt(affine);
  }
  for (int round = 0; round < 4; ++round)
    if (!attempt(fit(values, best.codes, {best.scale, best.bias}))) break;
  return best_error;
}

void pack_affine(const Coded& group, size_t count, int bits, std::byte* packed) {
  // Eight codes fill exactly `bits` bytes, lowest bits first.
  for (size_t i = 0; i < count; i += 8) {
    uint64_t word = 0;
    for (size_t k = 0; k < 8; ++k)
      word |= static_cast<uint64_t>(group.codes[i + k]) << (k * static_cast<size_t>(bits));
    std::memcpy(packed, &word, static_cast<size_t>(bits));
    packed += bits;
  }
}

// --- micro formats -----------------------------------------------------------------------------

float micro_scale(const Format& format, uint8_t code) {
  return format.kind == Format::Kind::kNvfp4 ? e4m3_to_float(code) : e8m0_to_float(code);
}

// The scale MLX gives a group of this largest magnitude: its ratio to the largest element, for the
// mx formats the next power of two that is not below it. Ratios below 2^-127, for which MLX's code
// wraps around, take the smallest scale.
uint8_t standard_scale(const Format& format, DType dtype, float largest) {
  const float most = format.bits == 8 ? 448.0f : 6.0f;
  const float scale = round_to(dtype, largest / most);
  if (format.kind == Format::Kind::kNvfp4) return float_to_e4m3(scale);
  if (scale == 0) return 127;
  int exponent = 0;
  if (std::frexp(scale, &exponent) == 0.5f) --exponent;
  return static_cast<uint8_t>(std::clamp(127 + exponent, 0, 254));
}

// The E2M1 code nearest to a value, ties to the smaller magnitude; a zero is positive.
uint8_t nearest_e2m1(float value) {
  const float magnitude = std::fabs(value);
  int code = 0;
  for (const float edge : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f})
    code += magnitude > edge ? 1 : 0;
  return static_cast<uint8_t>(code + (code != 0 && value < 0 ? 8 : 0));
}

void code_micro(std::span<const float> values, const Format& format, DType dtype,
                uint8_t scale_code, Coded& out) {
  out.scale_code = scale_code;
  const float scale = micro_scale(format, scale_code);
  for (size_t i = 0; i < values.size(); ++i) {
    const float element = scale == 0 ? 0.0f : round_to(dtype, values[i] / scale);
    out.codes[i] = format.bits == 8 ? float_to_e4m3(element) : nearest_e2m1(element);
  }
}

double micro_error(std::span<const float> values, const Format& format, const Coded& group) {
  const float scale = micro_scale(format, group.scale_code);
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const float element =
        format.bits == 8 ? e4m3_to_float(group.codes[i]) : e2m1_to_float(group.codes[i]);
    const double error = static_cast<double>(values[i]) - element * scale;
    sum += error * error;
  }
  return sum;
}

// Tries the neighbouring scales, and keeps the best. Values are taken as they are: only what MLX
// would write is bound to its roundings.
double search_micro(std::span<const float> values, const Format& format, Coded& best,
                    double best_error) {
  const bool nvfp4 = format.kind == Format::Kind::kNvfp4;
  const int around = nvfp4 ? 6 : 1;
  const int last = nvfp4 ? 0x7E : 254;
  const int standard_code = best.scale_code;
  for (int code = std::max(0, standard_code - around);
       code <= std::min(last, standard_code + around); ++code) {
    Coded group;
    code_micro(values, format, DType::kF32, static_cast<uint8_t>(code), group);
    const double error = micro_error(values, format, group);
    if (!(error < best_error)) continue;
    best = group;
    best_error = error;
  }
  return best_error;
}

void pack_micro(const Coded& group, size_t count, int bits, std::byte* packed) {
  if (bits == 8) {
    std::memcpy(packed, group.codes.data(), count);
    return;
  }
  for (size_t i = 0; i < count; i += 2)
    packed[i / 2] = static_cast<std::byte>(group.codes[i] | group.codes[i + 1] << 4);
}

// One group; adds its errors to `error` and searches if that is given.
bool quantize_group(std::span<const float> values, const Format& format, DType rounded,
                    Coded& group, QuantizeError* error) {
  const Range range = range_of(values);
  double found = 0;
  double nearest = 0;
  if (format.is_micro()) {
    const float largest = std::max(std::fabs(range.low), std::fabs(range.high));
    code_micro(values, format, rounded, standard_scale(format, rounded, largest), group);
    if (error != nullptr) {
      nearest = micro_error(values, format, group);
      found = search_micro(values, format, group, nearest);
    }
  } else {
    const auto bins = static_cast<float>((1 << format.bits) - 1);
    const Affine affine = standard(range.low, range.high, bins);
    code_affine(values, affine, bins, group.codes);
    group.scale = affine.scale;
    group.bias = affine.bias;
    if (error != nullptr) {
      nearest =
          error_of(values, group.codes,
                   {round_to(format.dtype, affine.scale), round_to(format.dtype, affine.bias)});
      found = search_affine(values, range, format, bins, group, nearest);
    }
  }
  if (error != nullptr && range.finite) {
    for (const float value : values) error->values += static_cast<double>(value) * value;
    error->nearest += nearest;
    error->found += found;
  }
  return range.finite;
}

bool quantize(const SourceRows& source, const Format& format, const QuantizedPlanes& out,
              QuantizeError* error) {
  DECANT_ASSERT(!format.is_dense() && source.cols % format.group == 0,
                "rows are whole groups of a packed format");
  DECANT_ASSERT(is_dense_float(source.dtype), "the quantiser reads dense values");
  const int64_t group = format.group;
  bool finite = true;
  Values values;
  Coded coded;
  for (int64_t g = 0; g < source.rows * (source.cols / group); ++g) {
    load_group(source.data, source.dtype, g * group, group, source.rounded, values);
    const std::span<const float> live(values.data(), static_cast<size_t>(group));
    finite = quantize_group(live, format, source.rounded, coded, error) && finite;
    std::byte* packed = out.data + g * group * format.bits / 8;
    if (format.is_micro()) {
      pack_micro(coded, live.size(), format.bits, packed);
      out.scales[g] = static_cast<std::byte>(coded.scale_code);
    } else {
      pack_affine(coded, live.size(), format.bits, packed);
      store(out.scales, g, format.dtype, coded.scale);
      store(out.biases, g, format.dtype, coded.bias);
    }
  }
  return finite;
}

}  // namespace

QuantizeError& QuantizeError::operator+=(const QuantizeError& other) {
  values += other.values;
  nearest += other.nearest;
  found += other.found;
  return *this;
}

bool quantize_rows(const SourceRows& source, const Format& format, const QuantizedPlanes& out) {
  return quantize(source, format, out, nullptr);
}

bool search_rows(const SourceRows& source, const Format& format, const QuantizedPlanes& out,
                 QuantizeError& error) {
  return quantize(source, format, out, &error);
}

}  // namespace decant
