#pragma once

#include "graph/graph.h"

namespace decant {

enum class Unary : uint8_t {
  kSilu,
  kGeluTanh,
  kGeluErf,
  kSigmoid,
  kTanh,
  kRelu,
  kExp,
  kSqrt,
  kSoftplus,
  kSoftcap,
  kClamp,
  kScale
};

std::string_view name_of(Unary kind);
/// The reference of one element; `constant` is the cap, the bound or the factor where the kind has
/// one. silu x/(1+e^-x); gelu_tanh 0.5x(1+tanh(sqrt(2/pi)(x+0.044715x^3))); gelu_erf x Phi(x);
/// softcap c tanh(x/c); clamp to [-c, c]; scale c x.
double apply(Unary kind, double x, double constant);

struct UnaryParams : OpParams {
  Unary kind = Unary::kSilu;
  float constant = 0;
  std::string text() const override;
};

/// Element-wise function of one value. Shapes  any [N, ...]; f32 in and out.
Value unary(Value x, Unary kind, float constant = 0);
inline Value scale(Value x, float factor) { return unary(x, Unary::kScale, factor); }
inline Value softcap(Value x, float cap) { return unary(x, Unary::kSoftcap, cap); }

/// y = act(gate) * up: what the multiplication of an activated gate fuses to. Composite.
/// Shapes  gate, up, y [N, F].
Value act_mul(Value gate, Value up, Unary act);

/// y = min(max(x, lo), hi): what a projection with stored bounds does before and after its product.
/// Shapes  x, y any [N, ...]; lo, hi [1] f32. Source  transformers, Gemma4ClippableLinear.
Value bound(Value x, const Weight* lo, const Weight* hi);

const Op& bound_op();
const Op& unary_op();
const Op& act_mul_op();

}  // namespace decant
