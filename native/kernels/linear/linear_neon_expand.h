/* SPDX-License-Identifier: Apache-2.0 */
/* Several tokens: blocks of a tile are expanded to signed bytes once, in the first-level cache, and multiplied with all
 * tokens from there, so that every format is unpacked once and has the same inner loop. Sums go on from slab to slab
 * in `out`, which is exact: they are floats (t2: int32) in registers as well. */
#ifndef INGOT_KERNELS_LINEAR_NEON_EXPAND_H
#define INGOT_KERNELS_LINEAR_NEON_EXPAND_H

#include "kernels/linear/linear_neon.h"
#include "kernels/quantize/quantize.h"

/* Blocks: 1024 k, 20 KB with scales. */
enum { SLAB = 32 };

/* A block of 4 rows. */
typedef struct neon_cell {
    int8_t weights[4 * BLOCK]; /* as `expand` of the instruction set orders them */
    float scale[4]; /* see add_block */
    int32_t bias[4]; /* times a_sum: what the dot product starts from */
} neon_cell;

typedef struct neon_slab {
    _Alignas(64) neon_cell cells[4][SLAB]; /* quarters of a tile, which are streams of their own */
    const uint8_t *head;
    uint32_t first, blocks;
    bool begins, ends; /* the first, the last slab of the tile */
} neon_slab;

/* `to`: the block's cell of each quarter. */
typedef void (*neon_expand_fn)(const uint8_t *codes, neon_cell *const to[4], neon_format f, const neon_tables *tables,
                               bool k8);

typedef void (*neon_gemm_fn)(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token);

typedef struct neon_gemm {
    uint32_t tokens;
    neon_gemm_fn run;
} neon_gemm;

NEON_INLINE bool has_bias(neon_format f) { return has_codebook(f) || f == Q4Z; }

/* From 8 k of two rows and of two more to a quad of all four, and the next quad. */
NEON_INLINE void split_rows(int8x16_t *low, int8x16_t *high) {
    const int32x4_t rows01 = vreinterpretq_s32_s8(*low), rows23 = vreinterpretq_s32_s8(*high);
    *low = vreinterpretq_s8_s32(vuzp1q_s32(rows01, rows23));
    *high = vreinterpretq_s8_s32(vuzp2q_s32(rows01, rows23));
}

/* Both quads of a step of all quarters, whatever the layout; q4 with its zero taken off. */
NEON_INLINE void load_quads(const uint8_t *codes, int step, neon_format f, const neon_tables *tables,
                            neon_planes planes[4], bool k8, int8x16_t low[4], int8x16_t high[4]) {
    load_steps(codes, step, f, tables, planes, low, high);
    UNROLL for (int i = 0; i < 4; i++) {
        if (f == Q4) {
            low[i] = vsubq_s8(low[i], vdupq_n_s8(8));
            high[i] = vsubq_s8(high[i], vdupq_n_s8(8));
        }
        if (k8) split_rows(&low[i], &high[i]);
    }
}

/* 8 quads of each quarter. */
NEON_INLINE void expand_quads(const uint8_t *codes, neon_cell *const to[4], neon_format f, const neon_tables *tables,
                              bool k8) {
    neon_planes planes[4];
    UNROLL for (int step = 0; step < 4; step++) {
        int8x16_t low[4], high[4];
        load_quads(codes, step, f, tables, planes, k8, low, high);
        UNROLL for (int i = 0; i < 4; i++) {
            vst1q_s8(to[i]->weights + 32 * step, low[i]);
            vst1q_s8(to[i]->weights + 32 * step + 16, high[i]);
        }
    }
}

/* Scales and biases of a block. */
NEON_INLINE void expand_scales(const ingot_linear_args *args, const uint8_t *scales, const neon_tables *tables,
                               neon_cell *const to[4], neon_format f) {
    float32x4_t scale[4];
    int32x4_t bias[4];
    if (f == T2) return;
    load_scales(scales, f, scale);
    UNROLL for (int i = 0; i < 4; i++) { vst1q_f32(to[i]->scale, scale[i]); }
    if (has_codebook(f)) {
        load_shifts(scales, tables, bias);
        UNROLL for (int i = 0; i < 4; i++) { bias[i] = vandq_s32(bias[i], vdupq_n_s32(args->delta)); }
    } else if (f == Q4Z) {
        load_zeros(scales + 32, bias);
        UNROLL for (int i = 0; i < 4; i++) { bias[i] = vnegq_s32(bias[i]); }
    } else {
        return;
    }
    UNROLL for (int i = 0; i < 4; i++) { vst1q_s32(to[i]->bias, bias[i]); }
}

