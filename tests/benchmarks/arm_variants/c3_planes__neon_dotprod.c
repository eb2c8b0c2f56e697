/* SPDX-License-Identifier: Apache-2.0 */
/* Never shipped: the loop of c3 if its codes were a plane of pairs and a plane of bits, for arm_model.py to compare with
 * the triples of linear.h. A block: 2 chunks of pairs, 1 of bits, each as linear.h has them. */
#include "kernels/linear/linear_neon_dotprod.h"

NEON_INLINE int8x16_t look_up_planes(int8x16_t table, uint8x16_t pairs, uint8x16_t bits, int quad) {
    const uint8x16_t pair[4] = {pairs, vshrq_n_u8(pairs, 2), vshrq_n_u8(pairs, 4), vshrq_n_u8(pairs, 6)};
    const uint8x16_t bit[8] = {bits,
                               vshrq_n_u8(bits, 1),
                               vshrq_n_u8(bits, 2),
                               vshrq_n_u8(bits, 3),
                               vshrq_n_u8(bits, 4),
                               vshrq_n_u8(bits, 5),
                               vshrq_n_u8(bits, 6),
                               vshrq_n_u8(bits, 7)};
    const uint8x16_t index = vsliq_n_u8(pair[quad % 4], bit[quad], 2);
    return vqtbl1q_s8(table, vandq_u8(index, vdupq_n_u8(7)));
}

void panel_1(const ingot_linear_args *args, const uint8_t *scales, float32x4_t acc[4]) {
    const neon_tables tables = load_tables(args, C3);
    token_pointers at = point_at(args, 0, 0);
    const uint8_t *codes = scales + CHUNK;
    for (uint32_t left = args->k / BLOCK; left > 0; left--) {
        int32x4_t dot[4];
        start_dots(args->delta, scales, *at.a_sum, C3, &tables, dot);
        uint8x16_t bits[4];
        UNROLL for (int i = 0; i < 4; i++) { bits[i] = vld1q_u8(codes + 2 * CHUNK + 16 * i); }
        UNROLL for (int part = 0; part < 2; part++) {
            const int8x16_t a = vld1q_s8(at.a + 16 * part);
            uint8x16_t pairs[4];
            UNROLL for (int i = 0; i < 4; i++) { pairs[i] = vld1q_u8(codes + CHUNK * part + 16 * i); }
            UNROLL for (int q = 0; q < 4; q++) {
                UNROLL for (int i = 0; i < 4; i++) {
                    dot[i] = dot_quad(dot[i], look_up_planes(tables.first, pairs[i], bits[i], 4 * part + q), a, q);
                }
            }
        }
        add_scaled(scales, dot, *at.a_scale, C3, true, acc);
        at = advance(at, 1);
        scales += 16;
        codes += block_bytes(C3);
    }
}
