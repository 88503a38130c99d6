#include <memory>
#include <string>

#include "cli/completion_script.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace decant::cli {

Verb add_completion(CLI::App& root) {
  CLI::App& app = add_verb(root, "completion", "Print a script that completes commands in a shell");
  auto shell = std::make_shared<std::string>();
  app.add_option("SHELL", *shell, "Which shell")
      ->required()
      ->check(one_of({"bash", "zsh", "fish"}));
  finish_verb(app,
              "  source <(decant completion bash)                 in ~/.bashrc\n"
              "  decant completion zsh > ~/.zfunc/_decant         with ~/.zfunc in fpath\n"
              "  decant completion fish > ~/.config/fish/completions/decant.fish\n");
  return {&app, [shell, &root] { print(completion_script(describe_program(root), *shell)); }};
}

}  // namespace decant::cli
