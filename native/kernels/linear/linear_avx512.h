/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX-512 VNNI panel of q8, q4 and c4: a chunk is one register, a lane is a row.
 *
 * vpdpbusd multiplies unsigned by signed, so the weights get a bias that makes them unsigned (q8 and c4 128, q4 its 8)
 * and every dot product starts at minus bias times the sum of the activations. */
#ifndef INGOT_KERNELS_LINEAR_AVX512_H
#define INGOT_KERNELS_LINEAR_AVX512_H

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VNNI__)
#error "this file needs -mavx512f -mavx512bw -mavx512vnni"
#endif

#include <immintrin.h>

#include "kernels/linear/linear_panels.h"

LINEAR_INLINE __m512i load_chunk(const uint8_t *chunk) { return _mm512_load_si512((const void *)chunk); }

LINEAR_INLINE __m512 load_halves(const uint8_t *halves) {
    return _mm512_cvtph_ps(_mm256_load_si256((const __m256i *)(const void *)halves));
}

/* Biased weights of 8 k: quad k..k+3 in low, k+4..k+7 in high. */
LINEAR_INLINE void load_step(const uint8_t *codes, int step, linear_format format, __m512i codebook, __m512i *low,
                             __m512i *high) {
    if (format == LINEAR_Q8) {
        const __m512i flip = _mm512_set1_epi8(-128);
        *low = _mm512_xor_si512(load_chunk(codes + 2 * LINEAR_CHUNK * step), flip);
        *high = _mm512_xor_si512(load_chunk(codes + 2 * LINEAR_CHUNK * step + LINEAR_CHUNK), flip);
        return;
    }
    const __m512i chunk = load_chunk(codes + LINEAR_CHUNK * step), nibble = _mm512_set1_epi8(15);
    *low = _mm512_and_si512(chunk, nibble);
    *high = _mm512_and_si512(_mm512_srli_epi16(chunk, 4), nibble);
    if (format == LINEAR_C4) {
        *low = _mm512_shuffle_epi8(codebook, *low);
        *high = _mm512_shuffle_epi8(codebook, *high);
    }
}

LINEAR_INLINE __m512i biased_codebook(const ingot_linear_args *args, linear_format format) {
    if (format != LINEAR_C4) return _mm512_setzero_si512();
    const __m128i entries = _mm_loadu_si128((const __m128i *)(const void *)args->codebook);
    return _mm512_broadcast_i32x4(_mm_xor_si128(entries, _mm_set1_epi8(-128)));
}

/* Sub-scales of a c4 block: the signed scale as float, the shift bit as mask. */
typedef struct block_scale {
    __m512 scale;
    __mmask16 shifted;
} block_scale;

LINEAR_INLINE block_scale load_scale(const uint8_t *scales, linear_format format) {
    if (format != LINEAR_C4) return (block_scale){load_halves(scales), 0};
    const __m512i bytes = _mm512_cvtepi8_epi32(_mm_load_si128((const __m128i *)(const void *)scales));
    return (block_scale){_mm512_cvtepi32_ps(_mm512_srai_epi32(bytes, 1)),
                         _mm512_test_epi32_mask(bytes, _mm512_set1_epi32(1))};
}

/* |dot| < 2^24, so the c4 product of two floats is the integer product rounded once. */
LINEAR_INLINE __m512 accumulate(__m512 acc, __m512i dot, __m512 scale, __m512 a_scale, linear_format format) {
    const __m512 value = _mm512_cvtepi32_ps(dot);
    if (format == LINEAR_C4) return _mm512_fmadd_ps(_mm512_mul_ps(value, scale), a_scale, acc);
    return _mm512_fmadd_ps(value, _mm512_mul_ps(scale, a_scale), acc);
}

