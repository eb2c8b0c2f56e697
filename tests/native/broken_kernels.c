/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels with planted faults: `kernel_harness --self-test` fails unless each is flagged. The name of a sound one, which
 * must not be flagged, is in parentheses. */
#include <math.h>
#include <string.h>

#include "ingot_format.h"
#include "kernel_harness.h"
#include "kernels/half.h"

static float *row_of(const ingot_linear_args *args, uint32_t token) { return args->out + token * args->out_stride; }

static uint32_t width_of(const ingot_linear_args *args) { return 16 * (args->tile_end - args->tile_begin); }

static void column_off(const ingot_linear_args *args) {
    ingot_linear_q8_a8__ref(args);
    for (uint32_t i = 0; i < args->m; i++) memmove(row_of(args, i), row_of(args, i) + 1, (width_of(args) - 1) * 4);
}

static void writes_one_byte_past(const ingot_linear_args *args) {
    ingot_linear_q4_a8__ref(args);
    ((volatile uint8_t *)(row_of(args, args->m - 1) + width_of(args)))[0] = 0;
}

static void writes_one_byte_before(const ingot_linear_args *args) {
    ingot_linear_q4_a8__ref(args);
    ((volatile uint8_t *)args->out)[-1] = 0;
}

static void skips_a_short_superblock(const ingot_linear_args *args) {
    ingot_linear_args shorter = *args;
    shorter.k -= args->k > 32 && args->k / 32 % 2 ? 32 : 0;
    ingot_linear_q8_a8__ref(&shorter);
}

static void skips_the_last_token(const ingot_linear_args *args) {
    ingot_linear_args shorter = *args;
    shorter.m -= args->m % 8 == 7;
    ingot_linear_c4_a8__ref(&shorter);
}

static void reads_past_the_weights(const ingot_linear_args *args) {
    ingot_linear_c4_a8__ref(args);
    const uint64_t end =
        args->tile_offsets != NULL ? args->tile_offsets[args->tile_end] : args->tile_end * args->tile_bytes;
    (void)*(const volatile uint8_t *)(args->weights + end);
}

static void reads_before_the_weights(const ingot_linear_args *args) {
    ingot_linear_f16_f32__ref(args);
    if (args->tile_offsets != NULL) return;
    (void)*(const volatile uint8_t *)(args->weights + args->tile_begin * args->tile_bytes - 1);
}

static void reads_past_the_activations(const ingot_linear_args *args) {
    ingot_linear_q4_a8__ref(args);
    (void)*(const volatile int8_t *)(args->a + (args->m - 1) * args->a_stride + args->k);
}

static void writes_an_input(const ingot_linear_args *args) {
    ingot_linear_q8_a8__ref(args);
    volatile int8_t *a = (volatile int8_t *)(uintptr_t)args->a;
    a[0] = a[0];
}

static void ignores_the_group(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    other.group = 32;
    ingot_linear_q4_a8__ref(&other);
}

static void ignores_the_shift(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    other.delta = 0;
    ingot_linear_c4_a8__ref(&other);
}

/* ---- one fault of each further format ---- */

static void q6_mixes_rows(const ingot_linear_args *args) {
    ingot_linear_q6_a8__ref(args);
    for (uint32_t i = 0; i < args->m; i++) row_of(args, i)[width_of(args) - 1] += 1e-6f * row_of(args, i)[0];
}

static void c5_forgets_the_bit(const ingot_linear_args *args) {
    int8_t low[32];
    ingot_linear_args other = *args;
    memcpy(low, args->codebook, 16);
    memcpy(low + 16, args->codebook, 16);
    other.codebook = low;
    ingot_linear_c5_a8__ref(&other);
}

static void q4z_skips_half_a_group(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    if (args->group == 64 && args->tile_offsets == NULL) other.k -= args->k > 32 && args->k / 32 % 2 ? 32 : 0;
    ingot_linear_q4z_a8__ref(&other);
}

static void c3_forgets_the_last_entry(const ingot_linear_args *args) {
    int8_t entries[8];
    ingot_linear_args other = *args;
    memcpy(entries, args->codebook, 7);
    entries[7] = entries[6];
    other.codebook = entries;
    ingot_linear_c3_a8__ref(&other);
}

static void c2_ignores_the_shift(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    other.delta = 0;
    ingot_linear_c2_a8__ref(&other);
}

static void t2_scales_by_the_group(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    other.a_scale += args->k > 32;
    ingot_linear_t2_a8__ref(&other);
}

static void reads_k8_as_t16(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    other.layout = INGOT_LAYOUT_T16;
    ingot_linear_c4_a8__ref(&other);
}

/* Takes what a list stores as the first superblocks. */
static void ignores_the_list(const ingot_linear_args *args) {
    ingot_linear_args other = *args;
    if (args->tile_offsets == NULL) {
        ingot_linear_q6_a8__ref(args);
        return;
    }
    for (uint32_t t = args->tile_begin; t < args->tile_end; t++) {
        uint32_t count;
        memcpy(&count, args->weights + args->tile_offsets[t], sizeof count);
        other.weights = args->weights + args->tile_offsets[t] + (4 + 2 * (size_t)count + 63) / 64 * 64;
        other.tile_offsets = NULL;
        other.tile_bytes = 0;
        other.k = 128 * count < args->k ? 128 * count : args->k;
        other.tile_begin = t;
        other.tile_end = t + 1;
        other.out = args->out + 16 * (size_t)(t - args->tile_begin);
        ingot_linear_q6_a8__ref(&other);
    }
}

