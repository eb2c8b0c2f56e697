/* SPDX-License-Identifier: Apache-2.0 */
/* Row kernels with planted faults, as in broken_kernels.c. */
#include <math.h>
#include <string.h>

#include "ingot.h"
#include "kernel_harness.h"

static void sees_one_less(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.first_last -= other.first_last % 64 == 63;
    ingot_attention_f16_f32__ref.attend(&other);
}

static void sees_the_future(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.first_last += other.first_last % 64 == 62;
    ingot_attention_kv8_f32__ref.attend(&other);
}

static void reads_past_the_queries(const ingot_attention_args *args) {
    ingot_attention_f16_f32__ref.attend(args);
    const size_t tokens = args->rows / args->group;
    (void)*(const volatile float *)(args->q + (tokens - 1) * args->q_stride + (size_t)args->group * args->head_size);
}

static void window_too_wide(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.window += other.window != 0;
    ingot_attention_kv8_f32__ref.attend(&other);
}

static void forgets_the_sinks(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.sinks = 0;
    ingot_attention_k8v4_f32__ref.attend(&other);
}

static void merges_without_the_first(const ingot_attention_args *args) {
    ingot_attention_args other = *args;
    other.run_begin = other.run_end > 1;
    other.partials += other.run_begin * other.rows * ingot_attention_state(other.head_padded);
    ingot_attention_f16_f32__ref.merge(&other);
}

static void stores_one_slot_late(uint8_t *keys, uint8_t *values, uint32_t d, uint32_t d_padded, uint32_t slot,
                                 const float *k, const float *v) {
    ingot_attention_kv8_f32__ref.append(keys, values, d, d_padded, slot % 16 == 15 ? slot - 1 : slot, k, v);
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

#define ATTENTION(format, attend, merge, append)                                       \
    {                                                                                  \
        .isa = INGOT_ISA_AVX2, .attention = {[(format) - 1] = {attend, merge, append}} \
    }

#define REFERENCE \
    {.quantize = ingot_quantize_f32_a8__ref, .rms_norm = ingot_rms_norm_f32_f32__ref, .gate = ingot_gate_f32_f32__ref}

/* The reference's attention, which other faults leave as it is. */
static void attend_f16(const ingot_attention_args *args) { ingot_attention_f16_f32__ref.attend(args); }
static void merge_f16(const ingot_attention_args *args) { ingot_attention_f16_f32__ref.merge(args); }
static void merge_kv8(const ingot_attention_args *args) { ingot_attention_kv8_f32__ref.merge(args); }
static void merge_k8v4(const ingot_attention_args *args) { ingot_attention_k8v4_f32__ref.merge(args); }

/* The families in the order of kernel_harness_rows.c: attention and append of f16, kv8, k8v4; quantize, rms_norm, gate.
 * They pass for another level than the reference, so that their cases are split. */
const broken_row_kernel broken_row_kernels[] = {
    {"(sound attention)", 0, ATTENTION(INGOT_KV_F16, attend_f16, merge_f16, NULL)},
    {"attention sees one position too few", 0, ATTENTION(INGOT_KV_F16, sees_one_less, merge_f16, NULL)},
    {"attention reads past the queries", 0, ATTENTION(INGOT_KV_F16, reads_past_the_queries, merge_f16, NULL)},
    {"attention merges without the first run", 0, ATTENTION(INGOT_KV_F16, attend_f16, merges_without_the_first, NULL)},
    {"attention sees the future", 1, ATTENTION(INGOT_KV_KV8, sees_the_future, merge_kv8, NULL)},
    {"attention's window is one too wide", 1, ATTENTION(INGOT_KV_KV8, window_too_wide, merge_kv8, NULL)},
    {"attention forgets the sinks", 2, ATTENTION(INGOT_KV_K8V4, forgets_the_sinks, merge_k8v4, NULL)},
    {"append stores one slot off", 4, ATTENTION(INGOT_KV_KV8, NULL, NULL, stores_one_slot_late)},
    {"(sound quantize)", 6, REFERENCE},
    {"quantize rounds halves away from zero", 6, {.quantize = rounds_away}},
    {"quantize forgets the padding", 6, {.quantize = forgets_the_padding}},
    {"rms_norm skips the tail", 7, {.rms_norm = skips_the_tail}},
    {"rms_norm writes past y", 7, {.rms_norm = writes_past_y}},
    {"gate estimates", 8, {.gate = estimates}},
    {"gate reads past its input", 8, {.gate = reads_past_the_gate}},
};
const uint32_t broken_row_kernel_count = sizeof broken_row_kernels / sizeof *broken_row_kernels;
