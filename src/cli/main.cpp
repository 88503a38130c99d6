#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "base/nearest.h"
#include "cli/command_tree.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/signals.h"
#include "cli/verbs.h"

namespace decant::cli {
namespace {

constexpr int kUsageExit = 2;
constexpr int kPipeExit = 128 + 13;  // what a shell reports of a program that SIGPIPE ended

int complain(const std::string& message, int code) {
  std::fflush(stdout);
  note("decant: error: " + message);
  return code;
}

int usage_error(const CLI::App& root, const std::string& message) {
  const std::vector<const CLI::App*> chosen =
      std::as_const(root).get_subcommands([](const CLI::App* app) { return app->parsed(); });
  const std::string verb = chosen.empty() ? "" : chosen.front()->get_name() + " ";
  const std::string text = chosen.empty() ? message : explain(*chosen.front(), message);
  return complain("[usage] " + text + " (see: decant " + verb + "--help)", kUsageExit);
}

bool is_verb(const std::vector<Verb>& verbs, const std::string& name) {
  return std::any_of(verbs.begin(), verbs.end(),
                     [&](const Verb& verb) { return verb.app->get_name() == name; });
}

// The word of --help=WORD wherever it stands, or of `decant help WORD` if that is no verb.
std::optional<std::string> searched_word(const std::vector<std::string>& arguments,
                                         const std::vector<Verb>& verbs) {
  constexpr std::string_view kSearch = "--help=";
  if (arguments.size() > 1 && arguments.front() == "help" && !is_verb(verbs, arguments[1]) &&
      !arguments[1].starts_with('-'))
    return arguments[1];
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    if (argument.starts_with(kSearch)) return argument.substr(kSearch.size());
  }
  return std::nullopt;
}

// `decant help VERB` is `decant VERB --help`.
void expand_help(std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.front() != "help") return;
  arguments.erase(arguments.begin());
  if (arguments.size() > 1) arguments.resize(1);
  arguments.push_back("--help");
}

int run_program(int argc, char** argv) {
  CLI::App root("Runs MLX-format and Hugging Face language models on this machine.", "decant");
  root.require_subcommand(1);
  root.set_version_flag("--version", "decant " DECANT_VERSION, "Print the version and leave");
  root.set_help_flag("-h,--help", "Print this help and leave");
  root.footer(
      "decant help VERB explains a verb and its flags; --help=WORD searches the help of all.\n\n"
      "Exit codes: 0 done, 1 failed while running, 2 wrong usage or input, 3 model unreadable or\n"
      "unsupported, 4 not enough memory, 130 and 143 ended by SIGINT and SIGTERM.");
  const std::vector<Verb> verbs = {add_run(root),      add_inspect(root), add_tokenize(root),
                                   add_template(root), add_logits(root),  add_quantize(root),
                                   add_bench(root),    add_graph(root),   add_eval(root),
                                   add_list(root),     add_doctor(root),  add_completion(root),
                                   add_man(root)};
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (const auto word = searched_word(arguments, verbs)) {
    print(search_help(describe_program(root), *word));
    flush_output();
    return 0;
  }
  expand_help(arguments);
  if (!arguments.empty() && !arguments.front().starts_with('-') &&
      !is_verb(verbs, arguments.front())) {
    const auto near = nearest(arguments.front(), describe_program(root).verb_names(), 2);
    throw UsageError("[usage] expected a verb, got {}{} (see: decant --help)",
                     quote(arguments.front()),
                     near.empty() ? "" : fmt::format(", nearest: {}", fmt::join(near, ", ")));
  }
  try {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    root.parse(arguments);
  } catch (const CLI::Success&) {
    // --help and --version: the text goes to stdout like any result.
    const std::vector<const CLI::App*> chosen =
        std::as_const(root).get_subcommands([](const CLI::App* app) { return app->parsed(); });
    const bool help = root.get_help_ptr()->count() > 0 || !chosen.empty();
    const CLI::App& shown = chosen.empty() ? root : *chosen.front();
    print(help ? shown.help(chosen.empty() ? "" : "decant")
               : std::string("decant " DECANT_VERSION "\n"));
    flush_output();
    return 0;
  } catch (const CLI::RequiredError& error) {
    // A mistyped flag is the likelier reason for one that is missing.
    const std::vector<std::string> unknown = root.remaining(true);
    return usage_error(root, unknown.empty() ? error.what() : "unexpected " + unknown.front());
  } catch (const CLI::ParseError& error) {
    return usage_error(root, error.what());
  }
  for (const Verb& verb : verbs)
    if (verb.app->parsed()) verb.run();
  flush_output();
  return 0;
}

}  // namespace
}  // namespace decant::cli

int main(int argc, char** argv) {
  using namespace decant;
  using namespace decant::cli;
  try {
    watch_signals();
    return run_program(argc, argv);
  } catch (const BrokenPipe&) {
    return kPipeExit;
  } catch (const Interrupted& interrupted) {
    return 128 + interrupted.signal;
  } catch (const Error& error) {
    return complain(error.what(), exit_code(error.kind()));
  } catch (const std::bad_alloc&) {
    return complain("[memory] the system has no memory left", exit_code(ErrorKind::kMemory));
  } catch (const std::exception& error) {
    return complain(std::string("[internal] ") + error.what(), exit_code(ErrorKind::kInternal));
  }
}
