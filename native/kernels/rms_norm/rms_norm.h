/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `rms_norm` over one slice of n elements:
 *   y[i] = x[i] * (1 / sqrt(mean(x^2) + epsilon)) * weight[i], products from left to right
 * The mean square is summed in 16 lanes (element i in lane i mod 16, fused multiply-add in ascending i), the lanes by
 * the fixed tree of vector.h. Shapes: x, weight, y (n) f32; reads and writes nothing beyond n. y may be x.
 * Exact: the same bits on every ISA. Thread-safe. Source: Zhang and Sennrich 2019 (arXiv:1910.07467). */
#ifndef INGOT_KERNELS_RMS_NORM_H
#define INGOT_KERNELS_RMS_NORM_H

#include <stdint.h>

typedef void (*ingot_rms_norm_fn)(const float *x, const float *weight, uint32_t n, float epsilon, float *y);

#endif
