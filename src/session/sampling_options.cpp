#include "session/sampling_options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <optional>
#include <string>

#include "base/errors.h"
#include "sampling/params.h"

namespace decant {
namespace {

template <typename T>
std::optional<T> parse(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

[[noreturn]] void refuse(std::string_view name, std::string_view expected, std::string_view text) {
  throw UsageError("{}: expected {}, got {}", name, expected, quote(text));
}

template <typename T>
void set_number(std::optional<T>& field, std::string_view name, std::string_view text) {
  const NumberRange& range = sampling_range(name);
  const std::optional<T> value = parse<T>(text);
  if (!value || !range.contains(static_cast<double>(*value))) refuse(name, range.expected(), text);
  field = value;
}

template <typename Take>
void each_part(std::string_view text, const Take& take) {
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    take(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

std::string token_range() {
  return fmt::format("token ids from 0 to {}", std::numeric_limits<int32_t>::max());
}

void add_biases(GenerateOptions& options, std::string_view name, std::string_view text) {
  auto biases = options.logit_bias;
  each_part(text, [&](std::string_view part) {
    const size_t equals = std::min(part.find('='), part.size());
    const std::optional<int32_t> id = parse<int32_t>(part.substr(0, equals));
    const std::optional<float> bias =
        equals < part.size() ? parse<float>(part.substr(equals + 1)) : std::nullopt;
    if (!id || *id < 0 || !bias || !(*bias >= -kMaxBias && *bias <= kMaxBias))
      refuse(
          name,
          fmt::format("ID=VALUE with a token id and a number from {} to {}", -kMaxBias, kMaxBias),
          part);
    const auto same = std::find_if(biases.begin(), biases.end(),
                                   [&](const auto& each) { return each.first == *id; });
    if (same != biases.end())
      same->second = *bias;
    else
      biases.emplace_back(*id, *bias);
    if (biases.size() > kMaxBiases)
      refuse(name, fmt::format("at most {} tokens", kMaxBiases), part);
  });
  options.logit_bias = std::move(biases);
}

void add_stop_tokens(GenerateOptions& options, std::string_view name, std::string_view text) {
  auto tokens = options.stop_tokens;
  each_part(text, [&](std::string_view part) {
    const std::optional<int32_t> id = parse<int32_t>(part);
    if (!id || *id < 0) refuse(name, token_range(), part);
    tokens.push_back(*id);
  });
  options.stop_tokens = std::move(tokens);
}

/// A field by name: sets it, or takes it back for text without data.
struct Option {
  std::string_view name;
  void (*set)(GenerateOptions&, std::string_view name, std::string_view text);
  void (*reset)(GenerateOptions&);
};

template <auto Field>
constexpr Option number(std::string_view name) {
  return {name,
          [](GenerateOptions& o, std::string_view n, std::string_view t) {
            set_number(o.*Field, n, t);
          },
          [](GenerateOptions& o) { (o.*Field).reset(); }};
}

void set_seed(GenerateOptions& options, std::string_view name, std::string_view text) {
  const std::optional<uint64_t> value = parse<uint64_t>(text);
  if (!value)
    refuse(name, fmt::format("a whole number from 0 to {}", std::numeric_limits<uint64_t>::max()),
           text);
  options.seed = value;
}

void set_max_tokens(GenerateOptions& options, std::string_view name, std::string_view text) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  const std::optional<int64_t> value = parse<int64_t>(text);
  if (!value || *value < 1 || *value > kMost)
    refuse(name, fmt::format("a whole number from 1 to {}", kMost), text);
  options.max_tokens = *value;
}

void add_stop(GenerateOptions& options, std::string_view name, std::string_view text) {
  if (text.empty()) refuse(name, "a text", text);
  options.stop.emplace_back(text);
}

constexpr std::array kOptions = {
    Option{"max_tokens", set_max_tokens, [](GenerateOptions& o) { o.max_tokens = 0; }},
    number<&GenerateOptions::temperature>("temperature"),
    number<&GenerateOptions::top_k>("top_k"),
    number<&GenerateOptions::top_p>("top_p"),
    number<&GenerateOptions::min_p>("min_p"),
    number<&GenerateOptions::typical_p>("typical_p"),
    number<&GenerateOptions::repetition_penalty>("repetition_penalty"),
    number<&GenerateOptions::presence_penalty>("presence_penalty"),
    number<&GenerateOptions::frequency_penalty>("frequency_penalty"),
    Option{"logit_bias", add_biases, [](GenerateOptions& o) { o.logit_bias.clear(); }},
    number<&GenerateOptions::logprobs>("logprobs"),
    Option{"seed", set_seed, [](GenerateOptions& o) { o.seed.reset(); }},
    Option{"stop", add_stop, [](GenerateOptions& o) { o.stop.clear(); }},
    Option{"stop_tokens", add_stop_tokens, [](GenerateOptions& o) { o.stop_tokens.clear(); }},
};

}  // namespace

void set_sampling_option(GenerateOptions& options, std::string_view name, std::string_view text) {
  std::string wanted(name);
  std::replace(wanted.begin(), wanted.end(), '-', '_');
  for (const Option& option : kOptions) {
    if (option.name != wanted) continue;
    if (text == "default" && wanted != "stop")
      option.reset(options);
    else
      option.set(options, option.name, text);
    return;
  }
  throw UsageError("{}: expected one of {}, got none of them", quote(name),
                   fmt::join(sampling_option_names(), ", "));
}

std::span<const std::string_view> sampling_option_names() {
  static constexpr auto kNames = [] {
    std::array<std::string_view, kOptions.size()> names;
    for (size_t i = 0; i < names.size(); ++i) names[i] = kOptions[i].name;
    return names;
  }();
  return kNames;
}

}  // namespace decant
