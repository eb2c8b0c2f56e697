/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens by NEON dot products: 4 rows of a slab times the eight tokens of a panel (linear.h), 64 sdot per block.
 *
 * Assembly, because compilers put into the block 14 to 20 instructions that it does not need: they move what was loaded
 * as a group of registers, and add to every pointer by itself. Loads stand where an in-order core wants them. Registers:
 * v16..v23 sums of the tokens, v24..v27 and v0..v3 weights, v28..v31 and v4..v7 activations; v8..v15 are left to the
 * sums of floats. */
#ifndef INGOT_KERNELS_LINEAR_NEON_PANEL_H
#define INGOT_KERNELS_LINEAR_NEON_PANEL_H

#include "kernels/linear/linear_neon_expand.h"

#define NEON_BY_PANEL gemm_8
#define NEON_MANY(format)                                                                                             \
    __attribute__((noinline)) static void gemm_8(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, \
                                                 uint32_t token) {                                                    \
        gemm_by_panel(args, slab, tile, token, format);                                                               \
    }

#define ONE_DOT(sum, w, a, lane) "sdot " sum ".4s, " w ".16b, " a ".4b[" lane "]\n\t"

/* A quad of 4 rows in `w` times those of eight tokens in `a` and `b`. */
#define EIGHT_DOTS(w, a, b)   \
    ONE_DOT("v16", w, a, "0") \
    ONE_DOT("v17", w, a, "1") \
    ONE_DOT("v18", w, a, "2") \
    ONE_DOT("v19", w, a, "3") \
    ONE_DOT("v20", w, b, "0") \
    ONE_DOT("v21", w, b, "1") \
    ONE_DOT("v22", w, b, "2") \
    ONE_DOT("v23", w, b, "3")

#define LOAD_FIRST                                \
    "ld1 {v24.16b-v27.16b}, [%[c0]], %[cell]\n\t" \
    "ld1 {v28.16b-v31.16b}, [%[p0]], %[block]\n\t"

#define START_MAGIC                       \
    "ld1 {v16.4s-v19.4s}, [%[magic]]\n\t" \
    "ld1 {v20.4s-v23.4s}, [%[magic]]\n\t"

/* Plus the bias of the row times the sum of the activations. */
#define START_BIAS                              \
    "ldr q0, [%[c0], #144]\n\t"                 \
    "ldp q1, q2, [%[p0], #288]\n\t" START_MAGIC \
    "mla v16.4s, v0.4s, v1.s[0]\n\t"            \
    "mla v17.4s, v0.4s, v1.s[1]\n\t"            \
    "mla v18.4s, v0.4s, v1.s[2]\n\t"            \
    "mla v19.4s, v0.4s, v1.s[3]\n\t"            \
    "mla v20.4s, v0.4s, v2.s[0]\n\t"            \
    "mla v21.4s, v0.4s, v2.s[1]\n\t"            \
    "mla v22.4s, v0.4s, v2.s[2]\n\t"            \
    "mla v23.4s, v0.4s, v2.s[3]\n\t"

/* Ends with all pointers at the next block. */
#define BLOCK_DOTS(third, fourth) \
    "ld1 {v4.16b-v7.16b}, [%[p1]], %[block]\n\t"               \
    EIGHT_DOTS("v24", "v28", "v29")                            \
    "ld1 {v0.16b-v3.16b}, [%[c1]], %[cell]\n\t"                \
    EIGHT_DOTS("v25", "v30", "v31")                            \
    "ld1 {v28.16b-v31.16b}, [%[p2]], %[block]\n\t"             \
    EIGHT_DOTS("v26", "v4", "v5")                              \
    EIGHT_DOTS("v27", "v6", "v7")                              \
    "ld1 {v4.16b-v7.16b}, [%[p3]], %[block]\n\t"               \
    EIGHT_DOTS("v0", "v28", "v29") third                       \
    EIGHT_DOTS("v1", "v30", "v31") fourth                      \
    EIGHT_DOTS("v2", "v4", "v5")                               \
    EIGHT_DOTS("v3", "v6", "v7")

#define DOTS_ALONE BLOCK_DOTS("", "")

