#include <gtest/gtest.h>

#include "backend/cuda/cuda_backend.h"
#include "proof.h"

namespace decant::proof {
namespace {

const bool kRegistered =
    register_proofs("cuda", [] { return make_cuda_backend({}); }, {}, cuda_unavailable_reason);

TEST(cuda_backend, says_why_it_is_unavailable_or_describes_the_device) {
  const std::string reason = cuda_unavailable_reason();
  if (reason.empty()) {
    const auto backend = make_cuda_backend({});
    EXPECT_EQ(backend->name(), "cuda");
    EXPECT_NE(backend->description().find("sm_"), std::string::npos);
    EXPECT_GT(backend->free_bytes(), 0);
  } else {
    EXPECT_THROW(make_cuda_backend({}), UsageError);
  }
}

}  // namespace
}  // namespace decant::proof
