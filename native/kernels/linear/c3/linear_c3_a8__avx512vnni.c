/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_gemm_avx512.h"

LINEAR_AVX512_KERNEL(ingot_linear_c3_a8__avx512vnni, LINEAR_C3)
