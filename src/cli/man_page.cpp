#include "cli/man_page.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/errors.h"
#include "base/nearest.h"

namespace decant::cli {
namespace {

constexpr std::string_view kExitCodes =
    "0 done, 1 failed while running, 2 wrong usage or input, 3 model unreadable or unsupported, "
    "4 not enough memory, 130 and 143 ended by SIGINT and SIGTERM.";

// One code point of UTF-8 text and how many bytes it took; malformed bytes stand for themselves.
std::pair<uint32_t, size_t> code_point(std::string_view text) {
  const auto first = static_cast<unsigned char>(text.front());
  const size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (length == 1 || length > text.size()) return {first, 1};
  uint32_t out = first & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i)
    out = out << 6 | (static_cast<unsigned char>(text[i]) & 0x3Fu);
  return {out, length};
}

/// Text as roff prints it: no line of it is a request, every dash stays a dash.
std::string roff(std::string_view text) {
  std::string out;
  bool line_start = true;
  for (size_t i = 0; i < text.size();) {
    const auto [point, length] = code_point(text.substr(i));
    i += length;
    if (line_start && (point == '.' || point == '\'')) out += "\\&";
    line_start = point == '\n';
    if (point == '\\')
      out += "\\e";
    else if (point == '-')
      out += "\\-";
    else if (point == '\'')
      out += "\\(aq";
    else if (point == '`')
      out += "\\(ga";
    else if (point == '^')
      out += "\\(ha";
    else if (point == '~')
      out += "\\(ti";
    else if (point >= 0x80)
      out += fmt::format("\\[u{:04X}]", point);
    else
      out += static_cast<char>(point);
  }
  return out;
}

std::string title(const std::string& text) {
  std::string out = text;
  for (char& c : out)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return out;
}

std::string head(const ProgramInfo& program, const std::string& page, const std::string& summary) {
  return fmt::format(".TH {} 1 \"\" \"{} {}\" \"User Commands\"\n.SH NAME\n{} \\- {}\n",
                     roff(title(page)), program.name, program.version, roff(page), roff(summary));
}

std::string flag_entry(const FlagInfo& flag) {
  std::string out = ".TP\n";
  if (flag.positional) {
    out += fmt::format("\\fI{}\\fR\n", roff(flag.names.front()));
  } else {
    std::vector<std::string> names;
    for (const std::string& name : flag.names) names.push_back("\\fB" + roff(name) + "\\fR");
    out += fmt::format("{}", fmt::join(names, ", "));
    if (flag.takes_value)
      out += flag.value_optional ? fmt::format("[=\\fI{}\\fR]", roff(flag.value))
                                 : fmt::format(" \\fI{}\\fR", roff(flag.value));
    out += "\n";
  }
  out += roff(flag.description) + ".";
  if (!flag.choices.empty()) out += roff(fmt::format(" One of {}.", fmt::join(flag.choices, ", ")));
  if (!flag.default_value.empty()) out += roff(fmt::format(" Default: {}.", flag.default_value));
  if (flag.required) out += " Required.";
  if (!flag.environment.empty())
    out += fmt::format("\nEnvironment: \\fB{}\\fR.", roff(flag.environment));
  return out + "\n";
}

std::string entries(const std::vector<FlagInfo>& flags, bool positional) {
  std::string out;
  for (const FlagInfo& flag : flags)
    if (flag.positional == positional) out += flag_entry(flag);
  return out;
}

std::string verb_page(const ProgramInfo& program, const CommandInfo& verb) {
  std::string out = head(program, program.name + "-" + verb.name, verb.summary);
  out += fmt::format(".SH SYNOPSIS\n\\fB{} {}\\fR [\\fIOPTIONS\\fR]", roff(program.name),
                     roff(verb.name));
  for (const FlagInfo& flag : verb.flags)
    if (flag.positional)
      out += flag.required ? fmt::format(" \\fI{}\\fR", roff(flag.names.front()))
                           : fmt::format(" [\\fI{}\\fR]", roff(flag.names.front()));
  out += fmt::format("\n.SH DESCRIPTION\n{}.\n", roff(verb.summary));
  if (const std::string text = entries(verb.flags, true); !text.empty())
    out += ".SH ARGUMENTS\n" + text;
  out +=
      ".SH OPTIONS\nEvery option can also be set by its environment variable; the option wins.\n" +
      entries(verb.flags, false);
  if (!verb.examples.empty()) out += ".SH EXAMPLES\n.nf\n" + roff(verb.examples) + ".fi\n";
  out += fmt::format(".SH EXIT STATUS\n{}\n", roff(kExitCodes));
  return out + fmt::format(".SH SEE ALSO\n\\fB{}\\fR(1)\n", roff(program.name));
}

std::string program_page(const ProgramInfo& program) {
  std::string out = head(program, program.name, program.summary);
  out +=
      fmt::format(".SH SYNOPSIS\n\\fB{}\\fR \\fIVERB\\fR [\\fIOPTIONS\\fR]\n", roff(program.name));
  out += fmt::format(".SH DESCRIPTION\n{}\n.SH VERBS\n", roff(program.summary));
  std::vector<std::string> pages;
  for (const CommandInfo& verb : program.verbs) {
    out += fmt::format(".TP\n\\fB{}\\fR\n{}.\n", roff(verb.name), roff(verb.summary));
    pages.push_back(fmt::format("\\fB{}\\fR(1)", roff(program.name + "-" + verb.name)));
  }
  out += ".SH OPTIONS\n" + entries(program.flags, false);
  out += ".TP\n\\fB\\-\\-help=\\fIWORD\\fR\nSearch the help of all verbs.\n";
  out += R"(.SH MODELS
Where a verb takes a \fIMODEL\fR it is, in this order: the path of a folder; the name of a model in the Hugging Face
cache or below \fB\-\-models\-dir\fR, with an optional \fI@\fR and a branch, tag or the start of a commit; or the last
part of exactly one such name.
.SH ENVIRONMENT
.TP
\fBHF_HUB_CACHE\fR, \fBHF_HOME\fR, \fBXDG_CACHE_HOME\fR
Where the Hugging Face cache is.
.TP
\fBDECANT_MODELS_DIR\fR
Further folders with models, with a colon between them.
.TP
\fBDECANT_CPU_ISA\fR
Instruction set of the CPU backend: portable, avx2 or avx512.
.TP
\fBDECANT_LOG\fR
What is logged: debug, info, warning, error or off.
)";
  out += fmt::format(".SH EXIT STATUS\n{}\n.SH SEE ALSO\n{}\n", roff(kExitCodes),
                     fmt::join(pages, ",\n"));
  return out;
}

}  // namespace

std::string man_page(const ProgramInfo& program, const std::string& verb) {
  if (verb.empty()) return program_page(program);
  if (const CommandInfo* info = program.find(verb)) return verb_page(program, *info);
  const std::vector<std::string> near = nearest(verb, program.verb_names());
  throw UsageError("[man] expected a verb, got {} (nearest: {})", quote(verb),
                   near.empty() ? "none" : fmt::format("{}", fmt::join(near, ", ")));
}

}  // namespace decant::cli
