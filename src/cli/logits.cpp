#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/errors.h"
#include "base/json.h"
#include "checkpoint/safetensors.h"
#include "cli/console.h"
#include "cli/json_input.h"
#include "cli/model_name.h"
#include "cli/options.h"
#include "cli/signals.h"
#include "cli/verbs.h"
#include "engine/engine.h"
#include "models/load_model.h"
#include "session/tower_inputs.h"

namespace decant::cli {
namespace {

constexpr size_t kMaxRows = 4096;

struct Flags {
  ModelArgument model;
  std::string tokens;
  std::string output;
  std::string inputs;
  int chunk = 0;
  int64_t decode_from = -1;
  bool exact = false;
  bool dense_attention = false;
  bool weights_from_disk = false;
  std::string device = "auto";
  int threads = 0;
};

struct Rows {
  std::vector<std::vector<int32_t>> ids;
  bool batch = false;  // the file is a list of lists
};

Rows read_rows(const Flags& flags) {
  const Json json = read_json_input(flags.tokens);
  Rows out;
  if (!json.is_array() || json.empty())
    throw RequestError("[logits] {}: expected a list of token ids or of such lists, got {}",
                       flags.tokens, describe(json));
  out.batch = json.front().is_array();
  if (!out.batch) {
    out.ids.push_back(token_ids(json, flags.tokens));
  } else {
    if (json.size() > kMaxRows)
      throw RequestError("[logits] {}: expected at most {} rows, got {}", flags.tokens, kMaxRows,
                         json.size());
    for (size_t i = 0; i < json.size(); ++i)
      out.ids.push_back(token_ids(json[i], fmt::format("{}[{}]", flags.tokens, i)));
  }
  for (size_t i = 0; i < out.ids.size(); ++i) {
    const auto length = static_cast<int64_t>(out.ids[i].size());
    if (length == 0)
      throw RequestError("[logits] {}: row {}: expected at least one token, got none", flags.tokens,
                         i);
    if (flags.decode_from > length)
      throw UsageError("[logits] --decode-from: expected at most {} (the length of row {}), got {}",
                       length, i, flags.decode_from);
  }
  return out;
}

void check_ids(const Rows& rows, const Flags& flags, int64_t vocab_size) {
  for (size_t i = 0; i < rows.ids.size(); ++i)
    for (size_t j = 0; j < rows.ids[i].size(); ++j)
      if (rows.ids[i][j] >= vocab_size)
        throw RequestError("[logits] {}: row {}, position {}: expected an id below {}, got {}",
                           flags.tokens, i, j, vocab_size, rows.ids[i][j]);
}

void write_logits(const Flags& flags, const Rows& rows, int64_t vocab_size,
                  const std::vector<std::vector<float>>& logits) {
  std::vector<TensorDeclaration> tensors;
  for (size_t i = 0; i < rows.ids.size(); ++i)
    tensors.push_back({rows.batch ? fmt::format("logits.{}", i) : "logits",
                       DType::kF32,
                       {static_cast<int64_t>(rows.ids[i].size()), vocab_size}});
  // A signal waits until the file is whole or gone.
  const DeferSignals defer;
  SafetensorsWriter writer(flags.output, std::move(tensors));
  for (const std::vector<float>& row : logits) {
    check_signals();
    writer.write(std::as_bytes(std::span(row)));
  }
  writer.commit();
}

void run(const Flags& flags) {
  const Rows rows = read_rows(flags);
  LoadedModel loaded = load_model(flags.model.folder());
  const int64_t vocab_size = loaded.spec.vocab_size;
  check_ids(rows, flags, vocab_size);
  const auto backend = make_backend(flags.device, {.threads = flags.threads});

  size_t longest = 0;
  for (const auto& row : rows.ids) longest = std::max(longest, row.size());
  EngineOptions options;
  options.ctx_size = static_cast<int64_t>(longest);
  if (options.ctx_size > loaded.spec.max_position_embeddings)
    throw RequestError("[logits] {}: expected at most {} tokens in a row, got {}", flags.tokens,
                       loaded.spec.max_position_embeddings, longest);
  options.max_sequences = static_cast<int>(rows.ids.size());
  options.weights_from_disk = flags.weights_from_disk;
  options.exact = flags.exact;
  options.dense_attention = flags.dense_attention;
  if (flags.exact) options.kv_dtype = DType::kF32;
  // Any chunk gives the same results; a small one keeps the arena small.
  options.prefill_chunk =
      flags.chunk > 0 ? flags.chunk : static_cast<int>(std::min<size_t>(longest, 256));
  Engine engine(std::shared_ptr<const Model>(std::move(loaded.model)), *backend, options);

  std::vector<std::vector<float>> logits(rows.ids.size());
  for (size_t i = 0; i < rows.ids.size(); ++i)
    logits[i].resize(rows.ids[i].size() * static_cast<size_t>(vocab_size));
  ScoreOptions score;
  if (!flags.inputs.empty()) {
    if (rows.batch)
      throw UsageError(
          "[logits] --inputs: expected one list of token ids in --tokens, got several");
    score.media.push_back(
        place_in_order(engine.model(), rows.ids.front(), read_tower_inputs(flags.inputs)));
  }
  score.chunk = flags.chunk;
  score.decode_from = flags.decode_from;
  engine.score(rows.ids, score, [&](size_t row, int64_t position, std::span<const float> values) {
    std::copy(values.begin(), values.end(), logits[row].begin() + position * vocab_size);
  });
  write_logits(flags, rows, vocab_size, logits);
}

}  // namespace

Verb add_logits(CLI::App& root) {
  CLI::App& app = add_verb(root, "logits", "Logits of given tokens, for comparisons");
  auto flags = std::make_shared<Flags>();
  add_model_argument(app, flags->model, "Model: a folder, or a name; needs no tokenizer")
      ->required();
  app.add_option("--tokens", flags->tokens,
                 "JSON list of ids, or a list of such lists to run as one batch (- for stdin)")
      ->type_name("FILE")
      ->required();
  app.add_option("--output", flags->output,
                 "Safetensors file: float32 `logits` [T, V], or `logits.0`, `logits.1`, ...")
      ->type_name("FILE")
      ->required();
  app.add_option("--inputs", flags->inputs,
                 "Safetensors file of processor outputs (pixel_values, image_grid_thw, "
                 "image_position_ids, input_features, ...) for the placeholders in --tokens")
      ->type_name("FILE");
  app.add_option("--chunk", flags->chunk, "Prompt tokens of one prefill step")
      ->check(whole_number(1, 8192));
  app.add_option("--decode-from", flags->decode_from,
                 "Prefill the first K tokens, then feed one at a time")
      ->check(whole_number(0, std::numeric_limits<int32_t>::max()));
  app.add_flag("--exact", flags->exact, "Float32 products and caches");
  app.add_flag("--dense-attention", flags->dense_attention,
               "Sparse attention reads every position");
  app.add_flag("--weights-from-disk", flags->weights_from_disk,
               "Run a model larger than memory, reading what does not fit in every step");
  app.add_option("--device", flags->device, "Where it runs")
      ->check(device_name())
      ->capture_default_str();
  app.add_option("--threads", flags->threads, "CPU threads (0: one per core)")
      ->check(whole_number(0, 1024))
      ->capture_default_str();
  finish_verb(app,
              "  decant logits model --tokens ids.json --output logits.safetensors --exact\n"
              "  decant logits model --tokens ids.json --output l.safetensors --decode-from 16\n"
              "  decant logits model --tokens ids.json --inputs picture.safetensors --output "
              "l.safetensors\n");
  return {&app, [flags] { run(*flags); }};
}

}  // namespace decant::cli
