#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "backend/backend.h"
#include "base/errors.h"
#include "base/json.h"
#include "base/nearest.h"
#include "base/units.h"
#include "checkpoint/survey.h"
#include "cli/command_tree.h"
#include "cli/console.h"
#include "cli/decant_commit.h"
#include "cli/demo_model.h"
#include "cli/doctor_facts.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "hub/model_store.h"
#include "media/video.h"

extern char** environ;

namespace decant::cli {
namespace fs = std::filesystem;
namespace {

using State = Finding::State;

struct Flags {
  std::string models_dir;
  bool json = false;
};

std::string bytes_text(int64_t bytes) { return format_bytes(static_cast<uint64_t>(bytes)); }
std::string bytes_text(const std::optional<int64_t>& bytes, const char* otherwise) {
  return bytes ? bytes_text(*bytes) : otherwise;
}

class Examination {
 public:
  Examination(const Flags& flags, const CLI::App& root) : flags_(flags), root_(root) {}

  std::vector<Finding> run() {
    build();
    devices();
    processor();
    memory();
    media();
    models();
    folders();
    environment();
    return std::move(findings_);
  }

 private:
  void add(const char* area, std::string name, std::string value, State state = State::kFine,
           std::string remedy = {}) {
    DECANT_ASSERT(state == State::kFine || !remedy.empty(), "what is not fine has a remedy");
    findings_.push_back({area, std::move(name), std::move(value), state, std::move(remedy)});
  }

  void build() {
    add("build", "version", DECANT_VERSION);
    add("build", "commit", DECANT_COMMIT);
    add("build", "compiler", DECANT_COMPILER);
    const std::string type = DECANT_BUILD_TYPE;
    const bool optimised = type == "Release" || type == "RelWithDebInfo" || type == "MinSizeRel";
    add("build", "type", type.empty() ? "none" : type, optimised ? State::kFine : State::kNote,
        optimised ? "" : "this build is slow: configure with cmake --preset release");
    const std::string sanitizers = DECANT_SANITIZERS;
    if (!sanitizers.empty())
      add("build", "sanitizers", sanitizers, State::kNote,
          "this build is slow: configure with cmake --preset release");
    add("build", "options", DECANT_BUILD_OPTIONS);
  }

  void devices() {
    bool any = false;
    for (const auto& [name, reason] : backend_list()) {
      std::string problem = reason == "available" ? "" : reason;
      std::string description = name;
      if (problem.empty()) {
        try {
          const auto backend = make_backend(name, {});
          description =
              fmt::format("{}, {} free", backend->description(), bytes_text(backend->free_bytes()));
        } catch (const Error& error) {
          problem = error.what();
        }
      }
      // The reference runs anything slowly: it does not count as a way to use a model.
      any = any || (problem.empty() && name != "reference");
      if (problem.empty())
        add("devices", name, description);
      else
        add("devices", name, "not used: " + problem, State::kNote, device_remedy(name, problem));
    }
    std::error_code error;
    const bool nvidia = fs::exists("/proc/driver/nvidia/version", error);
    const bool has_cuda = std::string(DECANT_BUILD_OPTIONS).find("CUDA") != std::string::npos;
    if (nvidia && !has_cuda)
      add("devices", "NVIDIA driver", "present, but this build cannot use it", State::kNote,
          "build with cmake --preset cuda");
    if (!any)
      add("devices", "usable", "none", State::kProblem,
          "see the reasons above; the CPU needs an x86-64 or ARM processor and unlimited addresses "
          "(ulimit -v unlimited)");
  }

  static std::string device_remedy(const std::string& name, const std::string& problem) {
    if (problem.find("DECANT_CPU_ISA") != std::string::npos)
      return "unset DECANT_CPU_ISA, or set it to an instruction set listed below";
    if (name == "cuda")
      return problem.find("build has no") != std::string::npos
                 ? "only for machines with an NVIDIA GPU: build with cmake --preset cuda"
                 : "install an NVIDIA driver that nvidia-smi is content with, or use --device cpu";
    if (name == "mlx") return "only for Apple silicon or tests: build with cmake --preset mlx";
    return "ulimit -v unlimited, or free memory";
  }

