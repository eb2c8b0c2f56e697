/* SPDX-License-Identifier: Apache-2.0 */
/* The inner loop of linear_gemm_avx512.h: blocks of a slab, two tiles times eight tokens.
 *
 * Assembly, because the place of the sums counts: 13 of the 16 fit beside the dot products, and compilers keep more of them
 * in memory, which takes longer. Registers: zmm0..zmm12 sums, of tile 0 and the first five of
 * tile 1; zmm16..zmm31 dot products, tile by tile; zmm13..zmm15 weights, quads, scales. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_AVX512_BLOCK_H
#define INGOT_KERNELS_LINEAR_GEMM_AVX512_BLOCK_H

#include "kernels/linear/linear_avx512.h"
#include "kernels/linear/linear_gemm_types.h"

/* One block of two tiles, unpacked. */
typedef struct gemm_cell {
    __m512i quads[LINEAR_BLOCK / 4][2];
    __m512 scale[2];
    __m512 base[2];   /* minus magic times the scale: formats with sub-scales */
    __m512i zeros[2]; /* q4z */
    __mmask16 shifted[2];
    uint32_t index; /* k is 32 * index and on */
} gemm_cell;

/* clang-format off */
#define GEMM_EACH(X)               \
    X("0", "zmm16", "zmm24")       \
    X("1", "zmm17", "zmm25")       \
    X("2", "zmm18", "zmm26")       \
    X("3", "zmm19", "zmm27")       \
    X("4", "zmm20", "zmm28")       \
    X("5", "zmm21", "zmm29")       \
    X("6", "zmm22", "zmm30")       \
    X("7", "zmm23", "zmm31")

/* ---- where dot products start ---- */

#define GEMM_PLAIN(j, first, second)                             \
    "vpbroadcastd 4*" j "(%[start]), %%" first "\n\t"            \
    "vmovdqa32 %%" first ", %%" second "\n\t"

#define GEMM_SHIFT(j, first, second)                             \
    "vpbroadcastd 4*" j "(%[start]), %%zmm13\n\t"                \
    "vpbroadcastd 32+4*" j "(%[start]), %%zmm14\n\t"             \
    "vpblendmd %%zmm14, %%zmm13, %%" first "%{%%k1%}\n\t"        \
    "vpblendmd %%zmm14, %%zmm13, %%" second "%{%%k2%}\n\t"

#define GEMM_ZEROS(j, first, second)                             \
    "vpbroadcastd 4*" j "(%[start]), %%zmm15\n\t"                \
    "vpbroadcastd %c[sums_at]+4*" j "(%[block]), %%zmm13\n\t"    \
    "vpmulld %c[zeros](%[cell]), %%zmm13, %%" first "\n\t"       \
    "vpmulld %c[zeros]+64(%[cell]), %%zmm13, %%" second "\n\t"   \
    "vpsubd %%" first ", %%zmm15, %%" first "\n\t"               \
    "vpsubd %%" second ", %%zmm15, %%" second "\n\t"

#define GEMM_START_PLAIN GEMM_EACH(GEMM_PLAIN)
#define GEMM_START_ZEROS GEMM_EACH(GEMM_ZEROS)
#define GEMM_START_SHIFTED                  \
    "kmovw %c[shifted](%[cell]), %%k1\n\t"  \
    "kmovw %c[shifted]+2(%[cell]), %%k2\n\t" GEMM_EACH(GEMM_SHIFT)

/* ---- dot products ---- */

#define GEMM_DOT(q, j, first, second)                            \
    "vpbroadcastd 32*" q "+4*" j "(%[block]), %%zmm15\n\t"       \
    "vpdpbusd %%zmm15, %%zmm13, %%" first "\n\t"                 \
    "vpdpbusd %%zmm15, %%zmm14, %%" second "\n\t"

#define GEMM_QUAD(q)                                             \
    "vmovdqa32 128*" q "(%[cell]), %%zmm13\n\t"                  \
    "vmovdqa32 64+128*" q "(%[cell]), %%zmm14\n\t"               \
    GEMM_DOT(q, "0", "zmm16", "zmm24")                           \
    GEMM_DOT(q, "1", "zmm17", "zmm25")                           \
    GEMM_DOT(q, "2", "zmm18", "zmm26")                           \
    GEMM_DOT(q, "3", "zmm19", "zmm27")                           \
    GEMM_DOT(q, "4", "zmm20", "zmm28")                           \
    GEMM_DOT(q, "5", "zmm21", "zmm29")                           \
    GEMM_DOT(q, "6", "zmm22", "zmm30")                           \
    GEMM_DOT(q, "7", "zmm23", "zmm31")

