/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON dot product panel of q8, q4 and c4: sdot of 4 rows x 4 k with a quad of activations by element. */
#ifndef INGOT_KERNELS_LINEAR_NEON_DOTPROD_H
#define INGOT_KERNELS_LINEAR_NEON_DOTPROD_H

#ifndef __ARM_FEATURE_DOTPROD
#error "this file needs -march=armv8.2-a+dotprod"
#endif

#include "kernels/linear/linear_neon.h"

/* Adds the 8 k of `step` (two quads of the 16 k in a; even steps the lower two). */
LINEAR_INLINE int32x4_t dot_step(int32x4_t dot, int8x16_t low, int8x16_t high, int8x16_t a, int step) {
    if (step % 2 == 0) return vdotq_laneq_s32(vdotq_laneq_s32(dot, low, a, 0), high, a, 1);
    return vdotq_laneq_s32(vdotq_laneq_s32(dot, low, a, 2), high, a, 3);
}

LINEAR_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int first, int quarters,
                         int tokens, linear_format format) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    const size_t a_stride = args->a_stride, s_stride = args->s_stride;
    const int8x16_t table = load_codebook(args, format);
    float32x4_t acc[4][8];
    UNROLL for (int i = 0; i < quarters; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vdupq_n_f32(0.0f); }
    }
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const linear_block block = find_block(args, weights, b, format);
        const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * b;
        const size_t s = token * s_stride + b;
        int32x4_t dot[4][8];
        if (first == 0) prefetch_block(block, format);
        UNROLL for (int j = 0; j < tokens; j++) {
            const int32_t a_sum = args->a_sum[s + (size_t)j * s_stride];
            UNROLL for (int i = 0; i < quarters; i++) {
                dot[i][j] = start_dot(a_sum, args->delta, block.scales, first + i, format);
            }
        }
        UNROLL for (int half = 0; half < 2; half++) {
            int8x16_t quads[8];
            UNROLL for (int j = 0; j < tokens; j++) { quads[j] = vld1q_s8(a + (size_t)j * a_stride + 16 * half); }
            UNROLL for (int step = 2 * half; step < 2 * half + 2; step++) {
                UNROLL for (int i = 0; i < quarters; i++) {
                    int8x16_t low, high;
                    load_step(block.codes, step, first + i, format, table, &low, &high);
                    UNROLL for (int j = 0; j < tokens; j++) {
                        dot[i][j] = dot_step(dot[i][j], low, high, quads[j], step);
                    }
                }
            }
        }
        UNROLL for (int i = 0; i < quarters; i++) {
            const float32x4_t scale = load_scale(block.scales, first + i, format);
            UNROLL for (int j = 0; j < tokens; j++) {
                const float a_scale = args->a_scale[s + (size_t)j * s_stride];
                acc[i][j] = accumulate(acc[i][j], dot[i][j], scale, a_scale, format);
            }
        }
    }
    UNROLL for (int i = 0; i < quarters; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            store_rows(args, tile, token + (uint32_t)j, first + i, acc[i][j], format);
        }
    }
}

/* 16 rows for a few tokens, 8 rows for 8: 16 sums and 8 registers of activations of the 32. */
#define LINEAR_NEON_DOTPROD_KERNEL(symbol, format)                                                 \
    NEON_PANEL(1, 4, format)                                                                       \
    NEON_PANEL(2, 4, format)                                                                       \
    NEON_PANEL(4, 4, format)                                                                       \
    NEON_PANEL(8, 2, format)                                                                       \
    static const linear_panel panels[] = {{8, panel_8}, {4, panel_4}, {2, panel_2}, {1, panel_1}}; \
    void symbol(const ingot_linear_args *args) { linear_cover(args, panels, NULL, 0); }

#endif
