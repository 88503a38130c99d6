// The proof on the CPU: rows do not depend on their neighbours by a bit.

#include <gtest/gtest.h>

#include "backend/cpu/cpu_backend.h"
#include "proof.h"

namespace decant::proof {
namespace {

// Exact products: the default route's int8 activations are judged in cpu_quality_test and, bit for
// bit between rows, in cpu_golden_test.
const bool kRegistered =
    register_proofs("cpu", [] { return make_cpu_backend({}); }, {.compile = {.exact = true}});

}  // namespace
}  // namespace decant::proof
