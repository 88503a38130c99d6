#include "checkpoint/weight_scope.h"

#include "checkpoint/weight_load.h"

namespace decant {
namespace {

std::string join(const std::string& path, std::string_view name) {
  if (path.empty()) return std::string(name);
  if (name.empty()) return path;
  std::string out;
  out.reserve(path.size() + 1 + name.size());
  out.append(path).append(".").append(name);
  return out;
}

}  // namespace

WeightScope WeightScope::operator/(std::string_view name) const {
  return {*load_, join(path_, name)};
}

WeightScope WeightScope::operator/(int index) const { return *this / std::to_string(index); }

const Weight* WeightScope::vector(std::string_view name, const Shape& shape, float clip,
                                  float offset) const {
  return load_->vector(join(path_, name), shape, clip, offset);
}

const Weight* WeightScope::matrix(int64_t out, int64_t in) const {
  return load_->matrix(path_, {out, in});
}

const Weight* WeightScope::plain(std::string_view name, std::span<const int64_t> dims,
                                 int64_t rows) const {
  return load_->plain(join(path_, name), dims, rows);
}

const Weight* WeightScope::experts(std::string_view projection, int64_t experts, int64_t out,
                                   int64_t in) const {
  return load_->experts(path_, projection, {experts, out, in});
}

const Weight* WeightScope::stack(int64_t count, int64_t out, int64_t in) const {
  return load_->stack(path_, {count, out, in});
}

const Weight* WeightScope::cut(const Cut& cut) const { return load_->cut(path_, cut); }

const Weight* WeightScope::kernel(const Kernel& kernel) const {
  return load_->kernel(path_, kernel);
}

const Weight* WeightScope::taps(int64_t channels, int64_t rows, int64_t columns) const {
  return load_->taps(path_, channels, rows, columns);
}

bool WeightScope::has(std::string_view name) const { return load_->has(join(path_, name)); }

std::vector<int64_t> WeightScope::dims(std::string_view name) const {
  return load_->dims(join(path_, name));
}

void WeightScope::ignore(std::string_view name) const { load_->ignore(join(path_, name)); }

bool WeightScope::with_draft() const { return load_->with_draft(); }

}  // namespace decant
