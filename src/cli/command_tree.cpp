#include "cli/command_tree.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "base/errors.h"
#include "base/nearest.h"

namespace decant::cli {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

FlagInfo describe_flag(const CLI::Option& option) {
  FlagInfo out;
  out.positional = option.get_positional();
  if (out.positional) {
    out.names.push_back(option.get_name(true));
  } else {
    for (const std::string& name : option.get_lnames()) out.names.push_back("--" + name);
    for (const std::string& name : option.get_snames()) out.names.push_back("-" + name);
  }
  out.required = option.get_required();
  out.takes_value = out.positional || option.get_items_expected_max() > 0;
  out.value_optional = out.takes_value && !out.positional && option.get_items_expected_min() == 0;
  out.repeatable = option.get_items_expected_max() > 1;
  if (out.takes_value) {
    // "INT:{32,64,128}": the type, then what the validators say of themselves.
    const std::string type = option.get_type_name();
    const size_t colon = type.find(':');
    out.value = type.substr(0, colon);
    const size_t open = type.find('{');
    const size_t close = type.find('}', open == std::string::npos ? 0 : open);
    if (open != std::string::npos && close != std::string::npos)
      out.choices = CLI::detail::split(type.substr(open + 1, close - open - 1), ',');
    out.default_value = option.get_default_str();
  }
  out.environment = option.get_envname();
  out.description = option.get_description();
  return out;
}

std::vector<FlagInfo> describe_flags(const CLI::App& app) {
  std::vector<FlagInfo> out;
  for (const CLI::Option* option : app.get_options())
    if (!option->get_name(option->get_positional()).empty()) out.push_back(describe_flag(*option));
  return out;
}

// What finish_verb wrote, without the sentences around it.
std::string examples_in(const std::string& footer) {
  constexpr std::string_view kBegin = "Examples:\n";
  const size_t begin = footer.find(kBegin);
  if (begin == std::string::npos) return {};
  const size_t from = begin + kBegin.size();
  const size_t end = footer.find("\n\n", from);
  const size_t note = footer.find("\nEvery flag", from);
  std::string out = footer.substr(from, std::min({end, note, footer.size()}) - from);
  while (out.ends_with('\n')) out.pop_back();
  return out + "\n";
}

bool mentions(const FlagInfo& flag, const std::string& word) {
  const auto has = [&](const std::string& text) {
    return lower(text).find(word) != std::string::npos;
  };
  return has(flag.description) || has(flag.environment) ||
         std::any_of(flag.names.begin(), flag.names.end(), has) ||
         std::any_of(flag.choices.begin(), flag.choices.end(), has);
}

}  // namespace

FlagInfo::Kind FlagInfo::kind() const {
  const std::string& name = positional && value != "FILE" && value != "DIR" ? names.front() : value;
  if (name == "MODEL" || name == "SRC") return Kind::kModel;
  if (name == "FILE") return Kind::kFile;
  if (name == "DIR" || name == "DST") return Kind::kFolder;
  return Kind::kText;
}

const CommandInfo* ProgramInfo::find(std::string_view verb) const {
  for (const CommandInfo& info : verbs)
    if (info.name == verb) return &info;
  return nullptr;
}

std::vector<std::string> ProgramInfo::verb_names() const {
  std::vector<std::string> out;
  for (const CommandInfo& info : verbs) out.push_back(info.name);
  return out;
}

ProgramInfo describe_program(const CLI::App& root) {
  ProgramInfo out;
  out.name = root.get_name();
  out.version = DECANT_VERSION;
  out.summary = root.get_description();
  out.footer = root.get_footer();
  out.flags = describe_flags(root);
  for (const CLI::App* verb : root.get_subcommands([](const CLI::App*) { return true; }))
    out.verbs.push_back({verb->get_name(), verb->get_description(), describe_flags(*verb),
                         examples_in(verb->get_footer())});
  return out;
}

std::string usage_of(const FlagInfo& flag) {
  if (flag.positional) return flag.names.front();
  std::string out = fmt::format("{}", fmt::join(flag.names, ", "));
  if (!flag.takes_value) return out;
  const std::string value =
      flag.choices.empty() ? flag.value : fmt::format("{{{}}}", fmt::join(flag.choices, ","));
  return out + (flag.value_optional ? fmt::format("[={}]", value) : " " + value);
}

std::string search_help(const ProgramInfo& program, const std::string& asked) {
  const std::string word = lower(asked);
  std::vector<std::pair<std::string, std::string>> lines;
  std::vector<std::string> known;
  const auto add_flags = [&](const std::string& command, const std::vector<FlagInfo>& flags) {
    for (const FlagInfo& flag : flags) {
      for (const std::string& name : flag.names)
        if (std::find(known.begin(), known.end(), name) == known.end()) known.push_back(name);
      // Every verb has --help: it is listed once, with the program.
      const bool help = command != program.name && flag.names.front() == "--help";
      if (!help && !word.empty() && mentions(flag, word))
        lines.emplace_back(command + " " + usage_of(flag), flag.description);
    }
  };
  add_flags(program.name, program.flags);
  for (const CommandInfo& verb : program.verbs) {
    const std::string command = program.name + " " + verb.name;
    known.push_back(verb.name);
    if (!word.empty() && (lower(verb.name).find(word) != std::string::npos ||
                          lower(verb.summary).find(word) != std::string::npos))
      lines.emplace_back(command, verb.summary);
    add_flags(command, verb.flags);
  }
  if (lines.empty()) {
    std::vector<std::string> near = nearest(asked, known, 5);
    // "--" in front is not what was mistyped.
    for (const std::string& name : nearest("--" + asked, known, 5))
      if (near.size() < 5 && std::find(near.begin(), near.end(), name) == near.end())
        near.push_back(name);
    throw UsageError("[usage] --help={}: expected a word of the help, got none of it (nearest: {})",
                     quote(asked),
                     near.empty() ? "none" : fmt::format("{}", fmt::join(near, ", ")));
  }
  size_t width = 0;
  for (const auto& [usage, text] : lines)
    if (usage.size() <= 44) width = std::max(width, usage.size());
  std::string out;
  for (const auto& [usage, text] : lines)
    out += usage.size() > width ? fmt::format("{}\n{:{}}  {}\n", usage, "", width, text)
                                : fmt::format("{:{}}  {}\n", usage, width, text);
  return out;
}

}  // namespace decant::cli