  void processor() {
    add("processor", "model", cpu_model().empty() ? "unknown" : cpu_model());
    if (const auto features = cpu_features(); !features.empty())
      add("processor", "features", fmt::format("{}", fmt::join(features, " ")));
    const CpuFacts facts = cpu_facts();
    for (const CpuFacts::InstructionSet& set : facts.sets)
      add("processor", "kernels " + set.name,
          set.selected    ? "selected"
          : set.available ? "available"
                          : "not on this processor");
    if (!facts.problem.empty())
      add("processor", "kernels", facts.problem, State::kProblem,
          "unset DECANT_CPU_ISA, or set it to one of the available sets");
    const auto caches = cpu_caches();
    for (const CacheFacts& cache : caches)
      add("processor", cache.name,
          bytes_text(cache.bytes) +
              (cache.shared_by.empty() ? "" : ", shared by processors " + cache.shared_by));
    if (caches.empty()) add("processor", "caches", "the system does not tell");
    const auto quota = cpu_quota();
    std::string threads = fmt::format("{} by default, {} processors", facts.threads,
                                      std::thread::hardware_concurrency());
    // A team whose members are stopped in turn waits for the one that is: worse than fewer.
    const bool tight = quota && *quota + 0.01 < facts.threads;
    if (quota) threads += fmt::format(", a quota of {:.2f}", *quota);
    add("processor", "threads", threads, tight ? State::kNote : State::kFine,
        tight ? fmt::format("run with --threads {}, or raise the container's CPU quota",
                            std::max(1, static_cast<int>(*quota)))
              : "");
  }

  void memory() {
    constexpr int64_t kTight = int64_t{1} << 30;
    const MemoryFacts facts = memory_facts();
    add("memory", "total", bytes_text(facts.total, "unknown"));
    const bool low = facts.available && *facts.available < kTight;
    add("memory", "available", bytes_text(facts.available, "unknown"),
        low ? State::kNote : State::kFine,
        low ? "end other programs, or take a smaller model or --ctx-size" : "");
    if (facts.cgroup_limit) {
      const int64_t left = *facts.cgroup_limit - facts.cgroup_used.value_or(0);
      const bool few = left < kTight;
      add("memory", "container limit",
          fmt::format("{}, {} used", bytes_text(*facts.cgroup_limit),
                      bytes_text(facts.cgroup_used, "unknown")),
          few ? State::kNote : State::kFine,
          few ? "raise the limit of the container (docker run --memory), or take a smaller model"
              : "");
    } else {
      add("memory", "container limit", "none");
    }
    // Weights are mapped and the arena reserves addresses it never fills.
    add("memory", "addresses (ulimit -v)", bytes_text(facts.address_limit, "unlimited"),
        facts.address_limit ? State::kNote : State::kFine,
        facts.address_limit ? "ulimit -v unlimited: mapped weights count as addresses" : "");
    add("memory", "locked (ulimit -l)",
        bytes_text(facts.locked_limit, "unlimited") + "; decant locks none");
    add("memory", "file size (ulimit -f)", bytes_text(facts.file_limit, "unlimited"),
        facts.file_limit ? State::kNote : State::kFine,
        facts.file_limit ? "ulimit -f unlimited: decant quantize writes files of gigabytes" : "");
  }

  void media() {
    const fs::path ffmpeg = media::find_program("ffmpeg"), ffprobe = media::find_program("ffprobe");
    if (!ffmpeg.empty() && !ffprobe.empty())
      add("media", "videos", fmt::format("{}, {}", ffmpeg.string(), ffprobe.string()));
    else
      add("media", "videos",
          fmt::format("folders of pictures and animated WebP only: no {} on PATH",
                      ffmpeg.empty() ? "ffmpeg" : "ffprobe"),
          State::kNote, "apt install ffmpeg, for --video with MP4 and others");
  }

