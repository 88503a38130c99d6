#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cpu/bindings.h"
#include "backend/cpu/lowering.h"
#include "base/checked.h"
#include "ops/embed.h"
#include "ops/linear.h"

namespace decant::cpu {
namespace {

constexpr int64_t kRowGranule = 16;
constexpr int64_t kManyTokens = 4;  // above this, weights are unpacked into panels
constexpr int64_t kPanelRows = 128;

/// Weight rows of a task when many tokens share it: panels as tall as they come, but several tasks
/// for each thread.
int64_t panel_rows(int64_t rows, int threads) {
  return std::min(kPanelRows, round_up(div_up<int64_t>(rows, int64_t{8} * threads), kRowGranule));
}

/// Weight rows of a task that streams them once, where `matrices` of a kind are streamed in one
/// phase. The first rows of a task come without having been asked for long ahead, so tasks are
/// long, but several for each thread.
int64_t stream_rows(const MatrixView& w, int threads, int64_t matrices = 1) {
  const int64_t row = w.format.row_bytes(w.cols);
  const int64_t share = matrices * w.rows * row / (int64_t{8} * threads);
  return std::min(rows_per_tile(row, kRowGranule, std::clamp<int64_t>(share, 64 << 10, 512 << 10)),
                  round_up(w.rows, kRowGranule));
}

/// What is added to a finished product: bias and residual, column by column.
struct Epilogue {
  const std::byte* bias = nullptr;
  DType bias_dtype = DType::kF32;
  TensorRef residual;
  bool has_residual = false;
  void apply(const TensorRef& y, int64_t rows, int64_t begin, int64_t end) const {
    if (bias == nullptr && !has_residual) return;
    for (int64_t n = 0; n < rows; ++n) {
      float* out = y.row(n);
      if (bias != nullptr)
        for (int64_t r = begin; r < end; ++r) out[r] += load_float(bias, bias_dtype, r);
      if (has_residual) {
        const float* add = residual.row(n);
        for (int64_t r = begin; r < end; ++r) out[r] = add[r] + out[r];
      }
    }
  }
};

class LinearKernel final : public CpuKernel {
 public:
  LinearKernel(const BindContext& c, bool int8, size_t x, size_t residual, bool has_residual)
      : kernels_(c.linear),
        w_(c.node.weights[0]->view()),
        x_(c.inputs[x]),
        y_(c.outputs[0]),
        int8_(int8) {
    if (int8)
      quantized_ = QuantizedRows::over(c.inputs[0].data, x_.shape.count() / w_.cols, w_.cols);
    if (c.node.weights.size() > 1) {
      epilogue_.bias = c.node.weights[1]->view().data;
      epilogue_.bias_dtype = c.node.weights[1]->format.dtype;
    }
    epilogue_.has_residual = has_residual;
    if (has_residual) epilogue_.residual = c.inputs[residual];
    decode_rows_ = stream_rows(w_, c.threads);
    panel_rows_ = panel_rows(w_.rows, c.threads);
  }
  int64_t tiles(const StepContext& context, int) override {
    rows_per_task_ = context.live(x_) > kManyTokens ? panel_rows_ : decode_rows_;
    return context.live(x_) == 0 ? 0 : div_up(w_.rows, rows_per_task_);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const int64_t begin = tile * rows_per_task_, end = std::min(w_.rows, begin + rows_per_task_);
    const RowMap map{context.live(x_), nullptr, nullptr};
    if (int8_) {
      kernels_.int8(w_, quantized_, map, y_.row(0), y_.row_stride, begin, end, scratch);
    } else {
      kernels_.f32(w_, x_.row(0), x_.row_stride, map, y_.row(0), y_.row_stride, begin, end,
                   scratch);
    }
    epilogue_.apply(y_, map.count, begin, end);
  }

 private:
  const LinearKernels& kernels_;
  MatrixView w_;
  TensorRef x_, y_;
  bool int8_;
  QuantizedRows quantized_;
  Epilogue epilogue_;
  int64_t decode_rows_ = 0;
  int64_t panel_rows_ = 0;
  int64_t rows_per_task_ = 0;
};

class QuantizeKernel final : public CpuKernel {
 public:
  explicit QuantizeKernel(const BindContext& c)
      : kernels_(c.linear), x_(c.inputs[0]), cols_(c.node.as<QuantizedParams>().cols) {
    out_ = QuantizedRows::over(c.outputs[0].data, c.node.as<QuantizedParams>().rows, cols_);
    step_ = c.node.as<QuantizedParams>().step;
    if (step_ == 0) step_ = cols_;
    slots_ = x_.width / step_;
    DECANT_ASSERT(slots_ == 1 || x_.contiguous(),
                  "expert slots are rows of their own only when they lie side by side");
  }
  int64_t tiles(const StepContext& context, int) override {
    rows_ = context.live(x_) * slots_;
    per_task_ = std::max<int64_t>(1, (16 << 10) / cols_);
    return div_up(rows_, per_task_);
  }
  void run(const StepContext&, int, int64_t tile, Scratch&) override {
    const int64_t begin = tile * per_task_;
    kernels_.quantize_rows(x_.row(0), slots_ == 1 ? x_.row_stride : step_, begin,
                           std::min(rows_, begin + per_task_), out_);
  }