#define GEMM_DOTS                                                \
    GEMM_QUAD("0") GEMM_QUAD("1") GEMM_QUAD("2") GEMM_QUAD("3")  \
    GEMM_QUAD("4") GEMM_QUAD("5") GEMM_QUAD("6") GEMM_QUAD("7")

/* ---- sums ---- */

/* What a block adds, token by token: dot products and sums of both tiles; the last three sums of tile 1 are in memory. */
#define GEMM_ADD(TWO, ONE)                                       \
    TWO("0", "zmm16", "zmm0", "zmm24", "zmm8")                   \
    TWO("1", "zmm17", "zmm1", "zmm25", "zmm9")                   \
    TWO("2", "zmm18", "zmm2", "zmm26", "zmm10")                  \
    TWO("3", "zmm19", "zmm3", "zmm27", "zmm11")                  \
    TWO("4", "zmm20", "zmm4", "zmm28", "zmm12")                  \
    ONE("5", "zmm21", "zmm5", "zmm29", "64(%[fifth],%[stride])")   \
    ONE("6", "zmm22", "zmm6", "zmm30", "64(%[fifth],%[stride],2)") \
    ONE("7", "zmm23", "zmm7", "zmm31", "64(%[fifth],%[three])")

/* (magic + dot) * scale - magic * scale, then times the activations' scale. */
#define GEMM_SCALE(j, first, second) "vfmadd213ps %%zmm14, %%zmm13, %%" first "\n\t"
#define GEMM_SCALE_SECOND(j, first, second) "vfmadd213ps %%zmm14, %%zmm13, %%" second "\n\t"
#define GEMM_FUSE(j, first, sum, second, place)                  \
    "vbroadcastss %c[scales_at]+4*" j "(%[block]), %%zmm15\n\t"  \
    "vfmadd231ps %%zmm15, %%" first ", %%" sum "\n\t"            \
    "vfmadd231ps %%zmm15, %%" second ", %%" place "\n\t"
#define GEMM_FUSE_MEMORY(j, first, sum, second, place)           \
    "vbroadcastss %c[scales_at]+4*" j "(%[block]), %%zmm15\n\t"  \
    "vfmadd231ps %%zmm15, %%" first ", %%" sum "\n\t"            \
    "vfmadd213ps " place ", %%zmm15, %%" second "\n\t"           \
    "vmovaps %%" second ", " place "\n\t"

#define GEMM_ADD_SUB_SCALED                                      \
    "vmovaps %c[scale](%[cell]), %%zmm13\n\t"                    \
    "vmovaps %c[base](%[cell]), %%zmm14\n\t"                     \
    GEMM_EACH(GEMM_SCALE)                                        \
    "vmovaps %c[scale]+64(%[cell]), %%zmm13\n\t"                 \
    "vmovaps %c[base]+64(%[cell]), %%zmm14\n\t"                  \
    GEMM_EACH(GEMM_SCALE_SECOND)                                 \
    GEMM_ADD(GEMM_FUSE, GEMM_FUSE_MEMORY)

/* (magic + dot) - magic, times the product of both scales. */
#define GEMM_EXACT(j, dot, scale)                                                \
    "vsubps %%zmm14, %%" dot ", %%" dot "\n\t"                                   \
    "vmovaps %c[scale]+" scale "(%[cell]), %%zmm15\n\t"                          \
    "vmulps %c[scales_at]+4*" j "(%[block])%{1to16%}, %%zmm15, %%zmm15\n\t"
#define GEMM_PRODUCT(j, first, sum, second, place)                                            \
    GEMM_EXACT(j, first, "0") "vfmadd231ps %%zmm15, %%" first ", %%" sum "\n\t"               \
    GEMM_EXACT(j, second, "64") "vfmadd231ps %%zmm15, %%" second ", %%" place "\n\t"
#define GEMM_PRODUCT_MEMORY(j, first, sum, second, place)                                     \
    GEMM_EXACT(j, first, "0") "vfmadd231ps %%zmm15, %%" first ", %%" sum "\n\t"               \
    GEMM_EXACT(j, second, "64") "vfmadd213ps " place ", %%zmm15, %%" second "\n\t"            \
    "vmovaps %%" second ", " place "\n\t"

#define GEMM_ADD_SCALED "vbroadcastss %[magic], %%zmm14\n\t" GEMM_ADD(GEMM_PRODUCT, GEMM_PRODUCT_MEMORY)

#define GEMM_WHOLE(j, first, sum, second, place)                 \
    "vpaddd %%" first ", %%" sum ", %%" sum "\n\t"               \
    "vpaddd %%" second ", %%" place ", %%" place "\n\t"
#define GEMM_WHOLE_MEMORY(j, first, sum, second, place)          \
    "vpaddd %%" first ", %%" sum ", %%" sum "\n\t"               \
    "vpaddd " place ", %%" second ", %%" second "\n\t"           \
    "vmovdqa32 %%" second ", " place "\n\t"

