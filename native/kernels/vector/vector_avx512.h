/* SPDX-License-Identifier: Apache-2.0 */
/* Sixteen floats as one register; see vector.h for the contract. */
#ifndef INGOT_VECTOR_AVX512_H
#define INGOT_VECTOR_AVX512_H

#ifndef __AVX512F__
#error "this file needs -mavx512f"
#endif

#include <immintrin.h>
#include <stdint.h>

#define VECTOR_ROWS 4 /* attention register tile: rows x vectors of 16 positions */
#define VECTOR_COLUMNS 4

typedef __m512 v16;

static inline v16 v16_zero(void) { return _mm512_setzero_ps(); }
static inline v16 v16_set(float x) { return _mm512_set1_ps(x); }
static inline v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v16_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
static inline v16 v16_load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline void v16_store_half(uint16_t *p, v16 x) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static inline v16 v16_absolute(v16 a) { return _mm512_abs_ps(a); }
static inline float v16_largest(v16 a) { return _mm512_reduce_max_ps(a); }
/* x * 2^n, n the integer in the low bits of the float `shifted`. */
static inline v16 v16_scale_by_power(v16 x, v16 shifted) {
    __m512i bits = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), bits));
}
/* Rounds to nearest even, stores 16 int8, returns their sum. No NaN, nothing beyond 127. */
static inline int32_t v16_store_int8(int8_t *p, v16 x) {
    __m512i rounded = _mm512_cvtps_epi32(x);
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(rounded));
    return _mm512_reduce_add_epi32(rounded);
}
#define V16_INSERT /* x with another value in lane i */
static inline v16 v16_insert(v16 x, uint32_t i, float value) {
    return _mm512_mask_broadcastss_ps(x, (__mmask16)(1u << i), _mm_set_ss(value));
}
#define V16_STORE_INT8_PAIR /* one sum over lanes instead of two */
static inline int32_t v16_store_int8_pair(int8_t *p, v16 low, v16 high) {
    __m512i first = _mm512_cvtps_epi32(low), second = _mm512_cvtps_epi32(high);
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(first));
    _mm_storeu_si128((__m128i *)(void *)(p + 16), _mm512_cvtepi32_epi8(second));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(first, second));
}
/* Fixed tree: lane i + lane i + 8, then 4, 2, 1. */
static inline float v16_tree_sum(v16 a) {
    __m256 high = _mm512_extractf32x8_ps(a, 1);
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
