#include <gtest/gtest.h>

#include "backend/mlx/mlx_backend.h"
#include "proof.h"

namespace decant::proof {
namespace {

// MLX takes another kernel for one row than for many: rows agree within float32 rounding only.
const bool kRegistered = register_proofs("mlx", [] { return make_mlx_backend({}); },
                                         {.bitwise_rows = false, .compile = {}});

}  // namespace
}  // namespace decant::proof
