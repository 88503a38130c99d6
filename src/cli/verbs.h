#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace decant::cli {

/// One verb of the program: its flags, declared on the application, and what it does once they are
/// parsed.
struct Verb {
  CLI::App* app = nullptr;
  std::function<void()> run;
};

// One source file per verb.
Verb add_run(CLI::App& root);
Verb add_inspect(CLI::App& root);
Verb add_tokenize(CLI::App& root);
Verb add_template(CLI::App& root);
Verb add_logits(CLI::App& root);
Verb add_quantize(CLI::App& root);
Verb add_bench(CLI::App& root);
Verb add_graph(CLI::App& root);
Verb add_eval(CLI::App& root);
Verb add_list(CLI::App& root);
Verb add_doctor(CLI::App& root);
Verb add_completion(CLI::App& root);
Verb add_man(CLI::App& root);

}  // namespace decant::cli
