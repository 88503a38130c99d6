#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/errors.h"
#include "chat/jinja.h"

// Any bytes as a template over one conversation: it renders or throws one of our errors.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const decant::Json context = decant::parse_json(
      R"({"messages": [{"role": "user", "content": "h\u00e9"},
                       {"role": "assistant", "content": null, "n": -1.5,
                        "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, true]}}}]}],
          "tools": [], "s": "ab c", "d": {"k": 1}, "l": [3, 1, 2], "n": 7})",
      "fuzz");
  decant::RenderOptions options;
  options.limits = {.steps = 200'000, .output_bytes = 1 << 20, .memory_bytes = 16 << 20};
  options.marked = {"messages"};
  options.now = std::tm{};
  try {
    const std::string_view source(reinterpret_cast<const char*>(data), size);
    decant::JinjaTemplate::parse(source, "fuzz")->render_parts(context, options);
  } catch (const decant::InternalError&) {
    throw;
  } catch (const decant::Error&) {
  }
  return 0;
}
