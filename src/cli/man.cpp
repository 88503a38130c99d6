#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "base/errors.h"
#include "base/file.h"
#include "cli/console.h"
#include "cli/man_page.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

struct Flags {
  std::string verb;
  std::string output;
};

void write_page(const fs::path& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void run(const Flags& flags, const CLI::App& root) {
  const ProgramInfo program = describe_program(root);
  if (flags.output.empty()) {
    print(man_page(program, flags.verb));
    return;
  }
  if (!flags.verb.empty())
    throw UsageError("[man] --output writes the pages of all verbs: it takes no VERB");
  std::error_code error;
  fs::create_directories(flags.output, error);
  if (error)
    throw RuntimeError("[man] --output: cannot make {}: {}", flags.output, error.message());
  write_page(fs::path(flags.output) / (program.name + ".1"), man_page(program, ""));
  for (const CommandInfo& verb : program.verbs)
    write_page(fs::path(flags.output) / fmt::format("{}-{}.1", program.name, verb.name),
               man_page(program, verb.name));
}

}  // namespace

Verb add_man(CLI::App& root) {
  CLI::App& app = add_verb(root, "man", "Print the manual page of decant or of a verb");
  auto flags = std::make_shared<Flags>();
  app.add_option("VERB", flags->verb, "Which verb (default: decant itself)");
  app.add_option("--output", flags->output, "Write the pages of all verbs into this folder instead")
      ->type_name("DIR");
  finish_verb(app,
              "  decant man run | man -l -\n"
              "  decant man --output ~/.local/share/man/man1\n");
  return {&app, [flags, &root] { run(*flags, root); }};
}

}  // namespace decant::cli
