/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon_mul.h"

LINEAR_NEON_KERNEL(ingot_linear_c5_a8__neon, C5)
