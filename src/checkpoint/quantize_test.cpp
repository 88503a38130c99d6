#include "checkpoint/quantize.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmath>
#include <csignal>
#include <set>

#include "base/json.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/testing.h"

namespace decant {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using namespace decant::testing;

// Rows [begin, end) of a source tensor, rounded to its own type.
SourceRows rows_of(const TensorInfo& source) {
  return {source.bytes.data(), source.dtype, source.dtype, source.dims()[0], source.dims()[1]};
}

struct Planes {
  std::vector<std::byte> data, scales, biases;
  Planes(const Format& format, int64_t rows, int64_t cols)
      : data(static_cast<size_t>(rows * format.data_row_bytes(cols))),
        scales(static_cast<size_t>(rows * format.scale_row_bytes(cols))),
        biases(static_cast<size_t>(rows * format.bias_row_bytes(cols))) {}
  QuantizedPlanes out() { return {data.data(), scales.data(), biases.data()}; }
};

TEST(QuantizeRows, EqualsMlxBitForBit) {
  for (const char* type : {"f32", "bf16", "f16"}) {
    const auto golden =
        SafetensorsFile::open(fixture(fmt::format("checkpoint/quantize_{}.safetensors", type)));
    const TensorInfo* source = golden->find("source");
    const int64_t rows = source->dims()[0];
    const int64_t cols = source->dims()[1];
    const auto check = [&](const std::string& name, const Format& format) {
      Planes planes(format, rows, cols);
      EXPECT_TRUE(quantize_rows(rows_of(*source), format, planes.out()));
      const auto same = [&](const std::string& part, const std::vector<std::byte>& got) {
        const auto want = golden->find(part)->bytes;
        const size_t row_bytes = got.size() / static_cast<size_t>(rows);
        ASSERT_EQ(want.size(), got.size());
        for (size_t row = 0; row < static_cast<size_t>(rows); ++row)
          EXPECT_EQ(
              std::memcmp(want.data() + row * row_bytes, got.data() + row * row_bytes, row_bytes),
              0)
              << type << " " << part << " row " << row;
      };
      same(name + ".weight", planes.data);
      same(name + ".scales", planes.scales);
      if (!format.is_micro()) same(name + ".biases", planes.biases);
    };
    for (int bits : {1, 2, 3, 4, 5, 6, 8})
      for (int group : {32, 64, 128})
        check(fmt::format("b{}g{}", bits, group), Format::affine(bits, group, source->dtype));
    for (const Format& format : {Format::mxfp4(), Format::mxfp8(), Format::nvfp4()})
      check(format.name(), format);
  }
}

// What a search reports is what decoding shows; it is never worse than rounding to nearest.
TEST(QuantizeRows, SearchLowersTheErrorItReports) {
  for (const char* type : {"f32", "bf16"}) {
    const auto golden =
        SafetensorsFile::open(fixture(fmt::format("checkpoint/quantize_{}.safetensors", type)));
    const TensorInfo* source = golden->find("source");
    const SourceRows from = rows_of(*source);
    std::vector<Format> formats = {Format::mxfp4(), Format::mxfp8(), Format::nvfp4()};
    for (int bits : {1, 2, 3, 4, 6, 8}) formats.push_back(Format::affine(bits, 64, source->dtype));
    for (const Format& format : formats) {
      SCOPED_TRACE(fmt::format("{} {}", type, format.name()));
      const auto error_of = [&](Planes& planes, int64_t row) {
        const MatrixView view{
            planes.data.data(), planes.scales.data(), planes.biases.data(), format, from.rows,
            from.cols};
        std::vector<float> decoded(static_cast<size_t>(from.cols));
        dequantize_row(view, row, decoded.data());
        double sum = 0;
        for (int64_t c = 0; c < from.cols; ++c) {
          const double error = static_cast<double>(decoded[static_cast<size_t>(c)]) -
                               load_float(from.data, from.dtype, row * from.cols + c);
          sum += error * error;
        }
        return sum;
      };
      Planes nearest(format, from.rows, from.cols);
      Planes searched(format, from.rows, from.cols);
      quantize_rows(from, format, nearest.out());
      QuantizeError error;
      EXPECT_TRUE(search_rows(from, format, searched.out(), error));
      double nearest_sum = 0, found_sum = 0;
      for (int64_t row = 0; row < from.rows; ++row) {
        const double before = error_of(nearest, row), after = error_of(searched, row);
        EXPECT_LE(after, before * (1 + 1e-12)) << "row " << row;
        nearest_sum += before;
        found_sum += after;
      }
      EXPECT_NEAR(error.nearest, nearest_sum, 1e-9 * nearest_sum);
      EXPECT_NEAR(error.found, found_sum, 1e-9 * nearest_sum);
      // The first row is plain normal values. The elements of mxfp8 have exponents of their own: it
      // gains nothing from another power of two.
      if (format.kind == Format::Kind::kMxfp8) continue;
      EXPECT_LT(error_of(searched, 0), 0.99 * error_of(nearest, 0));
    }
  }
}

TEST(QuantizeRows, TellsOfValuesThatAreNotFinite) {
  std::vector<float> values(64, 0.5f);
  Format format = Format::affine(4, 64, DType::kF32);
  const auto finite = [&] {
    Planes planes(format, 1, 64);
    return quantize_rows(
        {reinterpret_cast<const std::byte*>(values.data()), DType::kF32, DType::kF32, 1, 64},
        format, planes.out());
  };
  EXPECT_TRUE(finite());
  values[63] = NAN;
  EXPECT_FALSE(finite());
  values[63] = -INFINITY;
  EXPECT_FALSE(finite());
  format = Format::nvfp4();
  EXPECT_FALSE(finite());
}

// The tensors and the config of two folders are the same, in whatever order files hold them.
void expect_equal_models(const fs::path& got, const fs::path& want) {
  const auto a = Checkpoint::open(got);
  const auto b = Checkpoint::open(want);
  EXPECT_EQ(a->names(), b->names());
  for (std::string_view name : b->names()) {
    const TensorRef x = a->find(name);
    const TensorRef y = b->find(name);
    if (!x) continue;
    EXPECT_EQ(x->shape_text(), y->shape_text()) << name;
    EXPECT_EQ(x->dtype, y->dtype) << name;
    EXPECT_TRUE(std::ranges::equal(x->bytes, y->bytes)) << want << " " << name;
  }
  // Plain json objects compare without regard to order. A group size of null is 64.
  const auto config = [](const Checkpoint& model) {
    auto json = nlohmann::json::parse(model.config().dump());
    for (const char* key : {"quantization", "quantization_config"})
      for (auto& entry : json[key])
        if (entry.is_object() && entry["group_size"].is_null()) entry["group_size"] = 64;
    return json;
  };
  EXPECT_EQ(config(*a), config(*b)) << want;
  const auto metadata = [](const fs::path& folder) {
    return nlohmann::json::parse(file_text(folder / "model.safetensors.index.json"))["metadata"];
  };
  EXPECT_EQ(metadata(got), metadata(want)) << want;
}

// The source an mlx fixture was made from: some layers of a zoo model (renumbered), and the
// fixture's config before it was quantised.
void write_source(const fs::path& zoo, const std::vector<int>& layers, const fs::path& converted,
                  const fs::path& target) {
  const auto model = Checkpoint::open(zoo);
  std::vector<TensorDeclaration> tensors;
  std::vector<std::span<const std::byte>> data;
  constexpr std::string_view kLayers = "model.layers.";
  for (std::string_view name : model->names()) {
    std::string new_name(name);
    if (name.starts_with(kLayers)) {
      const size_t dot = name.find('.', kLayers.size());
      const int layer = std::stoi(std::string(name.substr(kLayers.size())));
      const auto at = std::find(layers.begin(), layers.end(), layer);
      if (at == layers.end()) continue;
      new_name = fmt::format("{}{}{}", kLayers, at - layers.begin(), name.substr(dot));
    }
    const TensorRef tensor = model->find(name);
    tensors.push_back({new_name, tensor->dtype, {tensor->dims().begin(), tensor->dims().end()}});
    data.push_back(tensor->bytes);
  }
  fs::create_directories(target);
  SafetensorsWriter writer(target / "model.safetensors", tensors, {{"format", "pt"}});
  for (const auto& bytes : data) writer.write(bytes);
  writer.commit();
  Json config = read_json_file(converted / "config.json");
  config.erase("quantization");
  config.erase("quantization_config");
  config["_name_or_path"] = "somewhere";
  write_file(target / "config.json", config.dump());
}

TEST(QuantizeCheckpoint, WritesWhatMlxLmWrites) {
  struct Case {
    const char* zoo;
    std::vector<int> layers;
    const char* recipe;
    const char* want;
    std::optional<DType> dtype = std::nullopt;
  };
  const std::vector<Case> cases = {
      {"zoo/qwen3", {0, 2}, "1bit", "mlx/qwen3-1bit"},
      {"zoo/qwen3", {0, 2}, "2bit", "mlx/qwen3-2bit"},
      {"zoo/qwen3", {0, 2}, "3bit", "mlx/qwen3-3bit"},
      {"zoo/qwen3", {0, 2}, "4bit", "mlx/qwen3-4bit"},
      {"zoo/qwen3", {0, 2}, "4bit", "mlx/qwen3-4bit-fp16", DType::kF16},
      {"zoo/qwen3", {0, 2}, "4bit-g32", "mlx/qwen3-4bit-g32"},
      {"zoo/qwen3", {0, 2}, "4bit-g128", "mlx/qwen3-4bit-g128-partial"},
      {"zoo/qwen3", {0, 2}, "5bit", "mlx/qwen3-5bit"},
      {"zoo/qwen3", {0, 2}, "6bit", "mlx/qwen3-6bit"},
      {"zoo/qwen3", {0, 2}, "8bit", "mlx/qwen3-8bit"},
      {"zoo/qwen3", {0, 2}, "mxfp4", "mlx/qwen3-mxfp4"},
      {"zoo/qwen3", {0, 2}, "mxfp8", "mlx/qwen3-mxfp8"},
      {"zoo/qwen3", {0, 2}, "nvfp4", "mlx/qwen3-nvfp4"},
      {"zoo/qwen3_moe", {1, 2}, "mxfp4", "mlx/qwen3_moe-mxfp4"},
      {"zoo/qwen3_moe", {1, 2}, "4bit", "mlx/qwen3_moe-4bit"},
      {"zoo/qwen3_moe", {1, 2}, "mixed_3_4", "mlx/qwen3_moe-mixed_3_4"},
      {"zoo/qwen3_moe", {1, 2}, "mixed-4-6", "mlx/qwen3_moe-mixed_4_6"},
      {"zoo/llama", {0, 1, 2}, "4bit", "mlx/llama-4bit"},
  };
  for (const Case& test : cases) {
    TemporaryFolder folder;
    write_source(fixture(test.zoo), test.layers, fixture(test.want), folder / "source");
    QuantizeOptions options;
    options.dtype = test.dtype;
    quantize_checkpoint(folder / "source", folder / "out",
                        Recipe::named(test.recipe, static_cast<int64_t>(test.layers.size())),
                        options);
    expect_equal_models(folder / "out", fixture(test.want));
  }
}

// Module names without their numbers, with the name of their format.
std::set<std::string> kinds_of_modules(const fs::path& folder) {
  const auto model = Checkpoint::open(folder);
  std::set<std::string> out;
  for (std::string_view name : model->names()) {
    std::string kind;
    for (char c : name)
      if (c < '0' || c > '9') kind += c;
    out.insert(fmt::format("{} {}", kind, name_of(model->find(name)->dtype)));
  }
  return out;
}

TEST(QuantizeCheckpoint, QuantisesTheModulesOfGemma3n) {
  TemporaryFolder folder;
  QuantizeOptions options;
  options.family.renames = {{"model.", "model.language_model."}};
  quantize_checkpoint(fixture("zoo/gemma3n_text"), folder / "out", Recipe::named("4bit"), options);
  EXPECT_EQ(kinds_of_modules(folder / "out"), kinds_of_modules(fixture("mlx/gemma3n_text-4bit")));
  EXPECT_TRUE(fs::exists(folder / "out" / "generation_config.json"));
}

TEST(QuantizeCheckpoint, CutsShards) {
  TemporaryFolder folder;
  QuantizeOptions options;
  options.shard_limit_bytes = 100000;
  size_t calls = 0;
  options.progress = [&](const std::string&, size_t done, size_t total) {
    EXPECT_EQ(done, ++calls);
    EXPECT_LE(done, total);
  };
  quantize_checkpoint(fixture("zoo/qwen3"), folder / "out", Recipe::named("8bit"), options);
  quantize_checkpoint(fixture("zoo/qwen3"), folder / "one", Recipe::named("8bit"));
  EXPECT_GT(calls, 10u);
  const auto sharded = Checkpoint::open(folder / "out");
  EXPECT_GT(sharded->files().size(), 1u);
  expect_equal_models(folder / "out", folder / "one");
}

// Experts as transformers 5 fuses them give the same result as separate ones.
TEST(QuantizeCheckpoint, StacksFusedExperts) {
  TemporaryFolder folder;
  fs::create_directories(folder / "separate");
  fs::create_directories(folder / "fused");
  const int64_t experts = 3, rows = 4, cols = 64;
  std::vector<uint16_t> values(static_cast<size_t>(experts * rows * cols));
  const auto fill = [&](unsigned seed) {
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = float_to_bf16(std::sin(static_cast<float>(i * (seed + 3))));
    return values;
  };
  const auto gate = fill(0), up = fill(1), down = fill(2);
  const auto part = [&](const std::vector<uint16_t>& from, int64_t e) {
    return std::as_bytes(std::span(from))
        .subspan(static_cast<size_t>(e * rows * cols * 2), static_cast<size_t>(rows * cols * 2));
  };
  write_file(folder / "separate" / "config.json", "{}");
  write_file(folder / "fused" / "config.json", "{}");
  std::vector<TensorDeclaration> tensors;
  for (int64_t e = 0; e < experts; ++e)
    for (const char* name : {"gate_proj", "up_proj", "down_proj"})
      tensors.push_back(
          {fmt::format("m.mlp.experts.{}.{}.weight", e, name), DType::kBF16, {rows, cols}});
  SafetensorsWriter separate(folder / "separate" / "model.safetensors", tensors);
  SafetensorsWriter fused(folder / "fused" / "model.safetensors",
                          {{"m.mlp.experts.gate_up_proj", DType::kBF16, {experts, 2 * rows, cols}},
                           {"m.mlp.experts.down_proj", DType::kBF16, {experts, rows, cols}}});
  for (int64_t e = 0; e < experts; ++e) {
    for (const auto* from : {&gate, &up, &down}) separate.write(part(*from, e));
    for (const auto* from : {&gate, &up}) fused.write(part(*from, e));
  }
  fused.write(std::as_bytes(std::span(down)));
  separate.commit();
  fused.commit();
  quantize_checkpoint(folder / "separate", folder / "a", Recipe::named("5bit"));
  quantize_checkpoint(folder / "fused", folder / "b", Recipe::named("5bit"));
  EXPECT_EQ(Checkpoint::open(folder / "a")->find("m.mlp.switch_mlp.up_proj.weight")->shape(),
            Shape({experts, rows, cols * 5 / 32}));
  expect_equal_models(folder / "a", folder / "b");
}

TEST(QuantizeCheckpoint, LeavesNothingBehindWhenItFails) {
  TemporaryFolder folder;
  const auto source = fixture("zoo/llama");
  const Recipe recipe = Recipe::named("4bit");
  const auto entries = [&] {
    return std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator());
  };
  // A target with content is refused and untouched; an empty one is taken.
  fs::create_directories(folder / "out");
  write_file(folder / "out" / "mine.txt", "x");
  EXPECT_THROW(quantize_checkpoint(source, folder / "out", recipe), UsageError);
  write_file(folder / "file", "x");
  EXPECT_THROW(quantize_checkpoint(source, folder / "file", recipe), UsageError);
  EXPECT_EQ(entries(), 2);
  fs::remove(folder / "out" / "mine.txt");
  quantize_checkpoint(source, (folder / "out").string() + "/", recipe);
  EXPECT_TRUE(fs::exists(folder / "out" / "config.json"));
  EXPECT_EQ(entries(), 2);
  // What is quantised already, or broken, is refused before anything is made.
  EXPECT_THAT(model_error([&] { quantize_checkpoint(folder / "out", folder / "b", recipe); }),
              HasSubstr("already quantised"));
  EXPECT_NE(model_error([&] { quantize_checkpoint("/nonexistent", folder / "b", recipe); }), "");
  EXPECT_EQ(entries(), 2);
  EXPECT_THROW(quantize_checkpoint(source, "/nonexistent/folder/out", recipe), RuntimeError);
  // A failure in the middle removes what was written so far.
  QuantizeOptions options;
  options.progress = [](const std::string&, size_t done, size_t) {
    if (done == 5) throw RuntimeError("stop");
  };
  EXPECT_THROW(quantize_checkpoint(source, folder / "b", recipe, options), RuntimeError);
  EXPECT_EQ(entries(), 2);
  // A file that cannot grow, as on a full disk.
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small{20000, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THROW(quantize_checkpoint(source, folder / "b", recipe), RuntimeError);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::signal(SIGXFSZ, previous);
  EXPECT_EQ(entries(), 2);
}

// An interrupted conversion goes on where whole shards end; another one starts anew.
TEST(QuantizeCheckpoint, GoesOnAfterAnInterruption) {
  TemporaryFolder folder;
  const auto source = fixture("zoo/qwen3");
  QuantizeOptions options;
  options.shard_limit_bytes = 40000;
  const Recipe recipe = Recipe::named("mxfp4");
  const QuantizeReport whole = quantize_checkpoint(source, folder / "whole", recipe, options);
  ASSERT_GT(whole.shards, 3u);
  EXPECT_EQ(whole.kept_shards, 0u);

  size_t modules = 0;
  const auto interrupt_at = [&](size_t stop) {
    modules = 0;
    options.progress = [&, stop](const std::string&, size_t done, size_t) {
      ++modules;
      if (done >= stop) throw RuntimeError("stop");
    };
    EXPECT_THROW(quantize_checkpoint(source, folder / "out", recipe, options), RuntimeError);
  };
  interrupt_at(20);
  EXPECT_EQ(modules, 20u);
  EXPECT_FALSE(fs::exists(folder / "out"));
  const fs::path partial = partial_folder(folder / "out");
  ASSERT_TRUE(fs::exists(partial / "plan.json"));
  // A shard that was cut is written again; what else a crash leaves is gone in the end.
  const auto first = partial / fmt::format("model-00001-of-{:05}.safetensors", whole.shards);
  ASSERT_TRUE(fs::exists(first));
  interrupt_at(25);
  EXPECT_LE(modules, 25u - 5u);  // at least the modules of a shard were not done again
  fs::resize_file(first, 1000);
  options.progress = {};
  const QuantizeReport rest = quantize_checkpoint(source, folder / "out", recipe, options);
  EXPECT_GT(rest.kept_shards, 0u);
  EXPECT_LT(rest.kept_shards, rest.shards);
  EXPECT_EQ(rest.bytes, whole.bytes);
  EXPECT_EQ(rest.parameters, whole.parameters);
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_FALSE(fs::exists(folder / "out" / "plan.json"));
  EXPECT_FALSE(fs::exists(folder / "out" / "lock"));
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder / "out")) {
    names.insert(entry.path().filename().string());
    EXPECT_EQ(file_text(entry.path()), file_text(folder / "whole" / entry.path().filename()))
        << entry.path();
  }
  EXPECT_EQ(names.size(), whole.shards + 3);  // index, config and generation config

  // The shards of another recipe are not taken over.
  fs::remove_all(folder / "out");
  interrupt_at(20);
  options.progress = {};
  EXPECT_EQ(
      quantize_checkpoint(source, folder / "out", Recipe::named("nvfp4"), options).kept_shards, 0u);
}

