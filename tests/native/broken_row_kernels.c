/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels with planted faults, as in broken_kernels.c. */
#include <math.h>
#include <string.h>

#include "kernel_harness.h"

static void sees_one_less(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.first_last -= other.first_last % 64 == 63;
    ingot_attention_f16_f32__ref(&other);
}

static void sees_the_future(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.first_last += other.first_last % 64 == 62;
    ingot_attention_f16_f32__ref(&other);
}

static void reads_past_the_queries(const ingot_attention_args *args) {
    ingot_attention_f16_f32__ref(args);
    const size_t tokens = args->rows / args->group;
    (void)*(const volatile float *)(args->q + (tokens - 1) * args->q_stride + (size_t)args->group * args->head_size);
}

/* Halves away from zero rather than to even. */
static void rounds_away(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale, int32_t *a_sum) {
    ingot_quantize_f32_a8__ref(x, k, k_padded, a, a_scale, a_sum);
    for (uint32_t i = 0; i < k; i++) {
        const float scale = a_scale[i / 32];
        a[i] = (int8_t)(scale > 0.0f ? roundf(x[i] / scale) : 0.0f);
    }
}

static void forgets_the_padding(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale,
                                int32_t *a_sum) {
    const uint32_t rounded = (k + 31) / 32 * 32;
    ingot_quantize_f32_a8__ref(x, k, rounded < k_padded ? rounded : k_padded, a, a_scale, a_sum);
}

static void skips_the_tail(const float *x, const float *weight, uint32_t n, float epsilon, float *y) {
    ingot_rms_norm_f32_f32__ref(x, weight, n, epsilon, y);
    if (n % 16 == 1) y[n - 1] = 0.0f;
}

static void writes_past_y(const float *x, const float *weight, uint32_t n, float epsilon, float *y) {
    ingot_rms_norm_f32_f32__ref(x, weight, n, epsilon, y);
    ((volatile float *)y)[n] = 0.0f;
}

static void estimates(ingot_activation_kind kind, const float *gate, const float *up, float *y) {
    ingot_gate_f32_f32__ref(kind, gate, up, y);
    for (uint32_t i = 0; i < 16; i++) y[i] *= 1.0f + 0x1p-22f;
}

static void reads_past_the_gate(ingot_activation_kind kind, const float *gate, const float *up, float *y) {
    ingot_gate_f32_f32__ref(kind, gate, up, y);
    (void)*(const volatile float *)(gate + 16);
}

#define REFERENCE                               \
    {.attention = ingot_attention_f16_f32__ref, \
     .quantize = ingot_quantize_f32_a8__ref,    \
     .rms_norm = ingot_rms_norm_f32_f32__ref,   \
     .gate = ingot_gate_f32_f32__ref}

/* The families in the order of kernel_harness_rows.c: attention, quantize, rms_norm, gate. */
const broken_row_kernel broken_row_kernels[] = {
    {"(sound attention)", 0, REFERENCE},
    {"attention sees one position too few", 0, {.attention = sees_one_less}},
    {"attention sees the future", 0, {.attention = sees_the_future}},
    {"attention reads past the queries", 0, {.attention = reads_past_the_queries}},
    {"(sound quantize)", 1, REFERENCE},
    {"quantize rounds halves away from zero", 1, {.quantize = rounds_away}},
    {"quantize forgets the padding", 1, {.quantize = forgets_the_padding}},
    {"rms_norm skips the tail", 2, {.rms_norm = skips_the_tail}},
    {"rms_norm writes past y", 2, {.rms_norm = writes_past_y}},
    {"gate estimates", 3, {.gate = estimates}},
    {"gate reads past its input", 3, {.gate = reads_past_the_gate}},
};
const uint32_t broken_row_kernel_count = sizeof broken_row_kernels / sizeof *broken_row_kernels;