 private:
  const LinearKernels& kernels_;
  TensorRef x_;
  int64_t cols_;
  int64_t step_ = 0;
  QuantizedRows out_;
  int64_t slots_ = 1;
  int64_t rows_ = 0;
  int64_t per_task_ = 1;
};

class PlanKernel final : public CpuKernel {
 public:
  explicit PlanKernel(const BindContext& c)
      : ids_(c.inputs[0]),
        experts_(c.node.as<PlanParams>().experts),
        plan_(RoutingPlan::over(reinterpret_cast<int32_t*>(c.outputs[0].data), experts_,
                                ids_.shape.count())) {}
  int64_t tiles(const StepContext&, int) override { return 1; }
  void run(const StepContext& context, int, int64_t, Scratch&) override {
    const int64_t rows = context.live(ids_), slots = ids_.width;
    const auto [offsets, pairs, tokens, chosen] = plan_;
    std::fill_n(offsets, experts_ + 1, 0);
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t k = 0; k < slots; ++k) ++offsets[ids_.int_row(n)[k] + 1];
    distinct_ = 0;
    for (int64_t e = 0; e < experts_; ++e) {
      if (offsets[e + 1] > 0) chosen[distinct_++] = static_cast<int32_t>(e);
      offsets[e + 1] += offsets[e];
    }
    for (int64_t i = distinct_; i < std::min(rows * slots, experts_); ++i)
      chosen[i] = RoutingPlan::kNoExpert;
    // Counting sort; offsets are walked forward and restored afterwards.
    for (int64_t n = 0; n < rows; ++n)
      for (int64_t k = 0; k < slots; ++k) {
        int32_t& at = offsets[ids_.int_row(n)[k]];
        pairs[at] = static_cast<int32_t>(n * slots + k);
        tokens[at] = static_cast<int32_t>(n);
        ++at;
      }
    for (int64_t e = experts_; e > 0; --e) offsets[e] = offsets[e - 1];
    offsets[0] = 0;
  }
  int64_t distinct_experts() const override { return distinct_; }

 private:
  TensorRef ids_;
  int64_t experts_;
  RoutingPlan plan_;
  int64_t distinct_ = 0;
};

class ExpertKernel final : public CpuKernel {
 public:
  explicit ExpertKernel(const BindContext& c)
      : kernels_(c.linear),
        table_(*c.node.weights[0]),
        int8_(c.node.as<LoweredParams>().int8),
        x_(c.inputs[1]),
        ids_(c.inputs[2]),
        y_(c.outputs[0]),
        plan_(RoutingPlan::over(reinterpret_cast<int32_t*>(c.inputs[3].data), table_.experts(),
                                ids_.shape.count())) {
    const MatrixView& w = table_.view();
    per_slot_ = x_.shape.rank() == 3;
    DECANT_ASSERT(y_.contiguous() && (!per_slot_ || x_.contiguous()),
                  "expert rows lie side by side");
    if (int8_)
      quantized_ = QuantizedRows::over(c.inputs[0].data, x_.shape.count() / w.cols, w.cols);
    decode_rows_ = stream_rows(w, c.threads, ids_.width);
    panel_rows_ = panel_rows(w.rows, c.threads);
  }
  int64_t tiles(const StepContext& context, int) override {
    if (context.live(x_) == 0) return 0;
    const bool many = context.live(ids_) * ids_.width > kManyTokens * table_.experts();
    rows_per_task_ = many ? panel_rows_ : decode_rows_;
    tasks_ = div_up(table_.view().rows, rows_per_task_);
    return std::min(context.live(ids_) * ids_.width, table_.experts()) * tasks_;
  }
  void run(const StepContext&, int, int64_t tile, Scratch& scratch) override {
    const int32_t expert = plan_.chosen[tile / tasks_];
    if (expert == RoutingPlan::kNoExpert) return;
    const int32_t begin = plan_.offsets[expert], end = plan_.offsets[expert + 1];
    const MatrixView& w = table_.views[static_cast<size_t>(expert)];
    const RowMap map{end - begin, (per_slot_ ? plan_.pairs : plan_.tokens) + begin,
                     plan_.pairs + begin};
    const int64_t first = tile % tasks_ * rows_per_task_,
                  last = std::min(w.rows, first + rows_per_task_);
    float* y = y_.row(0);
    if (int8_) {
      kernels_.int8(w, quantized_, map, y, w.rows, first, last, scratch);
    } else {
      kernels_.f32(w, x_.row(0), per_slot_ ? w.cols : x_.row_stride, map, y, w.rows, first, last,
                   scratch);
    }
  }

