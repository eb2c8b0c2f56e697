/* SPDX-License-Identifier: Apache-2.0 */
#ifdef __AVXVNNI__
#error "this file must run without VNNI: no -mavxvnni"
#endif

#include "kernels/linear/linear_gemm_avx2.h"

LINEAR_AVX2_KERNEL(ingot_linear_q6_a8__avx2, LINEAR_Q6)
