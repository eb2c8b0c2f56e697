/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon_mul.h"

LINEAR_NEON_KERNEL(ingot_linear_q4z_a8__neon, Q4Z)
