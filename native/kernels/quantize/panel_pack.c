/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <string.h>

#include "kernels/quantize/quantize.h"

enum { BLOCK = 32, QUADS = 8, TOKENS = INGOT_PANEL_TOKENS };

/* Four words, one register on every CPU. */
typedef int32_t words __attribute__((vector_size(16)));

/* Four words of two registers, numbered through; gcc has clang's builtin from version 12 on only. */
#if defined(__clang__)
#define TAKE_WORDS(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define TAKE_WORDS(a, b, i, j, k, l) __builtin_shuffle(a, b, (words){i, j, k, l})
#endif

static words load_words(const int8_t *a) {
    words w;
    memcpy(&w, a, sizeof w);
    return w;
}

/* Four quads of four tokens, from a row per token to a row per quad. */
static void transpose_words(const int8_t *const *a, uint8_t *quads) {
    const words w[4] = {load_words(a[0]), load_words(a[1]), load_words(a[2]), load_words(a[3])};
    const words low0 = TAKE_WORDS(w[0], w[1], 0, 4, 1, 5);
    const words high0 = TAKE_WORDS(w[0], w[1], 2, 6, 3, 7);
    const words low1 = TAKE_WORDS(w[2], w[3], 0, 4, 1, 5);
    const words high1 = TAKE_WORDS(w[2], w[3], 2, 6, 3, 7);
    const words rows[4] = {TAKE_WORDS(low0, low1, 0, 1, 4, 5), TAKE_WORDS(low0, low1, 2, 3, 6, 7),
                           TAKE_WORDS(high0, high1, 0, 1, 4, 5), TAKE_WORDS(high0, high1, 2, 3, 6, 7)};
    for (int q = 0; q < 4; q++) memcpy(quads + q * 4 * TOKENS, &rows[q], sizeof rows[q]);
}

/* 32 k of eight tokens. */
static void pack_codes(const int8_t *const *a, uint8_t *panel) {
    for (int token = 0; token < TOKENS; token += 4) {
        for (int quad = 0; quad < QUADS; quad += 4) {
            const int8_t *four[4];
            for (int i = 0; i < 4; i++) four[i] = a[token + i] + 4 * (size_t)quad;
            transpose_words(four, panel + quad * 4 * TOKENS + 4 * token);
        }
    }
}

void ingot_panel_pack_block(const int8_t *a, const float *a_scale, const int32_t *a_sum, uint8_t *panel) {
    const int8_t *rows[TOKENS];
    for (int i = 0; i < TOKENS; i++) rows[i] = a + i * BLOCK;
    pack_codes(rows, panel);
    memcpy(panel + BLOCK * TOKENS, a_scale, TOKENS * sizeof *a_scale);
    memcpy(panel + BLOCK * TOKENS + 4 * TOKENS, a_sum, TOKENS * sizeof *a_sum);
}

void ingot_panel_pack(const ingot_quantized_rows *rows, uint32_t k, uint8_t *panel) {
    static const int8_t nothing[BLOCK];
    for (uint32_t b = 0; b < k / BLOCK; b++, panel += INGOT_PANEL_BLOCK_BYTES) {
        float *a_scale = (float *)(void *)(panel + BLOCK * TOKENS);
        int32_t *a_sum = (int32_t *)(void *)(panel + BLOCK * TOKENS + 4 * TOKENS);
        const int8_t *a[TOKENS];
        for (uint32_t i = 0; i < TOKENS; i++) {
            const bool there = i < rows->count;
            const size_t group = i * rows->s_stride + b;
            a[i] = there ? rows->a + i * rows->a_stride + (size_t)BLOCK * b : nothing;
            a_scale[i] = there ? rows->a_scale[group] : 0.0f;
            a_sum[i] = there ? rows->a_sum[group] : 0;
        }
        pack_codes(a, panel);
    }
}
