/* SPDX-License-Identifier: Apache-2.0 */
/* One and two tokens by NEON dot products: sdot of a quad of 4 rows with 4 activations by element.
 *
 * The source order is that of an in-order core: loads first, then sums that do not wait for each other. No prefetch: a
 * tile is one stream, which the cores' own prefetchers follow. */
#ifndef INGOT_KERNELS_LINEAR_NEON_DOTPROD_H
#define INGOT_KERNELS_LINEAR_NEON_DOTPROD_H

#ifndef __ARM_FEATURE_DOTPROD
#error "this file needs -march=armv8.2-a+dotprod"
#endif

#include "kernels/linear/linear_neon_expand.h"

#define NEON_EXPAND expand_quads

/* Adds a quad of every row times four of the 16 activations in a. */
NEON_INLINE int32x4_t dot_quad(int32x4_t dot, int8x16_t weights, int8x16_t a, int quad) {
    if (quad == 0) return vdotq_laneq_s32(dot, weights, a, 0);
    if (quad == 1) return vdotq_laneq_s32(dot, weights, a, 1);
    if (quad == 2) return vdotq_laneq_s32(dot, weights, a, 2);
    return vdotq_laneq_s32(dot, weights, a, 3);
}

/* The codes of a block times 32 activations, added to the sums of four quarters. */
NEON_INLINE void dot_block(const uint8_t *codes, const int8_t *a, neon_format f, const neon_tables *tables,
                           int32x4_t dot[4]) {
    const int8x16_t quads[2] = {vld1q_s8(a), vld1q_s8(a + 16)};
    neon_planes planes[4];
    UNROLL for (int step = 0; step < 4; step++) {
        int8x16_t low[4], high[4];
        UNROLL for (int i = 0; i < 4; i++) { load_step(codes, step, i, f, tables, &planes[i], &low[i], &high[i]); }
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = dot_quad(dot[i], low[i], quads[step / 2], 2 * (step % 2)); }
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = dot_quad(dot[i], high[i], quads[step / 2], 2 * (step % 2) + 1); }
    }
}

/* The same in layout T16_K8: a lane sums one half of the 8 k of a row, pairs of lanes are a row. */
NEON_INLINE void dot_block_k8(const uint8_t *codes, const int8_t *a, neon_format f, const neon_tables *tables,
                              int32x4_t dot[4]) {
    int32x4_t low_rows[4], high_rows[4];
    neon_planes planes;
    UNROLL for (int i = 0; i < 4; i++) { low_rows[i] = high_rows[i] = vdupq_n_s32(0); }
    UNROLL for (int step = 0; step < 4; step++) {
        const int8x16_t eight = vreinterpretq_s8_s64(vld1q_dup_s64((const int64_t *)(const void *)(a + 8 * step)));
        int8x16_t low[4], high[4];
        UNROLL for (int i = 0; i < 4; i++) { load_step(codes, step, i, f, tables, &planes, &low[i], &high[i]); }
        UNROLL for (int i = 0; i < 4; i++) { low_rows[i] = vdotq_s32(low_rows[i], low[i], eight); }
        UNROLL for (int i = 0; i < 4; i++) { high_rows[i] = vdotq_s32(high_rows[i], high[i], eight); }
    }
    UNROLL for (int i = 0; i < 4; i++) { dot[i] = vaddq_s32(dot[i], vpaddq_s32(low_rows[i], high_rows[i])); }
}

/* What the dot products of a block start from. */
NEON_INLINE void start_dots(const ingot_linear_args *args, const uint8_t *scales, int32_t a_sum, neon_format f,
                            int32x4_t dot[4]) {
    if (has_codebook(f)) {
        load_shifts(scales, dot);
        const int32x4_t shifted = vdupq_n_s32(args->delta * a_sum);
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = vandq_s32(dot[i], shifted); }
    } else if (f == Q4Z) {
        load_zeros(scales + 32, dot);
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = vmulq_n_s32(dot[i], -a_sum); }
    } else {
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = vdupq_n_s32(f == Q4 ? -8 * a_sum : 0); }
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
            int32x4_t dot[4], scale[4];
            start_dots(args, scales, a_sum[b], f, dot);
            if (k8) {
                dot_block_k8(codes, a, f, &tables, dot);
            } else {
                dot_block(codes, a, f, &tables, dot);
            }
            load_scales(scales, f, scale);
            UNROLL for (int i = 0; i < 4; i++) { acc[i] = add_block(acc[i], dot[i], scale[i], a_scale[b], f); }
        }
    }
    float *out = out_rows(args, tile, token);
    UNROLL for (int i = 0; i < 4; i++) { vst1q_f32(out + 4 * i, finish_rows(acc[i], walk.head, i, 0.0f, f)); }
}

/* 16 rows times one token of t2: codes stay where they are in their bytes, times 1, 4, 16, and their zeros go off by the
 * sum of the activations. A run is as long as the sums times 16 are sure to fit: 48 * 127 * 4 for 16 k of a row. */
