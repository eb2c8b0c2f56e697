/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon_i8mm.h"

LINEAR_NEON_KERNEL(ingot_linear_q6_a8__neon_i8mm, Q6)