// The peak of a process that converts a model of 512 MiB.
TEST(QuantizeCheckpoint, NeedsMemoryForBlocksOnly) {
  TemporaryFolder folder;
  fs::create_directories(folder / "source");
  write_file(folder / "source" / "config.json", "{}");
  constexpr int64_t kRows = 1 << 15, kCols = 1 << 12, kMatrices = 2;
  std::string header = "{";
  for (int64_t i = 0; i < kMatrices; ++i)
    header += fmt::format(
        R"({}"m.{}.weight":{{"dtype":"BF16","shape":[{},{}],"data_offsets":[{},{}]}})",
        i > 0 ? "," : "", i, kRows, kCols, i * kRows * kCols * 2, (i + 1) * kRows * kCols * 2);
  header += "}";
  const auto file = folder / "source" / "model.safetensors";
  write_file(file, safetensors_text(header));
  // A hole in the file reads as zeros and costs neither disk nor time.
  fs::resize_file(file,
                  fs::file_size(file) + static_cast<uintmax_t>(kMatrices * kRows * kCols * 2));
  const auto peak_of = [&](const char* format) {
    int pipe_ends[2];
    EXPECT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      rusage before{}, after{};
      getrusage(RUSAGE_SELF, &before);
      quantize_checkpoint(folder / "source", folder / format, Recipe::named(format));
      getrusage(RUSAGE_SELF, &after);
      const long grown = after.ru_maxrss - before.ru_maxrss;
      _exit(write(pipe_ends[1], &grown, sizeof grown) == sizeof grown ? 0 : 1);
    }
    long grown = -1;
    EXPECT_EQ(read(pipe_ends[0], &grown, sizeof grown), static_cast<ssize_t>(sizeof grown));
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    return grown;
  };
  // A block of 32 MiB of the source, what becomes of it, and the scales of one of the matrices.
  for (const char* format : {"4bit", "mxfp8"}) {
    const long grown = peak_of(format);
    EXPECT_GT(grown, 8 << 10) << format;
    EXPECT_LT(grown, 96 << 10) << format << ": KiB";
  }
}

