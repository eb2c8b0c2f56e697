/* SPDX-License-Identifier: Apache-2.0 */
#include "core/crc32c.h"

/* Bit by bit: it covers a header and a table of at most 4 KiB. */
uint32_t ingot_crc32c(uint32_t before, const uint8_t *data, size_t size) {
    uint32_t value = ~before;
    for (size_t i = 0; i < size; i++) {
        value ^= data[i];
        for (int bit = 0; bit < 8; bit++) {
            value = (value >> 1) ^ ((value & 1) != 0 ? 0x82F63B78u : 0);
        }
    }
    return ~value;
}
