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

/* linear_neon_i8mm.h takes the panels of this file and has its own for several tokens. */
#ifndef NEON_EXPAND
#define NEON_EXPAND expand_quads
#define NEON_GEMM_OF gemm_by_quads
#include "kernels/linear/linear_neon_panel.h"
#endif

/* The activations of one token from a block on. */
typedef struct token_pointers {
    const int8_t *a;
    const float *a_scale;
    const int32_t *a_sum;
} token_pointers;

/* Opaque to the compiler, which would otherwise keep bases and offsets apart and add them for every load. */
NEON_INLINE token_pointers point_at(const ingot_linear_args *args, uint32_t token, uint32_t block) {
    const size_t s = token * args->s_stride + block;
    token_pointers at = {args->a + token * args->a_stride + (size_t)BLOCK * block, args->a_scale + s, args->a_sum + s};
    __asm__("" : "+r"(at.a), "+r"(at.a_scale), "+r"(at.a_sum));
    return at;
}

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
        load_steps(codes, step, f, tables, planes, low, high);
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = dot_quad(dot[i], low[i], quads[step / 2], 2 * (step % 2)); }
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = dot_quad(dot[i], high[i], quads[step / 2], 2 * (step % 2) + 1); }
    }
}

/* The same in layout T16_K8: a lane sums one half of the 8 k of a row, pairs of lanes are a row. */
NEON_INLINE void dot_block_k8(const uint8_t *codes, const int8_t *a, neon_format f, const neon_tables *tables,
                              int32x4_t dot[4]) {
    int32x4_t low_rows[4], high_rows[4];
    neon_planes planes[4];
    UNROLL for (int i = 0; i < 4; i++) { low_rows[i] = high_rows[i] = vdupq_n_s32(0); }
    UNROLL for (int step = 0; step < 4; step++) {
        const int8x16_t eight = vreinterpretq_s8_s64(vld1q_dup_s64((const int64_t *)(const void *)(a + 8 * step)));
        int8x16_t low[4], high[4];
        load_steps(codes, step, f, tables, planes, low, high);
        UNROLL for (int i = 0; i < 4; i++) { low_rows[i] = vdotq_s32(low_rows[i], low[i], eight); }
        UNROLL for (int i = 0; i < 4; i++) { high_rows[i] = vdotq_s32(high_rows[i], high[i], eight); }
    }
    UNROLL for (int i = 0; i < 4; i++) { dot[i] = vaddq_s32(dot[i], vpaddq_s32(low_rows[i], high_rows[i])); }
}

/* What the dot products of a block start from. */
NEON_INLINE void start_dots(int32_t delta, const uint8_t *scales, int32_t a_sum, neon_format f,
                            const neon_tables *tables, int32x4_t dot[4]) {
    if (has_codebook(f)) {
        load_shifts(scales, tables, dot);
        const int32x4_t shifted = vdupq_n_s32(delta * a_sum);
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = vandq_s32(dot[i], shifted); }
    } else if (f == Q4Z) {
        load_zeros(scales + 32, dot);
        UNROLL for (int i = 0; i < 4; i++) { dot[i] = vmlsq_n_s32(vdupq_n_s32(first_sum(f)), dot[i], a_sum); }
    } else {
        const int32_t first = first_sum(f) - (f == Q4 ? 8 * a_sum : 0);
        /* Four times from a general register: copies would take the ports of the dot products. */
        UNROLL for (int i = 0; i < 4; i++) { __asm__ volatile("dup %0.4s, %w1" : "=w"(dot[i]) : "r"(first)); }
    }
}

/* One block of 16 rows times one token. */
NEON_INLINE void add_block_rows(int32_t delta, const uint8_t *scales, const uint8_t *codes, token_pointers at,
                                neon_format f, bool k8, const neon_tables *tables, float32x4_t acc[4]) {
    int32x4_t dot[4];
    start_dots(delta, scales, *at.a_sum, f, tables, dot);
    if (k8) {
        dot_block_k8(codes, at.a, f, tables, dot);
    } else {
        dot_block(codes, at.a, f, tables, dot);
    }
    add_scaled(scales, dot, *at.a_scale, f, true, acc);
}

