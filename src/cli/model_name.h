#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>

namespace decant::cli {

/// MODEL as all verbs take it: a folder, or the name of a model on this machine.
struct ModelArgument {
  std::string model;
  std::string models_dir;
  bool allow_links = false;
  CLI::Option* option = nullptr;  // MODEL itself

  bool given() const { return !model.empty(); }
  /// The folder it means. Errors: those of resolve_model, and of check_links without allow_links.
  std::filesystem::path folder() const { return folder_of(model); }
  /// The same for another name, such as a reference model.
  std::filesystem::path folder_of(const std::string& name) const;
};

/// Declares MODEL (or another `name` of the positional), --models-dir and --allow-links.
CLI::Option* add_model_argument(
    CLI::App& app, ModelArgument& argument,
    const std::string& help = "Model: a folder, or a name (decant list)",
    const std::string& name = "MODEL");
/// Declares --models-dir alone.
void add_models_dir(CLI::App& app, std::string& models_dir);

}  // namespace decant::cli
