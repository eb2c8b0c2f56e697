/* SPDX-License-Identifier: Apache-2.0 */
/* NEON for cores without dot products (A53, A72): products in int16, 2 rows x 4 k a register.
 *
 * Small codes (q4, q4z, t2) add up all eight products of a block in int16 (8 x 15 x 127 fits); other signed bytes at
 * most two (2 x 128 x 127 fits) before they go to int32 by pairwise addition. The source order is that of an in-order
 * core: loads first, then sums that do not wait for each other. */
#ifndef INGOT_KERNELS_LINEAR_NEON_MUL_H
#define INGOT_KERNELS_LINEAR_NEON_MUL_H

#include "kernels/linear/linear_neon_expand.h"

#define NEON_EXPAND expand_quads
#define NEON_GEMM_OF gemm_by_products
#define NEON_BY_PANEL NULL
#define NEON_MANY(format)

/* Sums of a quarter: rows 0 and 1, rows 2 and 3. Of small codes 8 x int16 each, else 4 x int32. */
typedef struct partial {
    int32x4_t low, high;
} partial;

NEON_INLINE bool small_codes(neon_format f) { return f == Q4 || f == Q4Z || f == T2; }

/* A quad of activations, four times. That its halves are the same is hidden from the compiler, which would otherwise
 * move the upper weights down rather than multiply upper halves. */
NEON_INLINE int8x16_t load_quad(const int8_t *a) {
    int8x16_t quad = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)a));
    __asm__("" : "+w"(quad));
    return quad;
}

/* Signed bytes: two quads in int16, then int32. */
NEON_INLINE void add_bytes(partial *sums, const int8x16_t *low, const int8x16_t *high, int quarters, int8x16_t first,
                           int8x16_t second) {
    int16x8_t rows01[4], rows23[4];
    UNROLL for (int i = 0; i < quarters; i++) {
        rows01[i] = vmull_s8(vget_low_s8(low[i]), vget_low_s8(first));
        rows23[i] = vmull_high_s8(low[i], first);
    }
    UNROLL for (int i = 0; i < quarters; i++) {
        rows01[i] = vmlal_s8(rows01[i], vget_low_s8(high[i]), vget_low_s8(second));
        rows23[i] = vmlal_high_s8(rows23[i], high[i], second);
    }
    UNROLL for (int i = 0; i < quarters; i++) {
        sums[i].low = vpadalq_s16(sums[i].low, rows01[i]);
        sums[i].high = vpadalq_s16(sums[i].high, rows23[i]);
    }
}

NEON_INLINE void add_codes(partial *sums, const int8x16_t *weights, int quarters, int8x16_t quad) {
    UNROLL for (int i = 0; i < quarters; i++) {
        const int16x8_t rows01 = vreinterpretq_s16_s32(sums[i].low), rows23 = vreinterpretq_s16_s32(sums[i].high);
        sums[i].low = vreinterpretq_s32_s16(vmlal_s8(rows01, vget_low_s8(weights[i]), vget_low_s8(quad)));
        sums[i].high = vreinterpretq_s32_s16(vmlal_high_s8(rows23, weights[i], quad));
    }
}

NEON_INLINE void add_step(partial *sums, const int8x16_t *low, const int8x16_t *high, int quarters, const int8_t *a,
                          neon_format f) {
    const int8x16_t first = load_quad(a), second = load_quad(a + 4);
    if (small_codes(f)) {
        add_codes(sums, low, quarters, first);
        add_codes(sums, high, quarters, second);
    } else {
        add_bytes(sums, low, high, quarters, first, second);
    }
}

/* One int32 for each of the 4 rows. */
NEON_INLINE int32x4_t fold(partial sum, neon_format f) {
    if (small_codes(f)) {
        sum.low = vpaddlq_s16(vreinterpretq_s16_s32(sum.low));
        sum.high = vpaddlq_s16(vreinterpretq_s16_s32(sum.high));
    }
    return vpaddq_s32(sum.low, sum.high);
}

