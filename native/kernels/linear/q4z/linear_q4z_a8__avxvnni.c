/* SPDX-License-Identifier: Apache-2.0 */
#ifndef __AVXVNNI__
#error "this file needs -mavxvnni"
#endif

#include "kernels/linear/linear_gemm_avx2.h"

LINEAR_AVX2_KERNEL(ingot_linear_q4z_a8__avxvnni, LINEAR_Q4Z)
