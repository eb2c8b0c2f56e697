/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `linear`.
 *
 * Computes, for tokens i in [0, m) and rows r of tiles [tile_begin, tile_end), r = 16 * tile + lane:
 *   out[i][r - 16 * tile_begin] = sum over j of W[r][j] * x[i][j]
 *
 * Shapes: a (m, k) int8, a_scale (m, k / 32) f32, a_sum (m, k / 32) int32 (the sum of each 32 int8), x (m, k) f32
 * (read by f16 kernels only, the others read a); out (m, out_stride) f32. k is a multiple of 32.
 * Row i of a, a_scale, a_sum, x starts at i * {a_stride, s_stride, s_stride, x_stride} elements.
 *
 * Packed layout T16: tile t at weights + t * tile_bytes; a tile is 16 rows over all k; a chunk is 64 bytes:
 *   byte 4 * row + j of a chunk, row 0..15, j 0..3.
 *   q8  superblock 64 k:  [2 groups x 16 f16 scales][16 chunks: k = 4c + j]                      (32 k a group)
 *   q4  superblock 2 g k: [2 groups x 16 f16 scales][chunks: low nibble k = 8c + j, high k = 8c + 4 + j]
 *                         code - 8; group g is 32, 64 or 128 k
 *   c4  tile head 64 B: 16 f16 row scales, 32 zero bytes; then
 *       superblock 128 k: [4 groups x 16 bytes][16 chunks as q4]; code indexes codebook (int8 x 16);
 *       the byte of (group, row): bits 7..1 sub-scale s in -64..63, bit 0 shift b: weight = s * (codebook[code] + b * delta)
 *   f16 superblock 32 k:  [16 chunks: f16 number 2 * row + j of a chunk is k = 2c + j]
 *   A last superblock may be short: a whole number of groups, scales padded to 64 bytes.
 *
 * Alignment: weights 64 bytes; a, x, out rows 64 bytes. Reads no byte outside the tiles asked for; prefetch may.
 * Not in place. Writes exactly 16 * (tile_end - tile_begin) floats of each of the m rows of out.
 *
 * Exact, the same bits on every ISA, for any m and any split over tiles (style: memcmp):
 *   q8, q4: acc = fma((float)dot32, scale * a_scale, acc) for each 32 k in ascending order, dot32 the int32 dot product
 *           of codes (minus 8 for q4) and activations; `scale * a_scale` one f32 product. out = acc.
 *   c4:     dot32 = sum codebook * a + b * delta * a_sum; p = (float)(dot32 * s), rounded once to nearest even;
 *           acc = fma(p, a_scale, acc); out = acc * row_scale.
 *   f16:    acc = fma(W, x, acc) for each k in ascending order. out = acc.
 *   acc starts at +0.
 *
 * Thread-safe: no state. Split work by tiles, any step. Source: our own (kernel study of this project). */
#ifndef INGOT_KERNELS_LINEAR_H
#define INGOT_KERNELS_LINEAR_H

#include <stddef.h>
#include <stdint.h>

typedef struct ingot_linear_args {
    const uint8_t *weights; /* tile 0 */
    size_t tile_bytes;
    uint32_t k;
    uint32_t group; /* k per weight scale: 32, 64 or 128 (q4); 32 (q8, c4) */
    uint32_t tile_begin;
    uint32_t tile_end;
    const int8_t *codebook; /* 16 entries, c4 only */
    int32_t delta;          /* c4 only, -127..127 */
    uint32_t m;
    const int8_t *a;
    const float *a_scale;
    const int32_t *a_sum;
    const float *x;
    size_t a_stride; /* int8 elements */
    size_t s_stride; /* elements of a_scale and a_sum */
    size_t x_stride; /* floats */
    float *out;
    size_t out_stride; /* floats, at least 16 * (tile_end - tile_begin) */
} ingot_linear_args;

typedef void (*ingot_linear_fn)(const ingot_linear_args *args);

#endif
