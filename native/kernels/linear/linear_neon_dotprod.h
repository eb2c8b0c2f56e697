/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON dot product panel of q8, q4 and c4: sdot of 4 rows x 4 k with a quad of activations by element.
 *
 * The source order is that of an in-order core: loads first, then sums that do not wait for each other. */
#ifndef INGOT_KERNELS_LINEAR_NEON_DOTPROD_H
#define INGOT_KERNELS_LINEAR_NEON_DOTPROD_H

#ifndef __ARM_FEATURE_DOTPROD
#error "this file needs -march=armv8.2-a+dotprod"
#endif

#include "kernels/linear/linear_neon.h"

/* Adds a quad of every row times four of the 16 activations in a. */
LINEAR_INLINE int32x4_t dot_quad(int32x4_t dot, int8x16_t weights, int8x16_t a, int quad) {
    if (quad == 0) return vdotq_laneq_s32(dot, weights, a, 0);
    if (quad == 1) return vdotq_laneq_s32(dot, weights, a, 1);
    if (quad == 2) return vdotq_laneq_s32(dot, weights, a, 2);
    return vdotq_laneq_s32(dot, weights, a, 3);
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
        const linear_block block = find_quarter(args, weights, b, first, format);
        const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * b;
        const size_t s = token * s_stride + b;
        int32x4_t dot[4][8];
        if (first == 0) prefetch_block(block, format);
        UNROLL for (int j = 0; j < tokens; j++) {
            const int32_t a_sum = args->a_sum[s + (size_t)j * s_stride];
            UNROLL for (int i = 0; i < quarters; i++) {
                dot[i][j] = start_dot(a_sum, args->delta, block.scales, i, format);
            }
        }
        int8x16_t quads[8];
        UNROLL for (int step = 0; step < 4; step++) {
            if (step % 2 == 0) {
                UNROLL for (int j = 0; j < tokens; j++) { quads[j] = vld1q_s8(a + (size_t)j * a_stride + 8 * step); }
            }
            UNROLL for (int i = 0; i < quarters; i++) {
                int8x16_t pair[2];
                load_step(block.codes, step, i, format, table, &pair[0], &pair[1]);
                UNROLL for (int quad = 0; quad < 2; quad++) {
                    UNROLL for (int j = 0; j < tokens; j++) {
                        dot[i][j] = dot_quad(dot[i][j], pair[quad], quads[j], 2 * (step % 2) + quad);
                    }
                }
            }
        }
        UNROLL for (int i = 0; i < quarters; i++) {
            const float32x4_t scale = load_scale(block.scales, i, format);
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