/* The sums as floats (see to_float); the scale of the rows in v24, those of the tokens in v25 and v26. */
#define DOTS_AND_SCALES                                                                                \
    BLOCK_DOTS("ldr q24, [%[c0], #-32]\n\tldr q27, [%[magic]]\n\t", "ldp q25, q26, [%[p0], #-64]\n\t") \
    "fsub v16.4s, v16.4s, v27.4s\n\t"                                                                  \
    "fsub v17.4s, v17.4s, v27.4s\n\t"                                                                  \
    "fsub v18.4s, v18.4s, v27.4s\n\t"                                                                  \
    "fsub v19.4s, v19.4s, v27.4s\n\t"                                                                  \
    "fsub v20.4s, v20.4s, v27.4s\n\t"                                                                  \
    "fsub v21.4s, v21.4s, v27.4s\n\t"                                                                  \
    "fsub v22.4s, v22.4s, v27.4s\n\t"                                                                  \
    "fsub v23.4s, v23.4s, v27.4s\n\t"

/* The registers by name. */
#define EIGHT_SUMS(type)                                                                      \
    register type d0 __asm__("v16"), d1 __asm__("v17"), d2 __asm__("v18"), d3 __asm__("v19"); \
    register type d4 __asm__("v20"), d5 __asm__("v21"), d6 __asm__("v22"), d7 __asm__("v23")

#define SUMS_OF(how) how(d0), how(d1), how(d2), how(d3), how(d4), how(d5), how(d6), how(d7)
#define WRITTEN(d) "=w"(d)
#define CHANGED(d) "+w"(d)
#define SCALES_WRITTEN "=w"(row), "=w"(low), "=w"(high)
#define POINTERS                                                                                        \
    [c0] "+r"(at->cells[0]), [c1] "+r"(at->cells[1]), [p0] "+r"(at->quads[0]), [p1] "+r"(at->quads[1]), \
        [p2] "+r"(at->quads[2]), [p3] "+r"(at->quads[3])
#define STEPS [cell] "r"(sizeof(neon_cell)), [block] "r"((size_t)INGOT_PANEL_BLOCK_BYTES)
#define CLOBBERED "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v27", "v28", "v29", "v30", "v31", "memory"

/* Halves of a cell and pairs of quads of a panel: pointers of their own, as an in-order core takes long to step one. */
typedef struct panel_pointers {
    const int8_t *cells[2];
    const uint8_t *quads[4];
} panel_pointers;

typedef struct panel_dots {
    float32x4_t dot[8], scale, a_scale[2];
} panel_dots;

/* What all sums start from. */
static const int32_t panel_magic[16] = {BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC,
                                        BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC,
                                        BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC,
                                        BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC, BITS_OF_MAGIC};

/* One block. With a bias of at most 255 a sum stays below 2^21 as well. */
NEON_INLINE panel_dots dot_panel(panel_pointers *at, neon_format f) {
    EIGHT_SUMS(float32x4_t);
    register float32x4_t row __asm__("v24"), low __asm__("v25"), high __asm__("v26");
    if (has_bias(f)) {
        __asm__ volatile(START_BIAS LOAD_FIRST DOTS_AND_SCALES
                         : SUMS_OF(WRITTEN), SCALES_WRITTEN, POINTERS
                         : [magic] "r"(panel_magic), STEPS
                         : CLOBBERED);
    } else {
        __asm__ volatile(LOAD_FIRST START_MAGIC DOTS_AND_SCALES
                         : SUMS_OF(WRITTEN), SCALES_WRITTEN, POINTERS
                         : [magic] "r"(panel_magic), STEPS
                         : CLOBBERED);
    }
    return (panel_dots){{d0, d1, d2, d3, d4, d5, d6, d7}, row, {low, high}};
}

/* The same, added to sums of integers. */
NEON_INLINE void add_dots(panel_pointers *at, int32x4_t sums[8]) {
    EIGHT_SUMS(int32x4_t);
    d0 = sums[0], d1 = sums[1], d2 = sums[2], d3 = sums[3];
    d4 = sums[4], d5 = sums[5], d6 = sums[6], d7 = sums[7];
    __asm__ volatile(LOAD_FIRST DOTS_ALONE : SUMS_OF(CHANGED), POINTERS : STEPS : "v24", "v25", "v26", CLOBBERED);
    sums[0] = d0, sums[1] = d1, sums[2] = d2, sums[3] = d3;
    sums[4] = d4, sums[5] = d5, sums[6] = d6, sums[7] = d7;
}

