/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/vector/int8_neon.h"

#define ATTENTION_FORMAT 2 /* INGOT_KV_KV8 */
#include "kernels/attention/attention_walk.h"
#include "kernels/row_kernels.h"

const ingot_attention_kernels ingot_attention_kv8_f32__neon_dotprod = {attend, merge, append};