LINEAR_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int tiles, int tokens,
                         linear_format format) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    const size_t tile_bytes = args->tile_bytes, a_stride = args->a_stride, s_stride = args->s_stride;
    const __m512i codebook = biased_codebook(args, format);
    __m512 acc[2][6];
    UNROLL for (int i = 0; i < tiles; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = _mm512_setzero_ps(); }
    }
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const linear_block block = find_block(args, weights, b, format);
        const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * b;
        const float *a_scale = args->a_scale + token * s_stride + b;
        const int32_t *a_sum = args->a_sum + token * s_stride + b;
        block_scale scale[2];
        __m512i dot[2][6];
        if (tiles == 1) prefetch_block(block, format);
        UNROLL for (int i = 0; i < tiles; i++) { scale[i] = load_scale(block.scales + (size_t)i * tile_bytes, format); }
        UNROLL for (int j = 0; j < tokens; j++) {
            const __m512i sum = _mm512_set1_epi32(a_sum[(size_t)j * s_stride]);
            const __m512i bias = _mm512_slli_epi32(sum, format == LINEAR_Q4 ? 3 : 7);
            const __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), bias);
            const __m512i delta = _mm512_mullo_epi32(sum, _mm512_set1_epi32(args->delta));
            UNROLL for (int i = 0; i < tiles; i++) {
                dot[i][j] = format == LINEAR_C4 ? _mm512_mask_add_epi32(start, scale[i].shifted, start, delta) : start;
            }
        }
        UNROLL for (int step = 0; step < 4; step++) {
            __m512i low[2], high[2];
            UNROLL for (int i = 0; i < tiles; i++) {
                load_step(block.codes + (size_t)i * tile_bytes, step, format, codebook, &low[i], &high[i]);
            }
            UNROLL for (int j = 0; j < tokens; j++) {
                const int8_t *quads = a + (size_t)j * a_stride + 8 * step;
                const __m512i first = _mm512_set1_epi32(load_quad(quads));
                const __m512i second = _mm512_set1_epi32(load_quad(quads + 4));
                UNROLL for (int i = 0; i < tiles; i++) { dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], low[i], first); }
                UNROLL for (int i = 0; i < tiles; i++) { dot[i][j] = _mm512_dpbusd_epi32(dot[i][j], high[i], second); }
            }
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            const __m512 factor = _mm512_set1_ps(a_scale[(size_t)j * s_stride]);
            UNROLL for (int i = 0; i < tiles; i++) {
                acc[i][j] = accumulate(acc[i][j], dot[i][j], scale[i].scale, factor, format);
            }
        }
    }
    UNROLL for (int i = 0; i < tiles; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            __m512 value = acc[i][j];
            if (format == LINEAR_C4) value = _mm512_mul_ps(value, load_halves(weights + (size_t)i * tile_bytes));
            _mm512_store_ps(linear_out(args, tile, token + (uint32_t)j) + LINEAR_ROWS * i, value);
        }
    }
}

#define PANEL(tiles, tokens, format)                                                                     \
    static void panel_##tiles##x##tokens(const ingot_linear_args *args, uint32_t tile, uint32_t token) { \
        panel(args, tile, token, tiles, tokens, format);                                                 \
    }

/* The panels of a format, 24 accumulators of the 32 registers at most. Decode takes one stream of weights, which is
 * faster than two; from five tokens on work is compute-bound and two tiles halve the loads of activations. */
#define LINEAR_AVX512_KERNEL(symbol, format)                                                                \
    PANEL(1, 1, format)                                                                                     \
    PANEL(1, 2, format)                                                                                     \
    PANEL(1, 4, format)                                                                                     \
    PANEL(1, 6, format)                                                                                     \
    PANEL(2, 1, format)                                                                                     \
    PANEL(2, 2, format)                                                                                     \
    PANEL(2, 4, format)                                                                                     \
    PANEL(2, 6, format)                                                                                     \
    static const linear_panel singles[] = {{6, panel_1x6}, {4, panel_1x4}, {2, panel_1x2}, {1, panel_1x1}}; \
    static const linear_panel pairs[] = {{6, panel_2x6}, {4, panel_2x4}, {2, panel_2x2}, {1, panel_2x1}};   \
    void symbol(const ingot_linear_args *args) { linear_cover(args, singles, pairs, 5); }

#endif
