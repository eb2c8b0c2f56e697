/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_avx2.h"

/* The 8 rows of half a chunk, split into even and odd k; rows stand in the order 0 1 4 5 2 3 6 7. */
LINEAR_INLINE void load_rows(const uint8_t *half_chunk, __m256 *even, __m256 *odd) {
    const __m256 low = load_halves(half_chunk), high = load_halves(half_chunk + 16);
    *even = _mm256_shuffle_ps(low, high, 0x88);
    *odd = _mm256_shuffle_ps(low, high, 0xdd);
}

LINEAR_INLINE __m256 order_rows(__m256 rows) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(rows), 0xd8));
}

/* One chain of fused multiply-adds for each row and token: the order of k is part of the contract. Halves 2 and 3 are
 * those of the next tile, of a dense weight. */
LINEAR_INLINE void panel_f16(const ingot_linear_args *args, uint32_t tile, uint32_t token, int first, int halves,
                             int tokens) {
    const linear_tile stored = linear_find_tile(args, tile, LINEAR_F16);
    __m256 acc[4][8];
    UNROLL for (int i = 0; i < halves; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = _mm256_setzero_ps(); }
    }
    for (uint32_t c = 0; c < 16 * stored.count; c++) {
        const linear_superblock superblock = linear_find_superblock(args, &stored, c / 16, LINEAR_F16);
        const float *x = args->x + token * args->x_stride + LINEAR_BLOCK * (size_t)superblock.first + 2 * (c % 16);
        const uint8_t *chunks = superblock.codes + (size_t)LINEAR_CHUNK * (c % 16);
        if (first == 0) prefetch_lines(chunks, halves == 4 ? LINEAR_PREFETCH / 2 : LINEAR_PREFETCH, 1, tokens == 1);
        if (halves == 4) prefetch_lines(chunks + args->tile_bytes, LINEAR_PREFETCH / 2, 1, tokens == 1);
        UNROLL for (int i = 0; i < halves; i++) {
            const int half = first + i;
            __m256 even, odd;
            load_rows(chunks + (size_t)(half / 2) * args->tile_bytes + 32 * (half % 2), &even, &odd);
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
            _mm256_store_ps(linear_out(args, tile, token + (uint32_t)j) + 8 * (first + i), order_rows(acc[i][j]));
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
    linear_cover(args, singles, args->m == 1 && args->tile_offsets == NULL ? pairs : NULL, 1);
}
