/* SPDX-License-Identifier: Apache-2.0 */
/* One state format: how a position is written and a query prepared, how values are read. ATTENTION_FORMAT is an
 * ingot_kv_format; a file of an ISA defines it and includes its int8 header before this. Contract: attention.h. */
#ifndef INGOT_ATTENTION_STATE_H
#define INGOT_ATTENTION_STATE_H

#include <stdbool.h>
#include <string.h>

#include "kernels/attention/attention.h"
#include "kernels/half.h"
#include "kernels/vector/vector.h"

enum {
    BLOCK = INGOT_ATTENTION_BLOCK,
    HALVES = ATTENTION_FORMAT == INGOT_KV_F16,
    ROTATED = ATTENTION_FORMAT == INGOT_KV_K8V4,
    MOST_D = 1024
};

/* Bytes of n values. */
static inline size_t value_bytes(size_t n) {
    return ATTENTION_FORMAT == INGOT_KV_F16 ? 2 * n : (ATTENTION_FORMAT == INGOT_KV_KV8 ? n : n / 2);
}

/* Sixteen values from element i on; scales are not applied. */
static inline v16 load_values(const uint8_t *values, size_t i) {
#if ATTENTION_FORMAT == 1
    return v16_load_half((const uint16_t *)(const void *)values + i);
#elif ATTENTION_FORMAT == 2
    return v16_load_int8((const int8_t *)values + i);
#else
    return v16_load_int4(values + i / 2);
#endif
}

static inline const uint16_t *value_scales(const uint8_t *values, uint32_t d_padded) {
    return (const uint16_t *)(const void *)(values + value_bytes((size_t)BLOCK * d_padded));
}

#if ATTENTION_FORMAT == 1

static void append(uint8_t *keys, uint8_t *values, uint32_t d, uint32_t d_padded, uint32_t slot, const float *k,
                   const float *v) {
    uint16_t *column = (uint16_t *)(void *)keys + (size_t)(slot / 16) * d * 16 + slot % 16;
    uint16_t *row = (uint16_t *)(void *)values + (size_t)slot * d_padded;
    for (uint32_t i = 0; i < d_padded; i += 16) {
        float padded[16] = {0};
        uint16_t key[16];
        const uint32_t count = d - i < 16 ? d - i : 16;
        memcpy(padded, v + i, count * sizeof(float));
        v16_store_half(row + i, v16_load(padded));
        memcpy(padded, k + i, count * sizeof(float));
        v16_store_half(key, v16_load(padded));
        for (uint32_t j = 0; j < count; j++) {
            column[(size_t)(i + j) * 16] = key[j];
        }
    }
}

#else

/* Largest magnitude of a row padded to d_padded; a NaN is no candidate. */
static float largest_of(const float *x, uint32_t d_padded) {
    v16 best = v16_zero();
    for (uint32_t i = 0; i < d_padded; i += 16) {
        best = v16_max(v16_absolute(v16_load(x + i)), best);
    }
    return v16_largest(best);
}

/* round(x * inverse) within +-limit, to nearest even; returns the sum of the codes. */
static int32_t round_row(const float *x, uint32_t d_padded, float inverse, float limit, int8_t *codes) {
    const v16 factor = v16_set(inverse), high = v16_set(limit), low = v16_set(-limit);
    int32_t sum = 0;
    for (uint32_t i = 0; i < d_padded; i += 16) {
        sum += v16_store_int8(codes + i, v16_clamp(v16_mul(v16_load(x + i), factor), low, high));
    }
    return sum;
}

/* Copies d floats behind which the padding is zero, rotated where the format wants it. */
static void copy_row(const float *x, uint32_t d, uint32_t d_padded, float *row) {
    memcpy(row, x, d * sizeof(float));
    memset(row + d, 0, (d_padded - d) * sizeof(float));
}

/* In place times the Hadamard matrix of order d, a power of two, without its 1 / sqrt(d). */
static void rotate_row(float *row, uint32_t d) {
    for (uint32_t half = 1; half < d; half *= 2) {
        for (uint32_t first = 0; first < d; first += 2 * half) {
            for (uint32_t i = first; i < first + half; i++) {
                const float a = row[i], b = row[i + half];
                row[i] = a + b;
                row[i + half] = a - b;
            }
        }
    }
}

/* Codes of a row of the state and the scale they belong to, which is a float16. */
static uint16_t quantize_state(const float *row, uint32_t d_padded, float limit, int8_t *codes) {
    const uint16_t half = ingot_float_to_half(largest_of(row, d_padded) / limit);
    const float scale = ingot_half_to_float(half);
    (void)round_row(row, d_padded, scale > 0.0f ? 1.0f / scale : 0.0f, limit, codes);
    return half;
}

static void store_value_codes(uint8_t *values, uint32_t d_padded, uint32_t slot, const int8_t *codes) {
    uint8_t *row = values + value_bytes((size_t)slot * d_padded);
    if (ATTENTION_FORMAT == INGOT_KV_KV8) {
        memcpy(row, codes, d_padded);
        return;
    }
    for (uint32_t i = 0; i < d_padded / 2; i++) { /* byte i % 8 of 16 d */
        const uint32_t low = i / 8 * 16 + i % 8;
        row[i] = (uint8_t)((codes[low] + 8) | (codes[low + 8] + 8) << 4);
    }
}

static void append(uint8_t *keys, uint8_t *values, uint32_t d, uint32_t d_padded, uint32_t slot, const float *k,
                   const float *v) {
    float row[MOST_D];
    int8_t codes[MOST_D];
    uint16_t *key_scales = (uint16_t *)(void *)(keys + (size_t)BLOCK * d_padded);
    copy_row(k, d, d_padded, row);
    if (ROTATED) {
        rotate_row(row, d);
    }
    key_scales[slot] = quantize_state(row, d_padded, 127.0f, codes);
    int8_t *column = (int8_t *)keys + (size_t)(slot / 16) * d_padded * 16 + slot % 16 * 4;
    for (uint32_t i = 0; i < d_padded; i += 4) {
        memcpy(column + (size_t)i * 16, codes + i, 4);
    }
    copy_row(v, d, d_padded, row);
    uint16_t *scales = (uint16_t *)(void *)(values + value_bytes((size_t)BLOCK * d_padded));
    scales[slot] = quantize_state(row, d_padded, ATTENTION_FORMAT == INGOT_KV_KV8 ? 127.0f : 7.0f, codes);
    store_value_codes(values, d_padded, slot, codes);
}

/* Query codes with `*factor`, which is what an integer score is multiplied with beside the key's scale. */
static int32_t quantize_query(const float *q, uint32_t d, uint32_t d_padded, float scale, float *row, int8_t *codes,
                              float *factor) {
    copy_row(q, d, d_padded, row);
    if (ROTATED) { /* the product of two unscaled rotations is d times too large */
        rotate_row(row, d);
        scale /= (float)d;
    }
    const float largest = largest_of(row, d_padded);
    *factor = largest >= 1e-30f ? largest / 127.0f * scale : 0.0f;
    return round_row(row, d_padded, largest >= 1e-30f ? 127.0f / largest : 0.0f, 127.0f, codes);
}

#endif

#endif
