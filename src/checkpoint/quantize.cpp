#include "checkpoint/quantize.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <system_error>

#include "base/checked.h"
#include "base/errors.h"
#include "base/json.h"
#include "base/log.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/config_reader.h"
#include "checkpoint/foreign_planes.h"
#include "checkpoint/mlx_config.h"
#include "checkpoint/parallel.h"
#include "checkpoint/quantize_staging.h"

namespace decant {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kBlockBytes = 32 << 20;  // of source read between two writes

// Consecutive rows of a module: where they lie in the source, or those from `first` on of a module
// of fp8, which are decoded block by block.
struct Part {
  const std::byte* data;
  int64_t rows;
  const ForeignModule* foreign = nullptr;
  int64_t first = 0;
};

// One module (or plain tensor) of the target.
struct Module {
  std::string path;    // of the module; a plain tensor's full name
  std::string suffix;  // ".weight" of what may be quantised, else empty
  std::vector<int64_t> shape;
  DType source_dtype = DType::kBF16;
  DType dtype = DType::kBF16;  // after conversion
  std::vector<Part> parts;
  std::optional<Format> format;  // absent: stays dense
  bool listed = false;           // gets an entry in the config
  bool with_mode = false;        // and the entry says its mode

  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  int64_t count() const {
    int64_t out = 1;
    for (int64_t dim : shape) out *= dim;  // a product the file's validation has checked
    return out;
  }
  std::vector<TensorDeclaration> tensors() const {
    if (!format) return {{path + suffix, dtype, shape}};
    std::vector<int64_t> packed = shape;
    packed.back() = format->data_row_bytes(cols()) / 4;
    std::vector<int64_t> groups = shape;
    groups.back() = cols() / format->group;
    if (format->is_micro())
      return {{path + ".weight", DType::kU32, packed}, {path + ".scales", DType::kU8, groups}};
    return {{path + ".weight", DType::kU32, packed},
            {path + ".scales", dtype, groups},
            {path + ".biases", dtype, groups}};
  }
};

// "P.experts.<number>.<rest>" in its pieces.
struct ExpertName {
  std::string parent;
  int64_t expert;
  std::string rest;
};
std::optional<ExpertName> expert_name(std::string_view name) {
  constexpr std::string_view kMark = ".experts.";
  const size_t mark = name.find(kMark);
  if (mark == std::string_view::npos) return std::nullopt;
  const std::string_view tail = name.substr(mark + kMark.size());
  int32_t expert = 0;
  const auto parsed = std::from_chars(tail.data(), tail.data() + tail.size(), expert);
  const size_t digits = static_cast<size_t>(parsed.ptr - tail.data());
  if (parsed.ec != std::errc() || expert < 0 || digits >= tail.size() || tail[digits] != '.')
    return std::nullopt;
  return ExpertName{std::string(name.substr(0, mark)), expert,
                    std::string(tail.substr(digits + 1))};
}

// Where mlx-lm looks for the stacked experts of a module: a feed-forward module that is all
// experts, or (Gemma 4) a layer "layers.<number>" with experts beside its MLP.
std::string stack_path(std::string_view parent) {
  const bool layer = parent.find_last_not_of("0123456789") == parent.rfind('.');
  return std::string(parent) + (layer ? ".experts.switch_glu." : ".switch_mlp.");
}
bool is_stack(std::string_view path) {
  return path.find(".switch_mlp.") != path.npos || path.find(".switch_glu.") != path.npos;
}

bool any_match(const std::vector<std::string>& patterns, std::string_view text) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) { return matches_pattern(pattern, text); });
}

// Decides what is written: which modules there are, in which format, where their rows lie.
class Planner {
 public:
  Planner(const Checkpoint& source, const Recipe& recipe, const QuantizeOptions& options)
      : source_(source), recipe_(recipe), options_(options), dtype_(target_dtype()) {}

