/* SPDX-License-Identifier: Apache-2.0 */
/* How a kernel covers its tiles and tokens with panels: functions that compute a fixed number of tiles times a fixed
 * number of tokens in registers. Included by ISA files only. */
#ifndef INGOT_KERNELS_LINEAR_PANELS_H
#define INGOT_KERNELS_LINEAR_PANELS_H

#include <string.h>

#include "kernels/linear/linear_blocks.h"

#define LINEAR_INLINE static inline __attribute__((always_inline))
/* Loops over registers: the arrays that they index must become registers. */
#define UNROLL _Pragma("GCC unroll 16")

/* Bytes ahead of the block in work: the best of a sweep over 0 to 32 KB on x86. Two streams share it. */
enum { LINEAR_PREFETCH = 8192 };

typedef struct linear_panel {
    uint32_t tokens;
    void (*run)(const ingot_linear_args *args, uint32_t tile, uint32_t token);
} linear_panel;

/* An address beyond the tensor is allowed: a prefetch reads nothing. Weights that pass once come non-temporal (locality
 * 0): a long tile would else push the activations, which every tile reads again, out of L1. */
LINEAR_INLINE void prefetch_lines(const uint8_t *address, int distance, int lines, bool once) {
    for (int i = 0; i < lines; i++) {
        const void *line = (const void *)((uintptr_t)address + (uintptr_t)distance + 64 * (uintptr_t)i);
        if (once) {
            __builtin_prefetch(line, 0, 0);
        } else {
            __builtin_prefetch(line);
        }
    }
}

/* Four activations as the 32 bits of a lane. */
LINEAR_INLINE int32_t load_quad(const int8_t *a) {
    int32_t quad;
    memcpy(&quad, a, sizeof quad);
    return quad;
}

/* All tokens with the same tiles; panels go from most tokens to one. */
static inline void linear_sweep(const ingot_linear_args *args, uint32_t tile, const linear_panel *panels) {
    uint32_t token = 0;
    for (const linear_panel *p = panels; token < args->m; p++) {
        for (; args->m - token >= p->tokens; token += p->tokens) p->run(args, tile, token);
    }
}

/* `pairs` (NULL: none) serve two tiles at once, from pairs_from tokens on. The weights stay in L1 or L2 meanwhile. */
static inline void linear_cover(const ingot_linear_args *args, const linear_panel *singles, const linear_panel *pairs,
                                uint32_t pairs_from) {
    uint32_t tile = args->tile_begin;
    if (pairs != NULL && args->m >= pairs_from) {
        for (; args->tile_end - tile >= 2 && tile < args->tile_end; tile += 2) linear_sweep(args, tile, pairs);
    }
    for (; tile < args->tile_end; tile++) linear_sweep(args, tile, singles);
}

#endif
