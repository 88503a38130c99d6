#pragma once

#include <vector>

#include "backend/cpu/cpu_kernel.h"

namespace decant::cpu {

/// The bindings by kind of kernel; cpu_program.cpp joins them.
std::vector<Binding> product_bindings();
std::vector<Binding> row_bindings();
std::vector<Binding> attention_bindings();
std::vector<Binding> routing_bindings();
std::vector<Binding> recurrent_bindings();
std::vector<Binding> latent_bindings();
std::vector<Binding> feature_bindings();
std::vector<Binding> picture_bindings();
std::vector<Binding> frame_bindings();

}  // namespace decant::cpu
