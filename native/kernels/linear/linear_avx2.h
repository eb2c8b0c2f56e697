/* SPDX-License-Identifier: Apache-2.0 */
/* The AVX2 panel of all formats but f16, with and without VNNI: half a chunk is one register, a lane is a row.
 *
 * With VNNI, weights get a bias that makes them unsigned, as in linear_avx512.h. Without, the bias of 128 would saturate
 * vpmaddubsw: q8 and the codebook formats multiply |w| by the activation with the sign of w moved to it (2 x 128 x 127
 * fits int16) and widen each product. Codes of q4, q4z and t2 add up eight products (8 x 2 x 15 x 127 fits) before they
 * widen, those of q6 two (2 x 2 x 63 x 127 fits). */
#ifndef INGOT_KERNELS_LINEAR_AVX2_H
#define INGOT_KERNELS_LINEAR_AVX2_H

#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "this file needs -mavx2 -mfma -mf16c"
#endif

#include "ingot_format.h"
#include "kernels/linear/linear_x86.h"

#ifdef __AVXVNNI__
enum { VNNI = 1 };
#else
enum { VNNI = 0 };
#endif

LINEAR_INLINE __m256i load_half_chunk(const uint8_t *p) { return _mm256_load_si256((const __m256i *)(const void *)p); }

LINEAR_INLINE __m256 load_halves(const uint8_t *halves) {
    return _mm256_cvtph_ps(_mm_load_si128((const __m128i *)(const void *)halves));
}

typedef struct tables {
    __m256i low, high;
} tables;

LINEAR_INLINE tables load_tables(const ingot_linear_args *args, linear_format format) {
    const linear_tables t = linear_load_tables(args, format, VNNI ? -128 : 0);
    return (tables){_mm256_broadcastsi128_si256(t.low), _mm256_broadcastsi128_si256(t.high)};
}

/* Formats whose weights are signed bytes without VNNI. */
LINEAR_INLINE bool is_signed(linear_format format) {
    return !VNNI && (format == LINEAR_Q8 || linear_has_codebook(format));
}

/* Formats whose products of a block add up in int16. */
LINEAR_INLINE bool adds_in_16_bits(linear_format format) {
    return !VNNI && (format == LINEAR_Q4 || format == LINEAR_Q4Z || format == LINEAR_T2);
}

/* ---- weights of 8 k of a half chunk: quad k..k+3 in low, k+4..k+7 in high ---- */

LINEAR_INLINE void split_nibbles(__m256i chunk, __m256i *low, __m256i *high) {
    const __m256i nibble = _mm256_set1_epi8(15);
    *low = _mm256_and_si256(chunk, nibble);
    *high = _mm256_and_si256(_mm256_srli_epi16(chunk, 4), nibble);
}

LINEAR_INLINE void load_step_q6(const uint8_t *codes, int step, __m256i *low, __m256i *high) {
    const __m256i pairs = load_half_chunk(codes + LINEAR_CHUNK * (4 + step / 2)), mask = _mm256_set1_epi8(0x30);
    const __m256i first = step % 2 == 0 ? _mm256_slli_epi16(pairs, 4) : pairs;
    const __m256i second = step % 2 == 0 ? _mm256_slli_epi16(pairs, 2) : _mm256_srli_epi16(pairs, 2);
    split_nibbles(load_half_chunk(codes + LINEAR_CHUNK * step), low, high);
    *low = _mm256_or_si256(*low, _mm256_and_si256(first, mask));
    *high = _mm256_or_si256(*high, _mm256_and_si256(second, mask));
}

/* Steps go from the last to the first: bit 7 of a byte of *bits chooses for the quad in work, adding *bits to itself
 * moves the bit of the quad before there. */
LINEAR_INLINE void load_step_c5(const uint8_t *codes, int step, tables t, __m256i *bits, __m256i *low, __m256i *high) {
    __m256i first, second;
    split_nibbles(load_half_chunk(codes + LINEAR_CHUNK * step), &first, &second);
    *high = _mm256_blendv_epi8(_mm256_shuffle_epi8(t.low, second), _mm256_shuffle_epi8(t.high, second), *bits);
    *bits = _mm256_add_epi8(*bits, *bits);
    *low = _mm256_blendv_epi8(_mm256_shuffle_epi8(t.low, first), _mm256_shuffle_epi8(t.high, first), *bits);
    *bits = _mm256_add_epi8(*bits, *bits);
}