/* Vectors times one of four tokens. */
NEON_INLINE float32x4_t scale_by(float32x4_t v, float32x4_t tokens, int j) {
    if (j == 0) return vmulq_laneq_f32(v, tokens, 0);
    if (j == 1) return vmulq_laneq_f32(v, tokens, 1);
    if (j == 2) return vmulq_laneq_f32(v, tokens, 2);
    return vmulq_laneq_f32(v, tokens, 3);
}

NEON_INLINE float32x4_t fuse_by(float32x4_t acc, float32x4_t v, float32x4_t tokens, int j) {
    if (j == 0) return vfmaq_laneq_f32(acc, v, tokens, 0);
    if (j == 1) return vfmaq_laneq_f32(acc, v, tokens, 1);
    if (j == 2) return vfmaq_laneq_f32(acc, v, tokens, 2);
    return vfmaq_laneq_f32(acc, v, tokens, 3);
}

/* See add_block. */
NEON_INLINE void add_panel(const panel_dots *dots, neon_format f, float32x4_t acc[8]) {
    UNROLL for (int j = 0; j < 8; j++) {
        const float32x4_t sum = dots->dot[j], a_scale = dots->a_scale[j / 4];
        acc[j] = has_codebook(f) || f == Q6 ? fuse_by(acc[j], vmulq_f32(sum, dots->scale), a_scale, j % 4)
                                            : vfmaq_f32(acc[j], sum, scale_by(dots->scale, a_scale, j % 4));
    }
}

NEON_INLINE panel_pointers point_at_quarter(const neon_slab *slab, const uint8_t *panel, int quarter) {
    const int8_t *weights = slab->cells[quarter][0].weights;
    const uint8_t *quads = panel + (size_t)INGOT_PANEL_BLOCK_BYTES * slab->first;
    return (panel_pointers){{weights, weights + 64}, {quads, quads + 64, quads + 128, quads + 192}};
}

/* `panel`: its first block; `rows`: of the tile, by token. */
NEON_INLINE void panel_quarter(const neon_slab *slab, const uint8_t *panel, float *const rows[8], int quarter,
                               neon_format f) {
    panel_pointers at = point_at_quarter(slab, panel, quarter);
    float32x4_t acc[8];
    UNROLL for (int j = 0; j < 8; j++) { acc[j] = slab->begins ? vdupq_n_f32(0.0f) : vld1q_f32(rows[j] + 4 * quarter); }
    if (f == T2) {
        int32x4_t sums[8];
        UNROLL for (int j = 0; j < 8; j++) { sums[j] = vreinterpretq_s32_f32(acc[j]); }
        for (uint32_t left = slab->blocks; left > 0; left--) {
            add_dots(&at, sums);
        }
        UNROLL for (int j = 0; j < 8; j++) { acc[j] = vreinterpretq_f32_s32(sums[j]); }
    } else {
        for (uint32_t left = slab->blocks; left > 0; left--) {
            const panel_dots dots = dot_panel(&at, f);
            add_panel(&dots, f, acc);
        }
    }
    const float *a_scale = (const float *)(const void *)(panel + 256);
    UNROLL for (int j = 0; j < 8; j++) {
        if (slab->ends) acc[j] = finish_rows(acc[j], slab->head, quarter, a_scale[j], f);
        vst1q_f32(rows[j] + 4 * quarter, acc[j]);
    }
}

/* Tokens beyond m are zeros in the panel and go nowhere. */
NEON_INLINE void gemm_by_panel(const ingot_linear_args *args, const neon_slab *slab, uint32_t tile, uint32_t token,
                               neon_format f) {
    float spare[ROWS] = {0}, *rows[8];
    UNROLL for (uint32_t j = 0; j < 8; j++) { rows[j] = token + j < args->m ? out_rows(args, tile, token + j) : spare; }
    const uint8_t *panel = args->panels + token / INGOT_PANEL_TOKENS * args->panel_bytes;
    NO_UNROLL for (int quarter = 0; quarter < 4; quarter++) { panel_quarter(slab, panel, rows, quarter, f); }
}

#endif
