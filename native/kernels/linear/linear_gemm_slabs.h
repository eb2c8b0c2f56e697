/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on x86: tiles times the eight tokens of a panel (linear.h).
 *
 * A slab is up to 16 blocks of the tiles, unpacked once into L1: weights as bytes, scales as floats. Then each panel goes
 * over it, and its sums wait in `out` for the next slab. Nothing is converted to float, which takes a multiplier's port on
 * some cores: dot products start at the bits of 1.5 * 2^23, so that as a float such a sum is that number plus the dot
 * product, which stays below 2^21. Sub-scales take it off in their product, other formats subtract it.
 *
 * An ISA defines gemm_cell (a block of the tiles, unpacked, with its `index`), gemm_bias and gemm_expand_block before it
 * includes this, and behind it the two functions that are declared here. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_SLABS_H
#define INGOT_KERNELS_LINEAR_GEMM_SLABS_H

#include "kernels/linear/linear_gemm_types.h"

/* Blocks that are stored, in ascending order. */
typedef struct gemm_slab {
    gemm_cell cells[GEMM_SLAB_BLOCKS];
    uint32_t count;
    bool begins, ends; /* the row */
    const uint8_t *head;
} gemm_slab;

/* Adds a slab times a panel, whose first `tokens` exist, to the sums of eight tokens. */
LINEAR_INLINE void gemm_add_panel(const gemm_slab *slab, const uint8_t *panel, size_t panel_bytes,
                                  const gemm_start *start, int tokens, int tiles, linear_format format,
                                  gemm_place rows);
/* Whole sums of one token to outputs; `to` may be where they are. */
LINEAR_INLINE void gemm_finish(const uint8_t *from, const uint8_t *head, float a_scale, linear_format format,
                               float *to);

LINEAR_INLINE int32_t gemm_first(linear_format format) { return format == LINEAR_T2 ? 0 : GEMM_BITS_OF_MAGIC; }

/* ---- a slab ---- */

/* The next tiles come into L2 while these are multiplied. */
LINEAR_INLINE void gemm_prefetch(const linear_superblock *superblock, size_t tile_bytes, int tiles,
                                 linear_format format) {
    const int ahead = tiles * (int)tile_bytes, lines = (int)linear_block_bytes(format) / LINEAR_CHUNK;
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

/* ---- a slab times a panel ---- */

/* For all blocks at once: a load right behind its store would wait. */
LINEAR_INLINE void gemm_prepare(const gemm_slab *slab, const uint8_t *panel, int32_t delta, linear_format format,
                                gemm_start *start) {
    const __m256i first = _mm256_set1_epi32(gemm_first(format)), bias = _mm256_set1_epi32(-gemm_bias(format));
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

LINEAR_INLINE uint8_t *gemm_row(gemm_place rows, int token) { return rows.start + (size_t)token * rows.stride; }

/* Tokens of the panel that do not exist are zeros in it and have their sums in `spare`. */
LINEAR_INLINE void gemm_panel(const ingot_linear_args *args, const gemm_slab *slab, uint32_t tile, uint32_t token,
                              int tiles, linear_format format) {
    const size_t tile_floats = LINEAR_ROWS * sizeof(float), bytes = (size_t)tiles * tile_floats;
    const uint8_t *panel = args->panels + token / GEMM_TOKENS * args->panel_bytes;
    const int tokens = args->m - token < GEMM_TOKENS ? (int)(args->m - token) : GEMM_TOKENS;
    const gemm_place out = {(uint8_t *)linear_out(args, tile, token), args->out_stride * sizeof(float)};
    uint8_t spare[GEMM_TOKENS][2 * LINEAR_ROWS * sizeof(float)] __attribute__((aligned(64)));
    const gemm_place rows = tokens < GEMM_TOKENS ? (gemm_place){spare[0], sizeof spare[0]} : out;
    for (int j = 0; j < GEMM_TOKENS && (slab->begins || tokens < GEMM_TOKENS); j++) {
        if (slab->begins || j >= tokens) {
            memset(gemm_row(rows, j), 0, bytes);
        } else {
            memcpy(gemm_row(rows, j), gemm_row(out, j), bytes);
        }
    }
    gemm_start start[GEMM_SLAB_BLOCKS] __attribute__((aligned(64)));
    gemm_prepare(slab, panel, args->delta, format, start);
    if (slab->count != 0) gemm_add_panel(slab, panel, args->panel_bytes, start, tokens, tiles, format, rows);
    for (int j = 0; j < tokens && (slab->ends || tokens < GEMM_TOKENS); j++) {
        if (!slab->ends) {
            memcpy(gemm_row(out, j), gemm_row(rows, j), bytes);
            continue;
        }
        const float a_scale = args->a_scale[(token + (uint32_t)j) * args->s_stride];
        UNROLL for (int i = 0; i < tiles; i++) {
            gemm_finish(gemm_row(rows, j) + (size_t)i * tile_floats, slab->head + (size_t)i * args->tile_bytes, a_scale,
                        format, (float *)(void *)gemm_row(out, j) + LINEAR_ROWS * i);
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

#endif
