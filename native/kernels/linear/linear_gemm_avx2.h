/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on AVX2, with and without VNNI (linear_gemm_slabs.h): one tile, four tokens of a panel at a time, so that
 * eight dot products share two registers of weights. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_AVX2_H
#define INGOT_KERNELS_LINEAR_GEMM_AVX2_H

#include "kernels/linear/linear_avx2.h"
#include "kernels/linear/linear_gemm_types.h"

/* Fewer tokens than GEMM_FROM are faster as rows: a panel has eight. */
enum { GEMM_HALVES = 2, GEMM_RUN = 4, GEMM_FROM = 7 };

/* One block of a tile, unpacked. */
typedef struct gemm_cell {
    __m256i quads[LINEAR_BLOCK / 4][GEMM_HALVES];
    __m256 scale[GEMM_HALVES];
    __m256 base[GEMM_HALVES]; /* minus magic times the scale: formats with sub-scales */
    __m256i shift[GEMM_HALVES]; /* the sign bit: shifted */
    __m256i zeros[GEMM_HALVES]; /* q4z */
    uint32_t index; /* k is 32 * index and on */
} gemm_cell;

LINEAR_INLINE int32_t gemm_bias(linear_format format) { return is_signed(format) ? 0 : linear_bias(format); }

LINEAR_INLINE void gemm_expand_block(linear_block block, size_t tile_bytes, int tiles, linear_format format, tables t,
                                     gemm_cell *cell) {
    (void)tile_bytes;
    (void)tiles;
    cell->index = block.index;
    UNROLL for (int i = 0; i < GEMM_HALVES; i++) {
        const block_scale s = load_scale(block.scales, i, format);
        const uint8_t *codes = block.codes + 32 * i;
        __m256i bits = format == LINEAR_C5 ? load_half_chunk(codes + 4 * LINEAR_CHUNK) : _mm256_setzero_si256();
        cell->scale[i] = s.scale;
        cell->base[i] = _mm256_mul_ps(s.scale, _mm256_set1_ps(-GEMM_MAGIC));
        cell->shift[i] = s.shift;
        cell->zeros[i] = s.zeros;
        UNROLL for (int n = 0; n < 4; n++) {
            const int step = format == LINEAR_C5 ? 3 - n : n;
            load_step(codes, step, format, t, &bits, &cell->quads[2 * step][i], &cell->quads[2 * step + 1][i]);
        }
    }
}

#include "kernels/linear/linear_gemm_slabs.h"

/* ---- a block times four tokens ---- */

LINEAR_INLINE __m256i gemm_start_dot(const gemm_cell *cell, const uint8_t *block, const gemm_start *start, int i, int j,
                                     linear_format format) {
    const __m256i plain = _mm256_set1_epi32(start->plain[j]);
    if (format == LINEAR_Q4Z) {
        int32_t sum;
        memcpy(&sum, block + GEMM_SUMS + 4 * j, sizeof sum);
        return _mm256_sub_epi32(plain, _mm256_mullo_epi32(cell->zeros[i], _mm256_set1_epi32(sum)));
    }
    if (!linear_has_codebook(format)) return plain;
    const __m256 shifted = _mm256_castsi256_ps(_mm256_set1_epi32(start->shifted[j]));
    return _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(plain), shifted, _mm256_castsi256_ps(cell->shift[i])));
}

/* |dot| <= 2^24, so that rounding (magic + dot) * scale - magic * scale once is rounding the integer product once. */
LINEAR_INLINE __m256i gemm_accumulate(__m256i sum, __m256i dot, const gemm_cell *cell, int i, __m256 factor,
                                      linear_format format) {
    if (format == LINEAR_T2) return _mm256_add_epi32(sum, dot);
    const __m256 value = _mm256_castsi256_ps(dot), acc = _mm256_castsi256_ps(sum);
    if (linear_has_sub_scale(format)) {
        const __m256 scaled = _mm256_fmadd_ps(value, cell->scale[i], cell->base[i]);
        return _mm256_castps_si256(_mm256_fmadd_ps(scaled, factor, acc));
    }
    const __m256 exact = _mm256_sub_ps(value, _mm256_set1_ps(GEMM_MAGIC));
    return _mm256_castps_si256(_mm256_fmadd_ps(exact, _mm256_mul_ps(cell->scale[i], factor), acc));
}

