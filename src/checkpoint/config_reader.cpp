#include "checkpoint/config_reader.h"

#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/errors.h"
#include "base/json.h"

namespace decant {
namespace {

template <typename T>
constexpr std::string_view type_text() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_integral_v<T>) return "an integer";
  if constexpr (std::is_floating_point_v<T>) return "a number";
  return "a string";
}

template <typename T>
std::optional<T> convert(const Json& value) {
  if constexpr (std::is_same_v<T, bool>) {
    if (value.is_boolean()) return value.get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (value.is_number_unsigned()) {
      const auto number = value.get<uint64_t>();
      if (std::in_range<T>(number)) return static_cast<T>(number);
    } else if (value.is_number_integer()) {
      const auto number = value.get<int64_t>();
      if (std::in_range<T>(number)) return static_cast<T>(number);
    }
  } else if constexpr (std::is_floating_point_v<T>) {
    if (value.is_number()) {
      const auto number = value.get<double>();
      if (std::isfinite(number) && std::abs(number) <= std::numeric_limits<T>::max())
        return static_cast<T>(number);
    }
  } else {
    if (value.is_string()) return value.get<std::string>();
  }
  return std::nullopt;
}

const Json& empty_object() {
  static const Json empty = Json::object();
  return empty;
}

}  // namespace

ConfigReader::ConfigReader(const Json& json, std::string where)
    : ConfigReader(json, std::move(where), "") {}

ConfigReader::ConfigReader(const Json& json, std::string where, std::string prefix)
    : json_(&json), where_(std::move(where)), prefix_(std::move(prefix)) {
  if (!json.is_object())
    throw ConfigError("[config] {}: expected an object, got {}", where_, describe(json));
}

void ConfigReader::fail(std::string_view key, std::string_view expected,
                        std::string_view got) const {
  throw ConfigError("[config] {}{}: expected {}, got {} (in {})", prefix_, key, expected, got,
                    where_);
}

void ConfigReader::fail(std::string_view key, std::string_view expected) const {
  const auto found = json_->find(key);
  fail(key, expected, found == json_->end() ? "nothing" : describe(*found));
}

