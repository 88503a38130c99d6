#include <cstdint>
#include <string>
#include <string_view>

#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/quantization.h"
#include "checkpoint/recipe.h"

namespace {

template <typename F>
void attempt(const F& read) {
  try {
    read();
  } catch (const decant::ConfigError&) {
  }
}

}  // namespace

// Any text: parsing it and every kind of read of it ends in a value or a ConfigError.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace decant;
  attempt([&] {
    const Json json = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
    attempt([&] {
      const auto config = QuantizationConfig::parse(json, "fuzz");
      const std::string paths[] = {"model.a", "language_model.b"};
      config.find(paths);
    });
    attempt([&] { Recipe::from_json(json, "fuzz"); });
    const ConfigReader reader(json, "fuzz");
    for (const auto& [key, value] : json.items()) {
      attempt([&] { reader.positive(key); });
      attempt([&] { reader.require<int>(key); });
      attempt([&] { reader.require<float>(key); });
      attempt([&] { reader.require<std::string>(key); });
      attempt([&] { reader.expect(key, true); });
      attempt([&] { reader.ints(key); });
      attempt([&] { reader.numbers(key, 3); });
      attempt([&] { reader.strings(key); });
      attempt([&] { reader.object_or_empty(key).layers(); });
    }
  });
  return 0;
}
