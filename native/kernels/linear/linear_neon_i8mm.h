/* SPDX-License-Identifier: Apache-2.0 */
/* Several tokens by the int8 matrix product: smmla of 2 rows x 8 k with 2 tokens x 8 k gives 2 x 2 sums. One token, which
 * would use half of it, goes by sdot as in linear_neon_dotprod.h. */
#ifndef INGOT_KERNELS_LINEAR_NEON_I8MM_H
#define INGOT_KERNELS_LINEAR_NEON_I8MM_H

#ifndef __ARM_FEATURE_MATMUL_INT8
#error "this file needs -march=armv8.2-a+dotprod+i8mm"
#endif

#define NEON_EXPAND expand_pairs
#define NEON_GEMM_OF gemm_by_pairs
/* No panels: 4 rows by eight tokens need twice the zips that 8 rows by four tokens do. */
#define NEON_BY_PANEL NULL
#define NEON_MANY(format)
#include "kernels/linear/linear_neon_dotprod.h"

/* Of each quarter 4 steps of 8 k, of these two pairs of rows: layout T16_K8 has them so, T16 after a zip. */
NEON_INLINE void expand_pairs(const uint8_t *codes, neon_cell *const to[4], neon_format f, const neon_tables *tables,
                              bool k8) {
    neon_planes planes[4];
    UNROLL for (int step = 0; step < 4; step++) {
        int8x16_t low[4], high[4];
        load_quads(codes, step, f, tables, planes, false, low, high);
        UNROLL for (int i = 0; i < 4; i++) {
            const int32x4_t first = vreinterpretq_s32_s8(low[i]), second = vreinterpretq_s32_s8(high[i]);
            int8_t *at = to[i]->weights + 32 * step;
            vst1q_s8(at, k8 ? low[i] : vreinterpretq_s8_s32(vzip1q_s32(first, second)));
            vst1q_s8(at + 16, k8 ? high[i] : vreinterpretq_s8_s32(vzip2q_s32(first, second)));
        }
    }
}

/* Two values, one of each token, twice. */
NEON_INLINE float32x4_t both_scales(const float *first, const float *second) {
    const float32x2_t pair = vld1_lane_f32(second, vld1_dup_f32(first), 1);
    return vcombine_f32(pair, pair);
}

NEON_INLINE int32x4_t both_sums(const int32_t *first, const int32_t *second) {
    const int32x2_t pair = vld1_lane_s32(second, vld1_dup_s32(first), 1);
    return vcombine_s32(pair, pair);
}

/* 8 k of both tokens for each of the steps. */
NEON_INLINE void load_both(const int8_t *first, const int8_t *second, int8x16_t steps[4]) {
    UNROLL for (int part = 0; part < 2; part++) {
        const int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(first + 16 * part));
        const int64x2_t y = vreinterpretq_s64_s8(vld1q_s8(second + 16 * part));
        steps[2 * part] = vreinterpretq_s8_s64(vzip1q_s64(x, y));
        steps[2 * part + 1] = vreinterpretq_s8_s64(vzip2q_s64(x, y));
    }
}

/* Values of 4 rows, each twice: two registers of two rows. */
NEON_INLINE void load_twice(const float *rows, float32x4_t pairs[2]) {
    const float32x4_t quarter = vld1q_f32(rows);
    pairs[0] = vzip1q_f32(quarter, quarter);
    pairs[1] = vzip2q_f32(quarter, quarter);
}