/* The last two quads take two bits from the first two chunks and one from the third: bit 2 of an index for the first of
 * them, bit 3 for the second. Each table ignores the other bit. */
LINEAR_INLINE void load_step_c3(const uint8_t *codes, int step, tables t, __m256i *low, __m256i *high) {
    const __m256i chunk = load_half_chunk(codes + LINEAR_CHUNK * (step == 3 ? 2 : step)), index = _mm256_set1_epi8(15);
    if (step < 3) {
        *low = _mm256_shuffle_epi8(t.low, _mm256_and_si256(chunk, index));
        *high = _mm256_shuffle_epi8(t.low, _mm256_and_si256(_mm256_srli_epi16(chunk, 3), index));
        return;
    }
    const __m256i pair = _mm256_set1_epi8(3),
                  third = _mm256_and_si256(_mm256_srli_epi16(chunk, 4), _mm256_set1_epi8(12));
    const __m256i first = _mm256_and_si256(_mm256_srli_epi16(load_half_chunk(codes), 6), pair);
    const __m256i second = _mm256_and_si256(_mm256_srli_epi16(load_half_chunk(codes + LINEAR_CHUNK), 6), pair);
    *low = _mm256_shuffle_epi8(t.low, _mm256_or_si256(first, third));
    *high = _mm256_shuffle_epi8(t.high, _mm256_or_si256(second, third));
}

/* Chunk step / 2 holds the pairs of four quads. */
LINEAR_INLINE void load_step_pairs(const uint8_t *codes, int step, linear_format format, tables t, __m256i *low,
                                   __m256i *high) {
    const __m256i chunk = load_half_chunk(codes + LINEAR_CHUNK * (step / 2)), pair = _mm256_set1_epi8(3);
    const __m256i here = step % 2 == 0 ? chunk : _mm256_srli_epi16(chunk, 4);
    if (format == LINEAR_T2) {
        *low = _mm256_and_si256(here, pair);
        *high = _mm256_and_si256(_mm256_srli_epi16(chunk, step % 2 == 0 ? 2 : 6), pair);
        return;
    }
    const __m256i nibble = _mm256_and_si256(here, _mm256_set1_epi8(15));
    *low = _mm256_shuffle_epi8(t.low, nibble);
    *high = _mm256_shuffle_epi8(t.high, nibble);
}

/* Biased with VNNI; codes as they are for q4, q4z, q6, t2. */
LINEAR_INLINE void load_step(const uint8_t *codes, int step, linear_format format, tables t, __m256i *bits,
                             __m256i *low, __m256i *high) {
    if (format == LINEAR_Q8) {
        const __m256i flip = VNNI ? _mm256_set1_epi8(-128) : _mm256_setzero_si256();
        *low = _mm256_xor_si256(load_half_chunk(codes + 2 * LINEAR_CHUNK * step), flip);
        *high = _mm256_xor_si256(load_half_chunk(codes + 2 * LINEAR_CHUNK * step + LINEAR_CHUNK), flip);
    } else if (format == LINEAR_Q6) {
        load_step_q6(codes, step, low, high);
    } else if (format == LINEAR_C5) {
        load_step_c5(codes, step, t, bits, low, high);
    } else if (format == LINEAR_C3) {
        load_step_c3(codes, step, t, low, high);
    } else if (format == LINEAR_C2 || format == LINEAR_T2) {
        load_step_pairs(codes, step, format, t, low, high);
    } else {
        split_nibbles(load_half_chunk(codes + LINEAR_CHUNK * step), low, high);
        if (format != LINEAR_C4) return;
        *low = _mm256_shuffle_epi8(t.low, *low);
        *high = _mm256_shuffle_epi8(t.low, *high);
    }
}

/* ---- sums ---- */

