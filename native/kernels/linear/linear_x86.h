/* SPDX-License-Identifier: Apache-2.0 */
/* What the x86 panels share: tables for vpshufb, offsets of the unsigned weights. */
#ifndef INGOT_KERNELS_LINEAR_X86_H
#define INGOT_KERNELS_LINEAR_X86_H

#include <immintrin.h>

#include "kernels/linear/linear_panels.h"

/* Two tables of 16 entries, each of whose indices vpshufb takes from the low four bits of a byte.
 *   c4  low: the entries                c5  low, high: entries 0..15, 16..31
 *   c3  low: entry n & 7, high: entry (n & 3) + 4 * (n >> 3)
 *   c2  low: entry n & 3, high: entry n >> 2: a nibble holds two codes
 * `bias` is added to each entry modulo 256. */
typedef struct linear_tables {
    __m128i low, high;
} linear_tables;

LINEAR_INLINE linear_tables linear_load_tables(const ingot_linear_args *args, linear_format format, int8_t bias) {
    linear_tables t = {_mm_setzero_si128(), _mm_setzero_si128()};
    if (format == LINEAR_C4 || format == LINEAR_C5)
        t.low = _mm_loadu_si128((const __m128i *)(const void *)args->codebook);
    if (format == LINEAR_C5) t.high = _mm_loadu_si128((const __m128i *)(const void *)(args->codebook + 16));
    if (format == LINEAR_C3) {
        const __m128i entries = _mm_loadl_epi64((const __m128i *)(const void *)args->codebook);
        t.low = _mm_unpacklo_epi64(entries, entries);
        t.high = _mm_shuffle_epi32(t.low, 0x50);
    }
    if (format == LINEAR_C2) {
        t.low = _mm_set1_epi32(load_quad(args->codebook));
        t.high = _mm_shuffle_epi8(t.low, _mm_setr_epi8(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
    }
    t.low = _mm_add_epi8(t.low, _mm_set1_epi8(bias));
    t.high = _mm_add_epi8(t.high, _mm_set1_epi8(bias));
    return t;
}

/* The bias that makes weights unsigned, for vpdpbusd; of q4z each row has its own. */
LINEAR_INLINE int32_t linear_bias(linear_format format) {
    switch (format) {
        case LINEAR_Q4: return 8;
        case LINEAR_Q4Z: return 0;
        case LINEAR_Q6: return 32;
        case LINEAR_T2: return 1;
        default: return 128;
    }
}

/* Each line of the weights once, ahead of its use: the scales with the first block of a superblock. `once`: no other
 * tokens will read them. */
LINEAR_INLINE void linear_prefetch(const linear_superblock *superblock, linear_block block, linear_format format,
                                   bool once) {
    if (block.index == superblock->first) {
        prefetch_lines(superblock->meta, LINEAR_PREFETCH, (int)(superblock->codes - superblock->meta) / LINEAR_CHUNK,
                       once);
    }
    prefetch_lines(block.codes, LINEAR_PREFETCH, (int)linear_block_bytes(format) / LINEAR_CHUNK, once);
}

#endif
