#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/json.h"
#include "base/units.h"
#include "checkpoint/survey.h"
#include "cli/answer_json.h"
#include "cli/console.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "hub/model_store.h"
#include "models/registry.h"

namespace decant::cli {
namespace {

struct Flags {
  std::string models_dir;
  bool json = false;
  bool names = false;
};

struct Row {
  StoredModel model;
  FolderSurvey survey;
  bool supported = false;
};

bool is_supported(const std::string& model_type) {
  for (const Family& family : families())
    for (const std::string& name : family.model_types)
      if (name == model_type) return true;
  return false;
}

Row row_of(StoredModel model) {
  Row out;
  if (model.folder.empty()) {
    out.survey.state = FolderSurvey::State::kBroken;
    out.survey.problem = model.problem;
  } else {
    out.survey = survey_folder(model.folder);
  }
  out.supported = is_supported(out.survey.model_type);
  out.model = std::move(model);
  return out;
}

// Names of folders are anyone's: nothing of them may steer a terminal or look like two lines.
bool is_odd(const std::string& name) {
  return std::any_of(name.begin(), name.end(),
                     [](unsigned char c) { return c < 0x20 || c == 0x7F; });
}
std::string shown(const std::string& name) { return is_odd(name) ? quote(name, 200) : name; }

// One line of it: an error's first, and not all of a long list.
std::string state_of(const Row& row) {
  std::string out(name_of(row.survey.state));
  if (!row.survey.missing.empty()) {
    const size_t shown = std::min<size_t>(row.survey.missing.size(), 3);
    out +=
        fmt::format(": {}", fmt::join(row.survey.missing.begin(),
                                      row.survey.missing.begin() + static_cast<int>(shown), ", "));
    if (row.survey.missing.size() > shown)
      out += fmt::format(" and {} more", row.survey.missing.size() - shown);
  }
  if (!row.survey.problem.empty())
    out += ": " + row.survey.problem.substr(0, row.survey.problem.find('\n'));
  if (row.survey.state == FolderSurvey::State::kComplete && !row.supported)
    out += ", family not supported";
  return out;
}

std::string table_of(const std::vector<Row>& rows, const ModelPlaces& places) {
  if (rows.empty()) return fmt::format("no models in {}\n", places.text());
  size_t name = 4;
  size_t family = 6;
  for (const Row& row : rows) {
    name = std::max(name, shown(row.model.name).size());
    family = std::max(family, row.survey.model_type.size());
  }
  name = std::min<size_t>(name, 60);
  family = std::min<size_t>(family, 24);
  std::string out = fmt::format("{:<{}}  {:<{}}  {:<9} {:>10}  {}\n", "NAME", name, "FAMILY",
                                family, "FORMAT", "SIZE", "STATE");
  for (const Row& row : rows)
    out += fmt::format("{:<{}}  {:<{}}  {:<9} {:>10}  {}\n", shown(row.model.name), name,
                       row.survey.model_type.empty() ? "-" : shown(row.survey.model_type), family,
                       row.survey.format.empty() ? "-" : row.survey.format,
                       format_bytes(row.survey.bytes), state_of(row));
  return out;
}

Json json_of(const std::vector<Row>& rows) {
  Json out = Json::array();
  for (const Row& row : rows) {
    Json entry = Json::object();
    entry["name"] = row.model.name;
    entry["path"] = row.model.folder.empty() ? Json() : Json(row.model.folder.string());
    entry["revision"] = row.model.revision.empty() ? Json() : Json(row.model.revision);
    entry["family"] = row.survey.model_type.empty() ? Json() : Json(row.survey.model_type);
    entry["supported"] = row.supported;
    entry["format"] = row.survey.format.empty() ? Json() : Json(row.survey.format);
    entry["bytes"] = row.survey.bytes;
    entry["state"] = name_of(row.survey.state);
    entry["missing"] = row.survey.missing;
    entry["problem"] = row.survey.problem.empty() ? Json() : Json(row.survey.problem);
    out.push_back(std::move(entry));
  }
  return out;
}

// Names of files need not be UTF-8.
void run(const Flags& flags) {
  const ModelPlaces places = ModelPlaces::find(flags.models_dir);
  std::vector<StoredModel> models = stored_models(places);
  if (flags.names) {
    for (const StoredModel& model : models)
      if (!model.folder.empty() && !is_odd(model.name)) print(model.name + "\n");
    return;
  }
  std::vector<Row> rows;
  Progress progress;
  for (StoredModel& model : models) {
    progress.show(shown(model.name));
    rows.push_back(row_of(std::move(model)));
  }
  progress.clear();
  print(flags.json ? json_text(json_of(rows)) : table_of(rows, places));
}

}  // namespace

Verb add_list(CLI::App& root) {
  CLI::App& app = add_verb(root, "list", "Models on this machine: family, format, size, state");
  auto flags = std::make_shared<Flags>();
  add_models_dir(app, flags->models_dir);
  app.add_flag("--json", flags->json, "Print JSON");
  app.add_flag("--names", flags->names, "Print names only, one a line");
  finish_verb(app,
              "  decant list\n"
              "  decant list --models-dir ~/models --json\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