/* q8 with its int32 dot product made and rounded in a way of the caller's choice. */
typedef int32_t (*dot_fn)(const uint8_t *codes, const int8_t *a, uint32_t row);
typedef float (*step_fn)(float dot, float scale, float a_scale, float acc);

static int32_t exact_dot(const uint8_t *codes, const int8_t *a, uint32_t row) {
    int32_t dot = 0;
    for (uint32_t k = 0; k < 32; k++) dot += (int8_t)codes[64 * (k / 4) + 4 * row + k % 4] * a[k];
    return dot;
}

/* Pairs of products of biased weights saturate in int16: what vpmaddubsw would do. */
static int32_t saturating_dot(const uint8_t *codes, const int8_t *a, uint32_t row) {
    int32_t dot = 0;
    for (uint32_t k = 0; k < 32; k += 2) {
        const uint8_t *w = codes + 64 * (k / 4) + 4 * row + k % 4;
        const int32_t pair = (w[0] ^ 0x80) * a[k] + (w[1] ^ 0x80) * a[k + 1];
        dot += (pair > 32767 ? 32767 : pair < -32768 ? -32768 : pair) - 128 * (a[k] + a[k + 1]);
    }
    return dot;
}

static float fused(float dot, float scale, float a_scale, float acc) { return fmaf(dot, scale * a_scale, acc); }
static float unfused(float dot, float scale, float a_scale, float acc) { return dot * (scale * a_scale) + acc; }
static float other_order(float dot, float scale, float a_scale, float acc) { return fmaf(dot * scale, a_scale, acc); }

static void q8(const ingot_linear_args *args, dot_fn dot, step_fn step) {
    if (args->tile_offsets != NULL || args->layout == INGOT_LAYOUT_T16_K8) {
        ingot_linear_q8_a8__ref(args);
        return;
    }
    for (uint32_t i = 0; i < args->m * width_of(args); i++) {
        const uint32_t token = i / width_of(args), column = i % width_of(args), row = column % 16;
        const uint8_t *tile = args->weights + (args->tile_begin + column / 16) * args->tile_bytes;
        float acc = 0.0f;
        for (uint32_t b = 0; b < args->k / 32; b++) {
            const uint8_t *superblock = tile + b / 2 * 1088, *codes = superblock + 64 + b % 2 * 512;
            const float a_scale = args->a_scale[token * args->s_stride + b];
            uint16_t half;
            memcpy(&half, superblock + b % 2 * 32 + 2 * row, sizeof half);
            const int32_t sum = dot(codes, args->a + token * args->a_stride + 32 * b, row);
            acc = step((float)sum, ingot_half_to_float(half), a_scale, acc);
        }
        row_of(args, token)[column] = acc;
    }
}

static void rounds_twice(const ingot_linear_args *args) { q8(args, exact_dot, unfused); }
static void multiplies_in_another_order(const ingot_linear_args *args) { q8(args, exact_dot, other_order); }
static void saturates(const ingot_linear_args *args) { q8(args, saturating_dot, fused); }
static void sound(const ingot_linear_args *args) { q8(args, exact_dot, fused); }

const broken_kernel broken_kernels[] = {
    {"(sound)", INGOT_DTYPE_Q8, sound},
    {"one column off", INGOT_DTYPE_Q8, column_off},
    {"writes one byte past out", INGOT_DTYPE_Q4, writes_one_byte_past},
    {"writes one byte before out", INGOT_DTYPE_Q4, writes_one_byte_before},
    {"skips a short superblock", INGOT_DTYPE_Q8, skips_a_short_superblock},
    {"skips the last token of 7 mod 8", INGOT_DTYPE_C4, skips_the_last_token},
    {"reads past the weights", INGOT_DTYPE_C4, reads_past_the_weights},
    {"reads before the weights", INGOT_DTYPE_F16, reads_before_the_weights},
    {"reads past the activations", INGOT_DTYPE_Q4, reads_past_the_activations},
    {"writes an input", INGOT_DTYPE_Q8, writes_an_input},
    {"ignores the group of q4", INGOT_DTYPE_Q4, ignores_the_group},
    {"ignores the shift of c4", INGOT_DTYPE_C4, ignores_the_shift},
    {"takes a row scale of another row", INGOT_DTYPE_Q6, q6_mixes_rows},
    {"forgets the bit of c5", INGOT_DTYPE_C5, c5_forgets_the_bit},
    {"skips half a group of q4z", INGOT_DTYPE_Q4Z, q4z_skips_half_a_group},
    {"forgets an entry of c3", INGOT_DTYPE_C3, c3_forgets_the_last_entry},
    {"ignores the shift of c2", INGOT_DTYPE_C2, c2_ignores_the_shift},
    {"takes the scale of another group for t2", INGOT_DTYPE_T2, t2_scales_by_the_group},
    {"reads T16_K8 as T16", INGOT_DTYPE_C4, reads_k8_as_t16},
    {"ignores the list of superblocks", INGOT_DTYPE_Q6, ignores_the_list},
    {"rounds product and sum", INGOT_DTYPE_Q8, rounds_twice},
    {"multiplies the scales in another order", INGOT_DTYPE_Q8, multiplies_in_another_order},
    {"saturates pairs in int16", INGOT_DTYPE_Q8, saturates},
};
const uint32_t broken_kernel_count = sizeof broken_kernels / sizeof *broken_kernels;
