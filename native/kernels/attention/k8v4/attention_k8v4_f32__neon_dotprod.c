/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/vector/int8_neon.h"

#define ATTENTION_FORMAT 3 /* INGOT_KV_K8V4 */
#include "kernels/attention/attention_walk.h"
#include "kernels/row_kernels.h"

const ingot_attention_kernels ingot_attention_k8v4_f32__neon_dotprod = {attend, merge, append};
