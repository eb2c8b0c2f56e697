/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX-512 VNNI panel of all formats but f16: a chunk is one register, a lane is a row.
 *
 * vpdpbusd multiplies unsigned by signed, so the weights get a bias that makes them unsigned (linear_bias) and every dot
 * product starts at minus bias times the sum of the activations. In layout T16_K8 a lane is a row and half of 8 k: two
 * sums for 16 rows, put together at the end of a block. */
#ifndef INGOT_KERNELS_LINEAR_AVX512_H
#define INGOT_KERNELS_LINEAR_AVX512_H

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VNNI__)
#error "this file needs -mavx512f -mavx512bw -mavx512vnni"
#endif

#include "ingot_format.h"
#include "kernels/linear/linear_x86.h"

LINEAR_INLINE __m512i load_chunk(const uint8_t *chunk) { return _mm512_load_si512((const void *)chunk); }

/* The scales of q4z are aligned to 16 bytes only. */
LINEAR_INLINE __m512 load_halves(const uint8_t *halves) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)halves));
}

typedef struct tables {
    __m512i low, high;
} tables;

LINEAR_INLINE tables load_tables(const ingot_linear_args *args, linear_format format) {
    const linear_tables t = linear_load_tables(args, format, -128);
    return (tables){_mm512_broadcast_i32x4(t.low), _mm512_broadcast_i32x4(t.high)};
}

/* ---- unsigned weights of 8 k: quad k..k+3 in low, k+4..k+7 in high ---- */

LINEAR_INLINE void split_nibbles(__m512i chunk, __m512i *low, __m512i *high) {
    const __m512i nibble = _mm512_set1_epi8(15);
    *low = _mm512_and_si512(chunk, nibble);
    *high = _mm512_and_si512(_mm512_srli_epi16(chunk, 4), nibble);
}

/* n | (p & 0x30) */
LINEAR_INLINE __m512i or_pair(__m512i n, __m512i p) {
    return _mm512_ternarylogic_epi32(n, p, _mm512_set1_epi8(0x30), 0xf8);
}

LINEAR_INLINE void load_step_q6(const uint8_t *codes, int step, __m512i *low, __m512i *high) {
    const __m512i pairs = load_chunk(codes + LINEAR_CHUNK * (4 + step / 2));
    split_nibbles(load_chunk(codes + LINEAR_CHUNK * step), low, high);
    *low = or_pair(*low, step % 2 == 0 ? _mm512_slli_epi16(pairs, 4) : pairs);
    *high = or_pair(*high, step % 2 == 0 ? _mm512_slli_epi16(pairs, 2) : _mm512_srli_epi16(pairs, 2));
}

LINEAR_INLINE void load_step_c5(const uint8_t *codes, int step, tables t, __m512i *low, __m512i *high) {
    const __m512i bits = load_chunk(codes + 4 * LINEAR_CHUNK);
    const __mmask64 low_bit = _mm512_test_epi8_mask(bits, _mm512_set1_epi8((char)(1 << 2 * step)));
    const __mmask64 high_bit = _mm512_test_epi8_mask(bits, _mm512_set1_epi8((char)(2 << 2 * step)));
    __m512i first, second;
    split_nibbles(load_chunk(codes + LINEAR_CHUNK * step), &first, &second);
    *low = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(t.low, first), low_bit, t.high, first);
    *high = _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(t.low, second), high_bit, t.high, second);
}

/* The table has its eight entries twice: bit 3 of an index does not matter. The last two quads take two bits from the
 * first two chunks, one from the third. */
LINEAR_INLINE void load_step_c3(const uint8_t *codes, int step, tables t, __m512i *low, __m512i *high) {
    const __m512i index = _mm512_set1_epi8(15), pair = _mm512_set1_epi8(3);
    const __m512i chunk = load_chunk(codes + LINEAR_CHUNK * (step == 3 ? 2 : step));
    *low = chunk;
    *high = _mm512_srli_epi16(chunk, 3);
    if (step == 3) { /* pair ? a : b, by bits */
        *low =
            _mm512_ternarylogic_epi32(pair, _mm512_srli_epi16(load_chunk(codes), 6), _mm512_srli_epi16(chunk, 4), 0xca);
        *high = _mm512_ternarylogic_epi32(pair, _mm512_srli_epi16(load_chunk(codes + LINEAR_CHUNK), 6),
                                          _mm512_srli_epi16(chunk, 5), 0xca);
    }
    *low = _mm512_shuffle_epi8(t.low, _mm512_and_si512(*low, index));
    *high = _mm512_shuffle_epi8(t.low, _mm512_and_si512(*high, index));
}

