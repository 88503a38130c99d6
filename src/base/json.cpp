#include "base/json.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "base/errors.h"
#include "base/file.h"

namespace decant {
namespace {

// nlohmann's own parser keeps the last of two equal keys without a word and has no depth limit;
// this handler refuses both before a value is stored.
class StrictHandler : public nlohmann::json_sax<Json> {
 public:
  StrictHandler(Json& root, std::string_view text, std::string_view source,
                const JsonLimits& limits)
      : root_(root), text_(text), source_(source), limits_(limits) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second)
      throw ConfigError("[json] {}: duplicate key {}", source_, quote(value));
    key_ = std::move(value);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // `position` counts the bytes read, the offending one included: it must not count as a line of
    // its own.
    const std::size_t end = std::min(position > 0 ? position - 1 : 0, text_.size());
    const auto line =
        1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(end), '\n');
    std::string what = error.what();
    // nlohmann's text repeats its own position; keep what follows it.
    if (const auto colon = what.find(": "); colon != std::string::npos)
      what = what.substr(colon + 2);
    std::erase_if(what, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
    throw ConfigError("[json] {}:{}: {}", source_, line, what.substr(0, 200));
  }

 private:
  template <typename T>
  bool put(T&& value) {
    if (stack_.empty()) {
      root_ = std::forward<T>(value);
    } else if (stack_.back()->is_array()) {
      stack_.back()->push_back(std::forward<T>(value));
    } else {
      // The key is known to be new: append without the linear search of operator[].
      stack_.back()->get_ref<Json::object_t&>().emplace_back(std::move(key_),
                                                             std::forward<T>(value));
    }
    return true;
  }
  bool open(Json value) {
    if (static_cast<int>(stack_.size()) >= limits_.depth)
      throw ConfigError("[json] {}: nesting: expected at most {} levels, got more", source_,
                        limits_.depth);
    put(std::move(value));
    Json* here = stack_.empty() ? &root_
                 : stack_.back()->is_array()
                     ? &stack_.back()->back()
                     : &stack_.back()->get_ref<Json::object_t&>().back().second;
    stack_.push_back(here);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  Json& root_;
  std::string_view text_;
  std::string_view source_;
  const JsonLimits& limits_;
  std::vector<Json*> stack_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view source, const JsonLimits& limits) {
  Json root;
  StrictHandler handler(root, text, source, limits);
  Json::sax_parse(text.begin(), text.end(), &handler, Json::input_format_t::json, true,
                  limits.allow_comments);
  return root;
}

Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  std::string text;
  try {
    text = read_text_file(path);
  } catch (const RuntimeError& error) {
    throw ConfigError("[json] {}", error.what());
  }
  return parse_json(text, path.string(), limits);
}

std::string describe(const Json& value) {
  if (value.is_number()) return "number " + value.dump();
  if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
  if (value.is_string()) return "string " + quote(value.get_ref<const std::string&>());
  if (value.is_null()) return "null";
  return value.is_array() ? fmt::format("array of {}", value.size()) : "object";
}

}  // namespace decant
