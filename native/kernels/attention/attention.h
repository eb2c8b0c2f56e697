/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `attention`: rows of queries of one KV head against its state.
 *
 * A row r is one query head of one token; it sees the positions p <= last[r] that a window of the newest `window`
 * positions (0: all) or the first `sinks` positions hold:
 *   out[r] = sum over p of softmax_p(scale * q[r] . K[p]) V[p]
 * Online softmax over blocks of 64 positions, restarted every 256 positions (a run); the runs' results are merged in
 * ascending order. Blocks and runs start at multiples of their length, so that the result depends neither on how the
 * tokens were cut into calls nor on how rows and runs were spread over threads.
 *
 * State: a table of blocks of 64 positions; a block holds all layers and KV heads of them. One KV head in it, 64-byte
 * aligned, d_padded = d rounded up to 16, all padding zero:
 *   f16   keys    4 x (d, 16) float16: 16 positions side by side       values  (64, d_padded) float16
 *   kv8   keys    4 x (d_padded / 4, 16, 4) int8, then 64 float16 scales: 4 d of 16 positions side by side
 *         values  (64, d_padded) int8, then 64 float16 scales
 *   k8v4  keys    as kv8, of k rotated by the Hadamard matrix of order d (a power of two)
 *         values  (64, d_padded / 2): byte i of 16 d is d i + 8, d i + 8 + 8 in its upper half; then 64 scales
 * An int8 is round(x / s), s = largest / 127 (largest / 7 for 4 bits) rounded to float16.
 * Shapes: q[r] (d) f32; out[r] (d) f32; scratch ingot_attention_scratch() floats, 64-byte aligned.
 * Arithmetic: f16 scores are fused multiply-adds in ascending d. The others quantize q to int8 with one scale per head
 * and are exact integer sums, then one product with both scales. The value sums are fused multiply-adds in ascending
 * position, weights times scales first; the denominator in 16 lanes and the fixed tree. The same bits on every ISA.
 * Positions that a row does not see take no part, whatever stands there; blocks that no row sees are not touched.
 * Thread-safe; split by KV head, by row and by run. Source: Dao 2023 (arXiv:2307.08691); Dao et al. 2023,
 * "Flash-Decoding" for the runs; layout our own. */
#ifndef INGOT_KERNELS_ATTENTION_H
#define INGOT_KERNELS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "ingot.h"

#define INGOT_ATTENTION_BLOCK 64u
#define INGOT_ATTENTION_RUN 256u
#define INGOT_ATTENTION_SLAB 64u    /* rows that walk over the state together */
#define INGOT_ATTENTION_MAX_TILE 4u /* rows of the largest register tile */
#define INGOT_KV_FORMATS 3u         /* f16, kv8, k8v4: ingot_kv_format - 1 */

typedef struct ingot_attention_args {
    uint8_t *const *blocks; /* of 64 positions each; read only where a row sees one */
    size_t keys;            /* bytes from the start of a block to this head's keys */
    size_t values;
    uint32_t head_size;   /* d */
    uint32_t head_padded; /* d rounded up to 16 */
    float scale;
    uint32_t window, sinks; /* positions; window 0: none */
    uint32_t rows;
    uint32_t group;      /* query heads per KV head: rows of one token */
    uint32_t first_last; /* `last` of the first token; each token's is one more */
    const float *q;      /* row r of token t = r / group at q + t * q_stride + (r % group) * d */
    size_t q_stride;     /* floats */
    float *out;
    size_t out_stride;
    uint32_t run_begin, run_end; /* of 256 positions */
    float *partials;             /* (run_end - run_begin, rows, ingot_attention_state()) or NULL */
    float *scratch;
} ingot_attention_args;

typedef void (*ingot_attention_fn)(const ingot_attention_args *args);
/* Writes k and v (d floats) of one KV head as position `slot` of a block. */
typedef void (*ingot_attention_append_fn)(uint8_t *keys, uint8_t *values, uint32_t head_size, uint32_t head_padded,
                                          uint32_t slot, const float *k, const float *v);

/* The functions of one state format on one ISA. `attend` with partials writes one result per run there, and `merge`
 * makes out of them; without, it does all runs and writes out. */
typedef struct ingot_attention_kernels {
    ingot_attention_fn attend;
    ingot_attention_fn merge;
    ingot_attention_append_fn append;
} ingot_attention_kernels;

/** Floats of one row's result of one run: its largest score, 16 lanes of the denominator, the sums. */
static inline size_t ingot_attention_state(uint32_t head_padded) { return 32 + (size_t)head_padded; }

/** Floats of scratch: two results per row, weights of a tile, values as float32, queries as int8 with their factors. */
static inline size_t ingot_attention_scratch(uint32_t head_padded) {
    return 2 * INGOT_ATTENTION_SLAB * ingot_attention_state(head_padded) +
           INGOT_ATTENTION_MAX_TILE * (size_t)INGOT_ATTENTION_BLOCK + INGOT_ATTENTION_BLOCK * (size_t)head_padded +
           INGOT_ATTENTION_SLAB * (head_padded / 4 + 2u) + head_padded;
}

/** Bytes of one KV head's keys or values in a block. */
static inline size_t ingot_attention_key_bytes(uint32_t format, uint32_t head_size, uint32_t head_padded) {
    const size_t scales = INGOT_ATTENTION_BLOCK * sizeof(uint16_t);
    return format == INGOT_KV_F16 ? INGOT_ATTENTION_BLOCK * sizeof(uint16_t) * head_size
                                  : INGOT_ATTENTION_BLOCK * (size_t)head_padded + scales;
}
static inline size_t ingot_attention_value_bytes(uint32_t format, uint32_t head_padded) {
    const size_t elements = INGOT_ATTENTION_BLOCK * (size_t)head_padded;
    const size_t scales = INGOT_ATTENTION_BLOCK * sizeof(uint16_t);
    return format == INGOT_KV_F16 ? 2 * elements : (format == INGOT_KV_KV8 ? elements : elements / 2) + scales;
}

#endif