const Json* ConfigReader::find(std::string_view key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

const Json& ConfigReader::at(std::string_view key, std::string_view expected) const {
  const Json* value = find(key);
  if (value == nullptr) fail(key, expected);
  return *value;
}

bool ConfigReader::has(std::string_view key) const { return find(key) != nullptr; }

std::string ConfigReader::first_of(std::initializer_list<std::string_view> keys) const {
  for (std::string_view key : keys)
    if (has(key)) return std::string(key);
  return std::string(*keys.begin());
}

template <typename T>
T ConfigReader::require(std::string_view key) const {
  const auto value = convert<T>(at(key, type_text<T>()));
  if (!value) fail(key, type_text<T>());
  return *value;
}

template <typename T>
std::optional<T> ConfigReader::optional(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return require<T>(key);
}

template <typename T>
T ConfigReader::value_or(std::string_view key, T fallback) const {
  return has(key) ? require<T>(key) : fallback;
}

#define DECANT_CONFIG_TYPE(T)                                                  \
  template T ConfigReader::require<T>(std::string_view) const;                 \
  template std::optional<T> ConfigReader::optional<T>(std::string_view) const; \
  template T ConfigReader::value_or<T>(std::string_view, T) const
DECANT_CONFIG_TYPE(bool);
DECANT_CONFIG_TYPE(int);
DECANT_CONFIG_TYPE(int64_t);
DECANT_CONFIG_TYPE(float);
DECANT_CONFIG_TYPE(double);
DECANT_CONFIG_TYPE(std::string);
#undef DECANT_CONFIG_TYPE

std::string ConfigReader::value_or(std::string_view key, const char* fallback) const {
  return value_or<std::string>(key, std::string(fallback));
}

int64_t ConfigReader::in_range(std::string_view key, int64_t low, int64_t high) const {
  const auto expected = fmt::format("an integer from {} to {}", low, high);
  const auto value = convert<int64_t>(at(key, expected));
  if (!value || *value < low || *value > high) fail(key, expected);
  return *value;
}

int64_t ConfigReader::in_range_or(std::string_view key, int64_t fallback, int64_t low,
                                  int64_t high) const {
  return has(key) ? in_range(key, low, high) : fallback;
}

double ConfigReader::number_in_range(std::string_view key, double low, double high) const {
  const auto expected = fmt::format("a number from {} to {}", low, high);
  const auto value = convert<double>(at(key, expected));
  if (!value || *value < low || *value > high) fail(key, expected);
  return *value;
}

double ConfigReader::number_in_range_or(std::string_view key, double fallback, double low,
                                        double high) const {
  return has(key) ? number_in_range(key, low, high) : fallback;
}

double ConfigReader::positive_number(std::string_view key) const {
  const auto value = convert<double>(at(key, "a number above 0"));
  if (!value || *value <= 0) fail(key, "a number above 0");
  return *value;
}

double ConfigReader::positive_number_or(std::string_view key, double fallback) const {
  return has(key) ? positive_number(key) : fallback;
}

void ConfigReader::expect(std::string_view key, bool value) const {
  if (has(key) && convert<bool>(at(key, "")) != value) fail(key, value ? "true" : "false");
}

void ConfigReader::expect(std::string_view key, int value) const {
  if (has(key) && convert<int64_t>(at(key, "")) != value) fail(key, std::to_string(value));
}

void ConfigReader::expect(std::string_view key, double value) const {
  if (has(key) && convert<double>(at(key, "")) != value) fail(key, fmt::format("{}", value));
}

void ConfigReader::expect(std::string_view key, const char* value) const {
  if (has(key) && convert<std::string>(at(key, "")) != value) fail(key, quote(value));
}

std::string ConfigReader::expect_one_of(std::string_view key,
                                        std::initializer_list<std::string_view> values) const {
  if (!has(key)) return std::string(*values.begin());
  const auto value = convert<std::string>(at(key, ""));
  std::string expected;
  for (std::string_view candidate : values) {
    if (value == candidate) return *value;
    expected += (expected.empty() ? "" : " or ") + quote(candidate);
  }
  fail(key, expected);
}

void ConfigReader::require_keys(std::initializer_list<std::string_view> keys) const {
  std::string missing;
  for (std::string_view key : keys)
    if (!has(key)) missing += fmt::format("{}{}{}", missing.empty() ? "" : ", ", prefix_, key);
  if (!missing.empty())
    throw ConfigError("[config] {}: expected {}, got nothing there", where_, missing);
}

const Json& ConfigReader::list(std::string_view key, std::optional<int64_t> length) const {
  const auto expected =
      length ? fmt::format("a list of {}", *length) : fmt::format("a list of at most {}", kMaxList);
  const Json& value = at(key, expected);
  if (!value.is_array() || value.size() > kMaxList ||
      (length && static_cast<int64_t>(value.size()) != *length))
    fail(key, expected);
  return value;
}

namespace {

template <typename T>
std::vector<T> convert_all(const ConfigReader& reader, const Json& list, std::string_view key) {
  std::vector<T> out;
  out.reserve(list.size());
  for (const Json& element : list) {
    const auto value = convert<T>(element);
    if (!value)
      reader.fail(fmt::format("{}[{}]", key, out.size()), type_text<T>(), describe(element));
    out.push_back(*value);
  }
  return out;
}

}  // namespace

std::vector<int64_t> ConfigReader::ints(std::string_view key, std::optional<int64_t> length) const {
  return convert_all<int64_t>(*this, list(key, length), key);
}
std::vector<double> ConfigReader::numbers(std::string_view key,
                                          std::optional<int64_t> length) const {
  return convert_all<double>(*this, list(key, length), key);
}
std::vector<std::string> ConfigReader::strings(std::string_view key,
                                               std::optional<int64_t> length) const {
  return convert_all<std::string>(*this, list(key, length), key);
}
std::vector<bool> ConfigReader::bools(std::string_view key, std::optional<int64_t> length) const {
  return convert_all<bool>(*this, list(key, length), key);
}

bool ConfigReader::is_list(std::string_view key) const {
  const Json* value = find(key);
  return value != nullptr && value->is_array();
}
bool ConfigReader::is_object(std::string_view key) const {
  const Json* value = find(key);
  return value != nullptr && value->is_object();
}

ConfigReader ConfigReader::object(std::string_view key) const {
  const Json& value = at(key, "an object");
  if (!value.is_object()) fail(key, "an object");
  return {value, where_, fmt::format("{}{}.", prefix_, key)};
}

ConfigReader ConfigReader::object_or_empty(std::string_view key) const {
  if (has(key)) return object(key);
  return {empty_object(), where_, fmt::format("{}{}.", prefix_, key)};
}

}  // namespace decant
