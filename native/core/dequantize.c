/* SPDX-License-Identifier: Apache-2.0 */
#include "core/dequantize.h"

#include <string.h>

#include "core/layout.h"
#include "kernels/half.h"

/* A row of a tile while it is read superblock by superblock; layouts in kernels/linear/linear.h. */
typedef struct row_reader {
    const uint8_t *next; /* superblock */
    uint32_t lane;       /* row of the tile, 0..15 */
    uint32_t k;
    float *out;
} row_reader;

static float half_at(const uint8_t *bytes, uint32_t index) {
    uint16_t half;
    memcpy(&half, bytes + 2 * (size_t)index, sizeof half);
    return ingot_half_to_float(half);
}

static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t padded(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

/* 4-bit code at position i of a superblock: chunk i / 8, low nibble for the first quad of 4 k. */
static uint32_t nibble_at(const uint8_t *chunks, uint32_t lane, uint32_t i) {
    uint8_t byte = chunks[64 * (size_t)(i / 8) + 4 * lane + i % 4];
    return i % 8 < 4 ? byte & 15u : byte >> 4;
}

static void read_f16(row_reader *reader) {
    for (uint32_t i = 0; i < reader->k; i++) {
        reader->out[i] = half_at(reader->next + 64 * (size_t)(i / 2), 2 * reader->lane + i % 2);
    }
}

static void read_q8(row_reader *reader) {
    uint32_t total = padded(reader->k, 32);
    for (uint32_t start = 0; start < total; start += 64) {
        uint32_t count = smaller(64, total - start);
        for (uint32_t i = 0; i < count && start + i < reader->k; i++) {
            float scale = half_at(reader->next, 16 * (i / 32) + reader->lane);
            int8_t code = (int8_t)reader->next[64 + 64 * (size_t)(i / 4) + 4 * reader->lane + i % 4];
            reader->out[start + i] = (float)code * scale;
        }
        reader->next += 64 + 16 * (size_t)count;
    }
}

static void read_q4(row_reader *reader, uint32_t group) {
    uint32_t total = padded(reader->k, group);
    for (uint32_t start = 0; start < total; start += 2 * group) {
        uint32_t count = smaller(2 * group, total - start);
        for (uint32_t i = 0; i < count && start + i < reader->k; i++) {
            float scale = half_at(reader->next, 16 * (i / group) + reader->lane);
            int32_t code = (int32_t)nibble_at(reader->next + 64, reader->lane, i) - 8;
            reader->out[start + i] = (float)code * scale;
        }
        reader->next += 64 + 8 * (size_t)count;
    }
}

static void read_c4(row_reader *reader, const ingot_tensor_record *record) {
    float row_scale = half_at(reader->next, reader->lane);
    uint32_t total = padded(reader->k, 32);
    reader->next += 64;
    for (uint32_t start = 0; start < total; start += 128) {
        uint32_t count = smaller(128, total - start);
        for (uint32_t i = 0; i < count && start + i < reader->k; i++) {
            int32_t meta = (int8_t)reader->next[16 * (i / 32) + reader->lane];
            int32_t shift = meta & 1, scale = (meta - shift) / 2;
            int32_t level = record->codebook[nibble_at(reader->next + 64, reader->lane, i)] + shift * record->delta;
            reader->out[start + i] = (float)(scale * level) * row_scale;
        }
        reader->next += 64 + 8 * (size_t)count;
    }
}

void ingot_row_dequantize(const ingot_tensor_record *record, const uint8_t *data, uint64_t row, float *out) {
    uint64_t k = record->rank > 1 ? record->shape[1] : record->shape[0];
    if (record->layout == INGOT_LAYOUT_PLAIN) {
        memcpy(out, data + row * k * sizeof(float), k * sizeof(float));
        return;
    }
    uint64_t tile_bytes = ingot_tile_bytes(record->dtype, k, record->group);
    row_reader reader = {data + row / 16 * tile_bytes, (uint32_t)(row % 16), (uint32_t)k, out};
    switch (record->dtype) {
        case INGOT_DTYPE_Q8: read_q8(&reader); break;
        case INGOT_DTYPE_Q4: read_q4(&reader, record->group); break;
        case INGOT_DTYPE_C4: read_c4(&reader, record); break;
        default: read_f16(&reader); break;
    }
}
