/* SPDX-License-Identifier: Apache-2.0 */
/* The NEON panel of q8, q4 and c4 for cores without dot products (A53, A72): products in int16, 2 rows x 4 k a register.
 *
 * q4 codes 0..15 add up all eight products of a block in int16 (8 x 15 x 127 fits); signed bytes at most two
 * (2 x 128 x 127 fits) before they go to int32 by pairwise addition. */
#ifndef INGOT_KERNELS_LINEAR_NEON_MUL_H
#define INGOT_KERNELS_LINEAR_NEON_MUL_H

#include "kernels/linear/linear_neon.h"

/* Sums of 4 rows: in `low` rows 0 and 1, in `high` rows 2 and 3. */
typedef struct partial {
    int32x4_t low, high;
} partial;

/* A quad of activations in each of the two halves. */
LINEAR_INLINE int8x8_t load_quads(const int8_t *a) { return vreinterpret_s8_s32(vdup_n_s32(load_quad(a))); }

/* Signed bytes: the two products of a step, then int32. */
LINEAR_INLINE partial add_step(partial sum, int8x16_t low, int8x16_t high, int8x8_t first, int8x8_t second) {
    int16x8_t rows01 = vmull_s8(vget_low_s8(low), first);
    int16x8_t rows23 = vmull_s8(vget_high_s8(low), first);
    rows01 = vmlal_s8(rows01, vget_low_s8(high), second);
    rows23 = vmlal_s8(rows23, vget_high_s8(high), second);
    return (partial){vpadalq_s16(sum.low, rows01), vpadalq_s16(sum.high, rows23)};
}

/* Codes 0..15: the int16 sums ride in the registers of int32. */
LINEAR_INLINE partial add_codes(partial sum, int8x16_t low, int8x16_t high, int8x8_t first, int8x8_t second) {
    int16x8_t rows01 = vreinterpretq_s16_s32(sum.low), rows23 = vreinterpretq_s16_s32(sum.high);
    rows01 = vmlal_s8(rows01, vget_low_s8(low), first);
    rows23 = vmlal_s8(rows23, vget_high_s8(low), first);
    rows01 = vmlal_s8(rows01, vget_low_s8(high), second);
    rows23 = vmlal_s8(rows23, vget_high_s8(high), second);
    return (partial){vreinterpretq_s32_s16(rows01), vreinterpretq_s32_s16(rows23)};
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
        const linear_block block = find_block(args, weights, b, format);
        const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * b;
        const size_t s = token * s_stride + b;
        partial dot[4][4];
        if (first == 0) prefetch_block(block, format);
        UNROLL for (int i = 0; i < quarters; i++) {
            UNROLL for (int j = 0; j < tokens; j++)
                dot[i][j] = (partial){vdupq_n_s32(0), vdupq_n_s32(0)};
        }
        UNROLL for (int step = 0; step < 4; step++) {
            UNROLL for (int i = 0; i < quarters; i++) {
                int8x16_t low, high;
                load_step(block.codes, step, first + i, format, table, &low, &high);
                UNROLL for (int j = 0; j < tokens; j++) {
                    const int8_t *quads = a + (size_t)j * a_stride + 8 * step;
                    const int8x8_t one = load_quads(quads), two = load_quads(quads + 4);
                    dot[i][j] = format == LINEAR_Q4 ? add_codes(dot[i][j], low, high, one, two)
                                                    : add_step(dot[i][j], low, high, one, two);
                }
            }
        }
        UNROLL for (int i = 0; i < quarters; i++) {
            const float32x4_t scale = load_scale(block.scales, first + i, format);
            UNROLL for (int j = 0; j < tokens; j++) {
                const int32_t a_sum = args->a_sum[s + (size_t)j * s_stride];
                const int32x4_t start = start_dot(a_sum, args->delta, block.scales, first + i, format);
                const int32x4_t sum = vaddq_s32(fold(dot[i][j], format), start);
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