/* Sums of 16 bits start at zero and get their start when they are closed. */
LINEAR_INLINE void gemm_block(const gemm_cell *cell, const uint8_t *block, const gemm_start *start, int first,
                              linear_format format, __m256i of[GEMM_RUN][GEMM_HALVES]) {
    const bool late = adds_in_16_bits(format), in_pairs = !VNNI && format == LINEAR_Q6;
    __m256i dots[GEMM_RUN][GEMM_HALVES];
    UNROLL for (int j = 0; j < GEMM_RUN; j++) {
        UNROLL for (int i = 0; i < GEMM_HALVES; i++) {
            dots[j][i] = late ? _mm256_setzero_si256() : gemm_start_dot(cell, block, start, i, first + j, format);
        }
    }
    UNROLL for (int q = 0; q < LINEAR_BLOCK / 4; q += in_pairs ? 2 : 1) {
        const int8_t *quads = (const int8_t *)block + 4 * GEMM_TOKENS * q + 4 * first;
        UNROLL for (int j = 0; j < GEMM_RUN; j++) {
            const __m256i x = _mm256_set1_epi32(load_quad(quads + 4 * j));
            const __m256i y = in_pairs ? _mm256_set1_epi32(load_quad(quads + 4 * GEMM_TOKENS + 4 * j)) : x;
            UNROLL for (int i = 0; i < GEMM_HALVES; i++) {
                dots[j][i] = in_pairs ? add_step(dots[j][i], cell->quads[q][i], cell->quads[q + 1][i], x, y, format)
                                      : add_products(dots[j][i], cell->quads[q][i], x, format);
            }
        }
    }
    UNROLL for (int j = 0; j < GEMM_RUN; j++) {
        const __m256 factor = _mm256_broadcast_ss((const float *)(const void *)(block + GEMM_SCALES + 4 * (first + j)));
        UNROLL for (int i = 0; i < GEMM_HALVES; i++) {
            __m256i dot = dots[j][i];
            if (late) {
                dot =
                    _mm256_add_epi32(close_sum(dot, format), gemm_start_dot(cell, block, start, i, first + j, format));
            }
            of[j][i] = gemm_accumulate(of[j][i], dot, cell, i, factor, format);
        }
    }
}

/* ---- a slab times a panel ---- */

LINEAR_INLINE __m256i *gemm_sums(gemm_place rows, int token) { return (__m256i *)(void *)gemm_row(rows, token); }

LINEAR_INLINE void gemm_add_run(const gemm_slab *slab, const uint8_t *panel, const gemm_start *start, int first,
                                linear_format format, gemm_place rows) {
    __m256i of[GEMM_RUN][GEMM_HALVES];
    UNROLL for (int j = 0; j < GEMM_RUN; j++) {
        UNROLL for (int i = 0; i < GEMM_HALVES; i++) { of[j][i] = gemm_sums(rows, first + j)[i]; }
    }
    for (uint32_t b = 0; b < slab->count; b++) {
        const gemm_cell *cell = &slab->cells[b];
        const uint8_t *block = panel + (size_t)cell->index * GEMM_BLOCK_BYTES;
        gemm_block(cell, block, &start[b], first, format, of);
    }
    UNROLL for (int j = 0; j < GEMM_RUN; j++) {
        UNROLL for (int i = 0; i < GEMM_HALVES; i++) { gemm_sums(rows, first + j)[i] = of[j][i]; }
    }
}

LINEAR_INLINE void gemm_add_panel(const gemm_slab *slab, const uint8_t *panel, size_t panel_bytes,
                                  const gemm_start *start, int tokens, int tiles, linear_format format,
                                  gemm_place rows) {
    (void)panel_bytes;
    (void)tiles;
    for (int first = 0; first < tokens; first += GEMM_RUN) gemm_add_run(slab, panel, start, first, format, rows);
}

LINEAR_INLINE void gemm_finish(const uint8_t *from, const uint8_t *head, float a_scale, linear_format format,
                               float *to) {
    UNROLL for (int i = 0; i < GEMM_HALVES; i++) {
        const __m256i sum = ((const __m256i *)(const void *)from)[i];
        __m256 value = _mm256_castsi256_ps(sum);
        if (format == LINEAR_T2) {
            value = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(a_scale));
            value = _mm256_mul_ps(value, _mm256_load_ps((const float *)(const void *)(head + 32 * i)));
        }
        if (linear_has_sub_scale(format)) value = _mm256_mul_ps(value, load_halves(head + 16 * i));
        _mm256_store_ps(to + 8 * i, value);
    }
}

#define LINEAR_AVX2_GEMM(format)                                                                                 \
    static void gemm(const ingot_linear_args *args) {                                                            \
        for (uint32_t tile = args->tile_begin; tile < args->tile_end; tile++) gemm_tiles(args, tile, 1, format); \
    }

#define LINEAR_AVX2_KERNEL(symbol, format)                  \
    LINEAR_AVX2_PANELS(format)                              \
    LINEAR_AVX2_GEMM(format)                                \
    void symbol(const ingot_linear_args *args) {            \
        if (args->panels != NULL && args->m >= GEMM_FROM) { \
            gemm(args);                                     \
        } else {                                            \
            linear_cover(args, panels, NULL, 0);            \
        }                                                   \
    }

/* The same for a format that also exists in layout T16_K8. */
#define LINEAR_AVX2_KERNEL_K8(symbol, format)                                   \
    LINEAR_AVX2_PANELS(format)                                                  \
    PANEL_BOTH(panel_k8_1, 1, format, true)                                     \
    PANEL_EACH(panel_k8_4, 4, format, true)                                     \
    static const linear_panel panels_k8[] = {{4, panel_k8_4}, {1, panel_k8_1}}; \
    LINEAR_AVX2_GEMM(format)                                                    \
    void symbol(const ingot_linear_args *args) {                                \
        if (args->layout == INGOT_LAYOUT_T16_K8) {                              \
            linear_cover(args, panels_k8, NULL, 0);                             \
        } else if (args->panels != NULL && args->m >= GEMM_FROM) {              \
            gemm(args);                                                         \
        } else {                                                                \
            linear_cover(args, panels, NULL, 0);                                \
        }                                                                       \
    }

#endif
