/* SPDX-License-Identifier: Apache-2.0 */
/* Never shipped: t2 by table lookup for cores without dot products, for arm_model.py to compare with the products.
 *
 * For each byte j of a row's quad and each nibble, a table of 16 sums of two activations times -1, 0, 1. The sums must be
 * exact, so that a table is a plane of low and a plane of high bytes. The making of the tables is not counted. */
#include <arm_neon.h>
#include <stdint.h>

void panel_1(const uint8_t *codes, const uint8_t *tables, uint32_t chunks, uint16_t *low_sums, int8_t *high_sums) {
    uint16x8_t low[2] = {vld1q_u16(low_sums), vld1q_u16(low_sums + 8)};
    int8x16_t high = vld1q_s8(high_sums);
    for (; chunks > 0; chunks--, codes += 64, tables += 256) {
        const uint8x16x4_t rows = vld4q_u8(codes); /* byte j of 16 rows in register j */
        for (int j = 0; j < 4; j++) {
            const uint8x16_t index[2] = {vandq_u8(rows.val[j], vdupq_n_u8(15)), vshrq_n_u8(rows.val[j], 4)};
            for (int n = 0; n < 2; n++) {
                const uint8_t *table = tables + 64 * j + 32 * n;
                const uint8x16_t sum = vqtbl1q_u8(vld1q_u8(table), index[n]);
                low[0] = vaddw_u8(low[0], vget_low_u8(sum));
                low[1] = vaddw_high_u8(low[1], sum);
                high = vaddq_s8(high, vreinterpretq_s8_u8(vqtbl1q_u8(vld1q_u8(table + 16), index[n])));
            }
        }
    }
    vst1q_u16(low_sums, low[0]);
    vst1q_u16(low_sums + 8, low[1]);
    vst1q_s8(high_sums, high);
}
