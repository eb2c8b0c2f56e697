/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/attention/attention.h"
#include "kernels/half.h"

void ingot_attention_append(uint16_t *keys, uint16_t *values, uint32_t head_size, uint32_t head_padded,
                            uint32_t position, const float *k, const float *v) {
    uint16_t *column = keys + (size_t)(position / 16) * head_size * 16 + position % 16;
    uint16_t *row = values + (size_t)position * head_padded;
    for (uint32_t i = 0; i < head_size; i++) {
        column[(size_t)i * 16] = ingot_float_to_half(k[i]);
        row[i] = ingot_float_to_half(v[i]);
    }
}
