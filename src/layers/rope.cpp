#include "layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/json.h"

namespace decant::layers {
namespace {

constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e9;

// theta^(2i / rotary) of pair i.
float period(double theta, int64_t rotary, int64_t i) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(rotary);
  return static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
}

double read_theta(const ConfigReader& config, const ConfigReader& nested,
                  const RopeSource& source) {
  const bool inside = nested.has("rope_theta");
  const ConfigReader& reader = inside ? nested : config;
  const std::string_view key = inside ? "rope_theta" : source.theta_key;
  const double theta = reader.positive_number_or(key, source.theta);
  if (theta <= 1 || theta > kMaxTheta) reader.fail(key, "a number above 1, at most 1e15");
  return theta;
}

double read_factor(const ConfigReader& scaling) {
  return scaling.number_in_range("factor", 1, kMaxFactor);
}

void scale_llama3(const ConfigReader& scaling, std::vector<float>& inv_freq) {
  const auto factor = static_cast<float>(read_factor(scaling));
  const double low = scaling.positive_number("low_freq_factor");
  const double high = scaling.positive_number("high_freq_factor");
  if (high <= low) scaling.fail("high_freq_factor", "more than low_freq_factor");
  const auto original = static_cast<double>(scaling.positive("original_max_position_embeddings"));
  const auto longest = static_cast<float>(original / low);
  const auto shortest = static_cast<float>(original / high);
  for (float& f : inv_freq) {
    const float wavelength = 2 * std::numbers::pi_v<float> / f;
    if (wavelength > longest) {
      f /= factor;
    } else if (wavelength >= shortest) {
      const float smooth = (static_cast<float>(original) / wavelength - static_cast<float>(low)) /
                           static_cast<float>(high - low);
      f = (1 - smooth) * f / factor + smooth * f;
    }
  }
}

double magnitude(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

void scale_yarn(const ConfigReader& config, const ConfigReader& scaling, double theta,
                RopeParams& out) {
  const double factor = read_factor(scaling);
  const ConfigReader& origin = scaling.has("original_max_position_embeddings") ? scaling : config;
  const auto original = static_cast<double>(origin.positive(
      origin.first_of({"original_max_position_embeddings", "max_position_embeddings"})));
  const double fast = scaling.positive_number_or("beta_fast", 32);
  const double slow = scaling.positive_number_or("beta_slow", 1);
  if (slow >= fast) scaling.fail("beta_slow", "less than beta_fast");
  if (scaling.has("attention_factor"))
    out.attention_factor =
        static_cast<float>(scaling.number_in_range("attention_factor", 1e-3, 1e3));
  else if (scaling.has("mscale") && scaling.has("mscale_all_dim"))
    out.attention_factor =
        static_cast<float>(magnitude(factor, scaling.positive_number("mscale")) /
                           magnitude(factor, scaling.positive_number("mscale_all_dim")));
  else
    out.attention_factor = static_cast<float>(magnitude(factor, 1));

  const auto half = static_cast<int64_t>(out.inv_freq.size());
  const auto rotary = static_cast<double>(2 * half);
  // The dimension whose wave turns `turns` times over the original context.
  const auto dimension = [&](double turns) {
    return rotary * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension(fast), high = dimension(slow);
  if (scaling.value_or("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rotary - 1);
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < half; ++i) {
    const auto ramp =
        static_cast<float>(std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0));
    const float kept = 1 - ramp;
    const float waves = period(theta, 2 * half, i);
    out.inv_freq[static_cast<size_t>(i)] =
        1 / (static_cast<float>(factor) * waves) * (1 - kept) + 1 / waves * kept;
  }
}

// `partial_rotary_factor` of the pairs turn, each as if all did.
void keep_proportion(const ConfigReader& scaling, std::vector<float>& inv_freq) {
  const double part = scaling.number_in_range_or("partial_rotary_factor", 1, 1e-6, 1);
  const auto factor = static_cast<float>(scaling.number_in_range_or("factor", 1, 1, kMaxFactor));
  for (float& f : inv_freq) f /= factor;
  const auto kept = static_cast<int64_t>(part * static_cast<double>(inv_freq.size()));
  std::fill(inv_freq.begin() + kept, inv_freq.end(), 0.0f);
}

}  // namespace

std::shared_ptr<const RopeParams> read_rope(const ConfigReader& config, int64_t rotary,
                                            const RopeSource& source) {
  ConfigReader nested = config.object_or_empty("rope_parameters");
  if (source.layer_type.empty()) {
    for (std::string_view kind : {"full_attention", "sliding_attention"})
      if (nested.has(kind)) nested.fail(kind, "one rotation for all layers");
  } else if (config.has("rope_parameters")) {
    nested = nested.object(source.layer_type);
  }
  const double theta = read_theta(config, nested, source);
  ConfigReader scaling = nested;
  if (!nested.has("rope_type") && !nested.has("type") && source.scaling)
    scaling = config.object_or_empty("rope_scaling");
  const std::string key = scaling.first_of({"rope_type", "type"});
  const std::string type =
      scaling.expect_one_of(key, {"default", "linear", "llama3", "yarn", "proportional"});
  if (type != "proportional") scaling.expect("partial_rotary_factor", source.partial);
  config.expect("partial_rotary_factor", source.partial);
  config.expect("rope_traditional", false);

  auto out = std::make_shared<RopeParams>();
  for (int64_t i = 0; i < rotary / 2; ++i) out->inv_freq.push_back(1 / period(theta, rotary, i));
  if (type == "linear") {
    const auto factor = static_cast<float>(read_factor(scaling));
    for (float& f : out->inv_freq) f /= factor;
  } else if (type == "llama3") {
    scale_llama3(scaling, out->inv_freq);
  } else if (type == "yarn") {
    scale_yarn(config, scaling, theta, *out);
  } else if (type == "proportional") {
    keep_proportion(scaling, out->inv_freq);
  }
  return out;
}

std::shared_ptr<const RopeParams> axial_rope(double theta, int64_t head_dim,
                                             std::array<uint8_t, 2> axes) {
  auto out = std::make_shared<RopeParams>();
  const int64_t spatial = head_dim / 2;
  for (const uint8_t axis : axes)
    for (int64_t i = 0; i < spatial; i += 2) {
      const float exponent = static_cast<float>(i) / static_cast<float>(spatial);
      out->inv_freq.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
      out->axes.push_back(axis);
    }
  return out;
}

PartialRotary PartialRotary::read(const ConfigReader& config, int64_t head_dim,
                                  double default_share) {
  constexpr std::string_view kKey = "partial_rotary_factor";
  const ConfigReader nested = config.object_or_empty("rope_parameters");
  const ConfigReader& reader = nested.has(kKey) ? nested : config;
  const double share = reader.number_in_range_or(kKey, default_share, 0, 1);
  const auto dims = static_cast<int64_t>(static_cast<double>(head_dim) * share);
  if (dims < 2 || dims % 2 != 0)
    reader.fail(kKey, fmt::format("an even number of the {} dimensions of a head", head_dim));
  return {share, dims};
}

}  // namespace decant::layers
