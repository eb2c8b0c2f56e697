/* SPDX-License-Identifier: Apache-2.0 */
#include "core/dequantize.h"

#include <string.h>

#include "core/layout.h"
#include "kernels/half.h"

/* A row of a tile while it is read; layouts in kernels/linear/linear.h. */
typedef struct row_reader {
    const ingot_tensor_record *record;
    ingot_tile_geometry geometry;
    const uint8_t *head;
    uint32_t lane; /* row of the tile, 0..15 */
} row_reader;

static float half_at(const uint8_t *bytes, uint32_t index) {
    uint16_t half;
    memcpy(&half, bytes + 2 * (size_t)index, sizeof half);
    return ingot_half_to_float(half);
}

/* A field of `bits` bits at position i, 0..31, of a block; a byte holds 8 / bits quads. */
static uint32_t plane_at(const uint8_t *chunks, uint32_t lane, uint32_t i, uint32_t bits) {
    const uint32_t count = 8 / bits, quad = i / 4;
    const uint8_t byte = chunks[64 * (size_t)(quad / count) + 4 * lane + i % 4];
    return (uint32_t)byte >> bits * (quad % count) & ((1u << bits) - 1);
}

static uint32_t triple_at(const uint8_t *chunks, uint32_t lane, uint32_t i) {
    const uint32_t quad = i / 4, place = 4 * lane + i % 4;
    if (quad < 6) {
        return (uint32_t)chunks[64 * (size_t)(quad / 2) + place] >> 3 * (quad % 2) & 7u;
    }
    return (uint32_t)chunks[64 * (size_t)(quad - 6) + place] >> 6 | ((uint32_t)chunks[128 + place] >> quad & 1u) << 2;
}

/* Layout T16_K8: 2 rows x 8 k in 16 bytes; the other two rows of four in the high nibble, or (q8) the next chunk. */
static uint32_t k8_at(const uint8_t *chunks, uint32_t lane, uint32_t i, bool bytes) {
    const uint32_t half = lane % 4 / 2, place = 16 * (lane / 4) + 8 * (lane % 2) + i % 8;
    if (bytes) {
        return chunks[128 * (size_t)(i / 8) + 64 * half + place];
    }
    return (uint32_t)chunks[64 * (size_t)(i / 8) + place] >> 4 * half & 15u;
}

/* The code at position i of a block of 32 k; q8's is the byte. */
static uint32_t code_at(const row_reader *reader, const uint8_t *chunks, uint32_t i) {
    const uint32_t lane = reader->lane, dtype = reader->record->dtype;
    if (reader->record->layout == INGOT_LAYOUT_T16_K8) {
        return k8_at(chunks, lane, i, dtype == INGOT_DTYPE_Q8);
    }
    switch (dtype) {
        case INGOT_DTYPE_Q8: return chunks[64 * (size_t)(i / 4) + 4 * lane + i % 4];
        case INGOT_DTYPE_Q6: return plane_at(chunks, lane, i, 4) | plane_at(chunks + 256, lane, i, 2) << 4;
        case INGOT_DTYPE_C5: return plane_at(chunks, lane, i, 4) | plane_at(chunks + 256, lane, i, 1) << 4;
        case INGOT_DTYPE_C3: return triple_at(chunks, lane, i);
        case INGOT_DTYPE_C2:
        case INGOT_DTYPE_T2: return plane_at(chunks, lane, i, 2);
        default: return plane_at(chunks, lane, i, 4);
    }
}

/* Scale and offset of one group: a weight is (float)((value(code) + offset) * whole) * scale. */
typedef struct group_scale {
    float scale;
    int32_t offset;
    int32_t whole;
} group_scale;

static group_scale read_scale(const row_reader *reader, const uint8_t *meta) {
    const uint32_t lane = reader->lane;
    switch (reader->record->dtype) {
        case INGOT_DTYPE_Q8: return (group_scale){half_at(meta, lane), 0, 1};
        case INGOT_DTYPE_Q4: return (group_scale){half_at(meta, lane), -8, 1};
        case INGOT_DTYPE_Q4Z: return (group_scale){half_at(meta, lane), -(int32_t)meta[32 + lane], 1};
        case INGOT_DTYPE_Q6: return (group_scale){half_at(reader->head, lane), -32, (int8_t)meta[lane]};
        case INGOT_DTYPE_T2: {
            group_scale found = {0.0f, -1, 1};
            memcpy(&found.scale, reader->head + 4 * (size_t)lane, sizeof found.scale);
            return found;
        }
        default: {
            const int32_t byte = (int8_t)meta[lane], shift = byte & 1;
            return (group_scale){half_at(reader->head, lane), shift * reader->record->delta, (byte - shift) / 2};
        }
    }
}

