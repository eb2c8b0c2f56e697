/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon_i8mm.h"

LINEAR_NEON_KERNEL_K8(ingot_linear_q4_a8__neon_i8mm, Q4)
