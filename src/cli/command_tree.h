#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): not ours
class App;
}

namespace decant::cli {

/// A flag or a positional argument, as completion, man pages and the search of the help need it.
struct FlagInfo {
  std::vector<std::string> names;  // "--max-tokens", "-h"; of a positional its name alone: "MODEL"
  bool positional = false;
  bool required = false;
  bool takes_value = false;
  bool value_optional = false;       // the value may be left out
  bool repeatable = false;           // takes several values
  std::string value;                 // "INT", "FILE", "TEXT": of a flag with a value
  std::vector<std::string> choices;  // all values there are; empty: any
  std::string default_value;
  std::string environment;
  std::string description;

  enum class Kind { kText, kFile, kFolder, kModel };
  Kind kind() const;
};

struct CommandInfo {
  std::string name;
  std::string summary;
  std::vector<FlagInfo> flags;
  std::string examples;  // lines, indented
};

/// The whole command line: the source of everything that is generated from it.
struct ProgramInfo {
  std::string name;
  std::string version;
  std::string summary;
  std::string footer;
  std::vector<FlagInfo> flags;
  std::vector<CommandInfo> verbs;

  const CommandInfo* find(std::string_view verb) const;
  std::vector<std::string> verb_names() const;
};

ProgramInfo describe_program(const CLI::App& root);

/// "--device TEXT", "--exact", "MODEL": how a flag is written.
std::string usage_of(const FlagInfo& flag);

/// The verbs and flags in whose names, descriptions, choices or variables `word` occurs, case
/// ignored: one line each. Errors: UsageError with the nearest flags and verbs when there is none.
std::string search_help(const ProgramInfo& program, const std::string& word);

}  // namespace decant::cli
