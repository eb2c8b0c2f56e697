/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on AVX-512 VNNI: two tiles times the eight tokens of a panel (linear.h).
 *
 * A slab is up to 16 blocks of the tiles, unpacked once into L1: unsigned weights, scales as floats. Then each panel goes
 * over it, and its sums wait in `out` for the next slab. Per 32 k the multipliers get 128 vpdpbusd and the 32 products and
 * fused additions that the arithmetic asks for: at most 0.80 of the peak where they share their ports. A conversion to
 * float would share them too, so that dot products start at the bits of 1.5 * 2^23: as a float such a sum is that number
 * plus the dot product, which stays below 2^21. Sub-scales take it off in their product, other formats subtract it. A
 * format takes part through the functions of linear_avx512.h, and in gemm_blocks by the kind of its scales. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_AVX512_H
#define INGOT_KERNELS_LINEAR_GEMM_AVX512_H

#include "kernels/linear/linear_gemm_avx512_block.h"

enum { GEMM_SLAB_BLOCKS = 16 }; /* the longest superblock */

/* Blocks that are stored, in ascending order. */
typedef struct gemm_slab {
    gemm_cell cells[GEMM_SLAB_BLOCKS];
    uint32_t count;
    bool begins, ends; /* the row */
    const uint8_t *head;
} gemm_slab;

LINEAR_INLINE int32_t gemm_first(linear_format format) { return format == LINEAR_T2 ? 0 : GEMM_BITS_OF_MAGIC; }

/* ---- a slab ---- */

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

/* The next two tiles come into L2 while these are multiplied. */
LINEAR_INLINE void gemm_prefetch(const linear_superblock *superblock, size_t tile_bytes, int tiles,
                                 linear_format format) {
    const int ahead = (int)(2 * tile_bytes), lines = (int)linear_block_bytes(format) / LINEAR_CHUNK;
    UNROLL for (int i = 0; i < tiles; i++) {
        const size_t start = (size_t)i * tile_bytes;
        prefetch_lines(superblock->meta + start, ahead, 1, false);
        prefetch_lines(superblock->codes + start, ahead, lines * (int)superblock->blocks, false);
    }
}

/* The slab from superblock `next` on, or behind the last one of the next tiles: it comes into L1 right before it is
 * unpacked, because the panels that passed since gemm_prefetch have pushed it out. */
LINEAR_INLINE void gemm_fetch(const ingot_linear_args *args, const linear_tile *stored, uint32_t next, int tiles,
                              linear_format format) {
    const uint32_t shift = linear_superblock_shift(format, args->group), whole = 1u << shift;
    const uint32_t bytes = linear_meta_bytes(format, args->group, whole) + whole * linear_block_bytes(format);
    const bool behind = next == stored->count;
    const uint32_t left = behind ? stored->count : stored->count - next, most = GEMM_SLAB_BLOCKS >> shift;
    const int lines = (int)((left < most ? left : most) * bytes / LINEAR_CHUNK);
    const uint8_t *from =
        behind ? stored->head + (size_t)tiles * args->tile_bytes : stored->superblocks + (size_t)next * bytes;
    UNROLL for (int i = 0; i < tiles; i++) { prefetch_lines(from + (size_t)i * args->tile_bytes, 0, lines, false); }
}

/* Whole superblocks from `next` on; returns the one behind them. */
LINEAR_INLINE uint32_t gemm_expand(const ingot_linear_args *args, const linear_tile *stored, uint32_t next, int tiles,
                                   linear_format format, tables t, gemm_slab *slab) {
    const uint32_t whole = 1u << linear_superblock_shift(format, args->group);
    slab->begins = next == 0;
    slab->count = 0;
    while (next < stored->count && slab->count + whole <= GEMM_SLAB_BLOCKS) {
        const linear_superblock superblock = linear_find_superblock(args, stored, next++, format);
        if (args->tile_offsets == NULL) gemm_prefetch(&superblock, args->tile_bytes, tiles, format);
        for (uint32_t within = 0; within < superblock.blocks; within++) {
            const linear_block block = linear_find_block(args, &superblock, within, format);
            gemm_expand_block(block, args->tile_bytes, tiles, format, t, &slab->cells[slab->count++]);
        }
    }
    slab->ends = next == stored->count;
    return next;
}

/* ---- where dot products start ---- */

/* For all blocks at once: a load right behind its store would wait. */
LINEAR_INLINE void gemm_prepare(const gemm_slab *slab, const uint8_t *panel, int32_t delta, linear_format format,
                                gemm_start *start) {
    const __m256i first = _mm256_set1_epi32(gemm_first(format)), bias = _mm256_set1_epi32(-linear_bias(format));
    for (uint32_t b = 0; b < slab->count; b++) {
        const uint8_t *block = panel + (size_t)slab->cells[b].index * GEMM_BLOCK_BYTES;
        const __m256i sum = _mm256_load_si256((const __m256i *)(const void *)(block + GEMM_SUMS));
        const __m256i plain = _mm256_add_epi32(first, _mm256_mullo_epi32(sum, bias));
        _mm256_store_si256((__m256i *)(void *)start[b].plain, plain);
        if (linear_has_codebook(format)) {
            const __m256i shift = _mm256_mullo_epi32(sum, _mm256_set1_epi32(delta));
            _mm256_store_si256((__m256i *)(void *)start[b].shifted, _mm256_add_epi32(plain, shift));
        }
    }
}

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

