#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace decant::media {

using Json = nlohmann::ordered_json;

/// Typed reads of one processor's section of a processor configuration.
///
/// A processor file is either flat (preprocessor_config.json: picture and sound keys side by side)
/// or has one object per processor (processor_config.json). Types are strict, null counts as
/// absent, unknown keys are left alone. Errors: ConfigError `[media] FILE: KEY: expected X, got Y`.
class Settings {
 public:
  /// The object at one of `sections`, or the whole file when it has none of them. The JSON must
  /// outlive this object.
  Settings(const Json& file, std::string where, std::initializer_list<std::string_view> sections);

  bool has(std::string_view key) const { return find(key) != nullptr; }
  int64_t integer(std::string_view key, int64_t low, int64_t high) const;
  int64_t integer_or(std::string_view key, int64_t fallback, int64_t low, int64_t high) const;
  double number_or(std::string_view key, double fallback, double low, double high) const;
  bool flag_or(std::string_view key, bool fallback) const;
  /// `length` numbers, or one number for all of them; finite.
  std::vector<double> numbers_or(std::string_view key, std::vector<double> fallback) const;
  /// The object at `key`; an empty one when it is absent.
  Settings object(std::string_view key) const;

  /// Refuses any other value than the one that is implemented; an absent key passes.
  void expect(std::string_view key, bool value) const;
  void expect(std::string_view key, double value) const;
  void expect_one_of(std::string_view key, std::initializer_list<std::string_view> values) const;

  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

 private:
  Settings(const Json& json, std::string where, std::string prefix);
  const Json* find(std::string_view key) const;

  const Json* json_;
  std::string where_;
  std::string prefix_;
};

}  // namespace decant::media