  std::vector<Module> plan() {
    refuse_quantised();
    find_foreign();
    const bool tied = ConfigReader(source_.config(), source_.config_path())
                          .value_or("tie_word_embeddings", false);
    for (std::string_view name : source_.names()) {
      if (name.ends_with(".rotary_emb.inv_freq") || beside_.contains(name) ||
          any_match(options_.family.drop, name))
        continue;
      // A tied head repeats the embedding.
      if (tied && (name.starts_with("lm_head.") || name.find(".lm_head.") != name.npos)) continue;
      const TensorRef tensor = source_.find(name);
      if (const auto expert = expert_name(name)) {
        add_expert(*expert, tensor);
      } else if (!add_fused(name, *tensor.info)) {
        add_plain(name, *tensor.info);
      }
    }
    for (auto& [key, experts] : experts_) stack(key, experts);
    for (Module& module : modules_) choose_format(module);
    std::sort(modules_.begin(), modules_.end(),
              [](const Module& a, const Module& b) { return a.path < b.path; });
    return std::move(modules_);
  }

 private:
  void refuse_quantised() const {
    const auto names = source_.names();
    const bool scales = std::any_of(names.begin(), names.end(), [](std::string_view name) {
      return name.ends_with(".scales");
    });
    if (source_.quantization().top() || (scales && source_.quantization().foreign() == nullptr))
      throw ConfigError(
          "[quantize] {}: expected a model in floating point, got one that is "
          "already quantised",
          source_.folder().string());
  }

  // Of other tools' formats only fp8 is near enough to floating point to be quantised again.
  void find_foreign() {
    const ForeignQuantization* config = source_.quantization().foreign();
    if (config == nullptr) return;
    ForeignProblems problems;
    for (std::string_view name : source_.names()) {
      if (is_activation_scale(name)) beside_.insert(name);
      const size_t dot = name.rfind('.') == name.npos ? 0 : name.rfind('.');
      const std::string_view suffix = name.substr(dot);
      const TensorRef tensor = source_.find(name);
      const bool plain = suffix == ".weight" || tensor->dtype == DType::kF8E4M3;
      if (!plain && suffix != ".weight_packed" && suffix != ".qweight") continue;
      if (tensor->rank < 2) continue;
      const bool bare = plain && suffix != ".weight";  // experts of transformers 5
      const std::string module(bare ? name : name.substr(0, dot));
      const auto dims = tensor->dims();
      ForeignModule found;
      if (!find_foreign_module(source_, module, bare ? "" : ".weight", dims.first(dims.size() - 1),
                               dims.back(), found, problems))
        continue;
      if (tensor->dtype != DType::kF8E4M3 || (found.rows > 0 && !found.format.is_dense()))
        throw ConfigError(
            "[quantize] {}: expected a model in floating point or fp8, got one that is already "
            "quantised ({}): its weights would be rounded a second time (at {})",
            source_.folder().string(), config->name, name);
      for (const TensorRef& part : found.tensors)
        if (part.info != tensor.info) beside_.insert(part->name);
      foreign_.emplace(name, std::move(found));
    }
    std::ranges::move(problems.wrong, std::back_inserter(problems.missing));
    if (problems.missing.empty()) return;
    Problems list;
    for (std::string& line : problems.missing) list.add(std::move(line));
    throw WeightError(
        "{}", list.text(fmt::format("[quantize] {}: {} problem{}", source_.folder().string(),
                                    list.count(), list.count() == 1 ? "" : "s")));
  }

  // `rows` rows of a tensor from `first` on.
  Part part_of(const TensorInfo& tensor, int64_t first, int64_t rows) const {
    const auto found = foreign_.find(tensor.name);
    if (found != foreign_.end()) return {nullptr, rows, &found->second, first};
    const int64_t row_bytes =
        tensor.dims().empty() ? 0 : tensor.dims().back() * size_of(tensor.dtype);
    return {tensor.bytes.data() + first * row_bytes, rows};
  }
  // The type of its values.
  DType dtype_of(const TensorInfo& tensor) const {
    return foreign_.contains(tensor.name) ? DType::kBF16 : tensor.dtype;
  }

  // As mlx-lm: everything is converted to the type the config names before it is quantised.
  std::optional<DType> target_dtype() const {
    if (options_.dtype) return options_.dtype;
    const ConfigReader config(source_.config(), source_.config_path());
    const auto name = config.value_or(config.first_of({"dtype", "torch_dtype"}), "");
    if (name == "bfloat16") return DType::kBF16;
    if (name == "float16") return DType::kF16;
    if (name == "float32") return DType::kF32;
    return std::nullopt;
  }

