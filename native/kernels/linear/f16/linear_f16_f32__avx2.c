/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_avx2.h"

/* A half chunk is 8 rows x 2 k: even k to the low half of the register, odd k to the high half. */
LINEAR_INLINE __m256i split_pairs(__m256i half_chunk) {
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12,
                                           13, 2, 3, 6, 7, 10, 11, 14, 15);
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(half_chunk, order), 0xd8);
}

/* One chain of fused multiply-adds for each row and token: the order of k is part of the contract. */
LINEAR_INLINE void panel_f16(const ingot_linear_args *args, uint32_t tile, uint32_t token, int first, int halves,
                             int tokens) {
    const uint8_t *weights = args->weights + tile * args->tile_bytes;
    __m256 acc[4][8];
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = _mm256_setzero_ps(); }
    }
    for (uint32_t c = 0; c < args->k / 2; c++) {
        const float *x = args->x + token * args->x_stride + (size_t)2 * c;
        const uint8_t *chunks = weights + (size_t)LINEAR_CHUNK * c;
        if (first == 0) prefetch_lines(chunks, halves == 4 ? LINEAR_PREFETCH / 2 : LINEAR_PREFETCH, 1);
        if (halves == 4) prefetch_lines(chunks + args->tile_bytes, LINEAR_PREFETCH / 2, 1);
        UNROLL for (int i = 0; i < halves; i++) { /* halves 2 and 3 are those of the next tile */
            const int half = first + i;
            const uint8_t *chunk = chunks + (size_t)(half / 2) * args->tile_bytes;
            const __m256i split = split_pairs(load_half_chunk(chunk + 32 * (half % 2)));
            const __m256 even = _mm256_cvtph_ps(_mm256_castsi256_si128(split));
            const __m256 odd = _mm256_cvtph_ps(_mm256_extracti128_si256(split, 1));
            UNROLL for (int j = 0; j < tokens; j++) {
                acc[i][j] = _mm256_fmadd_ps(even, _mm256_set1_ps(x[(size_t)j * args->x_stride]), acc[i][j]);
            }
            UNROLL for (int j = 0; j < tokens; j++) {
                acc[i][j] = _mm256_fmadd_ps(odd, _mm256_set1_ps(x[(size_t)j * args->x_stride + 1]), acc[i][j]);
            }
        }
    }
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            _mm256_store_ps(linear_out(args, tile, token + (uint32_t)j) + 8 * (first + i), acc[i][j]);
        }
    }
}

static void panel_8(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    for (int half = 0; half < 2; half++) panel_f16(args, tile, token, half, 1, 8);
}
static void panel_4(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    panel_f16(args, tile, token, 0, 2, 4);
}
static void panel_2(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    panel_f16(args, tile, token, 0, 2, 2);
}
static void panel_1(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    panel_f16(args, tile, token, 0, 2, 1);
}
static void panel_pair(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    panel_f16(args, tile, token, 0, 4, 1);
}

static const linear_panel singles[] = {{8, panel_8}, {4, panel_4}, {2, panel_2}, {1, panel_1}};
static const linear_panel pairs[] = {{1, panel_pair}};

/* With one token a second tile hides the latency of the chain. */
void ingot_linear_f16_f32__avx2(const ingot_linear_args *args) {
    linear_cover(args, singles, args->m == 1 ? pairs : NULL, 1);
}
