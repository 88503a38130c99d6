#include "chat/jinja.h"

#include "chat/jinja_eval.h"
#include "chat/jinja_parser.h"

namespace decant {

struct JinjaTemplate::Program {
  std::unique_ptr<const jinja::Template> parsed;
};

JinjaTemplate::JinjaTemplate(std::unique_ptr<const Program> program)
    : program_(std::move(program)) {}
JinjaTemplate::~JinjaTemplate() = default;

std::shared_ptr<const JinjaTemplate> JinjaTemplate::parse(std::string_view source,
                                                          std::string_view name) {
  auto program = std::make_unique<Program>();
  program->parsed = jinja::parse_template(source, name);
  return std::shared_ptr<const JinjaTemplate>(new JinjaTemplate(std::move(program)));
}

std::vector<RenderedPart> JinjaTemplate::render_parts(const Json& context,
                                                      const RenderOptions& options) const {
  if (!context.is_object())
    throw RequestError("[template] context: expected object, got {}", describe(context));
  const jinja::Template& parsed = *program_->parsed;
  jinja::Interp interp(parsed, options);
  jinja::TextBuilder text(interp.budget());
  try {
    interp.run(context, text);
  } catch (const jinja::Failure& failure) {
    if (failure.raised_by_template) throw TemplateRenderError(failure.message, true);
    throw TemplateRenderError(fmt::format("[template] {}:{}: {}: {}", parsed.name, interp.line(),
                                          failure.type, failure.message),
                              false);
  }
  std::vector<RenderedPart> parts;
  const auto add = [&](size_t from, size_t to, bool marked) {
    if (from < to) parts.push_back({text.text().substr(from, to - from), marked});
  };
  size_t at = 0;
  for (const auto& [from, to] : text.marks()) {
    add(at, from, false);
    add(from, to, true);
    at = to;
  }
  add(at, text.size(), false);
  return parts;
}

std::string JinjaTemplate::render(const Json& context, const RenderOptions& options) const {
  std::string out;
  for (const RenderedPart& part : render_parts(context, options)) out += part.text;
  return out;
}

}  // namespace decant