  Module make(std::string path, std::string suffix, std::vector<int64_t> shape, DType dtype) const {
    Module out;
    out.path = Renames::apply(options_.family.renames, path);
    out.suffix = std::move(suffix);
    out.shape = std::move(shape);
    out.source_dtype = dtype;
    out.dtype = is_dense_float(dtype) ? dtype_.value_or(dtype) : dtype;
    return out;
  }

  void add_plain(std::string_view name, const TensorInfo& tensor) {
    constexpr std::string_view kWeight = ".weight";
    const bool weight = name.ends_with(kWeight);
    std::string path(weight ? name.substr(0, name.size() - kWeight.size()) : name);
    Module module = make(std::move(path), weight ? ".weight" : "",
                         {tensor.dims().begin(), tensor.dims().end()}, dtype_of(tensor));
    const int64_t cols = module.cols();
    module.parts.push_back(part_of(tensor, 0, cols > 0 ? module.count() / cols : 0));
    modules_.push_back(std::move(module));
  }

  // transformers 5: experts.gate_up_proj [E, 2 I, H] (gate first) and experts.down_proj [E, H, I].
  bool add_fused(std::string_view name, const TensorInfo& tensor) {
    constexpr std::string_view kBoth = ".experts.gate_up_proj";
    constexpr std::string_view kDown = ".experts.down_proj";
    const bool both = name.ends_with(kBoth);
    if ((!both && !name.ends_with(kDown)) || tensor.rank != 3) return false;
    const auto dims = tensor.dims();
    if (both && dims[1] % 2 != 0)
      throw WeightError("[quantize] {}: expected an even number of rows, got {}", name,
                        tensor.shape_text());
    const std::string parent(name.substr(0, name.size() - (both ? kBoth : kDown).size()));
    const int64_t rows = both ? dims[1] / 2 : dims[1];
    const auto projections = both ? std::vector<std::string>{"gate_proj", "up_proj"}
                                  : std::vector<std::string>{"down_proj"};
    for (size_t p = 0; p < projections.size(); ++p) {
      Module module = make(stack_path(parent) + projections[p], ".weight", {dims[0], rows, dims[2]},
                           dtype_of(tensor));
      if (!tensor.bytes.empty())
        for (int64_t e = 0; e < dims[0]; ++e)
          module.parts.push_back(
              part_of(tensor, e * dims[1] + static_cast<int64_t>(p) * rows, rows));
      modules_.push_back(std::move(module));
    }
    return true;
  }

  void add_expert(const ExpertName& name, const TensorRef& tensor) {
    constexpr std::string_view kWeight = ".weight";
    if (!name.rest.ends_with(kWeight) || tensor->rank != 2)
      throw WeightError("[quantize] {}: expected a matrix named weight of an expert, got {}",
                        tensor->name, tensor->shape_text());
    const std::string projection = name.rest.substr(0, name.rest.size() - kWeight.size());
    experts_[{name.parent, projection}].emplace(name.expert, tensor.info);
  }

  using ExpertKey = std::pair<std::string, std::string>;
  void stack(const ExpertKey& key, const std::map<int64_t, const TensorInfo*>& experts) {
    const TensorInfo& first = *experts.begin()->second;
    const auto dims = first.dims();
    Module module = make(stack_path(key.first) + key.second, ".weight",
                         {static_cast<int64_t>(experts.size()), dims[0], dims[1]}, dtype_of(first));
    int64_t expected = 0;
    for (const auto& [expert, tensor] : experts) {
      if (expert != expected++)
        throw WeightError("[quantize] {}.experts.*.{}: expected expert {}, got {}", key.first,
                          key.second, expected - 1, expert);
      if (!std::ranges::equal(tensor->dims(), dims) || tensor->dtype != first.dtype)
        throw WeightError("[quantize] {}: expected {} {} like {}, got {} {}", tensor->name,
                          name_of(first.dtype), first.shape_text(), first.name,
                          name_of(tensor->dtype), tensor->shape_text());
      module.parts.push_back(part_of(*tensor, 0, dims[0]));
    }
    modules_.push_back(std::move(module));
  }

