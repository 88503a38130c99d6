#include "ops/altup.h"
#include "ops/attention.h"
#include "ops/binary.h"
#include "ops/blend_rows.h"
#include "ops/case.h"
#include "ops/causal_conv.h"
#include "ops/conv2d.h"
#include "ops/embed.h"
#include "ops/experts.h"
#include "ops/features.h"
#include "ops/frames.h"
#include "ops/gated_delta.h"
#include "ops/latent.h"
#include "ops/leaky_sum.h"
#include "ops/linear.h"
#include "ops/mlp.h"
#include "ops/norm.h"
#include "ops/relative_attention.h"
#include "ops/rope.h"
#include "ops/rows.h"
#include "ops/sample.h"
#include "ops/token_attention.h"
#include "ops/unary.h"

namespace decant {

const std::vector<const Op*>& all_ops() {
  static const std::vector<const Op*> ops = {&embed_op(),
                                             &linear_op(),
                                             &unary_op(),
                                             &binary_op(),
                                             &concat_op(),
                                             &rms_norm_op(),
                                             &match_magnitude_op(),
                                             &rope_op(),
                                             &kv_append_op(),
                                             &attention_op(),
                                             &narrow_rows_op(),
                                             &reduce_op(),
                                             &top_k_route_op(),
                                             &expert_linear_op(),
                                             &combine_experts_op(),
                                             &sample_op(),
                                             &leaky_sum_op(),
                                             &altup_mix_op(),
                                             &altup_update_op(),
                                             &add_to_inactive_op(),
                                             &linear_add_op(),
                                             &act_mul_op(),
                                             &add_rms_norm_op(),
                                             &norm_rope_op(),
                                             &gated_mlp_op(),
                                             &gelu_topk_op(),
                                             &lm_head_op(),
                                             &routed_experts_op(),
                                             &altup_predict_op(),
                                             &altup_correct_op(),
                                             &laurel_op(),
                                             &per_layer_input_op(),
                                             &causal_conv1d_op(),
                                             &gated_delta_op(),
                                             &delta_decay_op(),
                                             &l2_norm_op(),
                                             &gated_rms_norm_op(),
                                             &gather_columns_op(),
                                             &head_linear_op(),
                                             &rope_columns_op(),
                                             &row_append_op(),
                                             &latent_attention_op(),
                                             &index_top_k_op(),
                                             &layer_norm_op(),
                                             &bound_op(),
                                             &merge_features_op(),
                                             &fold_rows_op(),
                                             &weighted_rows_op(),
                                             &patch_rows_op(),
                                             &conv2d_op(),
                                             &depthwise_conv2d_op(),
                                             &token_attention_op(),
                                             &blend_rows_op(),
                                             &relative_attention_op(),
                                             &frame_conv_op(),
                                             &cumulative_norm_op(),
                                             &pick_rows_op()};
  return ops;
}

}  // namespace decant
