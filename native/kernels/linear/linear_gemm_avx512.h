/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on AVX-512 VNNI (linear_gemm_slabs.h), two tiles at a time.
 *
 * Per 32 k the multipliers get 128 vpdpbusd and the 32 products and fused additions that the arithmetic asks for: at most
 * 0.80 of the peak where they share their ports. A format takes part through the functions of linear_avx512.h, and in
 * gemm_blocks by the kind of its scales. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_AVX512_H
#define INGOT_KERNELS_LINEAR_GEMM_AVX512_H

#include "kernels/linear/linear_gemm_avx512_block.h"

LINEAR_INLINE int32_t gemm_bias(linear_format format) { return linear_bias(format); }

LINEAR_INLINE void gemm_expand_block(linear_block block, size_t tile_bytes, int tiles, linear_format format, tables t,
                                     gemm_cell *cell) {
    cell->index = block.index;
    UNROLL for (int i = 0; i < tiles; i++) {
        const block_scale s = load_scale(block.scales + (size_t)i * tile_bytes, format);
        cell->scale[i] = s.scale;
        cell->base[i] = _mm512_mul_ps(s.scale, _mm512_set1_ps(-GEMM_MAGIC));
        if (format == LINEAR_Q4Z) cell->zeros[i] = s.zeros;
        cell->shifted[i] = s.shifted;
        UNROLL for (int step = 0; step < 4; step++) {
            load_step(block.codes + (size_t)i * tile_bytes, step, format, t, &cell->quads[2 * step][i],
                      &cell->quads[2 * step + 1][i]);
        }
    }
}

#include "kernels/linear/linear_gemm_slabs.h"

/* ---- one tile: sparse ones, and the last of an odd number ---- */

LINEAR_INLINE __m512i gemm_start_dot(const gemm_cell *cell, const uint8_t *block, const gemm_start *start, int j,
                                     linear_format format) {
    const __m512i plain = _mm512_set1_epi32(start->plain[j]);
    if (linear_has_codebook(format)) {
        return _mm512_mask_mov_epi32(plain, cell->shifted[0], _mm512_set1_epi32(start->shifted[j]));
    }
    if (format != LINEAR_Q4Z) return plain;
    int32_t sum;
    memcpy(&sum, block + GEMM_SUMS + 4 * j, sizeof sum);
    return _mm512_sub_epi32(plain, _mm512_mullo_epi32(cell->zeros[0], _mm512_set1_epi32(sum)));
}

/* |dot| <= 2^24, so that rounding (magic + dot) * scale - magic * scale once is rounding the integer product once. */
LINEAR_INLINE __m512i gemm_accumulate(__m512i sum, __m512i dot, const gemm_cell *cell, __m512 factor,
                                      linear_format format) {
    if (format == LINEAR_T2) return _mm512_add_epi32(sum, dot);
    const __m512 value = _mm512_castsi512_ps(dot), acc = _mm512_castsi512_ps(sum);
    if (linear_has_sub_scale(format)) {
        const __m512 scaled = _mm512_fmadd_ps(value, cell->scale[0], cell->base[0]);
        return _mm512_castps_si512(_mm512_fmadd_ps(scaled, factor, acc));
    }
    const __m512 exact = _mm512_sub_ps(value, _mm512_set1_ps(GEMM_MAGIC));
    return _mm512_castps_si512(_mm512_fmadd_ps(exact, _mm512_mul_ps(cell->scale[0], factor), acc));
}

LINEAR_INLINE void gemm_block(const gemm_cell *cell, const uint8_t *block, const gemm_start *start,
                              linear_format format, __m512i of[GEMM_TOKENS]) {
    __m512i dots[GEMM_TOKENS];
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) { dots[j] = gemm_start_dot(cell, block, start, j, format); }
    UNROLL for (int q = 0; q < LINEAR_BLOCK / 4; q++) {
        const int8_t *quads = (const int8_t *)block + 4 * GEMM_TOKENS * q;
        UNROLL for (int j = 0; j < GEMM_TOKENS; j++) {
            dots[j] = _mm512_dpbusd_epi32(dots[j], cell->quads[q][0], _mm512_set1_epi32(load_quad(quads + 4 * j)));
        }
    }
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) {
        float a_scale;
        memcpy(&a_scale, block + GEMM_SCALES + 4 * j, sizeof a_scale);
        of[j] = gemm_accumulate(of[j], dots[j], cell, _mm512_set1_ps(a_scale), format);
    }
}

/* ---- a slab times a panel ---- */

LINEAR_INLINE __m512i *gemm_sum(gemm_place rows, int token) { return (__m512i *)(void *)gemm_row(rows, token); }

LINEAR_INLINE void gemm_add_panel(const gemm_slab *slab, const uint8_t *panel, size_t panel_bytes,
                                  const gemm_start *start, int tokens, int tiles, linear_format format,
                                  gemm_place rows) {
    (void)tokens;
    if (tiles == 2) {
        const uint8_t *block = panel + (size_t)slab->cells[0].index * GEMM_BLOCK_BYTES;
        gemm_blocks(slab->cells, block, panel_bytes, start, slab->count, format, rows);
        return;
    }
    __m512i of[GEMM_TOKENS];
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) { of[j] = *gemm_sum(rows, j); }
    for (uint32_t b = 0; b < slab->count; b++) {
        const uint8_t *block = panel + (size_t)slab->cells[b].index * GEMM_BLOCK_BYTES;
        gemm_block(&slab->cells[b], block, &start[b], format, of);
    }
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) { *gemm_sum(rows, j) = of[j]; }
}

LINEAR_INLINE void gemm_finish(const uint8_t *from, const uint8_t *head, float a_scale, linear_format format,
                               float *to) {
    const __m512i sum = _mm512_load_si512(from);
    __m512 value = _mm512_castsi512_ps(sum);
    if (format == LINEAR_T2) {
        value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(a_scale));
        value = _mm512_mul_ps(value, _mm512_load_ps(head));
    }
    _mm512_store_ps(to, linear_has_sub_scale(format) ? _mm512_mul_ps(value, load_halves(head)) : value);
}

#define LINEAR_AVX512_GEMM(format)                                                                               \
    static void gemm_single(const ingot_linear_args *args, uint32_t tile) { gemm_tiles(args, tile, 1, format); } \
    static void gemm_pair(const ingot_linear_args *args, uint32_t tile) { gemm_tiles(args, tile, 2, format); }   \
    static void gemm(const ingot_linear_args *args) {                                                            \
        uint32_t tile = args->tile_begin;                                                                        \
        while (args->tile_offsets == NULL && tile + 2 <= args->tile_end) {                                       \
            gemm_pair(args, tile);                                                                               \
            tile += 2;                                                                                           \
        }                                                                                                        \
        for (; tile < args->tile_end; tile++) gemm_single(args, tile);                                           \
    }

#endif