  void choose_format(Module& module) const {
    const bool matrix =
        module.suffix == ".weight" && is_dense_float(module.source_dtype) &&
        (module.shape.size() == 2 || (module.shape.size() == 3 && is_stack(module.path)));
    // The default group decides what can be quantised, also for modules with a smaller one.
    if (!matrix || module.cols() == 0 || module.cols() % recipe_.format.group != 0 ||
        any_match(options_.family.keep, module.path))
      return;
    std::optional<Format> format = recipe_.format;
    if (const RecipeRule* rule = recipe_.rule_for(module.path)) {
      format = rule->format;
      module.listed = module.with_mode = rule->format.has_value();
    } else {
      for (const RecipeRule& own : options_.family.overrides) {
        if (!matches_pattern(own.pattern, module.path)) continue;
        format = own.format;
        module.listed = own.format.has_value();
        break;
      }
    }
    if (!format || module.cols() % format->group != 0) {
      module.listed = false;
      return;
    }
    if (!format->is_micro()) format->dtype = module.dtype;
    module.format = format;
  }

  const Checkpoint& source_;
  const Recipe& recipe_;
  const QuantizeOptions& options_;
  std::optional<DType> dtype_;
  std::map<std::string, ForeignModule, std::less<>> foreign_;  // by the name of the weight
  std::set<std::string_view> beside_;                          // scales and other tensors of those
  std::vector<Module> modules_;
  std::map<ExpertKey, std::map<int64_t, const TensorInfo*>> experts_;
};

// Rows of dense values where they lie or were decoded to.
class DenseRows {
 public:
  DenseRows(const Part& part, const Module& module) : part_(part), module_(module) {}

  /// Rows [begin, begin + rows) of the part, valid until the next call.
  const std::byte* read(int64_t begin, int64_t rows) {
    const int64_t row_bytes = module_.cols() * size_of(module_.source_dtype);
    if (part_.foreign == nullptr) return part_.data + begin * row_bytes;
    decoded_.resize(static_cast<size_t>(rows * row_bytes));
    const int64_t first = part_.first + begin;
    parallel_ranges(rows, std::max<int64_t>(1, (1 << 20) / row_bytes),
                    [&](int64_t from, int64_t to) {
                      part_.foreign->make(first + from, first + to,
                                          {decoded_.data() + from * row_bytes, nullptr, nullptr});
                    });
    return decoded_.data();
  }
  /// These rows are not needed again: the system may drop the pages they were read from.
  void release(int64_t begin, int64_t rows) const {
    const int64_t cols = module_.cols();
    if (part_.foreign == nullptr)
      release_pages(part_.data + begin * cols * size_of(module_.source_dtype),
                    rows * cols * size_of(module_.source_dtype));
    else
      release_pages(part_.foreign->tensors.front()->bytes.data() + (part_.first + begin) * cols,
                    rows * cols);
  }

 private:
  const Part& part_;
  const Module& module_;
  std::vector<std::byte> decoded_;
};

// `count` values in the module's new type.
void convert(const std::byte* from, const Module& module, int64_t count, std::byte* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float value = load_float(from, module.source_dtype, i);
    if (module.dtype == DType::kF32) {
      std::memcpy(out + i * 4, &value, 4);
    } else {
      const uint16_t bits =
          module.dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
      std::memcpy(out + i * 2, &bits, 2);
    }
  }
}

void write_dense(SafetensorsWriter& writer, const Module& module) {
  const int64_t row_bytes = module.cols() * size_of(module.source_dtype);
  std::vector<std::byte> block;
  for (const Part& part : module.parts) {
    DenseRows source(part, module);
    const int64_t step = std::max<int64_t>(1, kBlockBytes / std::max<int64_t>(row_bytes, 1));
    const auto out_row = static_cast<size_t>(module.cols() * size_of(module.dtype));
    for (int64_t row = 0; row < part.rows; row += step) {
      const int64_t rows = std::min(step, part.rows - row);
      const std::byte* from = source.read(row, rows);
      if (module.source_dtype == module.dtype) {
        writer.write({from, static_cast<size_t>(rows * row_bytes)});
      } else {
        block.resize(static_cast<size_t>(rows) * out_row);
        convert(from, module, rows * module.cols(), block.data());
        writer.write(block);
      }
      source.release(row, rows);
    }
  }
}