  void models() {
    const ModelPlaces places = ModelPlaces::find(flags_.models_dir);
    const auto look = [&](const char* name, const ModelPlaces& place, const fs::path& folder,
                          bool asked_for) {
      std::error_code error;
      if (!fs::is_directory(folder, error)) {
        add("models", name, folder.string() + ": not there",
            asked_for ? State::kNote : State::kFine,
            asked_for ? "make the folder, or correct --models-dir or the variable" : "");
        return;
      }
      if (::access(folder.c_str(), R_OK | X_OK) != 0) {
        add("models", name, folder.string() + ": not readable", State::kNote,
            fmt::format("give yourself access: chmod u+rx {}", folder.string()));
        return;
      }
      const std::vector<StoredModel> found = stored_models(place);
      add("models", name, fmt::format("{}: {} found", folder.string(), found.size()));
      count_ += found.size();
      for (const StoredModel& model : found) model_state(model);
    };
    for (const fs::path& dir : places.models_dirs) look("folder", {{}, {dir}}, dir, true);
    if (!places.hf_cache.empty())
      look("Hugging Face cache", {places.hf_cache, {}}, places.hf_cache,
           std::getenv("HF_HOME") != nullptr || std::getenv("HF_HUB_CACHE") != nullptr);
    try {
      add("models", "demo model", find_demo_model().string());
    } catch (const Error& error) {
      add("models", "demo model", error.what(), State::kNote,
          "only decant run without MODEL needs it: set DECANT_DEMO_MODEL to its folder");
    }
    if (count_ == 0)
      add("models", "found", "none", State::kNote,
          "load one (hf download ORG/NAME), or say where models lie: --models-dir DIR");
  }

  void model_state(const StoredModel& model) {
    const FolderSurvey survey = model.folder.empty() ? FolderSurvey() : survey_folder(model.folder);
    if (model.folder.empty()) {
      add("models", model.name, model.problem, State::kNote, resume(model));
      return;
    }
    const std::string what =
        fmt::format("{} {}", survey.model_type.empty() ? "?" : survey.model_type,
                    survey.format.empty() ? "?" : survey.format);
    switch (survey.state) {
      case FolderSurvey::State::kComplete:
        add("models", model.name, what + ", complete");
        return;
      case FolderSurvey::State::kMissingShards:
        add("models", model.name, fmt::format("{}, {} shards missing", what, survey.missing.size()),
            State::kNote, resume(model));
        return;
      case FolderSurvey::State::kNoWeights:
        add("models", model.name, what + ", no safetensors", State::kNote,
            "decant reads safetensors only: convert the model, or load one that has them");
        return;
      case FolderSurvey::State::kBroken:
        add("models", model.name, survey.problem, State::kNote, resume(model));
    }
  }

  static std::string resume(const StoredModel& model) {
    const bool cached = model.folder.empty() || !model.revision.empty();
    return cached ? fmt::format("load it again: hf download {}",
                                model.name.substr(0, model.name.find('@')))
                  : fmt::format("copy, convert or load it again into {}", model.folder.string());
  }

  void folders() {
    const auto check = [&](const char* name, const fs::path& folder, const std::string& needed_by) {
      const std::string reason = unwritable_reason(folder);
      if (reason.empty()) {
        add("folders", name, folder.string() + ": writable");
        return;
      }
      add("folders", name, reason, State::kNote,
          fmt::format("make it yours (chown, chmod u+wx): {} needs it", needed_by));
    };
    check("state", state_folder(), "the history of decant run");
    std::error_code error;
    const fs::path temporary = fs::temp_directory_path(error);
    if (error)
      add("folders", "temporary", error.message(), State::kNote,
          "set TMPDIR to a folder: --dummy and eval --formats need it");
    else
      check("temporary", temporary, "--dummy and eval --formats");
  }