 private:
  const LinearKernels& kernels_;
  const Weight& table_;
  bool int8_;
  TensorRef x_, ids_, y_;
  RoutingPlan plan_;
  bool per_slot_ = false;
  QuantizedRows quantized_;
  int64_t decode_rows_ = 0;
  int64_t panel_rows_ = 0;
  int64_t rows_per_task_ = 0;
  int64_t tasks_ = 0;
};

class HeadKernel final : public CpuKernel {
 public:
  explicit HeadKernel(const BindContext& c)
      : kernels_(c.linear),
        table_(*c.node.weights[0]),
        int8_(c.node.as<LoweredParams>().int8),
        x_(c.inputs[1]),
        y_(c.outputs[0]) {
    const MatrixView& w = table_.view();
    DECANT_ASSERT(x_.contiguous() && y_.contiguous(), "rows of heads lie side by side");
    if (int8_)
      quantized_ = QuantizedRows::over(c.inputs[0].data, x_.shape[0] * table_.experts(), w.cols);
    // Row n of head h is row n H + h of both sides.
    const int64_t heads = table_.experts(), rows = x_.shape[0];
    rows_of_.resize(static_cast<size_t>(heads * rows));
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t n = 0; n < rows; ++n)
        rows_of_[static_cast<size_t>(h * rows + n)] = static_cast<int32_t>(n * heads + h);
    decode_rows_ = stream_rows(w, c.threads);
    panel_rows_ = panel_rows(w.rows, 1);
  }
  int64_t tiles(const StepContext& context, int) override {
    const int64_t live = context.live(x_);
    rows_per_task_ = live > kManyTokens ? panel_rows_ : decode_rows_;
    tasks_ = div_up(table_.view().rows, rows_per_task_);
    return live == 0 ? 0 : table_.experts() * tasks_;
  }
  void run(const StepContext& context, int, int64_t tile, Scratch& scratch) override {
    const int64_t head = tile / tasks_;
    const MatrixView& w = table_.views[static_cast<size_t>(head)];
    const int32_t* rows = rows_of_.data() + head * x_.shape[0];
    const RowMap map{context.live(x_), rows, rows};
    const int64_t first = tile % tasks_ * rows_per_task_,
                  last = std::min(w.rows, first + rows_per_task_);
    if (int8_) {
      kernels_.int8(w, quantized_, map, y_.row(0), w.rows, first, last, scratch);
    } else {
      kernels_.f32(w, x_.row(0), x_.shape[2], map, y_.row(0), w.rows, first, last, scratch);
    }
  }

 private:
  const LinearKernels& kernels_;
  const Weight& table_;
  bool int8_;
  TensorRef x_, y_;
  QuantizedRows quantized_;
  std::vector<int32_t> rows_of_;
  int64_t decode_rows_ = 0;
  int64_t panel_rows_ = 0;
  int64_t rows_per_task_ = 0;
  int64_t tasks_ = 0;
};

class EmbedKernel final : public CpuKernel {
 public:
  explicit EmbedKernel(const BindContext& c)
      : kernels_(c.linear),
        table_(c.node.weights[0]->view()),
        y_(c.outputs[0]),
        clamp_(c.node.as<EmbedParams>().out_of_range_is_row_zero) {}
  int64_t tiles(const StepContext& context, int) override {
    return div_up(context.live(y_), kPerTask);
  }
  void run(const StepContext& context, int, int64_t tile, Scratch&) override {
    const int64_t end = std::min(context.live(y_), (tile + 1) * kPerTask);
    for (int64_t n = tile * kPerTask; n < end; ++n) {
      int64_t id = context.batch.tokens[static_cast<size_t>(n)];
      if (clamp_ && id >= table_.rows) id = 0;
      kernels_.decode_row(table_, id, y_.row(n));
    }
  }

 private:
  static constexpr int64_t kPerTask = 8;
  const LinearKernels& kernels_;
  MatrixView table_;
  TensorRef y_;
  bool clamp_;
};

}  // namespace

std::vector<Binding> product_bindings() {
  return {
      {&embed_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<EmbedKernel>(c);
       }},
      {&linear_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<LinearKernel>(c, false, 0, 0, false);
       }},
      {&linear_add_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<LinearKernel>(c, false, 1, 0, true);
       }},
      {&linear_int8_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<LinearKernel>(c, true, 1, 2,
                                               c.node.as<LoweredParams>().has_residual);
       }},
      {&quantize_rows_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<QuantizeKernel>(c);
       }},
      {&expert_plan_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<PlanKernel>(c);
       }},
      {&head_product_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<HeadKernel>(c);
       }},
      {&expert_product_op(),
       [](const BindContext& c) -> std::unique_ptr<CpuKernel> {
         return std::make_unique<ExpertKernel>(c);
       }},
  };
}

}  // namespace decant::cpu
