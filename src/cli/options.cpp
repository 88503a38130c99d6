#include "cli/options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "base/errors.h"

namespace decant::cli {
namespace {

std::string environment_name(const std::string& long_name) {
  std::string out = "DECANT_";
  for (char c : long_name) out += c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return out;
}

std::string error_text(std::string_view expected, const std::string& got) {
  return fmt::format("expected {}, got {}", expected, quote(got));
}

}  // namespace

CLI::App& add_verb(CLI::App& root, const std::string& name, const std::string& summary) {
  CLI::App& verb = *root.add_subcommand(name, summary);
  // A verb with a parse-complete callback reads the environment only when it is the one that was
  // asked for: a bad DECANT_TOP_P must not stop `decant tokenize`.
  verb.immediate_callback();
  verb.callback([] {});
  return verb;
}

void finish_verb(CLI::App& verb, std::string_view examples) {
  for (CLI::Option* option : verb.get_options()) {
    if (option->get_lnames().empty() || option == verb.get_help_ptr()) continue;
    option->envname(environment_name(option->get_lnames().front()));
  }
  verb.footer(fmt::format(
      "Examples:\n{}\nEvery flag can also be set by the variable shown beside it; the flag wins.",
      examples));
}

bool from_environment(const CLI::Option& option) {
  if (option.count() == 0 || option.get_envname().empty()) return false;
  const char* value = std::getenv(option.get_envname().c_str());
  if (value == nullptr || *value == '\0') return false;
  // CLI11 reads the variable only when the command line is silent, and keeps no note of it.
  const std::vector<std::string>& results = option.results();
  return results.size() == 1 && results.front() == value;
}

std::string explain(const CLI::App& verb, const std::string& message) {
  for (const CLI::Option* option : verb.get_options()) {
    if (option->get_envname().empty() || !from_environment(*option)) continue;
    for (const std::string& name : option->get_lnames()) {
      const std::string flag = "--" + name;
      const size_t at = message.find(flag);
      if (at == std::string::npos) continue;
      const size_t end = at + flag.size();
      if (end < message.size() &&
          (std::isalnum(static_cast<unsigned char>(message[end])) != 0 || message[end] == '-'))
        continue;
      return message.substr(0, at) + "environment variable " + option->get_envname() +
             message.substr(end);
    }
  }
  return message;
}

CLI::Validator whole_number(int64_t low, int64_t high) {
  const std::string expected = fmt::format("a whole number from {} to {}", low, high);
  CLI::Validator out(
      [=](std::string& text) -> std::string {
        int64_t value = 0;
        const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool good = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() &&
                          value >= low && value <= high;
        return good ? std::string() : error_text(expected, text);
      },
      "");
  return out;
}

CLI::Validator number(double low, double high) {
  const std::string expected = fmt::format("a number from {} to {}", low, high);
  CLI::Validator out(
      [=](std::string& text) -> std::string {
        double value = 0;
        const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool good = parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() &&
                          std::isfinite(value) && value >= low && value <= high;
        return good ? std::string() : error_text(expected, text);
      },
      "");
  return out;
}

CLI::Validator one_of(std::initializer_list<const char*> values) {
  const std::vector<std::string> known(values.begin(), values.end());
  const std::string expected = fmt::format("{}", fmt::join(known, ", "));
  CLI::Validator out(
      [=](std::string& text) -> std::string {
        for (const std::string& value : known)
          if (text == value) return {};
        return error_text(expected, text);
      },
      fmt::format("{{{}}}", fmt::join(known, ",")));
  return out;
}

CLI::Validator device_name() { return one_of({"auto", "cpu", "cuda", "mlx", "reference"}); }

}  // namespace decant::cli
