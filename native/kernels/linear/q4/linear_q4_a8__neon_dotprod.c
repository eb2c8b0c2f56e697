/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_neon_dotprod.h"

LINEAR_NEON_KERNEL_K8(ingot_linear_q4_a8__neon_dotprod, Q4)