  void environment() {
    for (const char* name : {"HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME",
                             "HF_HUB_OFFLINE", "HF_ENDPOINT"})
      if (const char* value = std::getenv(name)) add("environment", name, quote(value, 200));
    for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
      if (std::getenv(name) != nullptr) add("environment", name, "set (not shown)");
    std::vector<std::string> known = {"DECANT_CPU_ISA", "DECANT_LOG", "DECANT_DEMO_MODEL"};
    for (const CommandInfo& verb : describe_program(root_).verbs)
      for (const FlagInfo& flag : verb.flags)
        if (!flag.environment.empty()) known.push_back(flag.environment);
    for (char** at = environ; *at != nullptr; ++at) {
      const std::string entry = *at;
      const std::string name = entry.substr(0, entry.find('='));
      if (!name.starts_with("DECANT_")) continue;
      const bool ours = std::find(known.begin(), known.end(), name) != known.end();
      const auto near = nearest(name, known, 1);
      // Its own tests and scripts are told things by such variables too.
      add("environment", name, quote(entry.substr(std::min(entry.size(), name.size() + 1)), 200),
          ours ? State::kFine : State::kNote,
          ours           ? ""
          : near.empty() ? "no verb reads it: unset it"
                         : fmt::format("no verb reads it: did you mean {}?", near.front()));
    }
  }

  const Flags& flags_;
  const CLI::App& root_;
  std::vector<Finding> findings_;
  size_t count_ = 0;  // of models
};

std::string text_of(const std::vector<Finding>& findings) {
  std::string out;
  std::string area;
  for (const Finding& finding : findings) {
    if (finding.area != area) out += fmt::format("{}{}\n", area.empty() ? "" : "\n", finding.area);
    area = finding.area;
    const char mark = finding.state == State::kFine   ? ' '
                      : finding.state == State::kNote ? '-'
                                                      : '!';
    out += fmt::format("{} {:<24} {}\n", mark, finding.name, finding.value);
    if (!finding.remedy.empty()) out += fmt::format("  {:<24} remedy: {}\n", "", finding.remedy);
  }
  return out;
}

Json json_of(const std::vector<Finding>& findings, bool runs) {
  Json out = Json::object();
  out["runs"] = runs;
  out["findings"] = Json::array();
  for (const Finding& finding : findings) {
    Json entry = Json::object();
    entry["area"] = finding.area;
    entry["name"] = finding.name;
    entry["value"] = finding.value;
    entry["state"] = name_of(finding.state);
    entry["remedy"] = finding.remedy.empty() ? Json() : Json(finding.remedy);
    out["findings"].push_back(std::move(entry));
  }
  return out;
}

void run(const Flags& flags, const CLI::App& root) {
  const std::vector<Finding> findings = Examination(flags, root).run();
  const auto problem = std::find_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.state == State::kProblem;
  });
  const bool runs = problem == findings.end();
  print(flags.json
            ? json_of(findings, runs).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
            : text_of(findings));
  flush_output();
  if (!runs)
    throw RuntimeError("[doctor] decant cannot run here: {} {}: {}", problem->area, problem->name,
                       problem->value);
  if (!flags.json) print("\ndecant can run here\n");
}

}  // namespace

Verb add_doctor(CLI::App& root) {
  CLI::App& app =
      add_verb(root, "doctor", "What this machine offers, what is wrong, and what to do");
  auto flags = std::make_shared<Flags>();
  add_models_dir(app, flags->models_dir);
  app.add_flag("--json", flags->json, "Print JSON");
  finish_verb(app,
              "  decant doctor\n"
              "  decant doctor --json | jq '.findings[] | select(.state != \"fine\")'\n");
  return {&app, [flags, &root] { run(*flags, root); }};
}

}  // namespace decant::cli
