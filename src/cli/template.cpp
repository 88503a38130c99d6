#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "chat/chat_template.h"
#include "cli/console.h"
#include "cli/json_input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace decant::cli {
namespace {

struct Flags {
  ModelArgument model;
  std::string messages;
  std::string tools;
  bool no_generation_prompt = false;
  std::vector<std::string> variables;
  std::string template_file;
  std::string chat_template;
  std::string context;
  std::string now;
  CLI::Option* template_option = nullptr;
};

[[noreturn]] void bad_time(const std::string& text) {
  throw UsageError(
      "[template] --now: expected a time as YYYY-MM-DD or YYYY-MM-DDTHH:MM[:SS], got {}",
      quote(text));
}

// The fields of an ISO 8601 time as they are written: an offset says where the clock hangs, not
// what it shows. Weekday and day of the year follow from the date.
std::tm parse_time(const std::string& text) {
  std::tm out{};
  int year = 0;
  int month = 0;
  int day = 0;
  int hour = 0;
  int minute = 0;
  int second = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%4d-%2d-%2d%n", &year, &month, &day, &end) != 3 || end != 10)
    bad_time(text);
  size_t at = 10;
  if (at < text.size()) {
    if (text[at] != 'T' && text[at] != ' ') bad_time(text);
    end = 0;
    if (std::sscanf(text.c_str() + at + 1, "%2d:%2d%n", &hour, &minute, &end) != 2 || end != 5)
      bad_time(text);
    at += 6;
    end = 0;
    if (at < text.size() && text[at] == ':') {
      if (std::sscanf(text.c_str() + at + 1, "%2d%n", &second, &end) != 1 || end != 2)
        bad_time(text);
      at += 3;
      if (at < text.size() && text[at] == '.') {
        const size_t digits = at + 1;
        at = text.find_first_not_of("0123456789", digits);
        if (at == std::string::npos) at = text.size();
        if (at == digits) bad_time(text);
      }
    }
    const std::string zone = text.substr(at);
    int zone_hour = 0;
    int zone_minute = 0;
    end = 0;
    const bool offset =
        (zone.size() == 6 && (zone[0] == '+' || zone[0] == '-') &&
         std::sscanf(zone.c_str() + 1, "%2d:%2d%n", &zone_hour, &zone_minute, &end) == 2 &&
         end == 5);
    if (!zone.empty() && zone != "Z" && !offset) bad_time(text);
  }
  out.tm_year = year - 1900;
  out.tm_mon = month - 1;
  out.tm_mday = day;
  out.tm_hour = hour;
  out.tm_min = minute;
  out.tm_sec = second;
  std::tm normal = out;
  timegm(&normal);
  if (normal.tm_year != out.tm_year || normal.tm_mon != out.tm_mon ||
      normal.tm_mday != out.tm_mday || normal.tm_hour != out.tm_hour ||
      normal.tm_min != out.tm_min || normal.tm_sec != out.tm_sec)
    bad_time(text);
  return normal;
}

std::pair<std::string, Json> parse_variable(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw UsageError("[template] --var: expected KEY=JSON, got {}", quote(text));
  return {text.substr(0, equals), parse_flag_json(std::string_view(text).substr(equals + 1),
                                                  "--var " + text.substr(0, equals))};
}

// A whole context for any Jinja file: exactly its variables are set.
std::string render_file(const Flags& flags, const RenderOptions& options) {
  if (flags.model.option->count() > 0 || !flags.messages.empty() || !flags.tools.empty() ||
      !flags.variables.empty() || flags.no_generation_prompt || !flags.chat_template.empty())
    throw UsageError(
        "[template] --template takes --context FILE.json and --now TIME only: no MODEL, no "
        "messages, tools or variables");
  if (flags.context.empty())
    throw UsageError("[template] --template: expected --context FILE.json, got none");
  const std::string source = read_input(flags.template_file);
  const auto parsed =
      JinjaTemplate::parse(source, std::filesystem::path(flags.template_file).filename().string());
  const Json context = read_json_input(flags.context);
  if (!context.is_object())
    throw RequestError("[template] {}: expected an object of variables, got {}", flags.context,
                       describe(context));
  return parsed->render(context, options);
}

std::string render_chat(const Flags& flags, const RenderOptions& options) {
  if (flags.model.option->count() == 0)
    throw UsageError("[template] expected MODEL, or --template FILE.jinja, got neither");
  if (flags.messages.empty())
    throw UsageError("[template] expected --messages FILE.json, got none");
  if (!flags.context.empty())
    throw UsageError("[template] --context belongs to --template FILE.jinja, not to a MODEL");
  const std::filesystem::path folder = flags.model.folder();
  auto chat = ChatTemplate::load(folder, flags.chat_template);
  if (chat == nullptr)
    throw TemplateError(
        "[template] {}: expected a chat template, got a checkpoint without one: give a Jinja file "
        "with --chat-template FILE",
        folder.string());
  ChatRequest request;
  request.messages = read_json_input(flags.messages);
  if (!flags.tools.empty()) request.tools = read_json_input(flags.tools);
  request.add_generation_prompt = !flags.no_generation_prompt;
  for (const std::string& text : flags.variables) request.variables.push_back(parse_variable(text));
  return chat->render(request, options);
}

void run(const Flags& flags) {
  RenderOptions options;
  if (!flags.now.empty()) options.now = parse_time(flags.now);
  const bool whole =
      flags.template_option->count() > 0 &&
      (flags.model.option->count() == 0 || !from_environment(*flags.template_option));
  try {
    print(whole ? render_file(flags, options) : render_chat(flags, options));
  } catch (const TemplateRenderError& error) {
    if (!error.raised_by_template()) throw;
    throw RuntimeError("[template] {}", error.what());
  }
}

}  // namespace

Verb add_template(CLI::App& root) {
  CLI::App& app = add_verb(root, "template", "Render a chat template, byte for byte");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->model);
  app.add_option("--messages", flags->messages, "JSON list of messages (- for stdin)")
      ->type_name("FILE");
  app.add_option("--tools", flags->tools, "JSON list of tools")->type_name("FILE");
  app.add_flag("--no-generation-prompt", flags->no_generation_prompt,
               "Do not open the assistant's turn");
  app.add_option("--var", flags->variables, "KEY=JSON: a further variable (repeatable)")
      ->allow_extra_args(false);
  flags->template_option =
      app.add_option("--template", flags->template_file, "A Jinja file instead of a MODEL")
          ->type_name("FILE");
  app.add_option("--chat-template", flags->chat_template, "A Jinja file instead of the model's")
      ->type_name("FILE");
  app.add_option("--context", flags->context, "With --template: a JSON object, all its variables")
      ->type_name("FILE");
  app.add_option("--now", flags->now, "What strftime_now shows, ISO 8601 (default: this moment)");
  finish_verb(
      app,
      "  decant template demo/model --messages chat.json\n"
      "  decant template demo/model --messages chat.json --var enable_thinking=false\n"
      "  decant template --template chat.jinja --context variables.json --now 2026-01-31\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
