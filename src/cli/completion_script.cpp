#include "cli/completion_script.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/errors.h"

namespace decant::cli {
namespace {

using Kind = FlagInfo::Kind;

std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string words_of(const std::vector<FlagInfo>& flags) {
  std::string out;
  for (const FlagInfo& flag : flags)
    if (!flag.positional)
      for (const std::string& name : flag.names) out += (out.empty() ? "" : " ") + name;
  return out;
}

// What the shell does for a value: a function of the script.
std::string bash_action(const FlagInfo& flag) {
  if (!flag.choices.empty())
    return fmt::format("_decant_words {}", quoted(fmt::format("{}", fmt::join(flag.choices, " "))));
  switch (flag.kind()) {
    case Kind::kModel:
      return "_decant_models \"$1\"";
    case Kind::kFolder:
      return "_decant_folders";
    case Kind::kFile:
      return "_decant_files";
    case Kind::kText:
      break;
  }
  // Whatever text it is, a file's name may be part of it; numbers have nothing to offer.
  return flag.value == "TEXT" ? "_decant_files" : ":";
}

constexpr std::string_view kBashHead =
    R"sh(# bash completion of decant, written by: decant completion bash
# source <(decant completion bash)
_decant_words() {
  local IFS=$' \n'
  COMPREPLY=($(compgen -W "$1" -- "$cur"))
}
_decant_files() {
  local IFS=$'\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen -f -- "$cur"))
}
_decant_folders() {
  local IFS=$'\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen -d -- "$cur"))
}
_decant_models() {
  local IFS=$'\n'
  COMPREPLY=($(compgen -W "$("$1" list --names 2>/dev/null)" -- "$cur") $(compgen -d -- "$cur"))
}
_decant() {
  local cur="${COMP_WORDS[COMP_CWORD]}" flag="" verb="" place=0 skip="" word i
  COMPREPLY=()
  # bash takes --flag=value for three words.
  if [[ $cur == "=" ]]; then
    flag="${COMP_WORDS[COMP_CWORD - 1]}"
    cur=""
  elif ((COMP_CWORD > 1)) && [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then
    flag="${COMP_WORDS[COMP_CWORD - 2]}"
  elif ((COMP_CWORD > 0)); then
    flag="${COMP_WORDS[COMP_CWORD - 1]}"
  fi
)sh";

std::string bash_script(const ProgramInfo& program) {
  std::string out(kBashHead);
  // Which words before the cursor are values, and which the verb and its arguments.
  std::string valued;
  for (const CommandInfo& verb : program.verbs)
    for (const FlagInfo& flag : verb.flags)
      if (!flag.positional && flag.takes_value && !flag.value_optional)
        for (const std::string& name : flag.names)
          valued += fmt::format("{}\"{} {}\"", valued.empty() ? "" : " | ", verb.name, name);
  out += fmt::format(R"(  for ((i = 1; i < COMP_CWORD; i++)); do
    word="${{COMP_WORDS[i]}}"
    if [[ -n $skip ]]; then
      # The value itself, unless this is the "=" before it.
      [[ $word == "=" ]] || skip=""
    elif [[ $word == -* ]]; then
      case "$verb $word" in
        {}) skip=1 ;;
      esac
    elif [[ -z $verb ]]; then
      verb="$word"
    elif [[ $word != "=" ]]; then
      place=$((place + 1))
    fi
  done
  case "$verb" in
    "")
      _decant_words "{} help {}"
      ;;
    help)
      _decant_words "{}"
      ;;
)",
                     valued.empty() ? "\" \"" : valued, fmt::join(program.verb_names(), " "),
                     words_of(program.flags), fmt::join(program.verb_names(), " "));
  for (const CommandInfo& verb : program.verbs) {
    out += fmt::format("    {})\n      case \"$flag\" in\n", verb.name);
    for (const FlagInfo& flag : verb.flags)
      if (!flag.positional && flag.takes_value)
        out += fmt::format("        {}) {}; return ;;\n", fmt::join(flag.names, " | "),
                           bash_action(flag));
    out += fmt::format(R"(      esac
      if [[ $cur == -* ]]; then
        _decant_words "{}"
        return
      fi
      case "$place" in
)",
                       words_of(verb.flags));
    int place = 0;
    for (const FlagInfo& flag : verb.flags)
      if (flag.positional) out += fmt::format("        {}) {} ;;\n", place++, bash_action(flag));
    out += "      esac\n      ;;\n";
  }
  return out + "  esac\n}\ncomplete -F _decant decant\n";
}

// Inside [...] of _arguments.
std::string zsh_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

std::string zsh_action(const FlagInfo& flag) {
  if (!flag.choices.empty()) return fmt::format("({})", fmt::join(flag.choices, " "));
  switch (flag.kind()) {
    case Kind::kModel:
      return "_decant_models";
    case Kind::kFolder:
      return "_files -/";
    case Kind::kFile:
      return "_files";
    case Kind::kText:
      break;
  }
  return flag.value == "TEXT" ? "_files" : " ";
}

