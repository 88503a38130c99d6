#pragma once

#include "graph/graph.h"

namespace decant {

/// The smallest recurrent mixer, per channel:  s = g s + x;  y = s. It exists to prove the rewind
/// contract that the gated delta rule and every other recurrent state must keep.
///
/// Per sequence: the slot's state first advances over the first `commit` tokens of its log (those
/// the last step drafted and the engine accepted), then this step runs. In prefill the step's
/// tokens advance the state at once and clear the log; in decode they only fill the log, so that
/// taking drafted tokens back costs nothing. Shapes  x, y [N, C]; g [C] f32; state: StateSpec{width
/// C, log_width C, log_tokens D}, at most D tokens of a sequence in a decode step. Dtypes  f32.
/// Returns {y, the state's new version}.
std::pair<Value, Value> leaky_sum(Value x, const Weight* gate, Value state);
const Op& leaky_sum_op();

}  // namespace decant
