#include "tensor/shape.h"

namespace decant {

std::string Shape::to_string() const {
  std::string out = "(";
  for (int i = 0; i < rank_; ++i)
    out += (i > 0 ? "," : "") + std::to_string(dims_[static_cast<size_t>(i)]);
  return out + ")";
}

}  // namespace decant
