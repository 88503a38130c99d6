#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/file.h"
#include "base/json.h"
#include "base/units.h"
#include "cli/bench_media.h"
#include "cli/bench_model.h"
#include "cli/bench_runner.h"
#include "cli/console.h"
#include "cli/options.h"
#include "cli/verbs.h"

namespace decant::cli {
namespace {

constexpr int64_t kMaxPositions = 1 << 24;

struct Flags {
  ModelChoice choice;
  std::vector<int64_t> prompts = {128, 512};
  std::vector<int64_t> contexts = {512};
  std::vector<int> batches = {1, 2, 4, 8};
  int64_t tokens = 32;
  int64_t chunk = 512;
  int repeats = 3;
  int threads = 0;
  std::string device = "auto";
  bool exact = false;
  bool dense_attention = false;
  bool profile = false;
  std::string image, audio;
  std::string csv;
  std::string json;
  CLI::Option* json_option = nullptr;
};

struct Report {
  double probe_gb_s = 0;  // mean of all readings
  double load_seconds = 0;
  std::string model;
  std::string device;
  std::string format;
  std::vector<BenchRow> rows;

  // Of the probe, for decode: prefill is bound by arithmetic.
  static double share(const BenchRow& row) {
    return row.probe_gb_s > 0 ? row.gb_s / row.probe_gb_s : 0;
  }
};

// A figure that a row may lack.
std::string some(double value, int digits, std::string_view none) {
  return value > 0 ? fmt::format("{:.{}f}", value, digits) : std::string(none);
}

std::string table_of(const Report& report) {
  std::string out = fmt::format("{}\n{}\n", report.model, report.device);
  out += report.probe_gb_s > 0
             ? fmt::format("read probe {:.2f} GB/s, load {:.2f} s\n\n", report.probe_gb_s,
                           report.load_seconds)
             : fmt::format("no read probe on this device, load {:.2f} s\n\n", report.load_seconds);
  out += fmt::format("{:<13} {:>5} {:>8} {:>7} {:>10} {:>8} {:>8} {:>6}\n", "phase", "batch",
                     "context", "tokens", "tok/s", "GB/s", "probe", "share");
  for (const BenchRow& row : report.rows) {
    out += fmt::format("{:<13} {:>5} {:>8} {:>7} {:>10.2f} {:>8} {:>8} {:>6}{}\n", row.phase,
                       row.batch, row.context, row.tokens, row.tok_s, some(row.gb_s, 2, "-"),
                       some(row.probe_gb_s, 2, "-"), some(Report::share(row), 2, "-"),
                       row.seconds > 0 ? fmt::format("  {:.3f} s each", row.seconds) : "");
  }
  return out;
}

std::string csv_of(const Report& report) {
  std::string out = "phase,batch,context,tokens,tok_s,gb_s,share,seconds,probe_gb_s\n";
  for (const BenchRow& row : report.rows)
    out += fmt::format("{},{},{},{},{:.4f},{:.4f},{},{},{}\n", row.phase, row.batch, row.context,
                       row.tokens, row.tok_s, row.gb_s, some(Report::share(row), 4, ""),
                       some(row.seconds, 4, ""), some(row.probe_gb_s, 4, ""));
  out += fmt::format("load,,,,,,,{:.4f},\n", report.load_seconds);
  return out + fmt::format("probe,,,,,,,,{:.4f}\n", report.probe_gb_s);
}

Json json_of(const Report& report) {
  Json out = Json::object();
  out["probe_gb_s"] = report.probe_gb_s;
  out["model"] = report.model;
  out["device"] = report.device;
  out["format"] = report.format;
  out["rows"] = Json::array();
  for (const BenchRow& row : report.rows) {
    Json entry = Json::object();
    entry["phase"] = row.phase;
    entry["batch"] = row.batch;
    entry["context"] = row.context;
    entry["tokens"] = row.tokens;
    entry["tok_s"] = row.tok_s;
    if (row.seconds > 0) entry["seconds"] = row.seconds;
    entry["gb_s"] = row.gb_s;
    entry["probe_gb_s"] = row.probe_gb_s > 0 ? Json(row.probe_gb_s) : Json();
    entry["share"] = row.probe_gb_s > 0 ? Json(Report::share(row)) : Json();
    out["rows"].push_back(std::move(entry));
  }
  Json load = Json::object();
  load["phase"] = "load";
  load["seconds"] = report.load_seconds;
  out["rows"].push_back(std::move(load));
  return out;
}

std::string profile_table(const std::vector<OpProfile>& ops, int batch, int64_t context) {
  double seconds = 0;
  for (const OpProfile& op : ops) seconds += op.seconds;
  std::string out = fmt::format(
      "\ndecode, batch {}, context {}: time by op\n{:<20} {:>5} {:>10} {:>12} {:>8} "
      "{:>6}\n",
      batch, context, "op", "nodes", "ms/step", "bytes", "GB/s", "share");
  for (const OpProfile& op : ops)
    out += fmt::format("{:<20} {:>5} {:>10.4f} {:>12} {:>8.2f} {:>5.1f}%\n", op.op, op.nodes,
                       op.seconds * 1e3, format_bytes(static_cast<uint64_t>(op.bytes)),
                       op.seconds > 0 ? op.bytes / op.seconds / 1e9 : 0,
                       seconds > 0 ? 100 * op.seconds / seconds : 0);
  return out;
}

void write_result(const std::string& target, const std::string& text) {
  if (target == "-") {
    print(text);
    return;
  }
  AtomicFile file(target);
  file.write(text);
  file.commit();
}

// `--json MODEL`: the value of --json may be left out, so a folder after it is the model.
void settle_json(Flags& flags) {
  if (flags.json_option->count() == 0) return;
  std::error_code error;
  if (!flags.choice.model.given() && flags.choice.dummy.empty() &&
      std::filesystem::is_directory(flags.json, error)) {
    flags.choice.model.model = flags.json;
    flags.json = "-";
  }
  if (flags.json.empty() || flags.json == "true") flags.json = "-";
}

void run(Flags flags) {
  settle_json(flags);
  if (flags.csv == "-" && flags.json == "-")
    throw UsageError("[bench] expected --csv or --json on stdout, got both");
  const auto backend = make_backend(flags.device, {.threads = flags.threads});
  Progress progress;
  Report report;

  progress.show("loading the model");
  flags.choice.towers = !flags.image.empty() || !flags.audio.empty();
  auto start = std::chrono::steady_clock::now();
  const LoadedModel loaded = load_choice(flags.choice);
  report.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  report.model = describe_model(loaded);
  report.format = main_format(loaded);
  report.device = backend->description();

  BenchRunner::Limits limits;
  limits.sequences = *std::max_element(flags.batches.begin(), flags.batches.end());
  limits.positions = *std::max_element(flags.contexts.begin(), flags.contexts.end()) + flags.tokens;
  for (int64_t prompt : flags.prompts) limits.positions = std::max(limits.positions, prompt);
  if (limits.positions > loaded.spec.max_position_embeddings)
    throw UsageError("[bench] expected at most {} positions, got {}",
                     loaded.spec.max_position_embeddings, limits.positions);
  limits.chunk = flags.chunk;
  limits.exact = flags.exact;
  limits.dense_attention = flags.dense_attention;
  const std::unique_ptr<ReadProbe> probe = backend->make_read_probe();
  BenchRunner runner(*backend, *loaded.model, limits, probe.get());
  for (int64_t prompt : flags.prompts) {
    progress.show(fmt::format("prefill of {} tokens", prompt));
    report.rows.push_back(runner.prefill(prompt, flags.repeats));
  }
  for (int64_t context : flags.contexts)
    for (int batch : flags.batches) {
      progress.show(fmt::format("decode, batch {}, context {}", batch, context));
      report.rows.push_back(runner.decode(batch, context, flags.tokens, flags.repeats));
    }
  ProbeReading readings = runner.readings();
  const auto media = [&](const MediaChoice& choice) {
    progress.show(fmt::format("{} {}", choice.type, choice.value));
    MediaBench bench(*backend, loaded, choice, limits);
    for (BenchRow& row : bench.rows(flags.tokens, flags.repeats, probe.get()))
      report.rows.push_back(row);
    readings.add(bench.readings());
  };
  if (!flags.image.empty()) media({"image", flags.image, flags.choice.model_folder()});
  if (!flags.audio.empty()) media({"audio", flags.audio, flags.choice.model_folder()});
  report.probe_gb_s = readings.gb_s();
  std::string profile;
  if (flags.profile)
    for (int batch : flags.batches)
      profile += profile_table(runner.profile(batch, flags.contexts.front(), 8), batch,
                               flags.contexts.front());
  progress.clear();
  if (!flags.csv.empty()) write_result(flags.csv, csv_of(report));
  if (!flags.json.empty()) write_result(flags.json, json_of(report).dump(2) + "\n");
  if (flags.csv != "-" && flags.json != "-") {
    print(table_of(report) + profile);
  } else if (!profile.empty()) {
    note(profile);
  }
}

}  // namespace

Verb add_bench(CLI::App& root) {
  CLI::App& app = add_verb(root, "bench", "Measure prefill, decode and the memory they read");
  auto flags = std::make_shared<Flags>();
  add_model_flags(app, flags->choice);
  app.add_option("--prompt", flags->prompts, "Prompt lengths of the prefill rows")
      ->delimiter(',')
      ->check(whole_number(1, kMaxPositions))
      ->capture_default_str();
  app.add_option("--context", flags->contexts, "Cached positions of the decode rows")
      ->delimiter(',')
      ->check(whole_number(0, kMaxPositions))
      ->capture_default_str();
  app.add_option("--batch", flags->batches, "Sequences of the decode rows")
      ->delimiter(',')
      ->check(whole_number(1, 64))
      ->capture_default_str();
  app.add_option("--tokens", flags->tokens, "Tokens of a decode row, per sequence")
      ->check(whole_number(2, kMaxPositions))
      ->capture_default_str();
  app.add_option("--chunk", flags->chunk, "Prompt tokens of one prefill step")
      ->check(whole_number(1, 8192))
      ->capture_default_str();
  app.add_option("--repeat", flags->repeats, "Passes of a row, the best of which counts")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_option("--threads", flags->threads, "CPU threads (0: one per core)")
      ->check(whole_number(0, 1024))
      ->capture_default_str();
  app.add_option("--device", flags->device, "Where it runs")
      ->check(device_name())
      ->capture_default_str();
  app.add_option("--image", flags->image,
                 "Also a picture: its tower, and prefill and decode of equal prompts with it and "
                 "without; a file, or the size of a random one")
      ->type_name("FILE|WxH");
  app.add_option("--audio", flags->audio, "The same for a sound; a file, or seconds of noise")
      ->type_name("FILE|SECONDS");
  app.add_flag("--exact", flags->exact, "Float32 products and caches");
  app.add_flag("--dense-attention", flags->dense_attention,
               "Sparse attention reads every position");
  app.add_flag("--profile", flags->profile, "Also time every kind of op of a decode step");
  app.add_option("--csv", flags->csv, "Write the rows as CSV (- for stdout)")->type_name("FILE");
  flags->json_option =
      app.add_option("--json", flags->json, "Write the rows as JSON (alone or -: stdout)")
          ->type_name("FILE")
          ->expected(0, 1);
  finish_verb(app,
              "  decant bench demo/model\n"
              "  decant bench --dummy configs/qwen3-0.6b.json --format 4bit --json rows.json\n"
              "  decant bench --dummy configs/gemma4-e2b.json --image 1024x768 --batch 1\n"
              "  decant bench model --prompt 512 --context 512,4096 --batch 1,8 --tokens 64\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
