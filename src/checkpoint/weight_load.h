#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "checkpoint/foreign_planes.h"
#include "checkpoint/tensor_source.h"
#include "checkpoint/weight_scope.h"

namespace decant {

/// How the names a family asks for are spelled in files. A layout is one consistent spelling: an
/// ordered list of rules of which the first whose prefix fits replaces that prefix.
///
/// The layout of a checkpoint is the first one under which the probed parameter exists; when none
/// has it, the first layout is taken (and the load reports what is missing).
struct Renames {
  struct Rule {
    std::string asked;   // prefix of the family's names, e.g. "model."
    std::string stored;  // what it is called in the file, e.g. "language_model.model."
  };
  using Layout = std::vector<Rule>;
  std::vector<Layout> layouts;
  std::string probe = "model.embed_tokens.weight";  // as a family asks for it

  /// Stored names are the asked ones.
  static Renames none() { return {}; }
  /// A text model that may be stored alone or below the language model of a multimodal file:
  /// "model." also as "model.language_model." or "language_model.model.", "lm_head." also as
  /// "language_model.lm_head.".
  static Renames text_model();
  /// `path` under a layout.
  static std::string apply(const Layout& layout, std::string_view path);
};

/// All weights of a loaded model; keeps the files they lie in mapped.
class WeightSet {
 public:
  /// In the order they were asked for.
  std::span<const Weight* const> weights() const { return order_; }
  /// Bytes of all planes; a weight that was asked for twice counts once.
  int64_t bytes() const;
  /// The weight of this stored name, or null.
  const Weight* find(std::string_view name) const;

 private:
  friend class WeightLoad;
  std::deque<Weight> storage_;  // a deque: pointers to its elements stay valid
  std::vector<const Weight*> order_;
};

/// Collects what a family asks of the scopes below root(), then either hands out the weights or
/// reports every missing, mis-shaped and left-over tensor together.
class WeightLoad {
 public:
  /// `with_draft`: the family is asked for its multi-token-prediction layer too.
  explicit WeightLoad(std::shared_ptr<const TensorSource> source, Renames renames = {},
                      bool with_draft = false);

  WeightScope root() { return {*this, ""}; }
  bool with_draft() const { return with_draft_; }
  /// Makes the planes that do not lie in the files as they are needed. Without `contents` they stay
  /// unwritten and take no memory: for looking at shapes, formats and sizes.
  /// Errors: WeightError with file, expected and found shape of every tensor that is wrong;
  /// MemoryError if what is made does not fit.
  std::shared_ptr<WeightSet> finish(bool contents = true);

  const TensorSource& source() const { return *source_; }
  /// A path as this source stores it.
  std::string stored(std::string_view path) const { return Renames::apply(layout_, path); }

 private:
  friend class WeightScope;
  struct Plane;

  const Weight* vector(const std::string& path, const Shape& shape, float clip, float offset);
  const Weight* matrix(const std::string& path, const Shape& shape);
  const Weight* plain(const std::string& path, std::span<const int64_t> dims, int64_t rows);
  const Weight* experts(const std::string& path, std::string_view projection, const Shape& shape);
  const Weight* stack(const std::string& path, const Shape& shape);
  const Weight* cut(const std::string& path, const WeightScope::Cut& cut);
  const Weight* kernel(const std::string& path, const WeightScope::Kernel& kernel);
  const Weight* taps(const std::string& path, int64_t channels, int64_t rows, int64_t columns);
  bool has(const std::string& path) const;
  std::vector<int64_t> dims(const std::string& path) const;
  void ignore(const std::string& path);

  TensorRef find_kernel(const std::string& path, const std::string& name, const Shape& first,
                        const Shape& last);
  const Weight* stacked_experts(const std::string& module, const std::string& suffix,
                                const Shape& shape, int64_t first_row, int64_t total_rows);
  const Weight* separate_experts(const std::string& parent, std::string_view projection,
                                 const Shape& shape);
  /// Finds the tensors of a module and their format; notes what is wrong and returns nothing then.
  /// `leading` are the dimensions before the row length.
  bool read_module(const std::string& module, const std::string& suffix,
                   std::span<const int64_t> leading, int64_t cols, Plane& out);
  /// The same for modules another tool quantised; nothing where this is none.
  std::optional<bool> read_foreign_module(const std::string& module, const std::string& suffix,
                                          std::span<const int64_t> leading, int64_t cols,
                                          Plane& out);
  bool read_global_scale(const TensorRef& tensor, int64_t matrices, Plane& out);
  /// True if there is a tensor of this stored name, or a packed one that stands for `X.weight`.
  bool exists(const std::string& name) const;
  std::vector<std::string> config_paths(const std::string& module) const;
  TensorRef use(const std::string& name);
  const Weight* add(std::string key, Weight weight);
  const Weight* placeholder(std::string key, std::string name, const Shape& shape);
  const Weight* record(std::string key, WeightRequest request);
  void wrong(const TensorRef& tensor, std::string_view expected);
  void find_left_over();
  bool is_left_alone(const TensorRef& tensor) const;
  void make_planes();

  std::shared_ptr<const TensorSource> source_;
  Renames renames_;
  Renames::Layout layout_;
  bool with_draft_;
  std::shared_ptr<WeightSet> set_;
  std::unordered_map<std::string, const Weight*> asked_;  // by kind, path and shape
  std::unordered_set<std::string> used_;                  // stored tensor names
  std::unordered_set<std::string> ignored_;               // stored paths
  ForeignPlanes foreign_planes_;
  std::unordered_map<std::string, std::shared_ptr<const Plane>> foreign_modules_;  // by path, shape
  std::vector<std::function<void()>> copies_;  // of planes, once those are made
  std::vector<std::string> missing_;
  std::vector<std::string> wrong_;
  std::vector<std::string> left_over_;
};

/// A source without tensors: a family built on it records everything it asks for, and gets
/// placeholders of the asked shapes without data.
class DummySource : public TensorSource {
 public:
  /// `format` is what matrices will be stored as; `present` are parameters has() finds.
  explicit DummySource(Format format = Format::dense(DType::kBF16),
                       std::unordered_set<std::string> present = {})
      : format_(format), present_(std::move(present)) {}

  /// Everything asked so far, in order, each once.
  std::span<const WeightRequest> requests() const { return requests_; }

  TensorRef find(std::string_view name) const override;
  std::vector<std::string_view> names() const override { return {}; }
  const QuantizationConfig& quantization() const override { return quantization_; }
  std::string description() const override { return "dummy weights"; }
  std::optional<Format> recording() const override { return format_; }
  void record(const WeightRequest& request) const override { requests_.push_back(request); }

 private:
  Format format_;
  std::unordered_set<std::string> present_;
  QuantizationConfig quantization_;
  TensorInfo present_info_;
  mutable std::vector<WeightRequest> requests_;
};

}  // namespace decant
