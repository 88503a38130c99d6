// Pictures whose pixels are rows.
#include <algorithm>
#include <array>
#include <vector>

#include "backend/cpu/bindings.h"
#include "backend/cpu/row_kernel.h"
#include "base/checked.h"
#include "ops/attention.h"
#include "ops/blend_rows.h"
#include "ops/conv2d.h"
#include "ops/token_attention.h"

namespace decant::cpu {
namespace {

/// Copies what lies under place `n` of the window to `patch` [taps, channels].
void gather_patch(const Window2d& w, const TensorRef& x, int64_t n, float* patch) {
  const int64_t channels = x.width, line = w.columns * channels;
  const int64_t row = n / w.out_width() * w.row_stride - w.top;
  const int64_t column = n % w.out_width() * w.column_stride - w.left;
  const int64_t first = std::clamp<int64_t>(-column, 0, w.columns);
  const int64_t last = std::clamp<int64_t>(w.width - column, first, w.columns);
  for (int64_t r = 0; r < w.rows; ++r, patch += line) {
    if (row + r < 0 || row + r >= w.height) {
      std::fill_n(patch, line, 0.0f);
      continue;
    }
    std::fill_n(patch, first * channels, 0.0f);
    const int64_t pixel = (row + r) * w.width + column;
    if (x.contiguous()) {
      std::copy_n(x.row(pixel + first), (last - first) * channels, patch + first * channels);
    } else {
      for (int64_t c = first; c < last; ++c)
        std::copy_n(x.row(pixel + c), channels, patch + c * channels);
    }
    std::fill_n(patch + last * channels, (w.columns - last) * channels, 0.0f);
  }
}

class PatchKernel final : public RowKernel {
 public:
  explicit PatchKernel(const BindContext& c)
      : RowKernel(c), window_(c.node.as<Window2dParams>().window) {}
  void row(const StepContext&, int64_t n, Scratch&) override {
    gather_patch(window_, in_[0], n, out_[0].row(n));
  }

 private:
  const Window2d& window_;
};

/// A task takes a block of places through all taps and channels of some outputs: the patches of the
/// picture never exist. Weights are unpacked a panel at a time, once for each block of places.
class ConvKernel final : public CpuKernel {
 public:
  explicit ConvKernel(const BindContext& c)
      : linear_(c.linear),
        vector_(c.vector),
        window_(c.node.as<Window2dParams>().window),
        w_(c.node.weights[0]->view()),
        x_(c.inputs[0]),
        y_(c.outputs[0]),
        gathers_(window_.taps() > 1 && x_.width < kFewChannels) {
    if (c.node.weights.size() > 1) {
      bias_ = c.node.weights[1]->view().data;
      bias_dtype_ = c.node.weights[1]->format.dtype;
    }
    constexpr int64_t kRoom = (Scratch::kBytes - kPatches) / int64_t{sizeof(float)};
    DECANT_ASSERT(!gathers_ || w_.cols <= kRoom, "one patch fits the scratch of a thread");
    places_ = gathers_ ? std::min(kPlaces, kRoom / w_.cols) : kPlaces;
    blocks_ = div_up(y_.shape[0], places_);
    // Few blocks: the outputs are shared out too.
    const int64_t wanted = div_up(int64_t{8} * c.threads, blocks_);
    outputs_ = round_up(div_up(w_.rows, wanted), c.vector.panel_width);
    shares_ = div_up(w_.rows, outputs_);
  }
  int64_t tiles(const StepContext&, int) override { return blocks_ * shares_; }
  void run(const StepContext&, int, int64_t tile, Scratch& scratch) override {
    const int64_t first = tile / shares_ * places_;
    const Block block{first, std::min(places_, y_.shape[0] - first), tile % shares_ * outputs_,
                      std::min(w_.rows, (tile % shares_ + 1) * outputs_)};
    const auto** rows = reinterpret_cast<const float**>(scratch.data + kPointers);
    if (gathers_) {
      auto* patches = reinterpret_cast<float*>(scratch.data + kPatches);
      for (int64_t i = 0; i < block.count; ++i)
        gather_patch(window_, x_, first + i, patches + i * w_.cols);
      for (int64_t k = 0; k < w_.cols; k += kChunk) {
        for (int64_t i = 0; i < block.count; ++i) rows[i] = patches + i * w_.cols + k;
        multiply(block, rows, k, std::min(kChunk, w_.cols - k), scratch);
      }
    } else {
      for (int64_t tap = 0; tap < window_.taps(); ++tap)
        for (int64_t c = 0; c < x_.width; c += kChunk) {
          for (int64_t i = 0; i < block.count; ++i) rows[i] = under(tap, first + i, c);
          multiply(block, rows, tap * x_.width + c, std::min(kChunk, x_.width - c), scratch);
        }
    }
    if (bias_ == nullptr) return;
    for (int64_t i = first; i < first + block.count; ++i)
      for (int64_t o = block.begin; o < block.end; ++o)
        y_.row(i)[o] += load_float(bias_, bias_dtype_, o);
  }

