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
 * Panels: the int8 activations once more, eight tokens side by side, for kernels that take many tokens (NULL: rows only).
 * Panel p holds tokens 8p to 8p + 7, those from m on zero, at panels + p * panel_bytes; 320 bytes per 32 k:
 *   [quad q 0..7][token 0..7][4 int8: k = 4q + j]  [8 f32 a_scale]  [8 int32 a_sum]
 *
 * Packed layout T16: tile t at weights + t * tile_bytes; a tile is 16 rows over all k; a chunk is 64 bytes:
 *   byte 4 * row + j of a chunk, row 0..15, j 0..3. In words of one block, that is 32 k of a tile:
 *   nibbles    4 chunks: chunk c: low nibble k = 8c + j, high nibble k = 8c + 4 + j
 *   pairs      2 chunks: chunk c: bits 2f, 2f+1 are k = 16c + 4f + j, f 0..3
 *   bits       1 chunk:  bit q is k = 4q + j, q 0..7
 *   triples    3 chunks B0 B1 B2 for the quads v0..v7 (quad q is k = 4q + j):
 *              B0 = v0 | v1 << 3 | (v6 & 3) << 6;  B1 = v2 | v3 << 3 | (v7 & 3) << 6;
 *              B2 = v4 | v5 << 3 | (v6 >> 2) << 6 | (v7 >> 2) << 7
 *
 *   format superblock  head  per superblock, in this order                      code
 *   f16    32 k        -     [16 chunks: f16 number 2 * row + j of a chunk is k = 2c + j]
 *   q8     2 blocks    -     [2 x 16 f16 scales][block: 8 chunks, k = 4c + j]   int8
 *   q6     4 blocks    16f16 [4 x 16 int8][block: nibbles, pairs]               nibble + 16 * pair, zero at 32
 *   c5     4 blocks    16f16 [4 x 16 bytes][block: nibbles, bits]               nibble + 16 * bit, of 32 entries
 *   q4     2 groups    -     [2 x 16 f16 scales][group: blocks of nibbles]      zero at 8
 *   q4z    4 groups    -     [4 x (16 f16 scales, 16 u8 zeros)][group: blocks of nibbles]  minus its zero
 *   c4     4 blocks    16f16 [4 x 16 bytes][block: nibbles]                     of 16 entries
 *   c3     4 blocks    16f16 [4 x 16 bytes][block: triples]                     of 8 entries
 *   c2     4 blocks    16f16 [4 x 16 bytes][block: pairs]                       of 4 entries
 *   t2     2 blocks    16f32 [block: pairs]                                     zero at 1
 *   A head is 64 bytes at the start of a tile: 16 row scales and zero bytes. A group of q4 and q4z is 32, 64 or 128 k.
 *   The byte of (group, row) of c5, c4, c3, c2: bits 7..1 sub-scale s in -64..63, bit 0 shift b:
 *   weight = s * (codebook[code] + b * delta). The int8 of (group, row) of q6 is s itself.
 *   A last superblock may be short: a whole number of groups (t2: blocks), scales padded to 64 bytes.
 *
 *   Layout T16_K8 (q8, q4, c4; for i8mm) differs within a chunk only, r 0..1, j 0..7, i 0..3:
 *   q4, c4  byte 16 * i + 8 * r + j: low nibble row 4i + r, high nibble row 4i + 2 + r, k = 8c + j
 *   q8      a pair of chunks is 8 k: byte 16 * i + 8 * r + j of the first: row 4i + r, of the second: row 4i + 2 + r
 *
 *   Sparse by superblock: tile t at weights + tile_offsets[t]; it starts with u32 count and count rising u16 indices of
 *   the superblocks that are stored, padded to 64 bytes; then its head, then those superblocks. The others are zero.
 *
 * Alignment: weights 64 bytes; a, x, out rows 64 bytes. Reads no byte outside the tiles asked for; prefetch may.
 * Not in place. Writes exactly 16 * (tile_end - tile_begin) floats of each of the m rows of out.
 *
 * Exact, the same bits on every ISA, for any m and any split over tiles (style: memcmp):
 *   q8, q4, q4z: acc = fma((float)dot32, scale * a_scale, acc) for each 32 k in ascending order, dot32 the int32 dot
 *           product of codes (minus their zero) and activations; `scale * a_scale` one f32 product. out = acc.
 *   c5, c4, c3, c2: dot32 = sum codebook * a + b * delta * a_sum; p = (float)(dot32 * s), rounded once to nearest even;
 *           acc = fma(p, a_scale, acc); out = acc * row_scale. q6: the same with dot32 = sum (code - 32) * a.
 *   t2:     total = sum (code - 1) * a over the whole row, int32; out = ((float)total * a_scale[0]) * row_scale.
 *           Here a has one scale per token, at a_scale[0]; a_sum is per 32 k as everywhere.
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
    size_t tile_bytes;            /* dense */
    const uint64_t *tile_offsets; /* sparse: byte offset of each tile, and of the end; NULL: dense */
    uint32_t layout;              /* enum ingot_layout: T16 or T16_K8 */
    uint32_t k;
    uint32_t group; /* k per weight scale: 32, 64 or 128 (q4, q4z), else 32 */
    uint32_t tile_begin;
    uint32_t tile_end;
    const int8_t *codebook; /* 32 entries, those beyond the format's are 0; c5, c4, c3, c2 */
    int32_t delta;          /* the same formats, -127..127 */
    uint32_t m;
    const int8_t *a;
    const float *a_scale;
    const int32_t *a_sum;
    const float *x;
    const uint8_t *panels; /* aligned to 64 bytes; may be NULL */
    size_t panel_bytes;    /* from panel to panel: at least 10 * k, a multiple of 64 */
    size_t a_stride; /* int8 elements */
    size_t s_stride; /* elements of a_scale and a_sum */
    size_t x_stride; /* floats */
    float *out;
    size_t out_stride; /* floats, at least 16 * (tile_end - tile_begin) */
} ingot_linear_args;

typedef void (*ingot_linear_fn)(const ingot_linear_args *args);

#endif