#define GEMM_ADD_WHOLE GEMM_ADD(GEMM_WHOLE, GEMM_WHOLE_MEMORY)

/* ---- the loop ---- */

#define GEMM_MOVE_SUMS(X)                                        \
    X("(%[sums])", "zmm0")                                       \
    X("(%[sums],%[stride])", "zmm1")                             \
    X("(%[sums],%[stride],2)", "zmm2")                           \
    X("(%[sums],%[three])", "zmm3")                              \
    X("(%[fifth])", "zmm4")                                      \
    X("(%[fifth],%[stride])", "zmm5")                            \
    X("(%[fifth],%[stride],2)", "zmm6")                          \
    X("(%[fifth],%[three])", "zmm7")                             \
    X("64(%[sums])", "zmm8")                                     \
    X("64(%[sums],%[stride])", "zmm9")                           \
    X("64(%[sums],%[stride],2)", "zmm10")                        \
    X("64(%[sums],%[three])", "zmm11")                           \
    X("64(%[fifth])", "zmm12")
#define GEMM_LOAD_SUM(place, sum) "vmovaps " place ", %%" sum "\n\t"
#define GEMM_STORE_SUM(place, sum) "vmovaps %%" sum ", " place "\n\t"

/* The block's place in the next panel is fetched: after a slab the way there is a jump. */
#define GEMM_LOOP(START, ADD)                                    \
    __asm__ volatile(                                            \
        GEMM_MOVE_SUMS(GEMM_LOAD_SUM)                            \
        ".p2align 5\n"                                           \
        "1:\n\t"                                                 \
        "prefetcht0 (%[ahead])\n\t"                              \
        "prefetcht0 64(%[ahead])\n\t"                            \
        "prefetcht0 128(%[ahead])\n\t"                           \
        "prefetcht0 192(%[ahead])\n\t"                           \
        "prefetcht0 256(%[ahead])\n\t"                           \
        START GEMM_DOTS ADD                                      \
        "add %[block_bytes], %[ahead]\n\t"                       \
        "add %[block_bytes], %[block]\n\t"                       \
        "add %[cell_bytes], %[cell]\n\t"                         \
        "add $64, %[start]\n\t"                                  \
        "dec %[count]\n\t"                                       \
        "jnz 1b\n\t"                                             \
        GEMM_MOVE_SUMS(GEMM_STORE_SUM)                           \
        : [cell] "+&r"(cell), [block] "+&r"(block), [ahead] "+&r"(ahead), [start] "+&r"(start), [count] "+&r"(count) \
        : [sums] "r"(rows.start), [fifth] "r"(rows.start + 4 * rows.stride), [stride] "r"(rows.stride), \
          [three] "r"(3 * rows.stride), [magic] "m"(magic), [scale] "i"(offsetof(gemm_cell, scale)),            \
          [base] "i"(offsetof(gemm_cell, base)), [zeros] "i"(offsetof(gemm_cell, zeros)),                       \
          [shifted] "i"(offsetof(gemm_cell, shifted)), [scales_at] "i"(GEMM_SCALES), [sums_at] "i"(GEMM_SUMS),  \
          [block_bytes] "i"(GEMM_BLOCK_BYTES), [cell_bytes] "i"(sizeof(gemm_cell))                              \
        : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11", "zmm12",  \
          "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", "zmm21", "zmm22", "zmm23", "zmm24", \
          "zmm25", "zmm26", "zmm27", "zmm28", "zmm29", "zmm30", "zmm31", "k1", "k2", "cc", "memory")

/* clang-format on */

/* `count` blocks that follow each other, from `cell`, `block` of the panel and `start` on; at least one. */
LINEAR_INLINE void gemm_blocks(const gemm_cell *cell, const uint8_t *block, size_t panel_bytes, const gemm_start *start,
                               uint64_t count, linear_format format, gemm_place rows) {
    uintptr_t ahead = (uintptr_t)block + panel_bytes; /* behind the last panel there is nothing */
    const float magic = GEMM_MAGIC;
    if (format == LINEAR_T2) {
        GEMM_LOOP(GEMM_START_PLAIN, GEMM_ADD_WHOLE);
    } else if (linear_has_codebook(format)) {
        GEMM_LOOP(GEMM_START_SHIFTED, GEMM_ADD_SUB_SCALED);
    } else if (linear_has_sub_scale(format)) {
        GEMM_LOOP(GEMM_START_PLAIN, GEMM_ADD_SUB_SCALED);
    } else if (format == LINEAR_Q4Z) {
        GEMM_LOOP(GEMM_START_ZEROS, GEMM_ADD_SCALED);
    } else {
        GEMM_LOOP(GEMM_START_PLAIN, GEMM_ADD_SCALED);
    }
}

#endif
