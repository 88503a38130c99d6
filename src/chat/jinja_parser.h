#pragma once

#include <memory>
#include <string_view>

#include "chat/jinja_ast.h"

namespace decant::jinja {

/// Parses a template and lays out its frames. Errors: TemplateError `[template] NAME:LINE: what`.
std::unique_ptr<const Template> parse_template(std::string_view source, std::string_view name);

/// Gives every name its frame and slot, as jinja2's symbol analysis does. Errors: TemplateError.
void resolve_names(Template& parsed);

/// The built-in filter or test of this name, or null.
FilterFunction find_filter(std::string_view name);
FilterFunction find_test(std::string_view name);

}  // namespace decant::jinja