std::string zsh_script(const ProgramInfo& program) {
  std::string out = R"sh(#compdef decant
# zsh completion of decant, written by: decant completion zsh
_decant_models() {
  local -a names
  names=(${(f)"$($_decant_program list --names 2>/dev/null)"})
  compadd -a names
  _files -/
}
_decant() {
  local curcontext="$curcontext" state line _decant_program=$words[1]
  typeset -A opt_args
  _arguments -C \
)sh";
  for (const FlagInfo& flag : program.flags)
    for (const std::string& name : flag.names)
      out += fmt::format("    {} \\\n",
                         quoted(fmt::format("(- *){}[{}]", name, zsh_text(flag.description))));
  out +=
      "    '1:verb:->verb' \\\n    '*::argument:->argument'\n  case $state in\n    verb)\n"
      "      local -a verbs\n      verbs=(\n";
  for (const CommandInfo& verb : program.verbs)
    out += fmt::format("        {}\n", quoted(verb.name + ":" + verb.summary));
  out +=
      "      )\n      _describe -t verbs verb verbs\n      ;;\n    argument)\n"
      "      case $line[1] in\n";
  for (const CommandInfo& verb : program.verbs) {
    out += fmt::format("        {})\n          _arguments -s", verb.name);
    int place = 0;
    for (const FlagInfo& flag : verb.flags) {
      if (flag.positional) {
        out += " \\\n            " +
               quoted(fmt::format("{}:{}:{}", ++place, flag.names.front(), zsh_action(flag)));
        continue;
      }
      for (const std::string& name : flag.names) {
        std::string spec = flag.repeatable ? "*" : "";
        spec += name;
        if (flag.takes_value && name.starts_with("--")) spec += flag.value_optional ? "=-" : "=";
        spec += "[" + zsh_text(flag.description) + "]";
        if (flag.takes_value)
          spec += fmt::format("{}{}:{}", flag.value_optional ? "::" : ":", flag.value,
                              zsh_action(flag));
        out += " \\\n            " + quoted(spec);
      }
    }
    out += "\n          ;;\n";
  }
  return out + R"(      esac
      ;;
  esac
}
if [[ $funcstack[1] == _decant ]]; then
  _decant "$@"
else
  compdef _decant decant
fi
)";
}

std::string fish_text(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

std::string fish_script(const ProgramInfo& program) {
  std::string out = R"(# fish completion of decant, written by: decant completion fish
function __decant_models
    set -l program (commandline -opc)[1]
    $program list --names 2>/dev/null
    __fish_complete_directories (commandline -ct)
end
complete -c decant -f
)";
  for (const FlagInfo& flag : program.flags) {
    out += "complete -c decant -n __fish_use_subcommand";
    for (const std::string& name : flag.names)
      out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
    out += " -d " + fish_text(flag.description) + "\n";
  }
  for (const CommandInfo& verb : program.verbs)
    out += fmt::format("complete -c decant -n __fish_use_subcommand -a {} -d {}\n", verb.name,
                       fish_text(verb.summary));
  for (const CommandInfo& verb : program.verbs) {
    const std::string when =
        fmt::format("complete -c decant -n '__fish_seen_subcommand_from {}'", verb.name);
    bool models = false;
    bool files = false;
    for (const FlagInfo& flag : verb.flags) {
      if (flag.positional) {
        models = models || flag.kind() == Kind::kModel;
        files = files || (flag.kind() != Kind::kModel && flag.choices.empty());
        if (!flag.choices.empty())
          out += fmt::format("{} -a '{}'\n", when, fmt::join(flag.choices, " "));
        continue;
      }
      out += when;
      for (const std::string& name : flag.names)
        out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      if (flag.takes_value && !flag.value_optional) {
        if (!flag.choices.empty())
          out += fmt::format(" -x -a '{}'", fmt::join(flag.choices, " "));
        else if (flag.kind() == Kind::kModel)
          out += " -x -a '(__decant_models)'";
        else if (flag.kind() == Kind::kFolder)
          out += " -x -a '(__fish_complete_directories (commandline -ct))'";
        else
          out += flag.kind() == Kind::kFile || flag.value == "TEXT" ? " -r -F" : " -x";
      }
      out += " -d " + fish_text(flag.description) + "\n";
    }
    if (models) out += when + " -a '(__decant_models)'\n";
    if (files) out += when + " -F\n";
  }
  return out;
}

}  // namespace

std::string completion_script(const ProgramInfo& program, std::string_view shell) {
  if (shell == "bash") return bash_script(program);
  if (shell == "zsh") return zsh_script(program);
  if (shell == "fish") return fish_script(program);
  throw UsageError("[completion] expected bash, zsh or fish, got {}", quote(shell));
}

}  // namespace decant::cli
