/* SPDX-License-Identifier: Apache-2.0 */
/* int8 beside v16: exact dot products of 16 positions by 4 d, and codes as floats.
 *
 * int8_<isa>.h gives DOT_COLUMNS (vectors of positions of a register tile) and
 *   dot16, dot_start, dot_add(sum, key, query), dot_float: sums per position, `sum_of_query` is the sum of all codes of
 *   the query; key_load takes 64 bytes (16 positions, 4 d), query_load 4 bytes; no code is -128;
 *   v16_load_int8: 16 codes; v16_load_int4: 16 codes of 4 bits with 8 added, d i and d i + 8 in byte i. */
#ifndef INGOT_INT8_REF_H
#define INGOT_INT8_REF_H

#include <stdint.h>

#include "kernels/vector/vector_ref.h"

#define DOT_COLUMNS 1

typedef struct dot16 {
    int32_t lane[16];
} dot16;
typedef const int8_t *dot_key;
typedef const int8_t *dot_query;

static inline dot16 dot_start(int32_t sum_of_query) {
    (void)sum_of_query;
    return (dot16){{0}};
}
static inline dot_key key_load(const int8_t *p) { return p; }
static inline dot_query query_load(const int8_t *p) { return p; }
static inline dot16 dot_add(dot16 sum, dot_key key, dot_query query) {
    for (int i = 0; i < 64; i++) {
        sum.lane[i / 4] += key[i] * query[i % 4];
    }
    return sum;
}
static inline v16 dot_float(dot16 sum) { V16_LANES((float)sum.lane[i]); }
static inline v16 v16_load_int8(const int8_t *p) { V16_LANES((float)p[i]); }
static inline v16 v16_load_int4(const uint8_t *p) { V16_LANES((float)((i < 8 ? p[i] & 15 : p[i - 8] >> 4) - 8)); }

#endif
