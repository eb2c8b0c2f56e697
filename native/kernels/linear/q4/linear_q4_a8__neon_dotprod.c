/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon_dotprod.h"

LINEAR_NEON_DOTPROD_KERNEL(ingot_linear_q4_a8__neon_dotprod, LINEAR_Q4)