NEON_INLINE void panel_t2(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    neon_walk walk = walk_tile(args, tile, T2, 1 << 14);
    neon_superblock s;
    int32x4_t total[4];
    UNROLL for (int i = 0; i < 4; i++) { total[i] = vdupq_n_s32(0); }
    while (walk_on(&walk, args, T2, &s)) {
        const int8_t *a = args->a + token * args->a_stride + (size_t)BLOCK * s.first;
        const int32_t *a_sum = args->a_sum + token * args->s_stride + s.first;
        const uint8_t *codes = s.codes;
        int32x4_t fours[4], sixteens[4];
        UNROLL for (int i = 0; i < 4; i++) { fours[i] = sixteens[i] = vdupq_n_s32(0); }
        int32_t zeros = 0;
        for (uint32_t b = 0; b < s.blocks; b++, codes += block_bytes(T2), a += BLOCK) {
            zeros += a_sum[b];
            UNROLL for (int part = 0; part < 2; part++) {
                const int8x16_t quads = vld1q_s8(a + 16 * part);
                uint8x16_t chunk[4];
                UNROLL for (int i = 0; i < 4; i++) { chunk[i] = vld1q_u8(codes + CHUNK * part + 16 * i); }
                UNROLL for (int i = 0; i < 4; i++) {
                    const int8x16_t v0 = vreinterpretq_s8_u8(vandq_u8(chunk[i], vdupq_n_u8(3)));
                    const int8x16_t v1 = vreinterpretq_s8_u8(vandq_u8(chunk[i], vdupq_n_u8(12)));
                    const int8x16_t v2 = vreinterpretq_s8_u8(vandq_u8(chunk[i], vdupq_n_u8(48)));
                    const int8x16_t v3 = vreinterpretq_s8_u8(vshrq_n_u8(chunk[i], 6));
                    total[i] = vdotq_laneq_s32(total[i], v0, quads, 0);
                    fours[i] = vdotq_laneq_s32(fours[i], v1, quads, 1);
                    sixteens[i] = vdotq_laneq_s32(sixteens[i], v2, quads, 2);
                    total[i] = vdotq_laneq_s32(total[i], v3, quads, 3);
                }
            }
        }
        UNROLL for (int i = 0; i < 4; i++) {
            total[i] = vsraq_n_s32(vsraq_n_s32(total[i], fours[i], 2), sixteens[i], 4);
            total[i] = vsubq_s32(total[i], vdupq_n_s32(zeros));
        }
    }
    float *out = out_rows(args, tile, token);
    const float a_scale = args->a_scale[token * args->s_stride];
    UNROLL for (int i = 0; i < 4; i++) {
        vst1q_f32(out + 4 * i, finish_rows(vreinterpretq_f32_s32(total[i]), walk.head, i, a_scale, T2));
    }
}

NEON_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, neon_format f, bool k8) {
    if (f == T2) {
        panel_t2(args, tile, token);
    } else {
        panel_blocks(args, tile, token, f, k8);
    }
}

/* 8 rows of the expanded blocks times `tokens` tokens. */
NEON_INLINE void gemm(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token, int half,
                      int tokens, neon_format f) {
    float32x4_t acc[2][4];
    const int8_t *a[4];
    const float *a_scale = args->a_scale + token * args->s_stride + slab->first;
    const int32_t *a_sum = args->a_sum + token * args->s_stride + slab->first;
    UNROLL for (int j = 0; j < tokens; j++) {
        UNROLL for (int i = 0; i < 2; i++) { acc[i][j] = load_sums(args, slab, tile, token + (uint32_t)j, half, i); }
        a[j] = args->a + (token + (size_t)j) * args->a_stride + (size_t)BLOCK * slab->first;
    }
    for (uint32_t b = 0; b < slab->blocks; b++) {
        const int8_t *weights = slab->weights[b] + 256 * half;
        const int32_t *bias = slab->bias[b] + 8 * half;
        int32x4_t dot[2][4];
        UNROLL for (int j = 0; j < tokens; j++) {
            UNROLL for (int i = 0; i < 2; i++) {
                if (f == T2) {
                    dot[i][j] = vreinterpretq_s32_f32(acc[i][j]);
                } else if (has_bias(f)) {
                    dot[i][j] = vmulq_n_s32(vld1q_s32(bias + 4 * i), a_sum[(size_t)j * args->s_stride + b]);
                } else {
                    dot[i][j] = vdupq_n_s32(0);
                }
            }
        }
        UNROLL for (int part = 0; part < 2; part++) {
            int8x16_t quads[4];
            UNROLL for (int j = 0; j < tokens; j++) { quads[j] = vld1q_s8(a[j] + 16 * part); }
            UNROLL for (int q = 0; q < 4; q++) {
                const int8x16_t first = vld1q_s8(weights + 32 * (4 * part + q));
                const int8x16_t second = vld1q_s8(weights + 32 * (4 * part + q) + 16);
                UNROLL for (int j = 0; j < tokens; j++) { dot[0][j] = dot_quad(dot[0][j], first, quads[j], q); }
                UNROLL for (int j = 0; j < tokens; j++) { dot[1][j] = dot_quad(dot[1][j], second, quads[j], q); }
            }
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            a[j] += BLOCK;
            UNROLL for (int i = 0; i < 2; i++) {
                if (f == T2) {
                    acc[i][j] = vreinterpretq_f32_s32(dot[i][j]);
                } else {
                    const int32x4_t scale = vld1q_s32(slab->scale[b] + 8 * half + 4 * i);
                    acc[i][j] = add_block(acc[i][j], dot[i][j], scale, a_scale[(size_t)j * args->s_stride + b], f);
                }
            }
        }
    }
    UNROLL for (int j = 0; j < tokens; j++) {
        UNROLL for (int i = 0; i < 2; i++) { store_sums(args, slab, tile, token + (uint32_t)j, half, i, acc[i][j], f); }
    }
}

#endif
