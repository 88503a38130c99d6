#include "media/settings.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/errors.h"
#include "base/json.h"

namespace decant::media {
namespace {

const Json kNothing = Json::object();

}  // namespace

Settings::Settings(const Json& file, std::string where,
                   std::initializer_list<std::string_view> sections)
    : json_(&file), where_(std::move(where)) {
  if (!file.is_object()) {
    throw ConfigError("[media] {}: expected an object, got {}", where_, describe(file));
  }
  for (const std::string_view section : sections) {
    const auto found = file.find(section);
    if (found == file.end() || found->is_null()) continue;
    if (!found->is_object()) fail(section, "an object");
    json_ = &*found;
    prefix_ = std::string(section) + ".";
    return;
  }
}

Settings::Settings(const Json& json, std::string where, std::string prefix)
    : json_(&json), where_(std::move(where)), prefix_(std::move(prefix)) {}

const Json* Settings::find(std::string_view key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

void Settings::fail(std::string_view key, std::string_view expected) const {
  const Json* value = find(key);
  throw ConfigError("[media] {}: {}{}: expected {}, got {}", where_, prefix_, key, expected,
                    value == nullptr ? "nothing" : describe(*value));
}

int64_t Settings::integer(std::string_view key, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (value != nullptr && value->is_number_integer()) {
    // An unsigned value above int64 would wrap in get<int64_t>.
    const bool huge = value->is_number_unsigned() &&
                      value->get<uint64_t>() > static_cast<uint64_t>(high < 0 ? 0 : high);
    if (!huge && value->get<int64_t>() >= low && value->get<int64_t>() <= high) {
      return value->get<int64_t>();
    }
  }
  fail(key, fmt::format("an integer from {} to {}", low, high));
}

int64_t Settings::integer_or(std::string_view key, int64_t fallback, int64_t low,
                             int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double Settings::number_or(std::string_view key, double fallback, double low, double high) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
    fail(key, fmt::format("a number from {} to {}", low, high));
  }
  return value->get<double>();
}

bool Settings::flag_or(std::string_view key, bool fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::vector<double> Settings::numbers_or(std::string_view key, std::vector<double> fallback) const {
  const Json* value = find(key);
  if (value == nullptr) return fallback;
  if (value->is_number() && std::isfinite(value->get<double>())) {
    return std::vector<double>(fallback.size(), value->get<double>());
  }
  const auto finite = [](const Json& v) { return v.is_number() && std::isfinite(v.get<double>()); };
  if (!value->is_array() || value->size() != fallback.size() ||
      !std::all_of(value->begin(), value->end(), finite)) {
    fail(key, fmt::format("{} numbers", fallback.size()));
  }
  return value->get<std::vector<double>>();
}

Settings Settings::object(std::string_view key) const {
  const Json* value = find(key);
  if (value != nullptr && !value->is_object()) fail(key, "an object");
  return {value == nullptr ? kNothing : *value, where_, prefix_ + std::string(key) + "."};
}

void Settings::expect(std::string_view key, bool value) const {
  if (flag_or(key, value) != value) fail(key, value ? "true" : "false");
}

void Settings::expect(std::string_view key, double value) const {
  const Json* found = find(key);
  if (found == nullptr) return;
  if (!found->is_number() || found->get<double>() != value) fail(key, fmt::format("{}", value));
}

void Settings::expect_one_of(std::string_view key,
                             std::initializer_list<std::string_view> values) const {
  const Json* found = find(key);
  if (found == nullptr) return;
  if (found->is_string() && std::find(values.begin(), values.end(),
                                      found->get_ref<const std::string&>()) != values.end()) {
    return;
  }
  fail(key, fmt::format("{}", fmt::join(values, " or ")));
}

}  // namespace decant::media