/* What the codes leave out: their zero, or the shift of a codebook. */
NEON_INLINE void add_zeros(const ingot_linear_args *args, const uint8_t *scales, int32_t a_sum, neon_format f,
                           const neon_tables *tables, int32x4_t dot[4]) {
    int32x4_t by_row[4];
    if (has_codebook(f)) load_shifts(scales, tables, by_row);
    if (f == Q4Z) load_zeros(scales + 32, by_row);
    UNROLL for (int i = 0; i < 4; i++) {
        if (has_codebook(f)) dot[i] = vaddq_s32(dot[i], vandq_s32(by_row[i], vdupq_n_s32(args->delta * a_sum)));
        if (f == Q4Z) dot[i] = vmlsq_n_s32(dot[i], by_row[i], a_sum);
        if (f == Q4) dot[i] = vsubq_s32(dot[i], vdupq_n_s32(8 * a_sum));
    }
}

/* Adds a block to the sums of `quarters` quarters from `first` on. */
NEON_INLINE void add_products(const uint8_t *codes, const int8_t *a, int first, int quarters, neon_format f,
                              const neon_tables *tables, bool k8, partial *sums) {
    neon_planes planes[4];
    UNROLL for (int step = 0; step < 4; step++) {
        int8x16_t low[4], high[4];
        UNROLL for (int i = 0; i < quarters; i++) {
            load_step(codes, step, first + i, f, tables, &planes[i], &low[i], &high[i]);
            if (k8) split_rows(&low[i], &high[i]);
        }
        add_step(sums, low, high, quarters, a + 8 * step, f);
    }
}

NEON_INLINE void clear(partial *sums, int quarters) {
    UNROLL for (int i = 0; i < quarters; i++) { sums[i] = (partial){vdupq_n_s32(0), vdupq_n_s32(0)}; }
}

/* As many quarters at a time as leave codes and sums in registers. */
NEON_INLINE void dot_block(const uint8_t *codes, const int8_t *a, neon_format f, const neon_tables *tables, bool k8,
                           int32x4_t dot[4]) {
    const int quarters = small_codes(f) ? 4 : 2;
    UNROLL for (int first = 0; first < 4; first += quarters) {
        partial sums[4];
        clear(sums, quarters);
        add_products(codes, a, first, quarters, f, tables, k8, sums);
        UNROLL for (int i = 0; i < quarters; i++) { dot[first + i] = fold(sums[i], f); }
    }
}

/* 16 rows times one token of t2: 16 blocks in int16, 16 x 8 x 2 x 127 at most, before they are folded. */
NEON_INLINE void panel_t2(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    const neon_tables tables = load_tables(args, T2);
    neon_walk walk = walk_tile(args, tile, T2, 16);
    neon_superblock s;
    int32x4_t total[4];
    UNROLL for (int i = 0; i < 4; i++) { total[i] = vdupq_n_s32(0); }
    while (walk_on(&walk, args, T2, &s)) {
        const int8_t *a = args->a + token * args->a_stride + (size_t)BLOCK * s.first;
        partial sums[4];
        clear(sums, 4);
        for (uint32_t b = 0; b < s.blocks; b++) {
            add_products(s.codes + (size_t)b * block_bytes(T2), a + (size_t)BLOCK * b, 0, 4, T2, &tables, false, sums);
        }
        UNROLL for (int i = 0; i < 4; i++) { total[i] = vaddq_s32(total[i], fold(sums[i], T2)); }
    }
    float *out = out_rows(args, tile, token);
    const float a_scale = args->a_scale[token * args->s_stride];
    UNROLL for (int i = 0; i < 4; i++) {
        vst1q_f32(out + 4 * i, finish_rows(vreinterpretq_f32_s32(total[i]), walk.head, i, a_scale, T2));
    }
}

