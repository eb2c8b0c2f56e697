/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `attention`: rows of queries of one KV head against its state.
 *
 * A row r is one query head of one token; it sees positions 0 .. last[r]:
 *   out[r] = sum over p of softmax_p(scale * q[r] . K[p]) V[p]
 * Online softmax over blocks of 64 positions that start at multiples of 64, merged in ascending order, so that the
 * result does not depend on how the tokens were cut into calls or spread over threads.
 *
 * State of one KV head, float16: keys (capacity / 16, d, 16): 16 positions side by side; values (capacity, d_padded).
 *   capacity is a multiple of 64, d_padded = d rounded up to 16, its padding zero.
 * Shapes: q[r] (d) f32; out[r] (d) f32; scratch (rows of a register tile) * (64 + d_padded + 16) f32, 64-byte aligned.
 * Exact: products are fused multiply-adds in ascending d (scores) and ascending position (sums); the denominator in 16
 * lanes and the fixed tree: the same bits on every ISA. Positions behind last[r] take no part, whatever
 * stands there.
 * Thread-safe; split by KV head and by row. Source: Dao 2023 (arXiv:2307.08691), layout our own. */
#ifndef INGOT_KERNELS_ATTENTION_H
#define INGOT_KERNELS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#define INGOT_ATTENTION_BLOCK 64u
#define INGOT_ATTENTION_MAX_TILE 4u /* rows of the largest register tile */

typedef struct ingot_attention_args {
    const uint16_t *keys;
    const uint16_t *values;
    uint32_t head_size;   /* d */
    uint32_t head_padded; /* d rounded up to 16 */
    float scale;
    uint32_t rows;
    uint32_t group;      /* query heads per KV head: rows of one token */
    uint32_t first_last; /* `last` of the first token; each token's is one more */
    const float *q;      /* row r of token t = r / group at q + t * q_stride + (r % group) * d */
    size_t q_stride;     /* floats */
    float *out;
    size_t out_stride;
    float *scratch;
} ingot_attention_args;

typedef void (*ingot_attention_fn)(const ingot_attention_args *args);

/** Appends k and v (head_size floats) of one KV head at a position, rounded to nearest even. */
void ingot_attention_append(uint16_t *keys, uint16_t *values, uint32_t head_size, uint32_t head_padded,
                            uint32_t position, const float *k, const float *v);

#endif