/* Expands what fits: whole superblocks that follow each other in k. */
NEON_INLINE void expand_slab(const ingot_linear_args *args, neon_walk *walk, const neon_tables *tables, neon_slab *slab,
                             neon_expand_fn expand, neon_format f) {
    const uint32_t whole = walk->whole;
    const bool k8 = (f == Q8 || f == Q4 || f == C4) && args->layout == INGOT_LAYOUT_T16_K8;
    neon_superblock s;
    slab->begins = walk->next == 0;
    slab->first = walk->next < walk->count ? walk_index(walk) * whole : 0;
    slab->blocks = 0;
    while (walk->next < walk->count && slab->blocks + whole <= SLAB &&
           walk_index(walk) * whole == slab->first + slab->blocks) {
        walk_on(walk, args, f, &s);
        neon_cell *to[4];
        UNROLL for (int i = 0; i < 4; i++) {
            to[i] = &slab->cells[i][slab->blocks];
            __asm__("" : "+r"(to[i])); /* else it is computed for every store */
        }
        for (uint32_t b = 0; b < s.blocks; b++) {
            const uint8_t *codes = s.codes + (size_t)b * block_bytes(f);
            expand_scales(args, block_scales(args, &s, b, f), tables, to, f);
            if (k8) {
                expand(codes, to, f, tables, true);
            } else {
                expand(codes, to, f, tables, false);
            }
            UNROLL for (int i = 0; i < 4; i++) { to[i]++; }
        }
        slab->blocks += s.blocks;
    }
    slab->ends = walk->next == walk->count;
}

/* What four rows have summed up in the slabs before. */
NEON_INLINE float32x4_t load_sums(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token,
                                  int half, int i) {
    return slab->begins ? vdupq_n_f32(0.0f) : vld1q_f32(out_rows(args, tile, token) + 8 * half + 4 * i);
}

NEON_INLINE void store_sums(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token,
                            int half, int i, float32x4_t acc, neon_format f) {
    if (slab->ends) acc = finish_rows(acc, slab->head, 2 * half + i, args->a_scale[token * args->s_stride], f);
    vst1q_f32(out_rows(args, tile, token) + 8 * half + 4 * i, acc);
}

/* One tile, all tokens: panels of eight where there are some and `by_panel`, then `gemms` from most tokens to one. */
NEON_INLINE void expand_tile(const ingot_linear_args *args, uint32_t tile, neon_gemm_fn by_panel,
                             const neon_gemm *gemms, neon_expand_fn expand, neon_format f) {
    const neon_tables tables = load_tables(args, f);
    neon_walk walk = walk_tile(args, tile, f, 2);
    neon_slab slab;
    slab.head = walk.head;
    do {
        expand_slab(args, &walk, &tables, &slab, expand, f);
        uint32_t token = 0;
        if (by_panel != NULL && args->panels != NULL) {
            for (; token < args->m && args->m - token >= INGOT_PANEL_FROM; token += INGOT_PANEL_TOKENS) {
                by_panel(args, &slab, tile, token);
            }
        }
        for (const neon_gemm *g = gemms; token < args->m; g++) {
            for (; args->m - token >= g->tokens; token += g->tokens) g->run(args, &slab, tile, token);
        }
    } while (!slab.ends);
}

/* A panel for one token, which has nothing to share; the rest goes by slabs. `panel`, NEON_GEMM_OF,
 * NEON_EXPAND and NEON_BY_PANEL are those of the instruction set. */
#define NEON_PANEL(name, format, k8)                                                                           \
    __attribute__((noinline)) static void name(const ingot_linear_args *args, uint32_t tile, uint32_t token) { \
        panel(args, tile, token, format, k8);                                                                  \
    }

#define NEON_GEMM(tokens, format)                                                                             \
    __attribute__((noinline)) static void gemm_##tokens(const ingot_linear_args *args, const neon_slab *slab, \
                                                        uint32_t tile, uint32_t token) {                      \
        for (int half = 0; half < 2; half++) NEON_GEMM_OF(args, slab, tile, token, half, tokens, format);     \
    }

#define NEON_COVER(symbol, format, expand, by_panel, panel_of_k8)                 \
    NEON_PANEL(panel_1, format, false)                                            \
    NEON_GEMM(4, format)                                                          \
    NEON_GEMM(2, format)                                                          \
    NEON_GEMM(1, format)                                                          \
    void symbol(const ingot_linear_args *args) {                                  \
        static const neon_gemm gemms[] = {{4, gemm_4}, {2, gemm_2}, {1, gemm_1}}; \
        const bool k8 = args->layout == INGOT_LAYOUT_T16_K8;                      \
        for (uint32_t tile = args->tile_begin; tile < args->tile_end; tile++) {   \
            if (args->m > 1) {                                                    \
                expand_tile(args, tile, by_panel, gemms, expand, format);         \
            } else if (k8) {                                                      \
                panel_of_k8(args, tile, 0);                                       \
            } else {                                                              \
                panel_1(args, tile, 0);                                           \
            }                                                                     \
        }                                                                         \
    }

/* The formats of one layout, and those that have T16_K8 as well. */
#define LINEAR_NEON_KERNEL(symbol, format) \
    NEON_MANY(format)                      \
    NEON_COVER(symbol, format, NEON_EXPAND, NEON_BY_PANEL, panel_1)
#define LINEAR_NEON_KERNEL_K8(symbol, format) \
    NEON_PANEL(panel_1_k8, format, true)      \
    NEON_MANY(format)                         \
    NEON_COVER(symbol, format, NEON_EXPAND, NEON_BY_PANEL, panel_1_k8)

#endif