/* 16 rows times one token of the formats with sums by block. */
NEON_INLINE void panel_blocks(const ingot_linear_args *args, uint32_t tile, uint32_t token, neon_format f, bool k8) {
    const neon_tables tables = load_tables(args, f);
    neon_walk walk = walk_tile(args, tile, f, 0);
    neon_superblock s;
    float32x4_t acc[4];
    UNROLL for (int i = 0; i < 4; i++) { acc[i] = vdupq_n_f32(0.0f); }
    while (walk_on(&walk, args, f, &s)) {
        const int8_t *a = args->a + token * args->a_stride + (size_t)BLOCK * s.first;
        const float *a_scale = args->a_scale + token * args->s_stride + s.first;
        const int32_t *a_sum = args->a_sum + token * args->s_stride + s.first;
        const uint8_t *codes = s.codes;
        for (uint32_t b = 0; b < s.blocks; b++, codes += block_bytes(f), a += BLOCK) {
            const uint8_t *scales = block_scales(args, &s, b, f);
            int32x4_t dot[4];
            dot_block(codes, a, f, &tables, k8, dot);
            add_zeros(args, scales, a_sum[b], f, &tables, dot);
            add_scaled(scales, dot, a_scale[b], f, false, acc);
        }
    }
    float *out = out_rows(args, tile, token);
    UNROLL for (int i = 0; i < 4; i++) { vst1q_f32(out + 4 * i, finish_rows(acc[i], walk.head, i, 0.0f, f)); }
}

NEON_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, neon_format f, bool k8) {
    if (f == T2) {
        panel_t2(args, tile, token);
    } else {
        panel_blocks(args, tile, token, f, k8);
    }
}

/* 8 rows of the expanded blocks times `tokens` tokens. */
NEON_INLINE void gemm_by_products(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token,
                                  int half, int tokens, neon_format f) {
    float32x4_t acc[2][4];
    UNROLL for (int j = 0; j < tokens; j++) {
        UNROLL for (int i = 0; i < 2; i++) { acc[i][j] = load_sums(args, slab, tile, token + (uint32_t)j, half, i); }
    }
    for (uint32_t b = 0; b < slab->blocks; b++) {
        const neon_cell *cells[2] = {&slab->cells[2 * half][b], &slab->cells[2 * half + 1][b]};
        const int8_t *a = args->a + token * args->a_stride + (size_t)BLOCK * (slab->first + b);
        const size_t s = token * args->s_stride + slab->first + b;
        partial sums[4][2]; /* tokens x quarters */
        UNROLL for (int j = 0; j < tokens; j++) {
            UNROLL for (int i = 0; i < 2; i++) { sums[j][i] = (partial){vdupq_n_s32(0), vdupq_n_s32(0)}; }
        }
        UNROLL for (int step = 0; step < 4; step++) {
            const int8_t *at[2] = {cells[0]->weights + 32 * step, cells[1]->weights + 32 * step};
            const int8x16_t low[2] = {vld1q_s8(at[0]), vld1q_s8(at[1])};
            const int8x16_t high[2] = {vld1q_s8(at[0] + 16), vld1q_s8(at[1] + 16)};
            UNROLL for (int j = 0; j < tokens; j++) {
                add_step(sums[j], low, high, 2, a + (size_t)j * args->a_stride + 8 * step, f);
            }
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            UNROLL for (int i = 0; i < 2; i++) {
                int32x4_t dot = fold(sums[j][i], f);
                if (f == T2) {
                    acc[i][j] = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(acc[i][j]), dot));
                    continue;
                }
                const size_t at = s + (size_t)j * args->s_stride;
                if (has_bias(f)) dot = vmlaq_n_s32(dot, vld1q_s32(cells[i]->bias), args->a_sum[at]);
                const float32x4_t scale = vld1q_f32(cells[i]->scale);
                acc[i][j] = add_block(acc[i][j], vcvtq_f32_s32(dot), scale, args->a_scale[at], f);
            }
        }
    }
    UNROLL for (int j = 0; j < tokens; j++) {
        UNROLL for (int i = 0; i < 2; i++) { store_sums(args, slab, tile, token + (uint32_t)j, half, i, acc[i][j], f); }
    }
}

#endif