/* One block of 8 rows times 2 * `couples` tokens. */
NEON_INLINE void add_pairs(const neon_slab *slab, uint32_t b, int half, const token_pointers *at, int couples,
                           neon_format f, float32x4_t acc[4][2]) {
    const neon_cell *cells[2] = {&slab->cells[2 * half][b], &slab->cells[2 * half + 1][b]};
    int32x4_t dot[4][2];
    float32x4_t bias[4], scale[4];
    UNROLL for (int i = 0; has_bias(f) && i < 2; i++) {
        load_twice((const float *)(const void *)cells[i]->bias, bias + 2 * i);
    }
    UNROLL for (int c = 0; c < couples; c++) {
        const token_pointers *first = &at[2 * c], *second = &at[2 * c + 1];
        const int32x4_t sums = both_sums(first->a_sum, second->a_sum);
        int8x16_t x[4];
        load_both(first->a, second->a, x);
        UNROLL for (int p = 0; p < 4; p++) {
            dot[p][c] = f == T2 ? vreinterpretq_s32_f32(acc[p][c]) : vdupq_n_s32(first_sum(f));
            if (has_bias(f)) dot[p][c] = vmlaq_s32(dot[p][c], vreinterpretq_s32_f32(bias[p]), sums);
        }
        UNROLL for (int step = 0; step < 4; step++) {
            UNROLL for (int p = 0; p < 4; p++) {
                dot[p][c] = vmmlaq_s32(dot[p][c], vld1q_s8(cells[p / 2]->weights + 32 * step + 16 * (p % 2)), x[step]);
            }
        }
    }
    UNROLL for (int i = 0; f != T2 && i < 2; i++) { load_twice(cells[i]->scale, scale + 2 * i); }
    UNROLL for (int c = 0; c < couples; c++) {
        const float32x4_t a_scale = both_scales(at[2 * c].a_scale, at[2 * c + 1].a_scale);
        UNROLL for (int p = 0; p < 4; p++) {
            const float32x4_t sum = first_sum(f) == 0 ? vcvtq_f32_s32(dot[p][c]) : to_float(dot[p][c]);
            if (f == T2) {
                acc[p][c] = vreinterpretq_f32_s32(dot[p][c]);
            } else if (has_codebook(f) || f == Q6) {
                acc[p][c] = vfmaq_f32(acc[p][c], vmulq_f32(sum, scale[p]), a_scale);
            } else {
                acc[p][c] = vfmaq_f32(acc[p][c], sum, vmulq_f32(scale[p], a_scale));
            }
        }
    }
}

/* 8 rows of the expanded blocks times `tokens` tokens; a single one counts as two. */
NEON_INLINE void gemm_by_pairs(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token,
                               int half, int tokens, neon_format f) {
    const int couples = (tokens + 1) / 2;
    float32x4_t acc[4][2];
    token_pointers at[4];
    UNROLL for (int j = 0; j < 2 * couples; j++) {
        at[j] = point_at(args, token + (uint32_t)(j < tokens ? j : 0), slab->first);
    }
    UNROLL for (int c = 0; c < couples; c++) {
        const uint32_t first = token + 2 * (uint32_t)c, second = first + (tokens > 1);
        UNROLL for (int i = 0; i < 2; i++) {
            const float32x4_t x = load_sums(args, slab, tile, first, half, i);
            const float32x4_t y = load_sums(args, slab, tile, second, half, i);
            acc[2 * i][c] = vzip1q_f32(x, y);
            acc[2 * i + 1][c] = vzip2q_f32(x, y);
        }
    }
    for (uint32_t b = 0; b < slab->blocks; b++) {
        add_pairs(slab, b, half, at, couples, f, acc);
        UNROLL for (int j = 0; j < 2 * couples; j++) { at[j] = advance(at[j], 1); }
    }
    UNROLL for (int c = 0; c < couples; c++) {
        const uint32_t first = token + 2 * (uint32_t)c;
        UNROLL for (int i = 0; i < 2; i++) {
            const float32x4_t x = vuzp1q_f32(acc[2 * i][c], acc[2 * i + 1][c]);
            const float32x4_t y = vuzp2q_f32(acc[2 * i][c], acc[2 * i + 1][c]);
            store_sums(args, slab, tile, first, half, i, x, f);
            if (tokens > 1) store_sums(args, slab, tile, first + 1, half, i, y, f);
        }
    }
}

#endif