static int32_t value_of(const row_reader *reader, uint32_t code) {
    if (reader->record->dtype == INGOT_DTYPE_Q8) {
        return (int8_t)code;
    }
    return ingot_codebook_entries(reader->record->dtype) != 0 ? reader->record->codebook[code] : (int32_t)code;
}

static uint32_t smaller(uint64_t a, uint64_t b) { return (uint32_t)(a < b ? a : b); }

/* The groups of a superblock that starts at element `start`; writes to out, whose row has k elements. */
static void read_superblock(const row_reader *reader, const uint8_t *superblock, uint64_t start, uint64_t k,
                            float *out) {
    const ingot_tile_geometry *g = &reader->geometry;
    const uint32_t groups = smaller(g->groups, (k - start + g->group - 1) / g->group);
    const uint8_t *codes = superblock + ingot_round_up(groups * g->meta, INGOT_CHUNK_BYTES);
    for (uint64_t i = 0; i < groups * g->group && start + i < k; i++) {
        const uint8_t *chunks = codes + i / 32 * (g->codes * 32 / g->group);
        if (reader->record->dtype == INGOT_DTYPE_F16) {
            out[start + i] = half_at(chunks + 64 * (i % 32 / 2), 2 * reader->lane + (uint32_t)(i % 2));
            continue;
        }
        const group_scale scale = read_scale(reader, superblock + i / g->group * g->meta);
        const int32_t value = value_of(reader, code_at(reader, chunks, (uint32_t)(i % 32))) + scale.offset;
        out[start + i] = (float)(value * scale.whole) * scale.scale;
    }
}

static void read_dense(row_reader *reader, const uint8_t *tile, uint64_t k, float *out) {
    const ingot_tile_geometry *g = &reader->geometry;
    const uint64_t bytes = ingot_superblock_bytes(g, g->groups), length = g->group * g->groups;
    reader->head = tile;
    for (uint64_t start = 0; start < k; start += length) {
        read_superblock(reader, tile + g->head + start / length * bytes, start, k, out);
    }
}

/* Tiles of a sparse weight differ in size, so that the way to one goes over all before it. */
static void read_sparse(row_reader *reader, const uint8_t *data, uint64_t tile, uint64_t k, float *out) {
    const ingot_tile_geometry *g = &reader->geometry;
    const uint64_t length = g->group * g->groups, groups = (k + g->group - 1) / g->group;
    const uint64_t rest = groups % g->groups, last = groups / g->groups, whole = ingot_superblock_bytes(g, g->groups);
    for (uint64_t t = 0;; t++) {
        uint32_t count;
        memcpy(&count, data, sizeof count);
        const uint8_t *list = data + sizeof count;
        data += ingot_round_up(sizeof count + 2 * (uint64_t)count, INGOT_CHUNK_BYTES);
        reader->head = data;
        data += g->head;
        for (uint32_t i = 0; i < count; i++) {
            uint16_t index;
            memcpy(&index, list + 2 * (size_t)i, sizeof index);
            if (t == tile) {
                read_superblock(reader, data, index * length, k, out);
            }
            data += index == last && rest != 0 ? ingot_superblock_bytes(g, rest) : whole;
        }
        if (t == tile) {
            return;
        }
    }
}

void ingot_row_dequantize(const ingot_tensor_record *record, const uint8_t *data, uint64_t row, float *out) {
    uint64_t k = record->rank > 1 ? record->shape[1] : record->shape[0];
    if (record->layout == INGOT_LAYOUT_PLAIN) {
        memcpy(out, data + row * k * sizeof(float), k * sizeof(float));
        return;
    }
    row_reader reader = {record, ingot_geometry_of(record->dtype, record->group), data,
                         (uint32_t)(row % INGOT_TILE_ROWS)};
    if (record->sparsity == INGOT_SPARSITY_SUPERBLOCK) {
        memset(out, 0, k * sizeof(float));
        read_sparse(&reader, data, row / INGOT_TILE_ROWS, k, out);
        return;
    }
    uint64_t tile_bytes = ingot_tile_bytes(record->dtype, k, record->group);
    read_dense(&reader, data + row / INGOT_TILE_ROWS * tile_bytes, k, out);
}