NEON_INLINE token_pointers advance(token_pointers at, uint32_t blocks) {
    return (token_pointers){at.a + (size_t)BLOCK * blocks, at.a_scale + blocks, at.a_sum + blocks};
}

/* Without it the compiler interleaves unrolled blocks until it needs more registers than there are. */
#define BLOCK_ENDS(scales, acc) \
    __asm__ volatile("" : "+r"(scales), "+w"(acc[0]), "+w"(acc[1]), "+w"(acc[2]), "+w"(acc[3]))

/* Whole superblocks of a dense tile, one after the other: q4 and q4z by 32. Two blocks are unrolled, more would not fit the
 * offsets of a load. */
NEON_INLINE void add_dense(const ingot_linear_args *args, neon_walk *walk, token_pointers at, neon_format f, bool k8,
                           const neon_tables *tables, float32x4_t acc[4]) {
    const uint32_t whole = f == Q8 || f == Q4 ? 2 : 4, step = f == Q8 || f == Q4 ? 32 : f == Q4Z ? 48 : 16;
    const uint8_t *scales = walk->at;
    int32_t delta = args->delta;
    __asm__("" : "+r"(delta)); /* else it is loaded for each block */
    for (uint32_t left = args->k / BLOCK / whole; left > 0; left--, walk->next++) {
        const uint8_t *codes = scales + scale_bytes(whole, 0, f);
        NO_UNROLL for (uint32_t b = whole; b > 0; b -= 2) {
            add_block_rows(delta, scales, codes, at, f, k8, tables, acc);
            BLOCK_ENDS(scales, acc);
            add_block_rows(delta, scales + step, codes + block_bytes(f), advance(at, 1), f, k8, tables, acc);
            BLOCK_ENDS(scales, acc);
            at = advance(at, 2);
            __asm__("" : "+r"(at.a), "+r"(at.a_scale), "+r"(at.a_sum));
            scales += 2 * step;
            codes += (size_t)2 * block_bytes(f);
        }
        scales = codes;
    }
    walk->at = scales;
}

/* 16 rows times one token of the formats with sums by block. */
NEON_INLINE void panel_blocks(const ingot_linear_args *args, uint32_t tile, uint32_t token, neon_format f, bool k8) {
    const neon_tables tables = load_tables(args, f);
    neon_walk walk = walk_tile(args, tile, f, 0);
    neon_superblock s;
    float32x4_t acc[4];
    UNROLL for (int i = 0; i < 4; i++) { acc[i] = vdupq_n_f32(0.0f); }
    if (walk.indices == NULL && group_shift(args, f) == 0) {
        add_dense(args, &walk, point_at(args, token, 0), f, k8, &tables, acc);
    }
    while (walk_on(&walk, args, f, &s)) {
        const token_pointers at = point_at(args, token, s.first);
        for (uint32_t b = 0; b < s.blocks; b++) {
            add_block_rows(args->delta, block_scales(args, &s, b, f), s.codes + (size_t)b * block_bytes(f),
                           advance(at, b), f, k8, &tables, acc);
        }
    }
    float *out = out_rows(args, tile, token);
    UNROLL for (int i = 0; i < 4; i++) { vst1q_f32(out + 4 * i, finish_rows(acc[i], walk.head, i, 0.0f, f)); }
}

/* Keeps instructions on their side: the compiler would put them where an in-order core waits. */
#define HERE(v) __asm__ volatile("" : "+w"((v)[0]), "+w"((v)[1]), "+w"((v)[2]), "+w"((v)[3]))

