#pragma once

#include "graph/graph.h"

namespace decant {

/// How the A streams of AltUp are mixed: by one kernel over the stacked [N, A, D], or stream by
/// stream. Both mean the same; which is faster is the device's business.
enum class AltupForm : uint8_t { kStacked, kSplit };

struct AltupParams : OpParams {
  int active = 0;
  float eps = 1e-6f;
  AltupForm form = AltupForm::kStacked;
  std::string text() const override;
};

struct AltupWeights {
  const Weight* router_norm;      // [D]
  const Weight* modality_router;  // [A, D]
  const Weight* coefs;            // predict [A*A, A], correct [A, A]; clipped at load
};

/// y_i = x_i + sum over j ascending of c[i A + j] x_j. Primitive. Shapes  x, y [N, A, D]; coefs [N,
/// A*A].
Value altup_mix(Value streams, Value coefs);
/// y_i = x_i + (c_i + 1) d. Primitive. Shapes  x, y [N, A, D]; coefs [N, A]; d [N, D].
Value altup_update(Value streams, Value coefs, Value delta);
/// y_i = x_i + t for i > 0, y_0 = x_0. Primitive. Shapes  x, y [N, A, D]; t [N, D].
Value add_to_inactive(Value streams, Value t);

/// Predicted streams: c = W_pred m, m = tanh(W_router (rms(x_active) / D)); y = altup_mix(x, c).
/// Composite.
Value altup_predict(Value streams, const AltupWeights& weights, const AltupParams& params);
/// Corrected streams: k = W_corr m(activated); y_i = pred_i + (k_i + 1)(activated - pred_active).
/// Composite. Shapes  predicted, y [N, A, D]; activated [N, D]. Source  gemma3n.md section 3.4.
Value altup_correct(Value predicted, Value activated, const AltupWeights& weights,
                    const AltupParams& params);

/// y = n + rms(W_right (W_left n)). Composite. Shapes  n, y [N, D]; left [R, D]; right [D, R].
Value laurel(Value n, const Weight* left, const Weight* right, const Weight* norm, float eps);
/// y = rms(W_proj (gelu_tanh(W_gate x) * ple)). Composite. Shapes  x, y [N, D]; ple [N, P]; gate
/// [P, D]; proj [D, P].
Value per_layer_input(Value x, Value ple, const Weight* gate, const Weight* proj,
                      const Weight* norm, float eps);

const Op& altup_mix_op();
const Op& altup_update_op();
const Op& add_to_inactive_op();
const Op& altup_predict_op();
const Op& altup_correct_op();
const Op& laurel_op();
const Op& per_layer_input_op();

}  // namespace decant