/* Chunk step / 2 holds the pairs of four quads. */
LINEAR_INLINE void load_step_pairs(const uint8_t *codes, int step, linear_format format, tables t, __m512i *low,
                                   __m512i *high) {
    const __m512i chunk = load_chunk(codes + LINEAR_CHUNK * (step / 2)), pair = _mm512_set1_epi8(3);
    const __m512i here = step % 2 == 0 ? chunk : _mm512_srli_epi16(chunk, 4);
    if (format == LINEAR_T2) {
        *low = _mm512_and_si512(here, pair);
        *high = _mm512_and_si512(_mm512_srli_epi16(chunk, step % 2 == 0 ? 2 : 6), pair);
        return;
    }
    const __m512i nibble = _mm512_and_si512(here, _mm512_set1_epi8(15));
    *low = _mm512_shuffle_epi8(t.low, nibble);
    *high = _mm512_shuffle_epi8(t.high, nibble);
}

LINEAR_INLINE void load_step(const uint8_t *codes, int step, linear_format format, tables t, __m512i *low,
                             __m512i *high) {
    if (format == LINEAR_Q8) {
        const __m512i flip = _mm512_set1_epi8(-128);
        *low = _mm512_xor_si512(load_chunk(codes + 2 * LINEAR_CHUNK * step), flip);
        *high = _mm512_xor_si512(load_chunk(codes + 2 * LINEAR_CHUNK * step + LINEAR_CHUNK), flip);
    } else if (format == LINEAR_Q6) {
        load_step_q6(codes, step, low, high);
    } else if (format == LINEAR_C5) {
        load_step_c5(codes, step, t, low, high);
    } else if (format == LINEAR_C3) {
        load_step_c3(codes, step, t, low, high);
    } else if (format == LINEAR_C2 || format == LINEAR_T2) {
        load_step_pairs(codes, step, format, t, low, high);
    } else {
        split_nibbles(load_chunk(codes + LINEAR_CHUNK * step), low, high);
        if (format != LINEAR_C4) return;
        *low = _mm512_shuffle_epi8(t.low, *low);
        *high = _mm512_shuffle_epi8(t.low, *high);
    }
}

/* ---- scales ---- */

/* Of a block: the scale as float, the shift bits as mask, the zeros of q4z. */
typedef struct block_scale {
    __m512 scale;
    __mmask16 shifted;
    __m512i zeros;
} block_scale;

LINEAR_INLINE block_scale load_scale(const uint8_t *scales, linear_format format) {
    block_scale s = {_mm512_setzero_ps(), 0, _mm512_setzero_si512()};
    if (format == LINEAR_T2) return s;
    if (!linear_has_sub_scale(format)) {
        s.scale = load_halves(scales);
        if (format == LINEAR_Q4Z)
            s.zeros = _mm512_cvtepu8_epi32(_mm_load_si128((const __m128i *)(const void *)(scales + 32)));
        return s;
    }
    const __m128i bytes = _mm_load_si128((const __m128i *)(const void *)scales);
    const __m512i wide = _mm512_cvtepi8_epi32(bytes);
    s.scale = _mm512_cvtepi32_ps(format == LINEAR_Q6 ? wide : _mm512_srai_epi32(wide, 1));
    s.shifted = _mm_test_epi8_mask(bytes, _mm_set1_epi8(1));
    return s;
}

/* Where a dot product starts: minus bias times the sum of the activations, plus delta times it where shifted. */
LINEAR_INLINE __m512i start_dot(int32_t a_sum, int32_t delta, block_scale s, linear_format format) {
    const int32_t start = -linear_bias(format) * a_sum;
    if (format == LINEAR_Q4Z) {
        return _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_mullo_epi32(s.zeros, _mm512_set1_epi32(a_sum)));
    }
    const __m512i all = _mm512_set1_epi32(start);
    return linear_has_codebook(format) ? _mm512_mask_set1_epi32(all, s.shifted, start + delta * a_sum) : all;
}

/* |dot| <= 2^24, so the product of two floats is the integer product rounded once. */
LINEAR_INLINE __m512 accumulate(__m512 acc, __m512i dot, __m512 scale, __m512 a_scale, linear_format format) {
    const __m512 value = _mm512_cvtepi32_ps(dot);
    if (linear_has_sub_scale(format)) return _mm512_fmadd_ps(_mm512_mul_ps(value, scale), a_scale, acc);
    return _mm512_fmadd_ps(value, _mm512_mul_ps(scale, a_scale), acc);
}

/* ---- the panel ---- */

/* Sums in work: dot of a block; acc, of t2 total, of the row. */
typedef struct sums {
    __m512 acc[2][6];
    __m512i total[2][6];
    __m512i dot[2][6];
} sums;

