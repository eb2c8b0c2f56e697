/* SPDX-License-Identifier: Apache-2.0 */
/* Cases of attention and of its append. The levels but the reference run a split case run by run and merge it, so that
 * equal bytes mean equal for any split as well. */
#include <stdio.h>
#include <string.h>

#include "ingot.h"
#include "kernel_harness_rows.h"

enum { BLOCK = INGOT_ATTENTION_BLOCK, INFINITE = 0x7c00 };

static size_t key_bytes(const row_case *c) { return ingot_attention_key_bytes(c->format, c->n, c->padded); }
static size_t value_bytes(const row_case *c) { return ingot_attention_value_bytes(c->format, c->padded); }

/* Magnitudes 2^-10 to 2^2. */
static void fill_halves(rng *r, uint8_t *bytes, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const uint16_t half = (uint16_t)(rng_below(r, 2) << 15 | (5 + rng_below(r, 13)) << 10 | rng_below(r, 1024));
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
}

/* Codes but -128, then the 64 scales. */
static void fill_codes(rng *r, uint8_t *bytes, size_t size) {
    const size_t codes = size - 2 * BLOCK;
    for (size_t i = 0; i < codes; i++) {
        bytes[i] = (uint8_t)rng_below(r, 256);
        bytes[i] = bytes[i] == 0x80 ? 0x7f : bytes[i];
    }
    fill_halves(r, bytes + codes, BLOCK);
}

static guarded random_blocks(rng *r, const row_case *c, uint32_t blocks) {
    const size_t keys = key_bytes(c), values = value_bytes(c);
    guarded g = guarded_create(blocks * (keys + values), 64, rng_below(r, 2));
    for (uint32_t i = 0; i < blocks; i++) {
        uint8_t *block = g.data + i * (keys + values);
        if (c->format == INGOT_KV_F16) {
            fill_halves(r, block, (keys + values) / 2);
        } else {
            fill_codes(r, block, keys);
            fill_codes(r, block + keys, values);
        }
    }
    return g;
}

/* Makes the values of a position infinite: those who do not see it may not notice. */
static void poison(const row_case *c, uint32_t position) {
    const uint16_t half = INFINITE;
    uint8_t *values = c->attention.blocks[position / BLOCK] + c->attention.values;
    const size_t first = c->format == INGOT_KV_F16 ? (size_t)(position % BLOCK) * c->padded : 0;
    if (c->format != INGOT_KV_F16) {
        memcpy(values + value_bytes(c) - 2 * BLOCK + 2 * (position % BLOCK), &half, sizeof half);
        return;
    }
    for (uint32_t i = 0; i < c->n; i++) memcpy(values + 2 * (first + i), &half, sizeof half);
}

/* The table in any order; NULL where the window of no token reaches, so that a look there is a fault. */
static guarded random_table(rng *r, const row_case *c, uint32_t blocks) {
    const ingot_attention_args *a = &c->attention;
    guarded g = guarded_create(blocks * sizeof(uint8_t *), 64, rng_below(r, 2));
    uint8_t **table = (uint8_t **)(void *)g.data;
    const uint32_t turn = rng_below(r, blocks);
    for (uint32_t i = 0; i < blocks; i++) {
        const bool seen = a->window == 0 || (i + 1) * BLOCK + a->window > a->first_last + 1 || i * BLOCK < a->sinks;
        table[i] = seen ? c->in[0].data + (i + turn) % blocks * (key_bytes(c) + value_bytes(c)) : NULL;
    }
    return g;
}

static void attend_split(const ingot_attention_kernels *kernels, ingot_attention_args args, float *partials) {
    const uint32_t runs = args.run_end;
    for (uint32_t run = runs; run-- > 0;) { /* in any order */
        args.run_begin = run;
        args.run_end = run + 1;
        args.partials = partials + (size_t)run * args.rows * ingot_attention_state(args.head_padded);
        kernels->attend(&args);
    }
    args.run_begin = 0;
    args.run_end = runs;
    args.partials = partials;
    kernels->merge(&args);
}

static void call_attention(const row_case *c, const ingot_row_kernels *set, const guarded *out) {
    ingot_attention_args args = c->attention;
    args.out = floats(&out[0]);
    args.scratch = floats(&out[1]);
    const ingot_attention_kernels *kernels = &set->attention[c->format - 1];
    if (c->option != 0 && set->isa != INGOT_ISA_REF) {
        attend_split(kernels, args, floats(&out[2]));
    } else {
        kernels->attend(&args);
    }
    memset(out[1].data, 0, out[1].size); /* what is left in the scratch is free */
    memset(out[2].data, 0, out[2].size);
}