// With `search`, adds what it found to `error`.
void write_quantised(SafetensorsWriter& writer, const Module& module, bool search,
                     QuantizeError& error) {
  const Format& format = *module.format;
  const int64_t cols = module.cols();
  const int64_t source_row = cols * size_of(module.source_dtype);
  const int64_t data_row = format.data_row_bytes(cols);
  const int64_t scale_row = format.scale_row_bytes(cols);
  const int64_t bias_row = format.bias_row_bytes(cols);
  const int64_t step = std::max<int64_t>(1, kBlockBytes / source_row);
  const int64_t total = module.count() / cols;
  std::vector<std::byte> data;
  std::vector<std::byte> scales(static_cast<size_t>(total * scale_row));
  std::vector<std::byte> biases(static_cast<size_t>(total * bias_row));
  std::atomic<bool> finite{true};
  std::mutex adding;
  int64_t done = 0;
  for (const Part& part : module.parts) {
    DenseRows dense(part, module);
    for (int64_t row = 0; row < part.rows; row += step) {
      const int64_t rows = std::min(step, part.rows - row);
      const std::byte* read = dense.read(row, rows);
      data.resize(static_cast<size_t>(rows * data_row));
      const int64_t grain = std::max<int64_t>(1, (search ? 1 << 16 : 1 << 20) / source_row);
      parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
        const QuantizedPlanes planes{data.data() + begin * data_row,
                                     scales.data() + (done + begin) * scale_row,
                                     biases.data() + (done + begin) * bias_row};
        const SourceRows from{read + begin * source_row, module.source_dtype, module.dtype,
                              end - begin, cols};
        QuantizeError own;
        if (!(search ? search_rows(from, format, planes, own)
                     : quantize_rows(from, format, planes)))
          finite.store(false);
        const std::lock_guard lock(adding);
        error += own;
      });
      writer.write(data);
      dense.release(row, rows);
      done += rows;
    }
  }
  writer.write(scales);
  writer.write(biases);
  if (!finite.load())
    log_warning("[quantize] {}: infinities or NaNs among its weights", module.path);
}

// What is being made, of which files: two runs with the same text write the same bytes.
std::string plan_text(const Checkpoint& source, const Recipe& recipe,
                      const QuantizeOptions& options) {
  Json out = Json::object();
  out["decant"] = 1;  // of the bytes a plan stands for
  out["source"] = fs::absolute(source.folder()).string();
  for (const auto& file : source.files()) {
    std::error_code error;
    const auto written = fs::last_write_time(file->path(), error);
    out["files"][file->path().filename().string()] = {fs::file_size(file->path(), error),
                                                      written.time_since_epoch().count()};
  }
  out["recipe"] = recipe.to_json();
  const FamilyQuantization& family = options.family;
  out["family"] = Recipe{"", recipe.format, family.overrides}.to_json()["rules"];
  out["keep"] = family.keep;
  out["drop"] = family.drop;
  for (const Renames::Rule& rule : family.renames)
    out["renames"].push_back({rule.asked, rule.stored});
  out["dtype"] = options.dtype ? std::string(name_of(*options.dtype)) : "";
  out["shard"] = options.shard_limit_bytes;
  out["search"] = options.search;
  return out.dump(1);
}

