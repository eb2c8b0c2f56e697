/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON panel of q8, q4 and c4 for cores without dot products (A53, A72): products in int16, 2 rows x 4 k a register.
 *
 * q4 codes 0..15 add up all eight products of a block in int16 (8 x 15 x 127 fits); signed bytes at most two
 * (2 x 128 x 127 fits) before they go to int32 by pairwise addition. The source order is that of an in-order
 * core: loads first, then sums that do not wait for each other. */
#ifndef INGOT_KERNELS_LINEAR_NEON_MUL_H
#define INGOT_KERNELS_LINEAR_NEON_MUL_H

#include "kernels/linear/linear_neon.h"

/* Sums of 4 rows: in `low` rows 0 and 1, in `high` rows 2 and 3. */
typedef struct partial {
    int32x4_t low, high;
} partial;

/* A quad of activations in each of the two halves. */
LINEAR_INLINE int8x8_t load_quads(const int8_t *a) { return vreinterpret_s8_s32(vdup_n_s32(load_quad(a))); }

/* Signed bytes: the two products of a step in int16, then int32. */
LINEAR_INLINE void add_bytes(partial *sums, const int8x16_t *low, const int8x16_t *high, int quarters, int8x8_t first,
                             int8x8_t second) {
    int16x8_t rows01[4], rows23[4];
    UNROLL for (int i = 0; i < quarters; i++) {
        rows01[i] = vmull_s8(vget_low_s8(low[i]), first);
        rows23[i] = vmull_s8(vget_high_s8(low[i]), first);
    }
    UNROLL for (int i = 0; i < quarters; i++) {
        rows01[i] = vmlal_s8(rows01[i], vget_low_s8(high[i]), second);
        rows23[i] = vmlal_s8(rows23[i], vget_high_s8(high[i]), second);
    }
    UNROLL for (int i = 0; i < quarters; i++) {
        sums[i].low = vpadalq_s16(sums[i].low, rows01[i]);
        sums[i].high = vpadalq_s16(sums[i].high, rows23[i]);
    }
}

/* Codes 0..15: the int16 sums ride in the registers of int32. */
LINEAR_INLINE void add_codes(partial *sums, const int8x16_t *weights, int quarters, int8x8_t quad) {
    UNROLL for (int i = 0; i < quarters; i++) {
        const int16x8_t rows01 = vreinterpretq_s16_s32(sums[i].low), rows23 = vreinterpretq_s16_s32(sums[i].high);
        sums[i].low = vreinterpretq_s32_s16(vmlal_s8(rows01, vget_low_s8(weights[i]), quad));
        sums[i].high = vreinterpretq_s32_s16(vmlal_s8(rows23, vget_high_s8(weights[i]), quad));
    }
}

/* One int32 for each of the 4 rows. */
LINEAR_INLINE int32x4_t fold(partial sum, linear_format format) {
    if (format == LINEAR_Q4) {
        sum.low = vpaddlq_s16(vreinterpretq_s16_s32(sum.low));
        sum.high = vpaddlq_s16(vreinterpretq_s16_s32(sum.high));
    }
    return vpaddq_s32(sum.low, sum.high);
}

LINEAR_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int first, int quarters,
                         int tokens, linear_format format) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    const size_t a_stride = args->a_stride, s_stride = args->s_stride;
    const int8x16_t table = load_codebook(args, format);
    float32x4_t acc[4][4];
    UNROLL for (int i = 0; i < quarters; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = vdupq_n_f32(0.0f); }
    }
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const linear_block block = find_quarter(args, weights, b, first, format);
        const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * b;
        const size_t s = token * s_stride + b;
        partial dot[4][4]; /* tokens x quarters */
        if (first == 0) prefetch_block(block, format);
        UNROLL for (int i = 0; i < quarters; i++) {
            UNROLL for (int j = 0; j < tokens; j++)
                dot[j][i] = (partial){vdupq_n_s32(0), vdupq_n_s32(0)};
        }
        UNROLL for (int step = 0; step < 4; step++) {
            int8x16_t low[4], high[4];
            UNROLL for (int i = 0; i < quarters; i++) {
                load_step(block.codes, step, i, format, table, &low[i], &high[i]);
            }
            UNROLL for (int j = 0; j < tokens; j++) {
                const int8_t *quads = a + (size_t)j * a_stride + 8 * step;
                const int8x8_t first_quad = load_quads(quads), second_quad = load_quads(quads + 4);
                if (format == LINEAR_Q4) {
                    add_codes(dot[j], low, quarters, first_quad);
                    add_codes(dot[j], high, quarters, second_quad);
                } else {
                    add_bytes(dot[j], low, high, quarters, first_quad, second_quad);
                }
            }
        }
        UNROLL for (int i = 0; i < quarters; i++) {
            const float32x4_t scale = load_scale(block.scales, i, format);
            UNROLL for (int j = 0; j < tokens; j++) {
                const int32_t a_sum = args->a_sum[s + (size_t)j * s_stride];
                const int32x4_t start = start_dot(a_sum, args->delta, block.scales, i, format);
                const int32x4_t sum = vaddq_s32(fold(dot[j][i], format), start);
                acc[i][j] = accumulate(acc[i][j], sum, scale, args->a_scale[s + (size_t)j * s_stride], format);
            }
        }
    }
    UNROLL for (int i = 0; i < quarters; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            store_rows(args, tile, token + (uint32_t)j, first + i, acc[i][j], format);
        }
    }
}

/* 16 rows for one token, 8 rows for two or four: 16 registers of sums of the 32 at most. */
#define LINEAR_NEON_KERNEL(symbol, format)                                           \
    NEON_PANEL(1, 4, format)                                                         \
    NEON_PANEL(2, 2, format)                                                         \
    NEON_PANEL(4, 2, format)                                                         \
    static const linear_panel panels[] = {{4, panel_4}, {2, panel_2}, {1, panel_1}}; \
    void symbol(const ingot_linear_args *args) { linear_cover(args, panels, NULL, 0); }

#endif