static void describe(row_case *c, uint32_t tokens) {
    const ingot_attention_args *a = &c->attention;
    snprintf(c->shape, sizeof c->shape, "d %u, %u tokens x %u heads, first sees %u, window %u, sinks %u%s", c->n,
             tokens, a->group, a->first_last + 1, a->window, a->sinks, c->option != 0 ? ", split" : "");
}

static void random_window(rng *r, ingot_attention_args *a) {
    if (rng_below(r, 3) != 0) return;
    a->window = 1 + rng_below(r, a->first_last + 8);
    a->sinks = rng_below(r, 2) ? 0 : rng_below(r, 70);
}

/* Who is poisoned: the last position, which only the last token sees, and one that the window has just left. */
static void poison_some(rng *r, const row_case *c, uint32_t last) {
    const ingot_attention_args *a = &c->attention;
    if (rng_below(r, 4) == 0) poison(c, last);
    if (a->window == 0 || a->first_last < a->window) return;
    const uint32_t left = a->first_last - a->window;
    if (left >= a->sinks && a->blocks[left / BLOCK] != NULL) poison(c, left);
}

static row_case attention_case(rng *r, uint32_t format) {
    static const uint32_t head_sizes[] = {8, 16, 32, 64, 128, 24, 48, 80}, groups[] = {1, 2, 3, 4, 7, 9, 70};
    row_case c = {.call = call_attention, .format = format, .option = rng_below(r, 2)};
    c.n = head_sizes[rng_below(r, format == INGOT_KV_K8V4 ? 5 : 8)];
    c.padded = (c.n + 15) / 16 * 16;
    const uint32_t tokens = 1 + rng_below(r, rng_below(r, 4) ? 4 : 20), group = groups[rng_below(r, 7)];
    const uint32_t before = random_count(r, 64) - 1 + 256 * rng_below(r, 2), blocks = (before + tokens - 1) / BLOCK + 1;
    ingot_attention_args *a = &c.attention;
    *a = (ingot_attention_args){.values = key_bytes(&c), .head_size = c.n, .head_padded = c.padded, .scale = 0.125f};
    a->rows = tokens * group;
    a->group = group;
    a->first_last = before;
    a->q_stride = group * c.n + rng_below(r, 3) * 16;
    a->out_stride = group * c.n + rng_below(r, 3) * 16;
    a->run_end = (before + tokens - 1) / INGOT_ATTENTION_RUN + 1;
    random_window(r, a);
    c.in[0] = random_blocks(r, &c, blocks);
    c.in[1] = random_table(r, &c, blocks);
    a->blocks = (uint8_t *const *)(void *)c.in[1].data;
    poison_some(r, &c, before + tokens - 1);
    c.in[2] = random_floats(r, (tokens - 1) * a->q_stride + group * c.n, rng_below(r, 4) ? 0.1f : 4.0f, 4);
    a->q = floats(&c.in[2]);
    c.out_bytes[0] = ((tokens - 1) * a->out_stride + group * c.n) * sizeof(float);
    c.out_bytes[1] = ingot_attention_scratch(c.padded) * sizeof(float);
    c.out_bytes[2] = a->run_end * a->rows * ingot_attention_state(c.padded) * sizeof(float);
    describe(&c, tokens);
    return c;
}

row_case attention_f16_case(rng *r) { return attention_case(r, INGOT_KV_F16); }
row_case attention_kv8_case(rng *r) { return attention_case(r, INGOT_KV_KV8); }
row_case attention_k8v4_case(rng *r) { return attention_case(r, INGOT_KV_K8V4); }

static void call_append(const row_case *c, const ingot_row_kernels *set, const guarded *out) {
    set->attention[c->format - 1].append(out[0].data, out[1].data, c->n, c->padded, c->option, floats(&c->in[0]),
                                         floats(&c->in[1]));
}

static row_case append_case(rng *r, uint32_t format) {
    row_case c = {.call = call_append, .format = format, .option = rng_below(r, BLOCK)};
    c.n = format == INGOT_KV_K8V4 ? 8u << rng_below(r, 6) : 1 + rng_below(r, 260);
    c.padded = (c.n + 15) / 16 * 16;
    for (uint32_t i = 0; i < 2; i++) {
        c.in[i] = random_floats(r, c.n, random_size(r), 4);
        if (format != INGOT_KV_F16 && rng_below(r, 4) == 0) fill_no_numbers(r, &c.in[i], c.n);
    }
    c.out_bytes[0] = key_bytes(&c);
    c.out_bytes[1] = value_bytes(&c);
    snprintf(c.shape, sizeof c.shape, "d %u, slot %u", c.n, c.option);
    return c;
}

row_case append_f16_case(rng *r) { return append_case(r, INGOT_KV_F16); }
row_case append_kv8_case(rng *r) { return append_case(r, INGOT_KV_KV8); }
row_case append_k8v4_case(rng *r) { return append_case(r, INGOT_KV_K8V4); }
