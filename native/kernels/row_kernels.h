/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels that work on rows of activations, one set per ISA. A set is taken whole: its members share a body. */
#ifndef INGOT_KERNELS_ROW_KERNELS_H
#define INGOT_KERNELS_ROW_KERNELS_H

#include "kernels/attention/attention.h"
#include "kernels/gate/gate.h"
#include "kernels/quantize/quantize.h"
#include "kernels/rms_norm/rms_norm.h"

typedef struct ingot_row_kernels {
    uint32_t isa; /* one bit of ingot_isa */
    ingot_attention_kernels attention[INGOT_KV_FORMATS]; /* by ingot_kv_format - 1 */
    ingot_quantize_fn quantize;
    ingot_rms_norm_fn rms_norm;
    ingot_gate_fn gate;
} ingot_row_kernels;

/** The best set of some levels, bits of ingot_isa; isa is 0 in the result if this build or the CPU mask has none. */
ingot_row_kernels ingot_row_kernels_of(uint32_t isa);

#define INGOT_ROW_KERNELS_DECLARE(name)                                                                            \
    extern const ingot_attention_kernels ingot_attention_f16_f32__##name;                                          \
    extern const ingot_attention_kernels ingot_attention_kv8_f32__##name;                                          \
    extern const ingot_attention_kernels ingot_attention_k8v4_f32__##name;                                         \
    void ingot_quantize_f32_a8__##name(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale,   \
                                       int32_t *a_sum);                                                            \
    void ingot_rms_norm_f32_f32__##name(const float *x, const float *weight, uint32_t n, float epsilon, float *y); \
    void ingot_gate_f32_f32__##name(ingot_activation_kind kind, const float *gate, const float *up, float *y);

INGOT_ROW_KERNELS_DECLARE(ref)
INGOT_ROW_KERNELS_DECLARE(avx2)
INGOT_ROW_KERNELS_DECLARE(avx512vnni)
INGOT_ROW_KERNELS_DECLARE(neon)
INGOT_ROW_KERNELS_DECLARE(neon_dotprod)

#endif