#ifdef __AVXVNNI__
LINEAR_INLINE __m256i add_products(__m256i sum, __m256i weights, __m256i a, linear_format format) {
    (void)format;
    return _mm256_dpbusd_avx_epi32(sum, weights, a);
}
LINEAR_INLINE __m256i add_step(__m256i sum, __m256i low, __m256i high, __m256i a, __m256i b, linear_format format) {
    (void)format;
    return _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum, low, a), high, b);
}
#else
LINEAR_INLINE __m256i widen(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

/* Adds up in order: else compilers keep all products of a block and add them at the end as a tree. */
LINEAR_INLINE __m256i keep_order(__m256i sum) {
    __asm__("" : "+x"(sum));
    return sum;
}

/* Into 32-bit lanes, or 16-bit pairs where adds_in_16_bits. */
LINEAR_INLINE __m256i add_products(__m256i sum, __m256i weights, __m256i a, linear_format format) {
    if (adds_in_16_bits(format)) return keep_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, a)));
    const __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(a, weights));
    return keep_order(_mm256_add_epi32(sum, widen(products)));
}
LINEAR_INLINE __m256i add_step(__m256i sum, __m256i low, __m256i high, __m256i a, __m256i b, linear_format format) {
    if (format != LINEAR_Q6) return add_products(add_products(sum, low, a, format), high, b, format);
    const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, a), _mm256_maddubs_epi16(high, b));
    return keep_order(_mm256_add_epi32(sum, widen(pairs)));
}
#endif

/* int32 lanes of a finished sum. */
LINEAR_INLINE __m256i close_sum(__m256i sum, linear_format format) {
#ifdef __AVXVNNI__
    (void)format;
    return sum;
#else
    return adds_in_16_bits(format) ? widen(sum) : sum;
#endif
}

/* A lane is a row and half of 8 k: two sums for 8 rows, which hadd puts together in the order of the rows. */
LINEAR_INLINE __m256i dot_k8(const uint8_t *codes, const int8_t *a, linear_format format, tables t) {
    __m256i first = _mm256_setzero_si256(), second = _mm256_setzero_si256(), low, high;
    UNROLL for (int step = 0; step < 4; step++) {
        int64_t eight;
        memcpy(&eight, a + 8 * step, sizeof eight);
        load_step(codes, step, format, t, NULL, &low, &high);
        first = add_products(first, low, _mm256_set1_epi64x(eight), format);
        second = add_products(second, high, _mm256_set1_epi64x(eight), format);
    }
    return _mm256_hadd_epi32(close_sum(first, format), close_sum(second, format));
}

/* ---- scales ---- */

/* Of a block: the scale as float; the shift bit as sign; the zeros of q4z. */
typedef struct block_scale {
    __m256 scale;
    __m256i shift, zeros;
} block_scale;

LINEAR_INLINE block_scale load_scale(const uint8_t *scales, int half, linear_format format) {
    block_scale s = {_mm256_setzero_ps(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    if (format == LINEAR_T2) return s;
    if (!linear_has_sub_scale(format)) {
        s.scale = load_halves(scales + 16 * half);
        if (format == LINEAR_Q4Z) {
            s.zeros = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(scales + 32 + 8 * half)));
        }
        return s;
    }
    const __m256i bytes = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(scales + 8 * half)));
    s.scale = _mm256_cvtepi32_ps(format == LINEAR_Q6 ? bytes : _mm256_srai_epi32(bytes, 1));
    s.shift = _mm256_slli_epi32(bytes, 31);
    return s;
}

/* What the dot products of a superblock lack, by token and block: minus bias times the sum of the activations, in rows
 * whose shift bit is set plus delta times it. Computed by the way in scalar registers and read as broadcasts. */
typedef struct starts {
    int32_t plain[6][16], shifted[6][16];
} starts;

LINEAR_INLINE void compute_starts(const ingot_linear_args *args, const linear_superblock *superblock, uint32_t token,
                                  int tokens, linear_format format, starts *s) {
    const int32_t bias = is_signed(format) ? 0 : linear_bias(format), delta = args->delta;
    for (int j = 0; j < tokens; j++) {
        const int32_t *a_sum = args->a_sum + (token + (size_t)j) * args->s_stride + superblock->first;
        for (uint32_t b = 0; b < superblock->blocks; b++) {
            s->plain[j][b] = format == LINEAR_Q4Z ? a_sum[b] : -bias * a_sum[b];
            if (linear_has_codebook(format)) s->shifted[j][b] = (delta - bias) * a_sum[b];
        }
    }
}

