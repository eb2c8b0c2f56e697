/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the row kernels' suite share. */
#ifndef INGOT_KERNEL_HARNESS_ROWS_H
#define INGOT_KERNEL_HARNESS_ROWS_H

#include "kernel_harness.h"

enum { MOST_INPUTS = 4, MOST_OUTPUTS = 3 };

/* One call: its inputs between guard pages, the sizes of its outputs, how to make it. */
typedef struct row_case {
    void (*call)(const struct row_case *c, const ingot_row_kernels *set, const guarded *out);
    guarded in[MOST_INPUTS];
    size_t out_bytes[MOST_OUTPUTS];
    uint32_t n, padded, option; /* of the op */
    float number;
    uint32_t format; /* ingot_kv_format */
    ingot_attention_args attention;
    char shape[160];
} row_case;

static inline float *floats(const guarded *g) { return (float *)(void *)g->data; }

guarded random_floats(rng *r, size_t count, float largest, size_t alignment);
/* 1 to about 300, half of them next to a multiple of `step`: where registers and blocks end. */
uint32_t random_count(rng *r, uint32_t step);
float random_size(rng *r);
void fill_no_numbers(rng *r, const guarded *g, uint32_t count);

row_case attention_f16_case(rng *r);
row_case attention_kv8_case(rng *r);
row_case attention_k8v4_case(rng *r);
row_case append_f16_case(rng *r);
row_case append_kv8_case(rng *r);
row_case append_k8v4_case(rng *r);

#endif
