/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on AVX-512 VNNI: two tiles times the eight tokens of a panel (linear.h).
 *
 * A format takes part through the functions of linear_avx512.h and nothing else: load_step (unsigned weights of 8 k),
 * load_scale, linear_bias, accumulate, and the row scale in gemm_finish. Per 32 k the multipliers get 128 vpdpbusd, and of
 * the rest only the 32 products and fused additions that the arithmetic asks for: at most 0.80 of the peak where they
 * share their ports. What does not depend on the tile stands in the panel or is computed once per superblock. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_AVX512_H
#define INGOT_KERNELS_LINEAR_GEMM_AVX512_H

#include "kernels/linear/linear_avx512.h"
#include "kernels/quantize/quantize.h"

enum {
    GEMM_TOKENS = INGOT_PANEL_TOKENS,
    GEMM_QUADS = LINEAR_BLOCK * GEMM_TOKENS,
    GEMM_BLOCK_BYTES = INGOT_PANEL_BLOCK_BYTES,
    GEMM_MOST_BLOCKS = 16, /* of a superblock */
};

/* Where the dot products of a block start: without and with the shift bit. */
typedef struct gemm_start {
    int32_t plain[GEMM_TOKENS];
    int32_t shifted[GEMM_TOKENS];
} gemm_start;

typedef struct gemm_dots {
    __m512i of[2][GEMM_TOKENS];
} gemm_dots;

/* The sums of a row: floats, of t2 int32. */
typedef struct gemm_sums {
    __m512i of[2][GEMM_TOKENS];
} gemm_sums;

/* Sixteen dot products fill half of the registers. The tables of codebooks and their shifts need the other half: there the
 * sums wait in memory for the end of a block (4 % faster); without a codebook they are better off in registers (10 %). */
LINEAR_INLINE void gemm_keep_in_memory(gemm_sums **totals) { __asm__("" : "+r"(*totals) : : "memory"); }

LINEAR_INLINE void gemm_prepare(const uint8_t *panel, uint32_t blocks, int32_t delta, linear_format format,
                                gemm_start *start) {
    const __m256i bias = _mm256_set1_epi32(-linear_bias(format));
    const __m256i both = _mm256_set1_epi32(delta - linear_bias(format));
    for (uint32_t b = 0; b < blocks; b++, panel += GEMM_BLOCK_BYTES) {
        const uint8_t *a_sum = panel + GEMM_QUADS + 4 * GEMM_TOKENS;
        const __m256i sum = _mm256_load_si256((const __m256i *)(const void *)a_sum);
        _mm256_store_si256((__m256i *)(void *)start[b].plain, _mm256_mullo_epi32(sum, bias));
        if (linear_has_codebook(format)) {
            _mm256_store_si256((__m256i *)(void *)start[b].shifted, _mm256_mullo_epi32(sum, both));
        }
    }
}

LINEAR_INLINE __m512i gemm_start_dot(const uint8_t *panel, const gemm_start *start, int j, block_scale s,
                                     linear_format format) {
    if (format == LINEAR_Q4Z) {
        int32_t sum;
        memcpy(&sum, panel + GEMM_QUADS + 4 * GEMM_TOKENS + 4 * j, sizeof sum);
        return start_dot(sum, 0, s, format);
    }
    const __m512i plain = _mm512_set1_epi32(start->plain[j]);
    if (!linear_has_codebook(format)) return plain;
    return _mm512_mask_mov_epi32(plain, s.shifted, _mm512_set1_epi32(start->shifted[j]));
}

/* One quad of the tiles times one quad of each token. */
LINEAR_INLINE void gemm_add_quad(const uint8_t *quads, const __m512i *weights, int tiles, gemm_dots *dots) {
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) {
        const __m512i quad = _mm512_set1_epi32(load_quad((const int8_t *)quads + 4 * j));
        UNROLL for (int i = 0; i < tiles; i++) {
            dots->of[i][j] = _mm512_dpbusd_epi32(dots->of[i][j], weights[i], quad);
        }
    }
}

LINEAR_INLINE __m512i gemm_accumulate(__m512i sum, __m512i dot, __m512 scale, __m512 factor, linear_format format) {
    if (format == LINEAR_T2) return _mm512_add_epi32(sum, dot);
    return _mm512_castps_si512(accumulate(_mm512_castsi512_ps(sum), dot, scale, factor, format));
}

