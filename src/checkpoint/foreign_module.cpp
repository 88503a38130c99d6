#include "checkpoint/foreign_module.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "base/checked.h"
#include "checkpoint/foreign_config.h"
#include "checkpoint/transcode.h"

namespace decant {
namespace {

using Dims = std::vector<int64_t>;

std::string text_of(const Dims& dims) { return fmt::format("({})", fmt::join(dims, ",")); }

int64_t load_integer(const TensorInfo& tensor, int64_t index) {
  const std::byte* at = tensor.bytes.data() + index * size_of(tensor.dtype);
  if (tensor.dtype == DType::kI64) {
    int64_t value;
    std::memcpy(&value, at, 8);
    return value;
  }
  int32_t value;
  std::memcpy(&value, at, 4);
  return value;
}

uint32_t load_word(const TensorRef& tensor, int64_t index) {
  uint32_t word;
  std::memcpy(&word, tensor->bytes.data() + index * 4, 4);
  return word;
}

void store(std::byte* plane, int64_t index, DType dtype, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(plane + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  std::memcpy(plane + index * 2, &bits, 2);
}

int64_t elements(const TensorRef& tensor) {
  return static_cast<int64_t>(tensor->bytes.size()) / size_of(tensor->dtype);
}

// The largest group of an affine format that divides `group`; 0 if there is none.
int affine_group(int64_t group) {
  for (int out : {128, 64, 32})
    if (group % out == 0) return out;
  return 0;
}

// Where the numbers of an affine module come from. Element (row, group) of the scales lies at row *
// row_step + group * group_step; `zero` gives its unsigned zero point.
struct AffineScales {
  TensorRef scales;
  int64_t row_step = 0;
  int64_t group_step = 0;
  int64_t repeat = 1;  // groups of the format in one of the file
  std::function<int64_t(int64_t row, int64_t group)> zero;
  int64_t expected_zero = -1;  // where it must be one number
};

// w = scale * (q - zero) = scale * q + bias. False if a bias does not fit the type of the planes.
bool make_affine(const AffineScales& from, const Format& format, int64_t cols, int64_t begin,
                 int64_t end, std::byte* scales, std::byte* biases) {
  const int64_t groups = cols / format.group;
  bool good = true;
  for (int64_t group = 0; group < groups / from.repeat; ++group)
    for (int64_t row = begin; row < end; ++row) {
      const float scale = load_float(from.scales->bytes.data(), from.scales->dtype,
                                     row * from.row_step + group * from.group_step);
      const int64_t zero = from.zero(row, group);
      const float bias = -static_cast<float>(zero) * scale;
      good &= from.expected_zero < 0 || zero == from.expected_zero;
      good &= format.dtype != DType::kF16 || !(std::abs(bias) >= 65520.0f);
      for (int64_t i = 0; i < from.repeat; ++i) {
        const int64_t at = (row - begin) * groups + group * from.repeat + i;
        if (scales != nullptr) store(scales, at, format.dtype, scale);
        store(biases, at, format.dtype, bias);
      }
    }
  return good;
}

class Finder {
 public:
  Finder(const TensorSource& source, const std::string& module, const std::string& suffix,
         std::span<const int64_t> leading, int64_t cols, ForeignModule& out,
         ForeignProblems& problems)
      : source_(source),
        config_(*source.quantization().foreign()),
        module_(module),
        suffix_(suffix),
        leading_(leading.begin(), leading.end()),
        cols_(cols),
        out_(out),
        problems_(problems) {}

  bool find() {
    const TensorRef by_input = tensor(".qweight"), packed = tensor(".weight_packed");
    const TensorRef plain = tensor(suffix_);
    const TensorRef weight = by_input ? by_input : packed ? packed : plain;
    if (!weight) return false;
    const bool fp8_weight = weight->dtype == DType::kF8E4M3, bytes = weight->dtype == DType::kU8;
    if (!by_input && !packed && !fp8_weight && !bytes) return false;
    out_.cols = cols_;
    out_.tensors.push_back(weight);
    if (cols_ < 1 || std::ranges::any_of(leading_, [](int64_t dim) { return dim < 1; }))
      wrong(weight, "a matrix that is not empty");
    else if (by_input)
      integers_by_input(weight);
    else if (bytes)
      small_floats(weight, static_cast<bool>(packed));
    else if (packed)
      packed_integers(weight);
    else
      fp8(weight);
    return true;
  }

 private:
  TensorRef tensor(const std::string& suffix) const { return source_.find(module_ + suffix); }

  // The first of these that is there, or none, which is a problem.
  TensorRef need(std::initializer_list<std::string> suffixes, const Dims& expected) {
    for (const std::string& suffix : suffixes)
      if (const TensorRef found = tensor(suffix)) {
        out_.tensors.push_back(found);
        return found;
      }
    problems_.missing.push_back(fmt::format("{}{}: expected {} beside {}, got no such tensor",
                                            module_, *suffixes.begin(), text_of(expected),
                                            out_.tensors.front()->name));
    return {};
  }
  TensorRef may(const std::string& suffix) {
    const TensorRef found = tensor(suffix);
    if (found) out_.tensors.push_back(found);
    return found;
  }
  void wrong(const TensorRef& at, std::string_view expected) {
    problems_.wrong.push_back(unlike(at, expected));
  }
  bool expect(const TensorRef& at, std::initializer_list<DType> types, const Dims& dims) {
    if (std::find(types.begin(), types.end(), at->dtype) != types.end() &&
        std::ranges::equal(at->dims(), dims))
      return true;
    std::vector<std::string_view> names;
    for (DType type : types) names.push_back(name_of(type));
    wrong(at, fmt::format("{} {}", fmt::join(names, " or "), text_of(dims)));
    return false;
  }
  // The shape of a tensor with `last` in place of the inputs.
  Dims stacked(int64_t last) const {
    Dims out = leading_;
    out.push_back(last);
    return out;
  }
  int64_t matrices() const { return leading_.size() > 1 ? leading_.front() : 1; }
  int64_t matrix_rows() const { return leading_.back(); }
  // Once the shapes are known to be those of the file.
  void measure() {
    out_.rows = 1;
    for (int64_t dim : leading_) out_.rows *= dim;
  }

  // --- fp8 ---------------------------------------------------------------------------------------

  void fp8(const TensorRef& weight) {
    const std::string base = suffix_.empty() ? "_" : ".weight_";
    const Dims grid = grid_dims(config_.block_rows, config_.block_cols);
    const TensorRef scale = need({base + "scale_inv", base + "scale"}, grid);
    if (!expect(weight, {DType::kF8E4M3}, stacked(cols_)) || !scale) return;
    const auto have = scale->dims();
    const bool power = scale->dtype == DType::kF8E8M0 || scale->dtype == DType::kU8;
    if (power && cols_ % 32 == 0 && std::ranges::equal(have, stacked(cols_ / 32))) {
      measure();
      out_.format = Format::mxfp8();
      out_.source = "mxfp8";
      out_.data = weight->bytes.data();
      out_.scales = scale->bytes.data();
      return;
    }
    ScaleGrid blocks{scale->bytes.data(), scale->dtype, matrix_rows(), matrix_rows(), cols_};
    const Dims rows = leading_, columns = stacked(1);
    std::string kind;
    if (config_.block_rows > 0 && std::ranges::equal(have, grid)) {
      kind = fmt::format("{}x{}", config_.block_rows, config_.block_cols);
      blocks.block_rows = config_.block_rows;
      blocks.block_cols = config_.block_cols;
    } else if (elements(scale) == matrices()) {
      kind = "tensor";
    } else if (std::ranges::equal(have, rows) || std::ranges::equal(have, columns)) {
      kind = "row";
      blocks.block_rows = 1;
    } else {
      wrong(scale, config_.block_rows > 0 ? text_of(grid) : "one scale, or one per row");
      return;
    }
    if (!is_dense_float(scale->dtype) && scale->dtype != DType::kF8E8M0) {
      wrong(scale, "F32, F16, BF16 or F8_E8M0");
      return;
    }
    measure();
    out_.format = Format::dense(DType::kBF16);
    out_.source = "fp8-" + kind;
    out_.make = [weight, scale, blocks, cols = cols_](int64_t begin, int64_t end,
                                                      const QuantizedPlanes& planes) {
      fp8_rows_to_bf16(weight->bytes.data(), blocks, begin, end, cols, planes.data);
      return true;
    };
  }

  Dims grid_dims(int64_t block_rows, int64_t block_cols) const {
    if (block_rows == 0) return {1};
    Dims out = leading_;
    out.back() = div_up(out.back(), block_rows);
    out.push_back(div_up(cols_, block_cols));
    return out;
  }

  // --- nvfp4 and mxfp4: as MLX stores them -------------------------------------------------------

  void small_floats(const TensorRef& weight, bool divides) {
    const TensorRef scale = need({".weight_scale"}, stacked(cols_ / 16));
    const TensorRef global = tensor(divides ? ".weight_global_scale" : ".weight_scale_2");
    const bool nvfp4 = global || !scale || scale->dtype == DType::kF8E4M3;
    const int64_t group = nvfp4 ? 16 : 32;
    bool good = static_cast<bool>(scale) && cols_ % group == 0;
    if (cols_ % group != 0) wrong(weight, fmt::format("rows in whole groups of {}", group));
    if (cols_ % 2 == 0) good &= expect(weight, {DType::kU8}, stacked(cols_ / 2));
    if (scale && good)
      good &= nvfp4 ? expect(scale, {DType::kF8E4M3}, stacked(cols_ / 16))
                    : expect(scale, {DType::kU8, DType::kF8E8M0}, stacked(cols_ / 32));
    if (nvfp4) good &= read_global(divides);
    if (!good) return;
    measure();
    out_.format = nvfp4 ? Format::nvfp4() : Format::mxfp4();
    out_.source = out_.format.name();
    out_.data = weight->bytes.data();
    out_.scales = scale->bytes.data();
  }

  // ModelOpt multiplies by this number, compressed-tensors divides by it.
  bool read_global(bool divides) {
    const TensorRef global = need({divides ? ".weight_global_scale" : ".weight_scale_2"}, {1});
    if (!global) return false;
    if (global->dtype != DType::kF32 || elements(global) != matrices()) {
      wrong(global, fmt::format("F32 ({})", matrices()));
      return false;
    }
    for (int64_t i = 0; i < matrices(); ++i) {
      const float value = load_float(global->bytes.data(), DType::kF32, i);
      const float scale = divides ? 1.0f / value : value;
      if (!(scale > 0) || !std::isfinite(scale)) {
        wrong(global, fmt::format("a number above 0 (not {})", value));
        return false;
      }
      out_.tensor_scales.push_back(scale);
    }
    return true;
  }

  // --- integers ----------------------------------------------------------------------------------

  // Sets the format for groups of which a row has `groups` in the file; `exact`: the biases are
  // whole multiples of the scales that the type of the scales holds.
  bool choose_affine(const TensorRef& scale, int64_t groups, int64_t bits, bool exact,
                     AffineScales& from) {
    if (!is_dense_float(scale->dtype)) {
      wrong(scale, "F32, F16 or BF16");
      return false;
    }
    const int64_t group = groups > 0 && cols_ % groups == 0 ? cols_ / groups : 0;
    const int affine = group > 0 ? affine_group(group) : 0;
    if (affine == 0 || !affine_supported(static_cast<int>(bits), affine)) {
      wrong(scale, fmt::format("groups of a multiple of 32 in rows of {}", cols_));
      return false;
    }
    out_.format =
        Format::affine(static_cast<int>(bits), affine, exact ? scale->dtype : DType::kF32);
    from.scales = scale;
    from.repeat = group / affine;
    out_.source = fmt::format("int{}-{}", bits, groups == 1 ? "row" : fmt::format("g{}", group));
    return true;
  }

  // Groups must be of consecutive inputs: with act-order each input names its own.
  bool in_order(const TensorRef& order, int64_t groups) {
    if (!expect(order, {DType::kI32, DType::kI64}, {cols_})) return false;
    const int64_t group = cols_ / std::max<int64_t>(groups, 1);
    bool unset = true, ordered = true;
    for (int64_t i = 0; i < cols_; ++i) {
      const int64_t value = load_integer(*order.info, i);
      unset &= value == -1;
      ordered &= value == i / std::max<int64_t>(group, 1);
    }
    if (ordered || unset) return true;
    problems_.wrong.push_back(
        fmt::format("{}: expected groups of consecutive inputs, got the order of act-order "
                    "(desc_act), which is not supported (in {})",
                    order->name, order.file ? order.file->path().filename().string() : "no file"));
    return false;
  }

  // compressed-tensors: rows as affine formats have them, codes above the smallest integer.
  void packed_integers(const TensorRef& weight) {
    if (leading_.size() != 1) return wrong(weight, "a matrix of its own for each expert");
    const int64_t rows = matrix_rows();
    const TensorRef scale = need({".weight_scale"}, {rows, div_up<int64_t>(cols_, 128)});
    const TensorRef shape = may(".weight_shape");
    const TensorRef zeros = may(".weight_zero_point");
    const TensorRef order = may(".weight_g_idx");
    if (!scale) return;
    if (shape &&
        (elements(shape) != 2 || (shape->dtype != DType::kI64 && shape->dtype != DType::kI32) ||
         load_integer(*shape.info, 0) != rows || load_integer(*shape.info, 1) != cols_))
      return wrong(shape, fmt::format("the numbers {} and {}", rows, cols_));
    const bool matrix = weight->dtype == DType::kI32 && weight->rank == 2;
    const int64_t words = matrix ? weight->dims()[1] : 0;
    const int64_t bits =
        words > 0 && words <= cols_ && words * 32 % cols_ == 0 ? words * 32 / cols_ : 0;
    if (!matrix || weight->dims()[0] != rows || bits < 1 || bits > 8 || bits == 7)
      return wrong(weight, fmt::format("I32 ({},{} bits / 32)", rows, cols_));
    const bool single = elements(scale) == 1;
    const int64_t groups = single ? 1 : scale->rank == 2 ? scale->dims()[1] : 0;
    if (!single && (scale->rank != 2 || scale->dims()[0] != rows))
      return wrong(scale, fmt::format("({},groups)", rows));
    AffineScales from;
    if (!choose_affine(scale, groups, bits, !zeros, from)) return;
    if (zeros && !expect(zeros, {DType::kI32}, {div_up<int64_t>(rows * bits, 32), groups})) return;
    if (order && !in_order(order, groups)) return;
    measure();
    from.row_step = single ? 0 : groups;
    from.group_step = 1;
    if (zeros) {
      // A stream of codes down each column; a code may lie across two words.
      from.zero = [zeros, groups, bits](int64_t row, int64_t group) {
        const int64_t bit = row * bits, word = bit / 32, shift = bit % 32;
        uint64_t both = load_word(zeros, word * groups + group);
        if (shift + bits > 32)
          both |= uint64_t{load_word(zeros, (word + 1) * groups + group)} << 32;
        return static_cast<int64_t>(both >> shift & ((UINT64_C(1) << bits) - 1));
      };
    } else {
      from.zero = [middle = INT64_C(1) << (bits - 1)](int64_t, int64_t) { return middle; };
    }
    out_.data = weight->bytes.data();
    if (from.repeat == 1 && !single && out_.format.dtype == scale->dtype)
      out_.scales = scale->bytes.data();
    out_.assumption =
        fmt::format("{}: expected scales whose {}-fold F16 holds", scale->name, 1 << (bits - 1));
    out_.make = [from, format = out_.format, cols = cols_](int64_t begin, int64_t end,
                                                           const QuantizedPlanes& planes) {
      return make_affine(from, format, cols, begin, end, planes.scales, planes.biases);
    };
  }

  // AWQ and GPTQ: one row per input (or per word of inputs), outputs beside each other.
  void integers_by_input(const TensorRef& weight) {
    const bool awq = config_.method == ForeignQuantization::Method::kAwq;
    if (!awq && config_.method != ForeignQuantization::Method::kGptq)
      return wrong(weight, fmt::format("no such tensor in a checkpoint of {}", config_.name));
    if (leading_.size() != 1) return wrong(weight, "a matrix of its own for each expert");
    const int64_t rows = matrix_rows();
    const TensorRef scale = need({".scales"}, {div_up<int64_t>(cols_, 128), rows});
    const TensorRef zeros = need({".qzeros"}, {div_up<int64_t>(cols_, 128), rows / 8});
    const TensorRef order = awq ? TensorRef{} : may(".g_idx");
    if (!scale || !zeros) return;
    int64_t bits = 4;
    if (!awq && weight->rank == 2 && weight->dims()[0] * 4 == cols_) bits = 8;
    if (!expect(weight, {DType::kI32}, awq ? Dims{cols_, rows / 8} : Dims{cols_ * bits / 32, rows}))
      return;
    if (cols_ % 32 != 0 || rows % (32 / bits) != 0)
      return wrong(weight, fmt::format("({},{}) in whole words", rows, cols_));
    if (scale->rank != 2 || scale->dims()[1] != rows)
      return wrong(scale, fmt::format("(groups,{})", rows));
    const int64_t groups = scale->dims()[0];
    const int64_t middle = INT64_C(1) << (bits - 1);
    const bool symmetric = !awq && config_.symmetric;
    AffineScales from;
    if (!choose_affine(scale, groups, bits, symmetric, from)) return;
    const int64_t zero_words = rows * bits / 32;
    if (!expect(zeros, {DType::kI32}, {groups, zero_words})) return;
    if (order && !in_order(order, groups)) return;
    measure();
    out_.source = (awq ? "awq" : "gptq") + out_.source.substr(3);
    from.row_step = 1;
    from.group_step = rows;
    from.expected_zero = symmetric ? middle : -1;
    out_.assumption = fmt::format(
        "{}: expected every zero point to be {} as `sym` says and F16 to "
        "hold its multiples of the scales",
        zeros->name, middle);
    // Adding to whole words undoes the subtraction of the writers, borrows included.
    const uint32_t more = config_.zeros_less_one ? (bits == 4 ? 0x11111111u : 0x01010101u) : 0u;
    if (awq)
      from.zero = [zeros, zero_words](int64_t row, int64_t group) {
        const uint32_t word = load_word(zeros, group * zero_words + row / 8);
        return static_cast<int64_t>(word >> awq_shift(row % 8) & 15u);
      };
    else
      from.zero = [zeros, zero_words, bits, more](int64_t row, int64_t group) {
        const int64_t bit = row * bits;
        const uint32_t word = load_word(zeros, group * zero_words + bit / 32) + more;
        return static_cast<int64_t>(word >> (bit % 32) & ((1u << bits) - 1));
      };
    out_.make = [from, weight, awq, bits, rows, format = out_.format, cols = cols_](
                    int64_t begin, int64_t end, const QuantizedPlanes& planes) {
      if (awq)
        transpose_awq(weight->bytes.data(), cols, rows, begin, end, planes.data);
      else
        transpose_words(weight->bytes.data(), cols * bits / 32, rows, begin, end, planes.data);
      return make_affine(from, format, cols, begin, end, planes.scales, planes.biases);
    };
  }

  const TensorSource& source_;
  const ForeignQuantization& config_;
  const std::string& module_;
  const std::string& suffix_;
  const Dims leading_;
  const int64_t cols_;
  ForeignModule& out_;
  ForeignProblems& problems_;
};

}  // namespace

int64_t ForeignModule::made_bytes() const {
  int64_t per_row = 0;
  if (makes_data()) per_row += format.data_row_bytes(cols);
  if (makes_scales()) per_row += format.scale_row_bytes(cols);
  if (makes_biases()) per_row += format.bias_row_bytes(cols);
  return rows * per_row;
}

bool find_foreign_module(const TensorSource& source, const std::string& module,
                         const std::string& suffix, std::span<const int64_t> leading, int64_t cols,
                         ForeignModule& out, ForeignProblems& problems) {
  if (source.quantization().foreign() == nullptr) return false;
  return Finder(source, module, suffix, leading, cols, out, problems).find();
}

bool is_activation_scale(std::string_view name) {
  constexpr std::string_view kSuffixes[] = {
      ".input_scale",       ".input_global_scale", ".input_zero_point", ".output_scale",
      ".output_zero_point", ".activation_scale",   ".k_scale",          ".v_scale",
      ".q_scale",           ".kv_scale",           ".k_zero_point",     ".v_zero_point",
      ".q_zero_point",      ".prob_output_scale",  ".qkv_output_scale"};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

std::string unlike(const TensorRef& tensor, std::string_view expected) {
  return fmt::format("{}: expected {}, got {} {} (in {})", tensor->name, expected,
                     name_of(tensor->dtype), tensor->shape_text(),
                     tensor.file ? tensor.file->path().filename().string() : "no file");
}

}  // namespace decant