LINEAR_INLINE __m256i start_dot(const starts *s, int j, uint32_t b, block_scale scale, linear_format format) {
    const __m256i plain = _mm256_set1_epi32(s->plain[j][b]);
    if (format == LINEAR_Q4Z) return _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_mullo_epi32(scale.zeros, plain));
    if (!linear_has_codebook(format)) return plain;
    const __m256 shifted = _mm256_castsi256_ps(_mm256_set1_epi32(s->shifted[j][b]));
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(plain), shifted, _mm256_castsi256_ps(scale.shift)));
}

/* |dot| <= 2^24, so the product of two floats is the integer product rounded once. */
LINEAR_INLINE __m256 accumulate(__m256 acc, __m256i dot, __m256 scale, __m256 a_scale, linear_format format) {
    const __m256 value = _mm256_cvtepi32_ps(dot);
    if (linear_has_sub_scale(format)) return _mm256_fmadd_ps(_mm256_mul_ps(value, scale), a_scale, acc);
    return _mm256_fmadd_ps(value, _mm256_mul_ps(scale, a_scale), acc);
}

/* ---- the panel ---- */

/* Sums in work: dot of a block; acc, of t2 total, of the row. */
typedef struct sums {
    __m256 acc[2][6];
    __m256i total[2][6];
    __m256i dot[2][6];
} sums;

/* With one token each sum is two chains, so that they do not wait for their own latency. */
LINEAR_INLINE void dot_t16(const uint8_t *codes, const int8_t *a, size_t a_stride, int halves, int tokens,
                           linear_format format, tables t, sums *s) {
    const bool two_chains = tokens == 1 && format != LINEAR_Q6;
    __m256i bits[2], second[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    UNROLL for (int i = 0; i < halves && format == LINEAR_C5; i++) {
        bits[i] = load_half_chunk(codes + 32 * i + 4 * LINEAR_CHUNK);
    }
    UNROLL for (int n = 0; n < 4; n++) {
        const int step = format == LINEAR_C5 ? 3 - n : n;
        UNROLL for (int i = 0; i < halves; i++) {
            __m256i low, high;
            load_step(codes + 32 * i, step, format, t, &bits[i], &low, &high);
            UNROLL for (int j = 0; j < tokens; j++) {
                const int8_t *quads = a + (size_t)j * a_stride + 8 * step;
                const __m256i x = _mm256_set1_epi32(load_quad(quads)), y = _mm256_set1_epi32(load_quad(quads + 4));
                if (two_chains) {
                    s->dot[i][j] = add_products(s->dot[i][j], low, x, format);
                    second[i] = add_products(second[i], high, y, format);
                } else {
                    s->dot[i][j] = add_step(s->dot[i][j], low, high, x, y, format);
                }
            }
        }
    }
    UNROLL for (int i = 0; i < halves && two_chains; i++) {
        s->dot[i][0] = adds_in_16_bits(format) ? _mm256_add_epi16(s->dot[i][0], second[i])
                                               : _mm256_add_epi32(s->dot[i][0], second[i]);
    }
}

/* Block `within` of the superblock that `start` belongs to. */
LINEAR_INLINE void add_block(const ingot_linear_args *args, linear_block block, uint32_t within, const starts *start,
                             uint32_t token, int first, int halves, int tokens, linear_format format, bool k8, tables t,
                             sums *s) {
    const size_t a_stride = args->a_stride, s_stride = args->s_stride;
    const int8_t *a = args->a + token * a_stride + (size_t)LINEAR_BLOCK * block.index;
    const float *a_scale = args->a_scale + token * s_stride + block.index;
    const uint8_t *codes = block.codes + 32 * first;
    const bool starts_at_zero = k8 || adds_in_16_bits(format);
    block_scale scale[2];
    UNROLL for (int i = 0; i < halves; i++) {
        scale[i] = load_scale(block.scales, first + i, format);
        UNROLL for (int j = 0; j < tokens; j++) {
            s->dot[i][j] = starts_at_zero ? _mm256_setzero_si256() : start_dot(start, j, within, scale[i], format);
            if (k8) s->dot[i][j] = dot_k8(codes + 32 * i, a + (size_t)j * a_stride, format, t);
        }
    }
    if (!k8) dot_t16(codes, a, a_stride, halves, tokens, format, t, s);
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            __m256i dot = k8 ? s->dot[i][j] : close_sum(s->dot[i][j], format);
            if (starts_at_zero) dot = _mm256_add_epi32(dot, start_dot(start, j, within, scale[i], format));
            if (format == LINEAR_T2) {
                s->total[i][j] = _mm256_add_epi32(s->total[i][j], dot);
                continue;
            }
            const __m256 factor = _mm256_set1_ps(a_scale[(size_t)j * s_stride]);
            s->acc[i][j] = accumulate(s->acc[i][j], dot, scale[i].scale, factor, format);
        }
    }
}