LINEAR_INLINE __m512i dot_k8(const ingot_linear_args *args, const uint8_t *codes, const int8_t *a, __m512i start,
                             linear_format format, tables t) {
    __m512i first = _mm512_setzero_si512(), second = _mm512_setzero_si512();
    (void)args;
    UNROLL for (int step = 0; step < 4; step++) {
        __m512i low, high;
        int64_t eight;
        memcpy(&eight, a + 8 * step, sizeof eight);
        load_step(codes, step, format, t, &low, &high);
        first = _mm512_dpbusd_epi32(first, low, _mm512_set1_epi64(eight));
        second = _mm512_dpbusd_epi32(second, high, _mm512_set1_epi64(eight));
    }
    const __m512 f = _mm512_castsi512_ps(first), s = _mm512_castsi512_ps(second);
    const __m512i even = _mm512_castps_si512(_mm512_shuffle_ps(f, s, 0x88));
    const __m512i odd = _mm512_castps_si512(_mm512_shuffle_ps(f, s, 0xdd));
    return _mm512_add_epi32(start, _mm512_add_epi32(even, odd));
}

/* With few sums in work each is two chains, so that they do not wait for their own latency. */
LINEAR_INLINE void dot_t16(const uint8_t *codes, size_t tile_bytes, const int8_t *a, size_t a_stride, int tiles,
                           int tokens, linear_format format, tables t, sums *s) {
    const bool two_chains = tiles * tokens <= 2;
    __m512i second_chain[2][6];
    UNROLL for (int i = 0; i < tiles; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { second_chain[i][j] = _mm512_setzero_si512(); }
    }
    UNROLL for (int step = 0; step < 4; step++) {
        __m512i low[2], high[2];
        UNROLL for (int i = 0; i < tiles; i++) {
            load_step(codes + (size_t)i * tile_bytes, step, format, t, &low[i], &high[i]);
        }
        UNROLL for (int j = 0; j < tokens; j++) {
            const int8_t *quads = a + (size_t)j * a_stride + 8 * step;
            const __m512i first = _mm512_set1_epi32(load_quad(quads)), second = _mm512_set1_epi32(load_quad(quads + 4));
            UNROLL for (int i = 0; i < tiles; i++) { s->dot[i][j] = _mm512_dpbusd_epi32(s->dot[i][j], low[i], first); }
            UNROLL for (int i = 0; i < tiles; i++) {
                __m512i *sum = two_chains ? &second_chain[i][j] : &s->dot[i][j];
                *sum = _mm512_dpbusd_epi32(*sum, high[i], second);
            }
        }
    }
    UNROLL for (int i = 0; i < tiles && two_chains; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { s->dot[i][j] = _mm512_add_epi32(s->dot[i][j], second_chain[i][j]); }
    }
}

LINEAR_INLINE void add_block(const ingot_linear_args *args, linear_block block, uint32_t token, int tiles, int tokens,
                             linear_format format, bool k8, tables t, sums *s) {
    const size_t a_stride = args->a_stride, s_stride = args->s_stride, tile_bytes = args->tile_bytes;
    const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * block.index;
    const float *a_scale = args->a_scale + token * s_stride + block.index;
    const int32_t *a_sum = args->a_sum + token * s_stride + block.index;
    block_scale scale[2];
    UNROLL for (int i = 0; i < tiles; i++) { scale[i] = load_scale(block.scales + (size_t)i * tile_bytes, format); }
    UNROLL for (int j = 0; j < tokens; j++) {
        const int32_t sum = a_sum[(size_t)j * s_stride];
        UNROLL for (int i = 0; i < tiles; i++) {
            const __m512i start = start_dot(sum, args->delta, scale[i], format);
            s->dot[i][j] = start;
            if (k8) s->dot[i][j] = dot_k8(args, block.codes, a + (size_t)j * a_stride, start, format, t);
        }
    }
    if (!k8) dot_t16(block.codes, tile_bytes, a, a_stride, tiles, tokens, format, t, s);
    UNROLL for (int j = 0; j < tokens; j++) {
        if (format == LINEAR_T2) {
            UNROLL for (int i = 0; i < tiles; i++) { s->total[i][j] = _mm512_add_epi32(s->total[i][j], s->dot[i][j]); }
            continue;
        }
        const __m512 factor = _mm512_set1_ps(a_scale[(size_t)j * s_stride]);
        UNROLL for (int i = 0; i < tiles; i++) {
            s->acc[i][j] = accumulate(s->acc[i][j], s->dot[i][j], scale[i].scale, factor, format);
        }
    }
}

