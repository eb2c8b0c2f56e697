/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "kernels/quantize/quantize.h"

enum { BLOCK = 32, QUADS = 8 };

/* 32 k of one token to every eighth quad of a panel's block. */
static void spread_quads(const int8_t *a, uint8_t *quads) {
    int32_t quad[QUADS];
    memcpy(quad, a, sizeof quad);
    for (int q = 0; q < QUADS; q++) memcpy(quads + q * 4 * INGOT_PANEL_TOKENS, &quad[q], sizeof quad[q]);
}

void ingot_panel_pack(const ingot_quantized_rows *rows, uint32_t k, uint8_t *panel) {
    for (uint32_t b = 0; b < k / BLOCK; b++, panel += INGOT_PANEL_BLOCK_BYTES) {
        float *a_scale = (float *)(void *)(panel + BLOCK * INGOT_PANEL_TOKENS);
        int32_t *a_sum = (int32_t *)(void *)(panel + BLOCK * INGOT_PANEL_TOKENS + 4 * INGOT_PANEL_TOKENS);
        if (rows->count < INGOT_PANEL_TOKENS) memset(panel, 0, INGOT_PANEL_BLOCK_BYTES);
        for (uint32_t i = 0; i < rows->count; i++) {
            const size_t group = i * rows->s_stride + b;
            spread_quads(rows->a + i * rows->a_stride + (size_t)BLOCK * b, panel + 4 * (size_t)i);
            a_scale[i] = rows->a_scale[group];
            a_sum[i] = rows->a_sum[group];
        }
    }
}