TEST(Recipe, GivesEveryNameItsFormats) {
  const auto format_of = [](const Recipe& recipe, const char* path) {
    const RecipeRule* rule = recipe.rule_for(path);
    const std::optional<Format> format = rule != nullptr ? rule->format : recipe.format;
    return format ? format->name() : std::string("kept");
  };
  EXPECT_EQ(Recipe::named("mxfp4").format, Format::mxfp4());
  EXPECT_EQ(Recipe::named("mxfp8").format, Format::mxfp8());
  EXPECT_EQ(Recipe::named("nvfp4").format, Format::nvfp4());
  for (const auto& [low, high] : {std::pair{2, 6}, {3, 4}, {3, 6}, {4, 6}}) {
    const Recipe mixed = Recipe::named(fmt::format("mixed-{}-{}", low, high), 16);
    const Recipe other = Recipe::named(fmt::format("mixed_{}_{}", low, high), 16);
    EXPECT_EQ(mixed.to_json(), other.to_json());
    const std::string more = fmt::format("{}bit-g64", high), less = fmt::format("{}bit-g64", low);
    for (int layer = 0; layer < 16; ++layer) {
      const bool sensitive = layer < 2 || layer >= 14 || (layer - 2) % 3 == 2;
      const auto path = fmt::format("model.layers.{}.mlp.down_proj", layer);
      EXPECT_EQ(format_of(mixed, path.c_str()), sensitive ? more : less) << path;
    }
    EXPECT_EQ(format_of(mixed, "lm_head"), more);
    EXPECT_EQ(format_of(mixed, "model.layers.0.mlp.up_proj"), less);
  }
  const Recipe experts = Recipe::named("nvfp4-experts");
  EXPECT_EQ(format_of(experts, "model.layers.3.mlp.switch_mlp.up_proj"), "nvfp4");
  EXPECT_EQ(format_of(experts, "model.layers.3.self_attn.q_proj"), "8bit-g64");
  EXPECT_EQ(format_of(experts, "lm_head"), "8bit-g64");
  const Recipe glm = Recipe::named("glm-demolition", 16);
  EXPECT_TRUE(Recipe::goes_by_layer("glm-demolition"));
  EXPECT_EQ(format_of(glm, "model.layers.1.mlp.switch_mlp.up_proj"), "4bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.2.mlp.switch_mlp.up_proj"), "3bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.4.mlp.switch_mlp.down_proj"), "4bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.14.mlp.switch_mlp.down_proj"), "4bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.2.mlp.shared_experts.up_proj"), "4bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.2.self_attn.q_a_proj"), "4bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.2.self_attn.indexer.wk"), "8bit-g64");
  EXPECT_EQ(format_of(glm, "model.layers.2.mlp.gate"), "kept");
  EXPECT_EQ(format_of(glm, "model.embed_tokens"), "6bit-g64");
  EXPECT_EQ(format_of(glm, "lm_head"), "6bit-g64");
  // All of them survive their JSON.
  for (const Recipe* recipe : {&experts, &glm}) {
    const Recipe again = Recipe::from_json(recipe->to_json(), "r");
    EXPECT_EQ(again.to_json(), recipe->to_json());
  }
}

