/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/linear/linear_avx512.h"

/* Even k to the low half, odd k to the high half. */
LINEAR_INLINE __m512i split_order(void) {
    const __m512i even = _mm512_set_epi32(0x1f001d, 0x1b0019, 0x170015, 0x130011, 0xf000d, 0xb0009, 0x70005, 0x30001,
                                          0x1e001c, 0x1a0018, 0x160014, 0x120010, 0xe000c, 0xa0008, 0x60004, 0x20000);
    return even;
}

/* One chain of fused multiply-adds for each row and token: the order of k is part of the contract. */
LINEAR_INLINE void panel_f16(const ingot_linear_args *args, uint32_t tile, uint32_t token, int tiles, int tokens) {
    const linear_tile stored = linear_find_tile(args, tile, LINEAR_F16);
    const __m512i order = split_order();
    __m512 acc[2][12];
    UNROLL for (int i = 0; i < tiles; i++) {
        UNROLL for (int j = 0; j < tokens; j++) { acc[i][j] = _mm512_setzero_ps(); }
    }
    for (uint32_t c = 0; c < 16 * stored.count; c++) {
        const linear_superblock superblock = linear_find_superblock(args, &stored, c / 16, LINEAR_F16);
        const uint32_t k = LINEAR_BLOCK * superblock.first + 2 * (c % 16);
        const float *x = args->x + token * args->x_stride + k;
        UNROLL for (int i = 0; i < tiles; i++) {
            const uint8_t *chunk = superblock.codes + (size_t)i * args->tile_bytes + (size_t)LINEAR_CHUNK * (c % 16);
            if (tokens < 12) prefetch_lines(chunk, LINEAR_PREFETCH / tiles, 1, tokens == 1);
            const __m512i split = _mm512_permutexvar_epi16(order, load_chunk(chunk));
            const __m512 even = _mm512_cvtph_ps(_mm512_castsi512_si256(split));
            const __m512 odd = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(split, 1));
            UNROLL for (int j = 0; j < tokens; j++) {
                acc[i][j] = _mm512_fmadd_ps(even, _mm512_set1_ps(x[(size_t)j * args->x_stride]), acc[i][j]);
            }
            UNROLL for (int j = 0; j < tokens; j++) {
                acc[i][j] = _mm512_fmadd_ps(odd, _mm512_set1_ps(x[(size_t)j * args->x_stride + 1]), acc[i][j]);
            }
        }
    }
    UNROLL for (int i = 0; i < tiles; i++) {
        UNROLL for (int j = 0; j < tokens; j++) {
            _mm512_store_ps(linear_out(args, tile, token + (uint32_t)j) + LINEAR_ROWS * i, acc[i][j]);
        }
    }
}

#define PANEL_F16(tiles, tokens)                                                                         \
    static void panel_##tiles##x##tokens(const ingot_linear_args *args, uint32_t tile, uint32_t token) { \
        panel_f16(args, tile, token, tiles, tokens);                                                     \
    }

PANEL_F16(1, 1)
PANEL_F16(1, 2)
PANEL_F16(1, 4)
PANEL_F16(1, 12)
PANEL_F16(2, 1)

static const linear_panel singles[] = {{12, panel_1x12}, {4, panel_1x4}, {2, panel_1x2}, {1, panel_1x1}};
static const linear_panel pairs[] = {{1, panel_2x1}};

/* With one token a second tile hides the latency of the chain. */
void ingot_linear_f16_f32__avx512vnni(const ingot_linear_args *args) {
    linear_cover(args, singles, args->m == 1 && args->tile_offsets == NULL ? pairs : NULL, 1);
}
