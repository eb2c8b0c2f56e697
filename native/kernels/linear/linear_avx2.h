/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX2 panel of q8, q4 and c4, with and without VNNI: half a chunk is one register, a lane is a row.
 *
 * With VNNI, weights get a bias that makes them unsigned, as in linear_avx512.h. Without, that bias would saturate
 * vpmaddubsw: q8 and c4 multiply |w| by the activation with the sign of w moved to it (2 x 128 x 127 fits int16) and
 * widen each product; q4 codes 0..15 add up eight products (8 x 2 x 15 x 127 fits) before they widen. */
#ifndef INGOT_KERNELS_LINEAR_AVX2_H
#define INGOT_KERNELS_LINEAR_AVX2_H

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "this file needs -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>

#include "kernels/linear/linear_panels.h"

#ifdef __AVXVNNI__
enum { VNNI = 1 };
#else
enum { VNNI = 0 };
#endif

LINEAR_INLINE __m256i load_half_chunk(const uint8_t *p) { return _mm256_load_si256((const __m256i *)(const void *)p); }

LINEAR_INLINE __m256 load_halves(const uint8_t *halves) {
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)halves));
}

/* Weights of 8 k: quad k..k+3 in low, k+4..k+7 in high; biased with VNNI, q4 always by its 8. */
LINEAR_INLINE void load_step(const uint8_t *codes, int step, linear_format format, __m256i codebook, __m256i *low,
                             __m256i *high) {
    if (format == LINEAR_Q8) {
        const __m256i flip = VNNI ? _mm256_set1_epi8(-128) : _mm256_setzero_si256();
        *low = _mm256_xor_si256(load_half_chunk(codes + 2 * LINEAR_CHUNK * step), flip);
        *high = _mm256_xor_si256(load_half_chunk(codes + 2 * LINEAR_CHUNK * step + LINEAR_CHUNK), flip);
        return;
    }
    const __m256i chunk = load_half_chunk(codes + LINEAR_CHUNK * step), nibble = _mm256_set1_epi8(15);
    *low = _mm256_and_si256(chunk, nibble);
    *high = _mm256_and_si256(_mm256_srli_epi16(chunk, 4), nibble);
    if (format == LINEAR_C4) {
        *low = _mm256_shuffle_epi8(codebook, *low);
        *high = _mm256_shuffle_epi8(codebook, *high);
    }
}

LINEAR_INLINE __m256i load_codebook(const ingot_linear_args *args, linear_format format) {
    if (format != LINEAR_C4) return _mm256_setzero_si256();
    const __m128i entries = _mm_loadu_si128((const __m128i *)(const void *)args->codebook);
    const __m128i flip = VNNI ? _mm_set1_epi8(-128) : _mm_setzero_si128();
    return _mm256_broadcastsi128_si256(_mm_xor_si128(entries, flip));
}

/* Adds a quad of every row times four activations: into 32-bit lanes, without VNNI for q4 into 16-bit pairs. */
LINEAR_INLINE __m256i add_quad(__m256i sum, __m256i weights, const int8_t *a, linear_format format) {
    const __m256i quad = _mm256_set1_epi32(load_quad(a));
#ifdef __AVXVNNI__
    (void)format;
    return _mm256_dpbusd_avx_epi32(sum, weights, quad);
#else
    if (format == LINEAR_Q4) return _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, quad));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(quad, weights));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

/* Sub-scales of a c4 block: the signed scale as float, the shift bit as lanes of ones. */
typedef struct block_scale {
    __m256 scale;
    __m256i shifted;
} block_scale;

LINEAR_INLINE block_scale load_scale(const uint8_t *scales, int half, linear_format format) {
    if (format != LINEAR_C4) return (block_scale){load_halves(scales + 16 * half), _mm256_setzero_si256()};
    const __m256i bytes = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(scales + 8 * half)));
    return (block_scale){_mm256_cvtepi32_ps(_mm256_srai_epi32(bytes, 1)),
                         _mm256_srai_epi32(_mm256_slli_epi32(bytes, 31), 31)};
}

/* What the dot product lacks: minus bias times sum of the activations, and delta times that sum where shifted. */
LINEAR_INLINE __m256i correction(int32_t a_sum, int32_t delta, __m256i shifted, linear_format format) {
    const __m256i sum = _mm256_set1_epi32(a_sum);
    __m256i value = _mm256_setzero_si256();
    if (format == LINEAR_Q4) value = _mm256_sub_epi32(value, _mm256_slli_epi32(sum, 3));
    if (format != LINEAR_Q4 && VNNI) value = _mm256_sub_epi32(value, _mm256_slli_epi32(sum, 7));
    if (format != LINEAR_C4) return value;
    const __m256i shift = _mm256_and_si256(shifted, _mm256_mullo_epi32(sum, _mm256_set1_epi32(delta)));
    return _mm256_add_epi32(value, shift);
}