 private:
  struct Block {
    int64_t first, count;  // places
    int64_t begin, end;    // outputs
  };
  static constexpr int64_t kFewChannels =
      32;                                  // of which taps are too short for a loop of their own
  static constexpr int64_t kPlaces = 256;  // with a chunk of their columns, what L2 keeps
  static constexpr int64_t kChunk = 256;   // columns of a panel, which L1 keeps
  static constexpr int64_t kRowStride = kChunk + 16;
  // Where things lie in the scratch: decoded rows, their panel, pointers, patches.
  static constexpr int64_t kDecoded = 0;
  static constexpr int64_t kPacked = VectorKernels::kMostPanel * kRowStride * 4;
  static constexpr int64_t kPointers = kPacked + VectorKernels::kMostPanel * kChunk * 4;
  static constexpr int64_t kPatches = kPointers + kPlaces * int64_t{sizeof(float*)};
  static_assert(kPacked % 64 == 0 && kPointers % 64 == 0 && kPatches < Scratch::kBytes / 2);

  /// Channels from `c` on of the pixel under a tap at a place; zeros beside the picture.
  const float* under(int64_t tap, int64_t place, int64_t c) const {
    const int64_t row =
        place / window_.out_width() * window_.row_stride - window_.top + tap / window_.columns;
    const int64_t column =
        place % window_.out_width() * window_.column_stride - window_.left + tap % window_.columns;
    const bool inside = row >= 0 && row < window_.height && column >= 0 && column < window_.width;
    return inside ? x_.row(row * window_.width + column) + c : kZeros.data();
  }
  /// Adds the products of columns [k, k + cols) of the weight.
  void multiply(const Block& block, const float* const* rows, int64_t k, int64_t cols,
                Scratch& scratch) const {
    auto* decoded = reinterpret_cast<float*>(scratch.data + kDecoded);
    auto* panel = reinterpret_cast<float*>(scratch.data + kPacked);
    const int64_t size = size_of(w_.format.dtype);
    for (int64_t o = block.begin; o < block.end; o += vector_.panel_width) {
      const int64_t outputs = std::min(vector_.panel_width, block.end - o);
      for (int64_t i = 0; i < outputs; ++i) {
        MatrixView part = w_;
        part.data += ((o + i) * w_.cols + k) * size;
        part.rows = 1;
        part.cols = cols;
        linear_.decode_row(part, 0, decoded + i * kRowStride);
      }
      vector_.pack_panel(decoded, kRowStride, outputs, cols, panel);
      vector_.panel_product(rows, block.count, panel, cols, outputs, k == 0,
                            y_.row(block.first) + o, y_.row_stride);
    }
  }

  static constexpr std::array<float, kChunk> kZeros{};
  const LinearKernels& linear_;
  const VectorKernels& vector_;
  const Window2d& window_;
  MatrixView w_;
  TensorRef x_, y_;
  bool gathers_;
  const std::byte* bias_ = nullptr;
  DType bias_dtype_ = DType::kF32;
  int64_t places_ = 1, blocks_ = 1, outputs_ = 1, shares_ = 1;
};

class DepthwiseKernel final : public RowKernel {
 public:
  explicit DepthwiseKernel(const BindContext& c)
      : RowKernel(c),
        window_(c.node.as<Window2dParams>().window),
        weight_(weight_floats(c.node)),
        zeros_(static_cast<size_t>(in_[0].width)) {
    DECANT_ASSERT(window_.taps() <= kMostTaps, "the pointers of a window fit the scratch");
  }
  void row(const StepContext&, int64_t n, Scratch& scratch) override {
    const auto** rows = reinterpret_cast<const float**>(scratch.data);
    const int64_t row = n / window_.out_width() * window_.row_stride - window_.top;
    const int64_t column = n % window_.out_width() * window_.column_stride - window_.left;
    int64_t tap = 0;
    for (int64_t r = row; r < row + window_.rows; ++r)
      for (int64_t c = column; c < column + window_.columns; ++c) {
        const bool inside = r >= 0 && r < window_.height && c >= 0 && c < window_.width;
        rows[tap++] = inside ? in_[0].row(r * window_.width + c) : zeros_.data();
      }
    vector_.depthwise(rows, weight_, tap, out_[0].width, out_[0].row(n));
  }

 private:
  static constexpr int64_t kMostTaps = Scratch::kBytes / int64_t{sizeof(float*)};
  const Window2d& window_;
  const float* weight_;
  std::vector<float> zeros_;
};

class BlendKernel final : public RowKernel {
 public:
  explicit BlendKernel(const BindContext& c)
      : RowKernel(c), blend_(c.node.as<BlendRowsParams>().blend) {
    for (int64_t n = 0; n < blend_.count(); ++n)
      DECANT_ASSERT(end_of(n) - first_of(n) <= kMostRows, "the pointers of a row fit the scratch");
  }
  void row(const StepContext&, int64_t n, Scratch& scratch) override {
    const auto** rows = reinterpret_cast<const float**>(scratch.data);
    const int64_t first = first_of(n), count = end_of(n) - first;
    for (int64_t j = 0; j < count; ++j)
      rows[j] = in_[0].row(blend_.rows[static_cast<size_t>(first + j)]);
    vector_.blend(rows, blend_.weights.data() + first, count, out_[0].width, out_[0].row(n));
  }

