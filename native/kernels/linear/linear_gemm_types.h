/* SPDX-License-Identifier: Apache-2.0 */
/* Many tokens on x86: what linear_gemm_slabs.h and the loops of an ISA agree on. */
#ifndef INGOT_KERNELS_LINEAR_GEMM_TYPES_H
#define INGOT_KERNELS_LINEAR_GEMM_TYPES_H

#include <stddef.h>

#include "kernels/linear/linear_x86.h"
#include "kernels/quantize/quantize.h"

enum {
    GEMM_TOKENS = INGOT_PANEL_TOKENS,
    GEMM_SLAB_BLOCKS = 16,                    /* the longest superblock */
    GEMM_SCALES = LINEAR_BLOCK * GEMM_TOKENS, /* bytes to the scales of a panel's block, and to the sums of its a */
    GEMM_SUMS = GEMM_SCALES + 4 * GEMM_TOKENS,
    GEMM_BLOCK_BYTES = INGOT_PANEL_BLOCK_BYTES,
    GEMM_BITS_OF_MAGIC = 0x4b400000
};
#define GEMM_MAGIC 12582912.0f

/* Where the dot products of a block start: without and with the shift bit; of q4z, before zeros are taken off. */
typedef struct gemm_start {
    int32_t plain[GEMM_TOKENS];
    int32_t shifted[GEMM_TOKENS];
} gemm_start;

/* Where the sums of eight tokens are: rows of floats (of t2: of int32), one `stride` bytes behind the other. */
typedef struct gemm_place {
    uint8_t *start;
    size_t stride;
} gemm_place;

#endif