LINEAR_INLINE __m512 finish(const ingot_linear_args *args, const sums *s, int i, int j, uint32_t token,
                            const uint8_t *head, linear_format format) {
    if (format == LINEAR_T2) {
        const __m512 a_scale = _mm512_set1_ps(args->a_scale[(token + (size_t)j) * args->s_stride]);
        return _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(s->total[i][j]), a_scale), _mm512_load_ps(head));
    }
    return linear_has_sub_scale(format) ? _mm512_mul_ps(s->acc[i][j], load_halves(head)) : s->acc[i][j];
}

/* More than one tile: dense ones. */
LINEAR_INLINE void panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int tiles, int tokens,
                         linear_format format, bool k8) {
    const linear_tile stored = linear_find_tile(args, tile, format);
    const tables t = load_tables(args, format);
    sums s;
    UNROLL for (int i = 0; i < tiles; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            s.acc[i][j] = _mm512_setzero_ps();
            s.total[i][j] = _mm512_setzero_si512();
        }
    }
    for (uint32_t b = 0; b < stored.count; b++) {
        const linear_superblock superblock = linear_find_superblock(args, &stored, b, format);
        for (uint32_t within = 0; within < superblock.blocks; within++) {
            const linear_block block = linear_find_block(args, &superblock, within, format);
            if (tiles == 1) linear_prefetch(&superblock, block, format, tokens == 1);
            add_block(args, block, token, tiles, tokens, format, k8, t, &s);
        }
    }
    UNROLL for (int i = 0; i < tiles; i++) {
        const uint8_t *head = stored.head + (size_t)i * args->tile_bytes;
        UNROLL for (int j = 0; j < tokens; j++) {
            float *out = linear_out(args, tile, token + (uint32_t)j) + LINEAR_ROWS * i;
            _mm512_store_ps(out, finish(args, &s, i, j, token, head, format));
        }
    }
}

#define PANEL(name, tiles, tokens, format, k8)                                       \
    static void name(const ingot_linear_args *args, uint32_t tile, uint32_t token) { \
        panel(args, tile, token, tiles, tokens, format, k8);                         \
    }

/* The panels of a format, 24 accumulators of the 32 registers at most. Decode takes one stream of weights, which is
 * faster than two; from five tokens on work is compute-bound and two tiles halve the loads of activations. */
#define LINEAR_AVX512_PANELS(format)                                                                        \
    PANEL(panel_1x1, 1, 1, format, false)                                                                   \
    PANEL(panel_1x2, 1, 2, format, false)                                                                   \
    PANEL(panel_1x4, 1, 4, format, false)                                                                   \
    PANEL(panel_1x6, 1, 6, format, false)                                                                   \
    PANEL(panel_2x1, 2, 1, format, false)                                                                   \
    PANEL(panel_2x2, 2, 2, format, false)                                                                   \
    PANEL(panel_2x4, 2, 4, format, false)                                                                   \
    PANEL(panel_2x6, 2, 6, format, false)                                                                   \
    static const linear_panel singles[] = {{6, panel_1x6}, {4, panel_1x4}, {2, panel_1x2}, {1, panel_1x1}}; \
    static const linear_panel pairs[] = {{6, panel_2x6}, {4, panel_2x4}, {2, panel_2x2}, {1, panel_2x1}};

#define LINEAR_AVX512_KERNEL(symbol, format)                                       \
    LINEAR_AVX512_PANELS(format)                                                   \
    LINEAR_AVX512_GEMM(format)                                                     \
    void symbol(const ingot_linear_args *args) {                                   \
        if (args->panels != NULL) {                                                \
            gemm(args);                                                            \
            return;                                                                \
        }                                                                          \
        linear_cover(args, singles, args->tile_offsets == NULL ? pairs : NULL, 5); \
    }

/* The same for a format that also exists in layout T16_K8. */
#define LINEAR_AVX512_KERNEL_K8(symbol, format)                                    \
    LINEAR_AVX512_PANELS(format)                                                   \
    PANEL(panel_k8_1, 1, 1, format, true)                                          \
    PANEL(panel_k8_4, 1, 4, format, true)                                          \
    static const linear_panel panels_k8[] = {{4, panel_k8_4}, {1, panel_k8_1}};    \
    LINEAR_AVX512_GEMM(format)                                                     \
    void symbol(const ingot_linear_args *args) {                                   \
        if (args->layout == INGOT_LAYOUT_T16_K8) {                                 \
            linear_cover(args, panels_k8, NULL, 0);                                \
            return;                                                                \
        }                                                                          \
        if (args->panels != NULL) {                                                \
            gemm(args);                                                            \
            return;                                                                \
        }                                                                          \
        linear_cover(args, singles, args->tile_offsets == NULL ? pairs : NULL, 5); \
    }

#endif