LINEAR_INLINE void gemm_block(linear_block block, size_t tile_bytes, const uint8_t *panel, const gemm_start *start,
                              int tiles, linear_format format, tables t, gemm_sums *totals) {
    block_scale scale[2];
    gemm_dots dots;
    UNROLL for (int i = 0; i < tiles; i++) { scale[i] = load_scale(block.scales + (size_t)i * tile_bytes, format); }
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) {
        UNROLL for (int i = 0; i < tiles; i++) { dots.of[i][j] = gemm_start_dot(panel, start, j, scale[i], format); }
    }
    UNROLL for (int step = 0; step < 4; step++) {
        __m512i low[2], high[2];
        UNROLL for (int i = 0; i < tiles; i++) {
            load_step(block.codes + (size_t)i * tile_bytes, step, format, t, &low[i], &high[i]);
        }
        gemm_add_quad(panel + (2 * step) * 4 * GEMM_TOKENS, low, tiles, &dots);
        gemm_add_quad(panel + (2 * step + 1) * 4 * GEMM_TOKENS, high, tiles, &dots);
    }
    if (linear_has_codebook(format)) gemm_keep_in_memory(&totals);
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) {
        float a_scale;
        memcpy(&a_scale, panel + GEMM_QUADS + 4 * j, sizeof a_scale);
        const __m512 factor = _mm512_set1_ps(a_scale);
        UNROLL for (int i = 0; i < tiles; i++) {
            totals->of[i][j] = gemm_accumulate(totals->of[i][j], dots.of[i][j], scale[i].scale, factor, format);
        }
    }
}

/* Stores the tokens of the panel that exist. */
LINEAR_INLINE void gemm_finish(const ingot_linear_args *args, const gemm_sums *s, const uint8_t *head, uint32_t tile,
                               uint32_t token, int tiles, linear_format format) {
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) {
        if (token + (uint32_t)j >= args->m) return;
        float *out = linear_out(args, tile, token + (uint32_t)j);
        UNROLL for (int i = 0; i < tiles; i++) {
            __m512 value = _mm512_castsi512_ps(s->of[i][j]);
            const uint8_t *rows = head + (size_t)i * args->tile_bytes;
            if (linear_has_sub_scale(format)) value = _mm512_mul_ps(value, load_halves(rows));
            if (format == LINEAR_T2) {
                const __m512 a_scale = _mm512_set1_ps(args->a_scale[(token + (size_t)j) * args->s_stride]);
                value = _mm512_mul_ps(_mm512_cvtepi32_ps(s->of[i][j]), a_scale);
                value = _mm512_mul_ps(value, _mm512_load_ps(rows));
            }
            _mm512_store_ps(out + LINEAR_ROWS * i, value);
        }
    }
}

/* Two tiles must be dense. The first panel brings the weights into the cache, the others find them there. */
LINEAR_INLINE void gemm_panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int tiles,
                              linear_format format) {
    const linear_tile stored = linear_find_tile(args, tile, format);
    const uint8_t *panel = args->panels + token / GEMM_TOKENS * args->panel_bytes;
    const tables t = load_tables(args, format);
    gemm_start start[GEMM_MOST_BLOCKS] __attribute__((aligned(64)));
    gemm_sums s;
    memset(&s, 0, sizeof s);
    for (uint32_t b = 0; b < stored.count; b++) {
        const linear_superblock superblock = linear_find_superblock(args, &stored, b, format);
        const uint8_t *blocks = panel + (size_t)superblock.first * GEMM_BLOCK_BYTES;
        gemm_prepare(blocks, superblock.blocks, args->delta, format, start);
        for (uint32_t within = 0; within < superblock.blocks; within++) {
            const linear_block block = linear_find_block(args, &superblock, within, format);
            if (token == 0) {
                const int ahead = (int)(2 * args->tile_bytes), lines = (int)linear_block_bytes(format) / LINEAR_CHUNK;
                UNROLL for (int i = 0; i < tiles; i++) {
                    const size_t tile_start = (size_t)i * args->tile_bytes;
                    if (within == 0) prefetch_lines(superblock.meta + tile_start, ahead, 1);
                    prefetch_lines(block.codes + tile_start, ahead, lines);
                }
            }
            gemm_block(block, args->tile_bytes, blocks + (size_t)within * GEMM_BLOCK_BYTES, &start[within], tiles,
                       format, t, &s);
        }
    }
    gemm_finish(args, &s, stored.head, tile, token, tiles, format);
}

#define LINEAR_AVX512_GEMM(format)                                          \
    static void gemm_single(const ingot_linear_args *args, uint32_t tile) { \
        for (uint32_t token = 0; token < args->m; token += GEMM_TOKENS) {   \
            gemm_panel(args, tile, token, 1, format);                       \
        }                                                                   \
    }                                                                       \
    static void gemm_pair(const ingot_linear_args *args, uint32_t tile) {   \
        for (uint32_t token = 0; token < args->m; token += GEMM_TOKENS) {   \
            gemm_panel(args, tile, token, 2, format);                       \
        }                                                                   \
    }                                                                       \
    static void gemm(const ingot_linear_args *args) {                       \
        uint32_t tile = args->tile_begin;                                   \
        while (args->tile_offsets == NULL && tile + 2 <= args->tile_end) {  \
            gemm_pair(args, tile);                                          \
            tile += 2;                                                      \
        }                                                                   \
        for (; tile < args->tile_end; tile++) gemm_single(args, tile);      \
    }

#endif