TEST(Recipe, MatchesPatterns) {
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("*.mlp.gate", "model.layers.1.mlp.gate"));
  EXPECT_FALSE(matches_pattern("*.mlp.gate", "model.layers.1.mlp.gate_proj"));
  EXPECT_TRUE(matches_pattern("*layers.1?.*v_proj*", "model.layers.12.self_attn.v_proj"));
  EXPECT_FALSE(matches_pattern("a?", "a"));
  const std::string many(20000, 'a');
  EXPECT_FALSE(matches_pattern("*a*a*a*a*a*b", many));
}

TEST(Recipe, ReadsItsOwnJson) {
  Recipe recipe = Recipe::named("3bit-g32");
  EXPECT_EQ(recipe.format, Format::affine(3, 32));
  recipe.rules = {{"*.gate", Format::affine(8, 64)}, {"lm_head", std::nullopt}};
  const Recipe again = Recipe::from_json(recipe.to_json(), "recipe.json");
  EXPECT_EQ(again.name, recipe.name);
  EXPECT_EQ(again.format, recipe.format);
  ASSERT_EQ(again.rules.size(), 2u);
  EXPECT_EQ(again.rules[0].format, recipe.rules[0].format);
  EXPECT_EQ(again.rule_for("lm_head")->format, std::nullopt);
  EXPECT_EQ(again.rule_for("x"), nullptr);
  for (const char* bad : {"4", "7bit", "4bit-g16", "4bitx", "-4bit", "mixed_1_2", "", "4bit-g"})
    EXPECT_THROW(Recipe::named(bad), UsageError) << bad;
  for (const char* bad :
       {"[]", R"({"bits":7})", R"({"group_size":1})", R"({"rules":{}})", R"({"rules":[1]})",
        R"({"rules":[{"bits":4}]})", R"({"rules":[{"pattern":"a","keep":true,"bits":4}]})",
        R"({"mode":"mxfp4","bits":8})", R"({"mode":"nvfp4","group_size":32})",
        R"({"rules":[{"pattern":"a","keep":true,"mode":"mxfp4"}]})",
        R"({"rules":[{"pattern":1}]})"})
    EXPECT_NE(model_error([&] { Recipe::from_json(parse_json(bad, "r"), "r"); }), "") << bad;
}

}  // namespace
}  // namespace decant