/* The codes of quad q where they are in their bytes, but those of the last quad shifted down. */
NEON_INLINE void mask_codes(const uint8x16_t chunk[4], int q, uint8x16_t v[4]) {
    UNROLL for (int i = 0; i < 4; i++) {
        v[i] = q == 3 ? vshrq_n_u8(chunk[i], 6) : vandq_u8(chunk[i], vdupq_n_u8((uint8_t)(3 << 2 * q)));
    }
    HERE(v);
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
        for (uint32_t b = 0; b < s.blocks; b++) {
            zeros += a_sum[b];
        }
        for (uint32_t b = s.blocks; b > 0; b--, codes += block_bytes(T2), a += BLOCK) {
            UNROLL for (int part = 0; part < 2; part++) {
                const int8x16_t quads = vld1q_s8(a + 16 * part);
                uint8x16_t chunk[4];
                UNROLL for (int i = 0; i < 4; i++) { chunk[i] = vld1q_u8(codes + CHUNK * part + 16 * i); }
                uint8x16_t v[4][4];
                mask_codes(chunk, 0, v[0]);
                UNROLL for (int q = 0; q < 4; q++) {
                    if (q < 3) mask_codes(chunk, q + 1, v[q + 1]);
                    int32x4_t *sums = q == 1 ? fours : q == 2 ? sixteens : total;
                    UNROLL for (int i = 0; i < 4; i++) {
                        sums[i] = dot_quad(sums[i], vreinterpretq_s8_u8(v[q][i]), quads, q);
                    }
                    HERE(sums);
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
NEON_INLINE void gemm_by_quads(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token,
                               int half, int tokens, neon_format f) {
    float32x4_t acc[2][4];
    token_pointers at[4];
    UNROLL for (int j = 0; j < tokens; j++) {
        UNROLL for (int i = 0; i < 2; i++) { acc[i][j] = load_sums(args, slab, tile, token + (uint32_t)j, half, i); }
        at[j] = point_at(args, token + (uint32_t)j, slab->first);
    }
    for (uint32_t b = 0; b < slab->blocks; b++) {
        const neon_cell *cells[2] = {&slab->cells[2 * half][b], &slab->cells[2 * half + 1][b]};
        int32x4_t dot[2][4];
        UNROLL for (int j = 0; j < tokens; j++) {
            UNROLL for (int i = 0; i < 2; i++) {
                dot[i][j] = f == T2 ? vreinterpretq_s32_f32(acc[i][j]) : vdupq_n_s32(first_sum(f));
                if (has_bias(f)) dot[i][j] = vmulq_n_s32(vld1q_s32(cells[i]->bias), *at[j].a_sum);
            }
        }
        UNROLL for (int part = 0; part < 2; part++) {
            int8x16_t quads[4];
            UNROLL for (int j = 0; j < tokens; j++) { quads[j] = vld1q_s8(at[j].a + 16 * part); }
            UNROLL for (int q = 0; q < 4; q++) {
                const int8x16_t first = vld1q_s8(cells[0]->weights + 16 * (4 * part + q));
                const int8x16_t second = vld1q_s8(cells[1]->weights + 16 * (4 * part + q));
                UNROLL for (int j = 0; j < tokens; j++) { dot[0][j] = dot_quad(dot[0][j], first, quads[j], q); }
                UNROLL for (int j = 0; j < tokens; j++) { dot[1][j] = dot_quad(dot[1][j], second, quads[j], q); }
            }
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            UNROLL for (int i = 0; i < 2; i++) {
                if (f == T2) {
                    acc[i][j] = vreinterpretq_f32_s32(dot[i][j]);
                } else {
                    const float32x4_t sum =
                        first_sum(f) == 0 || has_bias(f) ? vcvtq_f32_s32(dot[i][j]) : to_float(dot[i][j]);
                    acc[i][j] = add_block(acc[i][j], sum, vld1q_f32(cells[i]->scale), *at[j].a_scale, f);
                }
            }
            at[j] = (token_pointers){at[j].a + BLOCK, at[j].a_scale + 1, at[j].a_sum + 1};
        }
    }
    UNROLL for (int j = 0; j < tokens; j++) {
        UNROLL for (int i = 0; i < 2; i++) { store_sums(args, slab, tile, token + (uint32_t)j, half, i, acc[i][j], f); }
    }
}

#endif
