/* SPDX-License-Identifier: Apache-2.0 */
/* int8 beside v16 with AVX2; see int8_ref.h for the contract. */
#ifndef INGOT_INT8_AVX2_H
#define INGOT_INT8_AVX2_H

#include <string.h>

#include "kernels/vector/vector_avx2.h"

#define DOT_COLUMNS 1

typedef struct dot16 {
    __m256i a, b;
} dot16;
typedef dot16 dot_key;
typedef struct dot_query {
    __m256i code, magnitude;
} dot_query;

static inline dot16 dot_start(int32_t sum_of_query) {
    (void)sum_of_query;
    return (dot16){_mm256_setzero_si256(), _mm256_setzero_si256()};
}
static inline dot_key key_load(const int8_t *p) {
    const __m256i *q = (const __m256i *)(const void *)p;
    return (dot_key){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline dot_query query_load(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    __m256i code = _mm256_set1_epi32(four);
    return (dot_query){code, _mm256_abs_epi8(code)};
}
/* |q| times k with the sign of q: 2 * 127 * 127 fits an int16, so that vpmaddubsw does not saturate. */
static inline __m256i dot_eight(__m256i sum, __m256i key, dot_query query) {
    __m256i pairs = _mm256_maddubs_epi16(query.magnitude, _mm256_sign_epi8(key, query.code));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline dot16 dot_add(dot16 sum, dot_key key, dot_query query) {
    return (dot16){dot_eight(sum.a, key.a, query), dot_eight(sum.b, key.b, query)};
}
static inline v16 dot_float(dot16 sum) { return (v16){_mm256_cvtepi32_ps(sum.a), _mm256_cvtepi32_ps(sum.b)}; }
static inline v16 v16_from_int8(__m128i codes) {
    return (v16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes)),
                 _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes)))};
}
static inline v16 v16_load_int8(const int8_t *p) {
    return v16_from_int8(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline v16 v16_load_int4(const uint8_t *p) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)p);
    __m128i both = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4));
    return v16_from_int8(_mm_sub_epi8(_mm_and_si128(both, _mm_set1_epi8(15)), _mm_set1_epi8(8)));
}

#endif
