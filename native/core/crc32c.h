/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_CRC32C_H
#define INGOT_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/** CRC32C (Castagnoli) of the bytes, going on from the value of the bytes before them (0 at first). */
uint32_t ingot_crc32c(uint32_t before, const uint8_t *data, size_t size);

#endif
