/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `quantize`: float32 activations to int8 with one scale per 32 k.
 *
 * For each group g of 32 elements of one row x (k):
 *   largest = max |x|;  a_scale[g] = largest / 127;  a[i] = round(x[i] * (127 / largest)), to nearest even
 *   a_sum[g] = sum of a over the group.   largest < 1e-30: all of them 0.
 * A NaN is no candidate for `largest`; it and an infinity become 127 (an infinity with an infinite scale).
 * Elements from k to k_padded (a multiple of 32) count as 0. a is never -128.
 * Shapes: x (k) f32, read to k only; a (k_padded) int8; a_scale, a_sum (k_padded / 32).
 * ingot_quantize_token takes `largest` over the whole row: one scale, repeated in a_scale; a_sum per 32 (t2).
 * Exact: the same bits on every ISA. Thread-safe; split by rows. Not in place. No alignment needed. Source: our own. */
#ifndef INGOT_KERNELS_QUANTIZE_H
#define INGOT_KERNELS_QUANTIZE_H

#include <stddef.h>
#include <stdint.h>

typedef void (*ingot_quantize_fn)(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale,
                                  int32_t *a_sum);

/* Eight tokens side by side, the panel of linear.h. */
enum { INGOT_PANEL_TOKENS = 8, INGOT_PANEL_BLOCK_BYTES = 320 };

/* Quantized rows: row i at i * {a_stride, s_stride, s_stride} elements. */
typedef struct ingot_quantized_rows {
    const int8_t *a;
    const float *a_scale;
    const int32_t *a_sum;
    size_t a_stride;
    size_t s_stride;
    uint32_t count; /* 1 to 8; tokens beyond become zeros */
} ingot_quantized_rows;

/** Writes k / 32 * INGOT_PANEL_BLOCK_BYTES to panel, which is aligned to 64 bytes. k is a multiple of 32. */
void ingot_panel_pack(const ingot_quantized_rows *rows, uint32_t k, uint8_t *panel);

/** One block of a panel: a (8, 32) int8, a_scale and a_sum (8); writes INGOT_PANEL_BLOCK_BYTES. */
void ingot_panel_pack_block(const int8_t *a, const float *a_scale, const int32_t *a_sum, uint8_t *panel);

void ingot_quantize_token(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale, int32_t *a_sum);

#endif
