/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `quantize`: float32 activations to int8 with one scale per 32 k.
 *
 * For each group g of 32 elements of one row x (k):
 *   largest = max |x|;  a_scale[g] = largest / 127;  a[i] = round(x[i] * (127 / largest)), to nearest even
 *   a_sum[g] = sum of a over the group.   largest < 1e-30: all of them 0.
 * A NaN is no candidate for `largest`; it and an infinity become 127 (an infinity with an infinite scale).
 * Elements from k to k_padded (a multiple of 32) count as 0. a is never -128.
 * Shapes: x (k) f32, read to k only; a (k_padded) int8; a_scale, a_sum (k_padded / 32).
 * ingot_quantize_token is the same with one group that is the whole row: a_scale (1), a_sum still per 32 (for t2).
 * Exact: the same bits on every ISA. Thread-safe; split by rows. Not in place. No alignment needed. Source: our own. */
#ifndef INGOT_KERNELS_QUANTIZE_H
#define INGOT_KERNELS_QUANTIZE_H

#include <stdint.h>

typedef void (*ingot_quantize_fn)(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale,
                                  int32_t *a_sum);

void ingot_quantize_token(const float *x, uint32_t k, uint32_t k_padded, int8_t *a, float *a_scale, int32_t *a_sum);

#endif