LINEAR_INLINE __m512i *gemm_sum(gemm_place rows, int token, int tile) {
    return (__m512i *)(void *)(rows.start + (size_t)token * rows.stride) + tile;
}

LINEAR_INLINE void gemm_add_panel(const gemm_slab *slab, const uint8_t *panel, size_t panel_bytes, int32_t delta,
                                  int tiles, linear_format format, gemm_place rows) {
    gemm_start start[GEMM_SLAB_BLOCKS] __attribute__((aligned(64)));
    gemm_prepare(slab, panel, delta, format, start);
    if (tiles == 2) {
        const uint8_t *block = panel + (size_t)slab->cells[0].index * GEMM_BLOCK_BYTES;
        if (slab->count != 0) gemm_blocks(slab->cells, block, panel_bytes, start, slab->count, format, rows);
        return;
    }
    __m512i of[GEMM_TOKENS];
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) { of[j] = *gemm_sum(rows, j, 0); }
    for (uint32_t b = 0; b < slab->count; b++) {
        const uint8_t *block = panel + (size_t)slab->cells[b].index * GEMM_BLOCK_BYTES;
        gemm_block(&slab->cells[b], block, &start[b], format, of);
    }
    UNROLL for (int j = 0; j < GEMM_TOKENS; j++) { *gemm_sum(rows, j, 0) = of[j]; }
}

LINEAR_INLINE __m512 gemm_finish(__m512i sum, const uint8_t *head, float a_scale, linear_format format) {
    if (format == LINEAR_T2) {
        const __m512 value = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(a_scale));
        return _mm512_mul_ps(value, _mm512_load_ps(head));
    }
    const __m512 value = _mm512_castsi512_ps(sum);
    return linear_has_sub_scale(format) ? _mm512_mul_ps(value, load_halves(head)) : value;
}

/* Tokens of the panel that do not exist are zeros in it and have their sums in `spare`. */
LINEAR_INLINE void gemm_panel(const ingot_linear_args *args, const gemm_slab *slab, uint32_t tile, uint32_t token,
                              int tiles, linear_format format) {
    const uint8_t *panel = args->panels + token / GEMM_TOKENS * args->panel_bytes;
    const int tokens = args->m - token < GEMM_TOKENS ? (int)(args->m - token) : GEMM_TOKENS;
    const gemm_place out = {(uint8_t *)linear_out(args, tile, token), args->out_stride * sizeof(float)};
    __m512i spare[GEMM_TOKENS][2];
    const gemm_place rows = tokens < GEMM_TOKENS ? (gemm_place){(uint8_t *)spare, sizeof spare[0]} : out;
    for (int j = 0; j < GEMM_TOKENS && (slab->begins || tokens < GEMM_TOKENS); j++) {
        UNROLL for (int i = 0; i < tiles; i++) {
            *gemm_sum(rows, j, i) = slab->begins || j >= tokens ? _mm512_setzero_si512() : *gemm_sum(out, j, i);
        }
    }
    gemm_add_panel(slab, panel, args->panel_bytes, args->delta, tiles, format, rows);
    for (int j = 0; j < tokens && (slab->ends || tokens < GEMM_TOKENS); j++) {
        const float a_scale = args->a_scale[(token + (uint32_t)j) * args->s_stride];
        UNROLL for (int i = 0; i < tiles; i++) {
            const uint8_t *head = slab->head + (size_t)i * args->tile_bytes;
            const __m512i sum = *gemm_sum(rows, j, i);
            *gemm_sum(out, j, i) = slab->ends ? _mm512_castps_si512(gemm_finish(sum, head, a_scale, format)) : sum;
        }
    }
}

/* Two tiles must be dense. A tile that stores nothing is zero. */
LINEAR_INLINE void gemm_tiles(const ingot_linear_args *args, uint32_t tile, int tiles, linear_format format) {
    const linear_tile stored = linear_find_tile(args, tile, format);
    const tables t = load_tables(args, format);
    gemm_slab slab;
    slab.head = stored.head;
    uint32_t next = 0;
    do {
        next = gemm_expand(args, &stored, next, tiles, format, t, &slab);
        for (uint32_t token = 0; token < args->m; token += GEMM_TOKENS) {
            const bool last = args->m - token <= GEMM_TOKENS;
            if (last && args->tile_offsets == NULL) gemm_fetch(args, &stored, next, tiles, format);
            gemm_panel(args, &slab, tile, token, tiles, format);
        }
    } while (!slab.ends);
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