Json entry_of(const Format& format, bool with_mode) {
  Json out = Json::object();
  out["group_size"] = format.group;
  out["bits"] = format.bits;
  if (with_mode) out["mode"] = mode_name(format);
  return out;
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void write_config(const fs::path& folder, const Json& source, const Recipe& recipe,
                  const std::vector<Module>& modules) {
  Json quantization = entry_of(recipe.format, true);
  for (const Module& module : modules)
    if (module.listed) quantization[module.path] = entry_of(*module.format, module.with_mode);
  const Json spelled = with_mlx_spellings(source);
  std::map<std::string, Json> sorted;  // mlx-lm sorts the keys of the config
  for (const auto& [key, value] : spelled.items())
    if (key != "_name_or_path") sorted[key] = value;
  sorted["quantization"] = quantization;
  sorted["quantization_config"] = quantization;
  Json out = Json::object();
  for (auto& [key, value] : sorted) out[key] = std::move(value);
  write_text(folder / "config.json", out.dump(4));
}

// Everything a tokenizer, template or processor is read from.
void copy_companions(const fs::path& source, const fs::path& target) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(source, error)) {
    const std::string name = entry.path().filename().string();
    const bool wanted = name.starts_with("tokenizer") || name.starts_with("chat_template") ||
                        name.ends_with(".jinja") || name == "generation_config.json" ||
                        name == "special_tokens_map.json" || name == "added_tokens.json" ||
                        name == "vocab.json" || name == "merges.txt" ||
                        name == "preprocessor_config.json" || name == "processor_config.json" ||
                        name == "video_preprocessor_config.json";
    if (!wanted || !fs::is_regular_file(entry.path(), error)) continue;
    fs::copy_file(entry.path(), target / name, error);
    if (error)
      throw RuntimeError("[quantize] cannot copy {}: {}", entry.path().string(), error.message());
    fs::permissions(target / name, fs::perms::owner_write, fs::perm_options::add, error);
  }
}

std::vector<std::span<const Module>> cut_shards(std::span<const Module> modules, uint64_t limit) {
  std::vector<std::span<const Module>> out;
  size_t begin = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < modules.size(); ++i) {
    uint64_t own = 0;
    for (const TensorDeclaration& tensor : modules[i].tensors()) own += tensor.bytes();
    if (i > begin && bytes + own > limit) {
      out.push_back(modules.subspan(begin, i - begin));
      begin = i;
      bytes = 0;
    }
    bytes += own;
  }
  out.push_back(modules.subspan(begin));
  return out;
}

}  // namespace

QuantizeReport quantize_checkpoint(const fs::path& source, const fs::path& target,
                                   const Recipe& recipe, const QuantizeOptions& options) {
  DECANT_ASSERT(!recipe.format.is_dense(), "a recipe's format is a packed one");
  const auto checkpoint = Checkpoint::open(source);
  Planner planner(*checkpoint, recipe, options);  // keeps what parts of modules refer to
  const std::vector<Module> modules = planner.plan();
  Staging staging(target, plan_text(*checkpoint, recipe, options));
  const auto shards = cut_shards(modules, options.shard_limit_bytes);
  QuantizeReport report;
  report.shards = shards.size();
  std::map<std::string, std::string> weight_map;
  size_t done = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::vector<TensorDeclaration> tensors;
    for (const Module& module : shards[i]) {
      report.parameters += module.count();
      for (TensorDeclaration& tensor : module.tensors()) {
        report.bytes += tensor.bytes();
        weight_map[tensor.name] = name;
        tensors.push_back(std::move(tensor));
      }
    }
    if (staging.has(name, tensors)) {
      ++report.kept_shards;
      done += shards[i].size();
      continue;
    }
    SafetensorsWriter writer(staging.folder() / name, std::move(tensors), {{"format", "mlx"}});
    for (const Module& module : shards[i]) {
      if (module.format) {
        write_quantised(writer, module, options.search, report.error);
      } else {
        write_dense(writer, module);
      }
      if (options.progress) options.progress(module.path, ++done, modules.size());
    }
    writer.commit();
  }
  for (const auto& file : checkpoint->files())
    if (file->damaged())
      throw WeightError("[quantize] {}: the file was cut while it was read", file->path().string());

  Json index = Json::object();
  index["metadata"]["total_size"] = report.bytes;
  index["metadata"]["total_parameters"] = report.parameters;
  index["weight_map"] = weight_map;
  write_text(staging.folder() / "model.safetensors.index.json", index.dump(4));
  write_config(staging.folder(), checkpoint->config(), recipe, modules);
  copy_companions(source, staging.folder());
  staging.publish();
  return report;
}

}  // namespace decant