/* |dot| < 2^24, so the c4 product of two floats is the integer product rounded once. */
LINEAR_INLINE __m256 accumulate(__m256 acc, __m256i dot, __m256 scale, __m256 a_scale, linear_format format) {
    const __m256 value = _mm256_cvtepi32_ps(dot);
    if (format == LINEAR_C4) return _mm256_fmadd_ps(_mm256_mul_ps(value, scale), a_scale, acc);
    return _mm256_fmadd_ps(value, _mm256_mul_ps(scale, a_scale), acc);
}

/* Rows of `halves` halves of a tile from half `first` on, times `tokens` tokens. */
LINEAR_INLINE void half_panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int first, int halves,
                              int tokens, linear_format format) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    const size_t a_stride = args->a_stride, s_stride = args->s_stride;
    const __m256i codebook = load_codebook(args, format);
    __m256 acc[2][6];
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = _mm256_setzero_ps(); }
    }
    for (uint32_t b = 0; b < args->k / LINEAR_BLOCK; b++) {
        const linear_block block = find_block(args, weights, b, format);
        const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * b;
        const size_t s = token * s_stride + b;
        block_scale scale[2];
        __m256i dot[2][6];
        if (halves == 2) prefetch_block(block, format);
        UNROLL for (int i = 0; i < halves; i++) {
            scale[i] = load_scale(block.scales, first + i, format);
            UNROLL for (int j = 0; j < tokens; j++) { dot[i][j] = _mm256_setzero_si256(); }
        }
        UNROLL for (int step = 0; step < 4; step++) {
            UNROLL for (int i = 0; i < halves; i++) {
                __m256i low, high;
                load_step(block.codes + 32 * (first + i), step, format, codebook, &low, &high);
                UNROLL for (int j = 0; j < tokens; j++) {
                    const int8_t *quads = a + (size_t)j * a_stride + 8 * step;
                    dot[i][j] = add_quad(dot[i][j], low, quads, format);
                    dot[i][j] = add_quad(dot[i][j], high, quads + 4, format);
                }
            }
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            const int32_t a_sum = args->a_sum[s + (size_t)j * s_stride];
            const __m256 factor = _mm256_set1_ps(args->a_scale[s + (size_t)j * s_stride]);
            UNROLL for (int i = 0; i < halves; i++) {
                __m256i sum = dot[i][j];
                if (format == LINEAR_Q4 && !VNNI) sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
                sum = _mm256_add_epi32(sum, correction(a_sum, args->delta, scale[i].shifted, format));
                acc[i][j] = accumulate(acc[i][j], sum, scale[i].scale, factor, format);
            }
        }
    }
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            __m256 value = acc[i][j];
            if (format == LINEAR_C4) value = _mm256_mul_ps(value, load_halves(weights + 16 * (first + i)));
            _mm256_store_ps(linear_out(args, tile, token + (uint32_t)j) + 8 * (first + i), value);
        }
    }
}

/* Both halves at once while the accumulators fit in the 16 registers, one after the other beyond. */
#define PANEL_BOTH(tokens, format)                                                             \
    static void panel_##tokens(const ingot_linear_args *args, uint32_t tile, uint32_t token) { \
        half_panel(args, tile, token, 0, 2, tokens, format);                                   \
    }
#define PANEL_EACH(tokens, format)                                                                   \
    static void panel_##tokens(const ingot_linear_args *args, uint32_t tile, uint32_t token) {       \
        for (int half = 0; half < 2; half++) half_panel(args, tile, token, half, 1, tokens, format); \
    }

#define LINEAR_AVX2_KERNEL(symbol, format)                                                         \
    PANEL_BOTH(1, format)                                                                          \
    PANEL_BOTH(2, format)                                                                          \
    PANEL_EACH(4, format)                                                                          \
    PANEL_EACH(6, format)                                                                          \
    static const linear_panel panels[] = {{6, panel_6}, {4, panel_4}, {2, panel_2}, {1, panel_1}}; \
    void symbol(const ingot_linear_args *args) { linear_cover(args, panels, NULL, 0); }

#endif