 private:
  static constexpr int64_t kMostRows = Scratch::kBytes / int64_t{sizeof(float*)};
  int64_t first_of(int64_t n) const { return blend_.first[static_cast<size_t>(n)]; }
  int64_t end_of(int64_t n) const { return blend_.first[static_cast<size_t>(n) + 1]; }
  const RowBlend& blend_;
};

/// Keys and values are laid out as the pages of a cache that every query sees to its end; then a
/// task takes a block of queries that share a KV head through them.
class TokenAttentionKernel final : public CpuKernel {
 public:
  explicit TokenAttentionKernel(const BindContext& c)
      : vector_(c.vector),
        scale_(c.node.as<TokenAttentionParams>().scale),
        q_(c.inputs[0]),
        k_(c.inputs[1]),
        v_(c.inputs[2]),
        y_(c.outputs[0]),
        pool_(pool_of(k_.shape)) {
    pool_.keys = c.workspace;
    pool_.values = c.workspace + key_page_bytes(pool_.spec, DType::kF32) * pool_.pages;
    for (int64_t page = 0; page < pool_.pages; ++page) pages_.push_back(static_cast<int32_t>(page));
    group_ = q_.shape[1] / k_.shape[1];
    splits_ = div_up(pool_.pages, int64_t{kAttentionSplit});
    partial_floats_ = k_.shape[2] + 2;
    const int64_t fit = Scratch::kBytes / (int64_t{sizeof(float)} * splits_ * partial_floats_);
    DECANT_ASSERT(fit >= 1, "the partial results of one query fit the scratch");
    block_ = std::min<int64_t>(fit, kQueries);
    blocks_ = div_up(q_.shape[0] * group_, block_);
  }
  static int64_t workspace_bytes(const Graph& graph, const Node& node, const PoolSpec&) {
    const KvPool pool = pool_of(graph.value(node.inputs[1]).type.shape);
    return kv_page_bytes(pool.spec, pool.dtype) * pool.pages;
  }
  int stages() const override { return 2; }
  int64_t tiles(const StepContext&, int stage) override {
    return stage == 0 ? pool_.pages : blocks_ * k_.shape[1];
  }
  void run(const StepContext&, int stage, int64_t tile, Scratch& scratch) override {
    if (stage == 0) return store_page(tile);
    const int64_t kv_head = tile / blocks_, first = tile % blocks_ * block_;
    const int64_t count = std::min(block_, q_.shape[0] * group_ - first);
    const int64_t dim = k_.shape[2];
    const auto at = [&](const TensorRef& x, int64_t i) {
      return x.row((first + i) / group_) + (kv_head * group_ + (first + i) % group_) * dim;
    };
    auto* partials = reinterpret_cast<float*>(scratch.data);
    AttentionQuery queries[kQueries];
    for (int64_t i = 0; i < count; ++i) queries[i] = {at(q_, i), k_.shape[0] - 1, k_.shape[0] - 1};
    for (int64_t split = 0; split < splits_; ++split)
      vector_.attention_split(pool_, pages_.data(), static_cast<int>(kv_head), split, queries,
                              count, scale_, 0.0f, partials + split * count * partial_floats_);
    for (int64_t i = 0; i < count; ++i)
      vector_.attention_merge(partials + i * partial_floats_, count * partial_floats_, splits_, dim,
                              at(y_, i));
  }

 private:
  static constexpr int64_t kQueries = 64;
  static KvPool pool_of(const Shape& k) {
    KvPool pool;
    pool.spec.kv_heads = narrow<int>(k[1]);
    pool.spec.head_dim = narrow<int>(k[2]);
    pool.dtype = DType::kF32;
    pool.pages = div_up<int64_t>(k[0], kPageSize);
    return pool;
  }
  void store_page(int64_t page) const {
    const int64_t end = std::min<int64_t>(k_.shape[0], (page + 1) * kPageSize);
    for (int64_t s = page * kPageSize; s < end; ++s)
      for (int h = 0; h < pool_.spec.kv_heads; ++h)
        vector_.kv_store(pool_, page, static_cast<int>(s % kPageSize), h,
                         k_.row(s) + int64_t{h} * pool_.spec.head_dim,
                         v_.row(s) + int64_t{h} * pool_.spec.head_dim);
  }
  const VectorKernels& vector_;
  float scale_;
  TensorRef q_, k_, v_, y_;
  KvPool pool_;
  std::vector<int32_t> pages_;
  int64_t group_ = 1, splits_ = 1, partial_floats_ = 0, block_ = 1, blocks_ = 1;
};

}  // namespace

std::vector<Binding> picture_bindings() {
  return {
      {&patch_rows_op(), make<PatchKernel>},
      {&conv2d_op(), make<ConvKernel>},
      {&depthwise_conv2d_op(), make<DepthwiseKernel>},
      {&blend_rows_op(), make<BlendKernel>},
      {&token_attention_op(), make<TokenAttentionKernel>, &TokenAttentionKernel::workspace_bytes},
  };
}

}  // namespace decant::cpu
