/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_gemm_avx512.h"

LINEAR_AVX512_KERNEL_K8(ingot_linear_c4_a8__avx512vnni, LINEAR_C4)
