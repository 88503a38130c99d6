#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/errors.h"
#include "base/json.h"

namespace decant {

/// What one rendering may use; a template that wants more fails with TemplateRenderError.
struct TemplateLimits {
  uint64_t steps = 50'000'000;  // evaluated nodes, list items touched, 64-byte blocks of text built
  size_t output_bytes = 16u << 20;   // of the result and of every string built on the way
  size_t memory_bytes = 256u << 20;  // of all values alive at one time
  int depth = 800;  // evaluations (expressions, blocks, macro calls) inside each other
};

/// A rendering failed: raise_exception in the template, a Python-style error (TypeError,
/// UndefinedError, ...) or a limit.
class TemplateRenderError : public Error {
 public:
  TemplateRenderError(const std::string& message, bool raised_by_template)
      : Error(ErrorKind::kRuntime, message), raised_by_template_(raised_by_template) {}
  /// True: the template called raise_exception; what() is its message, unchanged. False: what()
  /// reads `[template] NAME:LINE: TYPE: message`.
  bool raised_by_template() const { return raised_by_template_; }

 private:
  bool raised_by_template_;
};

/// A piece of rendered text. Text with from_message came from the request (through any filter or
/// concatenation): special tokens spelled in it must stay plain text. A tokenizer should see the
/// joined text and only skip the special tokens that touch such a piece, because merges may cross
/// pieces.
struct RenderedPart {
  std::string text;
  bool from_message = false;
};

struct RenderOptions {
  TemplateLimits limits;
  /// What strftime_now formats; the local time of the call when absent.
  std::optional<std::tm> now;
  /// Top-level names of the context whose strings are marked as from_message, at any depth.
  /// "*" marks every name.
  std::vector<std::string> marked;
};

/// A parsed Jinja template, as transformers sets jinja2 3.1.6 up for chat templates: immutable
/// sandbox, trim_blocks, lstrip_blocks, break and continue, `generation`, tojson without HTML
/// escapes, raise_exception, strftime_now. Immutable; render may run in several threads at once.
/// Deliberately refused when parsed: include, import, extends, block (there is no loader), and
/// autoescape other than false. Integers are 64 bits wide; larger ones can only be printed and
/// compared.
class JinjaTemplate {
 public:
  /// Parses `source`. Errors: TemplateError `[template] NAME:LINE: what`.
  static std::shared_ptr<const JinjaTemplate> parse(std::string_view source, std::string_view name);
  ~JinjaTemplate();
  JinjaTemplate(const JinjaTemplate&) = delete;
  JinjaTemplate& operator=(const JinjaTemplate&) = delete;

  /// Renders with the members of the object `context` as variables. Errors: TemplateRenderError.
  std::string render(const Json& context, const RenderOptions& options = {}) const;
  /// The same as neighbouring pieces; no two pieces in a row have the same origin.
  std::vector<RenderedPart> render_parts(const Json& context,
                                         const RenderOptions& options = {}) const;

 private:
  struct Program;
  explicit JinjaTemplate(std::unique_ptr<const Program> program);
  std::unique_ptr<const Program> program_;
};

}  // namespace decant
