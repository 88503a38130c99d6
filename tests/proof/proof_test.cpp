// The proof on the reference itself: that stepwise, batched and rewound runs mean the same as one
// pass, and that the proof's own bookkeeping is right.

#include "proof.h"

#include <gtest/gtest.h>

#include "backend/reference/reference_backend.h"

namespace decant::proof {
namespace {

const bool kRegistered = register_proofs("reference", make_reference_backend);

}  // namespace
}  // namespace decant::proof
