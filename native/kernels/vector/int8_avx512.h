/* SPDX-License-Identifier: Apache-2.0 */
/* int8 beside v16 with AVX512-VNNI; see int8_ref.h for the contract. */
#ifndef INGOT_INT8_AVX512_H
#define INGOT_INT8_AVX512_H

#ifndef __AVX512VNNI__
#error "this file needs -mavx512vnni"
#endif

#include <string.h>

#include "kernels/vector/vector_avx512.h"

#define DOT_COLUMNS 4

typedef __m512i dot16;
typedef __m512i dot_key;
typedef __m512i dot_query;

/* vpdpbusd takes unsigned keys: 128 more each, which the start takes off again. */
static inline dot16 dot_start(int32_t sum_of_query) { return _mm512_set1_epi32(-128 * sum_of_query); }
static inline dot_key key_load(const int8_t *p) {
    return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)0x80));
}
static inline dot_query query_load(const int8_t *p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}
/* As an intrinsic gcc 12 copies each sum before and after, and spills some. */
static inline dot16 dot_add(dot16 sum, dot_key key, dot_query query) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(key), "v"(query));
    return sum;
}
static inline v16 dot_float(dot16 sum) { return _mm512_cvtepi32_ps(sum); }
static inline v16 v16_load_int8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
static inline v16 v16_load_int4(const uint8_t *p) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)p);
    __m128i both = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4));
    __m128i codes = _mm_sub_epi8(_mm_and_si128(both, _mm_set1_epi8(15)), _mm_set1_epi8(8));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}

#endif
