#include "cli/model_name.h"

#include "hub/model_store.h"

namespace decant::cli {

std::filesystem::path ModelArgument::folder_of(const std::string& name) const {
  std::filesystem::path out = resolve_model(name, ModelPlaces::find(models_dir));
  if (!allow_links) check_links(out);
  return out;
}

void add_models_dir(CLI::App& app, std::string& models_dir) {
  app.add_option("--models-dir", models_dir,
                 "Where names are looked up besides the Hugging Face cache (DIR or DIR:DIR)")
      ->type_name("DIR");
}

CLI::Option* add_model_argument(CLI::App& app, ModelArgument& argument, const std::string& help,
                                const std::string& name) {
  argument.option = app.add_option(name, argument.model, help);
  add_models_dir(app, argument.models_dir);
  app.add_flag("--allow-links", argument.allow_links,
               "Read files of the model that are links to outside of its folder");
  return argument.option;
}

}  // namespace decant::cli