LINEAR_INLINE __m256 finish(const ingot_linear_args *args, const sums *s, int i, int j, uint32_t token, int half,
                            const uint8_t *head, linear_format format) {
    if (format == LINEAR_T2) {
        const __m256 a_scale = _mm256_set1_ps(args->a_scale[(token + (size_t)j) * args->s_stride]);
        const __m256 row_scale = _mm256_load_ps((const float *)(const void *)(head + 32 * half));
        return _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(s->total[i][j]), a_scale), row_scale);
    }
    return linear_has_sub_scale(format) ? _mm256_mul_ps(s->acc[i][j], load_halves(head + 16 * half)) : s->acc[i][j];
}

/* Rows of `halves` halves of a tile from half `first` on, times `tokens` tokens. */
LINEAR_INLINE void half_panel(const ingot_linear_args *args, uint32_t tile, uint32_t token, int first, int halves,
                              int tokens, linear_format format, bool k8) {
    const linear_tile stored = linear_find_tile(args, tile, format);
    const tables t = load_tables(args, format);
    sums s;
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            s.acc[i][j] = _mm256_setzero_ps();
            s.total[i][j] = _mm256_setzero_si256();
        }
    }
    for (uint32_t b = 0; b < stored.count; b++) {
        const linear_superblock superblock = linear_find_superblock(args, &stored, b, format);
        starts start;
        compute_starts(args, &superblock, token, tokens, format, &start);
        for (uint32_t within = 0; within < superblock.blocks; within++) {
            const linear_block block = linear_find_block(args, &superblock, within, format);
            if (halves == 2) linear_prefetch(&superblock, block, format, tokens == 1);
            add_block(args, block, within, &start, token, first, halves, tokens, format, k8, t, &s);
        }
    }
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            float *out = linear_out(args, tile, token + (uint32_t)j) + 8 * (first + i);
            _mm256_store_ps(out, finish(args, &s, i, j, token, first + i, stored.head, format));
        }
    }
}

/* Both halves at once while the accumulators fit in the 16 registers, one after the other beyond. */
#define PANEL_BOTH(name, tokens, format, k8)                                         \
    static void name(const ingot_linear_args *args, uint32_t tile, uint32_t token) { \
        half_panel(args, tile, token, 0, 2, tokens, format, k8);                     \
    }
#define PANEL_EACH(name, tokens, format, k8)                                                             \
    static void name(const ingot_linear_args *args, uint32_t tile, uint32_t token) {                     \
        for (int half = 0; half < 2; half++) half_panel(args, tile, token, half, 1, tokens, format, k8); \
    }

#define LINEAR_AVX2_PANELS(format)        \
    PANEL_BOTH(panel_1, 1, format, false) \
    PANEL_BOTH(panel_2, 2, format, false) \
    PANEL_EACH(panel_4, 4, format, false) \
    PANEL_EACH(panel_6, 6, format, false) \
    static const linear_panel panels[] = {{6, panel_6}, {4, panel_4}, {2, panel_2}, {1, panel_1}};

#endif
