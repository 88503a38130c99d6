// Input: a byte that picks a template, then the JSON of messages, or of {"messages": ..., "tools":
// ..., further variables}. Whatever is accepted must render without a fault, the parts of the text
// must join to the text, and what is refused must be refused as the requester's mistake.
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "chat/chat_template.h"

namespace {

using decant::ChatTemplate;

constexpr std::string_view kTemplates[] = {
    R"({% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %})",
    R"({%- macro show(c) -%}{%- if c is string -%}{{ c | trim }}
{%- elif c is iterable -%}{%- for p in c -%}{{ p.text if p is mapping else p }}{%- endfor -%}
{%- endif -%}{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- if tools -%}{%- for t in tools -%}{{ t | tojson }}{%- endfor -%}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{{ '<' ~ m['role'] ~ '>' }}{{ show(m.content) }}
{%- if m.tool_calls -%}{%- for c in m.tool_calls -%}
{%- if c.function is defined -%}{%- set c = c.function -%}{%- endif -%}
{{ c.name }}{{ c.arguments | tojson if c.arguments is not string else c.arguments }}
{%- for k, v in (c.arguments | default({}, true)).items() -%}{{ k }}={{ v | tojson(indent=2) }}
{%- endfor -%}{%- endfor -%}{%- endif -%}
{%- if m.reasoning_content and loop.index0 > ns.last -%}
{{ m.reasoning_content.split('</think>')[-1].lstrip('\n') }}{%- endif -%}
{%- endfor -%}{% if add_generation_prompt %}<assistant>{% endif %})",
    R"({{ messages }}{{ tools }}{{ messages | tojson }}{{ messages | map(attribute='role') | list }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages[::-1] }}
{{ messages | join('-') | upper | replace('A', 'b') | indent(2) }})",
};

const std::vector<std::shared_ptr<const ChatTemplate>>& templates() {
  static const auto all = [] {
    std::vector<std::shared_ptr<const ChatTemplate>> out;
    for (const std::string_view source : kTemplates)
      out.push_back(ChatTemplate::from_source(source, "fuzz", {{"bos_token", "<s>"}}));
    return out;
  }();
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  decant::RenderOptions options;
  options.limits.steps = 200'000;
  options.limits.output_bytes = 1u << 20;
  options.limits.memory_bytes = 32u << 20;
  try {
    decant::Json json = decant::parse_json(text, "fuzz");
    decant::ChatRequest request;
    if (json.is_object()) {
      for (const auto& [key, value] : json.items()) {
        if (key == "messages") {
          request.messages = value;
        } else if (key == "tools") {
          request.tools = value;
        } else {
          request.variables.emplace_back(key, value);
        }
      }
    } else {
      request.messages = std::move(json);
    }
    const auto& chat = templates()[data[0] % std::size(kTemplates)];
    std::string joined;
    bool last = false;
    for (const decant::RenderedPart& part : chat->render_parts(request, options)) {
      DECANT_ASSERT(!part.text.empty(), "a part must have text");
      DECANT_ASSERT(joined.empty() || part.from_message != last,
                    "neighbouring parts must be of different origin");
      joined += part.text;
      last = part.from_message;
    }
    DECANT_ASSERT(joined == chat->render(request, options), "the parts must join to the text");
  } catch (const decant::InternalError&) {
    throw;
  } catch (const decant::Error&) {
  }
  return 0;
}
