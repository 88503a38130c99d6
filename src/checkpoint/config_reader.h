#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace decant {

using Json = nlohmann::ordered_json;

/// Typed reads of a model's config.json.
///
/// Types are strict: 2.0 is not an integer, "2" is not a number, true is not 1. A key whose value
/// is null counts as absent. Every error is a ConfigError `[config] a.b.c: expected X, got Y (in
/// FILE)`. The JSON value must outlive the reader and the readers made from it.
class ConfigReader {
 public:
  /// Largest size, count or width a config may name: far above real models, far below what would
  /// let arithmetic on two of them overflow.
  static constexpr int64_t kMaxSize = INT64_C(1) << 31;
  static constexpr int64_t kMaxLayers = 4096;
  static constexpr size_t kMaxList = 65536;

  /// `where` is the file's name; errors if `json` is not an object.
  ConfigReader(const Json& json, std::string where);

  const Json& json() const { return *json_; }
  const std::string& where() const { return where_; }

  /// True if the key is present and not null.
  bool has(std::string_view key) const;
  /// The first of these keys that is present; the first of all when none is (so that the error of
  /// the read that follows names it).
  std::string first_of(std::initializer_list<std::string_view> keys) const;

  /// The value of a key that must be there. T: bool, int, int64_t, float, double, std::string.
  template <typename T>
  T require(std::string_view key) const;
  /// The value, or `fallback` when the key is absent; a value of another type is an error.
  template <typename T>
  T value_or(std::string_view key, T fallback) const;
  std::string value_or(std::string_view key, const char* fallback) const;
  /// The value, or nothing when the key is absent.
  template <typename T>
  std::optional<T> optional(std::string_view key) const;

  /// An integer from `low` to `high`.
  int64_t in_range(std::string_view key, int64_t low, int64_t high) const;
  int64_t in_range_or(std::string_view key, int64_t fallback, int64_t low, int64_t high) const;
  /// A number from `low` to `high`.
  double number_in_range(std::string_view key, double low, double high) const;
  double number_in_range_or(std::string_view key, double fallback, double low, double high) const;
  /// A size: 1 to kMaxSize.
  int64_t positive(std::string_view key) const { return in_range(key, 1, kMaxSize); }
  int64_t positive_or(std::string_view key, int64_t fallback) const {
    return in_range_or(key, fallback, 1, kMaxSize);
  }
  /// A number of layers: 1 to kMaxLayers.
  int64_t layers(std::string_view key = "num_hidden_layers") const {
    return in_range(key, 1, kMaxLayers);
  }
  /// A number above 0.
  double positive_number(std::string_view key) const;
  double positive_number_or(std::string_view key, double fallback) const;

  /// Refuses any other value than the one that is implemented; an absent key passes.
  void expect(std::string_view key, bool value) const;
  void expect(std::string_view key, int value) const;
  void expect(std::string_view key, double value) const;
  void expect(std::string_view key, const char* value) const;
  /// The string at `key`, which must be one of these; absent: the first.
  std::string expect_one_of(std::string_view key,
                            std::initializer_list<std::string_view> values) const;
  /// Reports all of these keys that are absent in one error.
  void require_keys(std::initializer_list<std::string_view> keys) const;

  /// The list at `key`. With `length`, exactly that many elements; never more than kMaxList.
  std::vector<int64_t> ints(std::string_view key, std::optional<int64_t> length = {}) const;
  std::vector<double> numbers(std::string_view key, std::optional<int64_t> length = {}) const;
  std::vector<std::string> strings(std::string_view key, std::optional<int64_t> length = {}) const;
  std::vector<bool> bools(std::string_view key, std::optional<int64_t> length = {}) const;
  bool is_list(std::string_view key) const;
  bool is_object(std::string_view key) const;

  /// The object at `key`.
  ConfigReader object(std::string_view key) const;
  /// The object at `key`, or an empty one when the key is absent.
  ConfigReader object_or_empty(std::string_view key) const;

  /// Throws the ConfigError of this key: for rules of a family that no read above covers.
  [[noreturn]] void fail(std::string_view key, std::string_view expected,
                         std::string_view got) const;
  /// The same with what the file has at this key.
  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

 private:
  ConfigReader(const Json& json, std::string where, std::string prefix);
  const Json* find(std::string_view key) const;
  const Json& at(std::string_view key, std::string_view expected) const;
  const Json& list(std::string_view key, std::optional<int64_t> length) const;

  const Json* json_;
  std::string where_;
  std::string prefix_;  // path of this object within the file, with a dot at the end
};

}  // namespace decant
