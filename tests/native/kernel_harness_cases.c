/* SPDX-License-Identifier: Apache-2.0 */
/* One call of a linear kernel: shapes, data, comparison. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingot.h"
#include "ingot_format.h"
#include "kernel_harness.h"

/* A finite f16. Exponents of weights and scales stay in a range that keeps sums far from overflow. */
static uint16_t random_half(rng *r, linear_data data) {
    static const uint16_t special[] = {0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x3c00};
    if (data == DATA_SCALES) return special[rng_below(r, sizeof special / sizeof *special)];
    if (data == DATA_ZERO) return 0;
    const uint32_t exponent = data == DATA_EXTREME ? 15 : 5 + rng_below(r, 14);
    return (uint16_t)(rng_below(r, 2) << 15 | exponent << 10 | rng_below(r, 1024));
}

static float random_scale(rng *r, linear_data data) {
    static const float special[] = {0.0f, 1e-45f, 1e-40f, 1.17549435e-38f, 1e-10f, 1.0f, 1e25f};
    if (data == DATA_SCALES) return special[rng_below(r, sizeof special / sizeof *special)];
    return rng_uniform(r, 1e-4f, 1e-2f);
}

static void fill_halves(rng *r, uint8_t *bytes, size_t count, linear_data data) {
    for (size_t i = 0; i < count; i++) {
        const uint16_t half = random_half(r, data);
        memcpy(bytes + 2 * i, &half, sizeof half);
    }
}

/* Scales of one superblock: f16 (q4z: and random zeros), or bytes, which an extreme tile has at the ends of their range. */
static void fill_scales(rng *r, const linear_shape *s, const linear_geometry *g, uint8_t *scales, uint8_t extreme) {
    for (uint32_t i = 0; i < g->groups && g->scales >= 32; i++) fill_halves(r, scales + i * g->scales, 16, s->data);
    if (s->data == DATA_EXTREME && linear_has_codebook_entries(s->dtype)) { /* sub-scale -64 or 63, shifted */
        memset(scales, extreme & 1 ? 0x7f : 0x81, 64);
    }
}

static void fill_head(rng *r, const linear_shape *s, uint8_t *head) {
    if (s->dtype != INGOT_DTYPE_T2) {
        fill_halves(r, head, 16, s->data);
        return;
    }
    for (uint32_t row = 0; row < 16; row++) {
        const float scale = random_scale(r, s->data);
        memcpy(head + 4 * row, &scale, sizeof scale);
    }
}

/* `extreme` is the byte that all codes of an extreme tile repeat. */
static void fill_tile(rng *r, const linear_shape *s, uint8_t *tile, size_t tile_bytes, uint8_t extreme) {
    const linear_geometry *g = linear_geometries;
    while (g->dtype != s->dtype) g++;
    for (size_t i = 0; i < tile_bytes; i++) {
        tile[i] = s->data == DATA_EXTREME ? extreme : s->data == DATA_ZERO ? 0 : (uint8_t)rng_next(r);
    }
    if (s->dtype == INGOT_DTYPE_F16) fill_halves(r, tile, tile_bytes / 2, s->data);
    if (g->head != 0) fill_head(r, s, tile);
    const uint32_t depth = g->groups * (s->group > 32 ? s->group : 32);
    const size_t superblock = linear_tile_size(s->dtype, depth, s->group) - g->head;
    if (g->scales == 0) return;
    for (size_t at = g->head; at < tile_bytes; at += superblock) fill_scales(r, s, g, tile + at, extreme);
}

static bool keeps(uint32_t superblock, uint32_t of, void *argument) {
    const struct {
        linear_list list;
        rng *r;
    } *choice = argument;
    switch (choice->list) {
        case LIST_NONE: return false;
        case LIST_EVEN: return superblock % 2 == 0;
        case LIST_LAST: return superblock == of - 1;
        case LIST_RANDOM: return rng_below(choice->r, 2) != 0;
        default: return true;
    }
}

/* The tiles of a dense array in their stored form; offsets are from one 64-byte line per skipped tile before it. */
static void store_tiles(linear_case *c, rng *r, const uint8_t *dense, size_t tile_bytes) {
    const linear_shape *s = &c->shape;
    const uint32_t tiles = s->tile_end - s->tile_begin;
    uint8_t *stored = malloc(tiles * (tile_bytes + 64 + 2 * (s->k / 32 + 32)));
    uint64_t at = 0;
    c->offsets = guarded_create((tiles + 1) * sizeof at, 8, rng_below(r, 2));
    for (uint32_t t = 0; t <= tiles; t++) {
        const uint64_t offset = at + 64 * (uint64_t)s->tile_begin;
        memcpy(c->offsets.data + t * sizeof at, &offset, sizeof at);
        if (t == tiles) break;
        struct {
            linear_list list;
            rng *r;
        } choice = {s->list, r};
        at += linear_tile_thin(s, dense + t * tile_bytes, keeps, &choice, stored + at);
    }
    c->weights = guarded_create(at, 64, rng_below(r, 2));
    memcpy(c->weights.data, stored, at);
    free(stored);
}

static void fill_weights(linear_case *c, rng *r, size_t tile_bytes) {
    static const uint8_t extremes[] = {0x80, 0x7f, 0x00, 0xff, 0x81, 0x0f, 0xf0};
    const linear_shape *s = &c->shape;
    const uint32_t tiles = s->tile_end - s->tile_begin;
    const uint8_t extreme = extremes[rng_below(r, sizeof extremes)];
    guarded dense = guarded_create(tiles * tile_bytes, 64, rng_below(r, 2));
    for (uint32_t t = 0; t < tiles; t++) fill_tile(r, s, dense.data + t * tile_bytes, tile_bytes, extreme);
    c->codebook = guarded_create(32, 1, rng_below(r, 2));
    for (uint32_t i = 0; i < 32; i++) {
        c->codebook.data[i] = s->data == DATA_EXTREME ? (uint8_t)(extreme & 1 ? 0x7f : 0x80) : (uint8_t)rng_next(r);
    }
    if (s->list == LIST_DENSE) {
        c->weights = dense;
        return;
    }
    store_tiles(c, r, dense.data, tile_bytes);
    guarded_destroy(&dense);
}

static int8_t random_activation(rng *r, linear_data data, int32_t sign) {
    if (data == DATA_ZERO) return 0;
    if (data == DATA_EXTREME) return (int8_t)(127 * sign);
    return (int8_t)((int32_t)rng_below(r, 255) - 127);
}

static void fill_activations(linear_case *c, rng *r) {
    const linear_shape *s = &c->shape;
    ingot_linear_args *args = &c->args;
    const size_t blocks = s->k / 32;
    args->a_stride = (s->k + 63) / 64 * 64 + 64 * (size_t)rng_below(r, 3);
    args->s_stride = blocks + rng_below(r, 3);
    args->x_stride = s->k + 16 * (size_t)rng_below(r, 3);
    c->a = guarded_create((s->m - 1) * args->a_stride + s->k, 64, rng_below(r, 2));
    c->a_scale = guarded_create(((s->m - 1) * args->s_stride + blocks) * sizeof(float), 4, rng_below(r, 2));
    c->a_sum = guarded_create(((s->m - 1) * args->s_stride + blocks) * sizeof(int32_t), 4, rng_below(r, 2));
    c->x = guarded_create(((s->m - 1) * args->x_stride + s->k) * sizeof(float), 64, rng_below(r, 2));
    for (size_t i = 0; i < s->m; i++) {
        const int32_t sign = rng_below(r, 2) ? 1 : -1;
        for (size_t b = 0; b < blocks; b++) {
            int8_t *a = (int8_t *)c->a.data + i * args->a_stride + 32 * b;
            int32_t sum = 0;
            for (size_t j = 0; j < 32; j++) sum += a[j] = random_activation(r, s->data, sign);
            ((float *)(void *)c->a_scale.data)[i * args->s_stride + b] = random_scale(r, s->data);
            ((int32_t *)(void *)c->a_sum.data)[i * args->s_stride + b] = sum;
        }
        float *x = (float *)(void *)c->x.data + i * args->x_stride;
        for (size_t j = 0; j < s->k; j++) {
            x[j] = s->data == DATA_SCALES ? random_scale(r, s->data) * (float)sign : rng_uniform(r, -4.0f, 4.0f);
        }
    }
}

/* The panels of linear.h, written out again: a second opinion. Half of the cases go without. */
static void fill_panels(linear_case *c, rng *r) {
    const uint32_t m = c->shape.m, blocks = c->shape.k / 32;
    ingot_linear_args *args = &c->args;
    args->panel_bytes = 320 * (size_t)(blocks + rng_below(r, 3));
    c->panels = guarded_create((m - 1) / 8 * args->panel_bytes + 320 * (size_t)blocks, 64, rng_below(r, 2));
    memset(c->panels.data, 0, c->panels.size);
    for (size_t i = 0; i < m; i++) {
        for (size_t b = 0; b < blocks; b++) {
            uint8_t *block = c->panels.data + i / 8 * args->panel_bytes + 320 * b;
            for (size_t j = 0; j < 32; j++) {
                block[32 * (j / 4) + 4 * (i % 8) + j % 4] = c->a.data[i * args->a_stride + 32 * b + j];
            }
            memcpy(block + 256 + 4 * (i % 8), c->a_scale.data + 4 * (i * args->s_stride + b), 4);
            memcpy(block + 288 + 4 * (i % 8), c->a_sum.data + 4 * (i * args->s_stride + b), 4);
        }
    }
    args->panels = c->shape.dtype != INGOT_DTYPE_F16 && rng_below(r, 2) ? c->panels.data : NULL;
}

/* Inputs that the format does not take stay NULL: a kernel that reads them is found. */
static void set_arguments(linear_case *c, size_t tile_bytes) {
    const linear_shape *s = &c->shape;
    ingot_linear_args *args = &c->args;
    args->weights = c->weights.data - (size_t)s->tile_begin * (s->list == LIST_DENSE ? tile_bytes : 64);
    args->tile_bytes = s->list == LIST_DENSE ? tile_bytes : 0;
    if (s->list != LIST_DENSE) args->tile_offsets = (const uint64_t *)(const void *)c->offsets.data - s->tile_begin;
    args->layout = s->layout;
    args->k = s->k;
    args->group = s->group;
    args->tile_begin = s->tile_begin;
    args->tile_end = s->tile_end;
    args->m = s->m;
    if (linear_has_codebook_entries(s->dtype)) args->codebook = (const int8_t *)c->codebook.data;
    if (s->dtype == INGOT_DTYPE_F16) {
        args->x = (const float *)(const void *)c->x.data;
    } else {
        args->a = (const int8_t *)c->a.data;
        args->a_scale = (const float *)(const void *)c->a_scale.data;
        args->a_sum = (const int32_t *)(const void *)c->a_sum.data;
    }
}

static ingot_linear_fn reference(uint32_t dtype) {
    const ingot_kernel *kernel;
    for (uint32_t i = 0; (kernel = ingot_kernel_at(i)) != NULL; i++) {
        if (kernel->op == INGOT_KERNEL_OP_linear && kernel->dtype == dtype && kernel->isa == INGOT_ISA_REF) {
            return (ingot_linear_fn)kernel->run;
        }
    }
    return NULL;
}

static void call_kernel(const void *argument) {
    const struct {
        ingot_linear_fn run;
        const ingot_linear_args *args;
    } *call = argument;
    call->run(call->args);
}

static const char *run_into(linear_case *c, ingot_linear_fn kernel, guarded *out) {
    ingot_linear_args args = c->args;
    args.out = (float *)(void *)out->data;
    memset(out->data, 0x5a, out->size);
    const struct {
        ingot_linear_fn run;
        const ingot_linear_args *args;
    } call = {kernel, &args};
    return guarded_call(call_kernel, &call);
}

linear_case linear_case_create(rng *r, linear_shape shape) {
    linear_case c = {.shape = shape};
    const size_t tile_bytes = linear_tile_size(shape.dtype, shape.k, shape.group);
    const size_t width = 16 * (size_t)(shape.tile_end - shape.tile_begin);
    fill_weights(&c, r, tile_bytes);
    fill_activations(&c, r);
    fill_panels(&c, r);
    set_arguments(&c, tile_bytes);
    c.args.delta = shape.data == DATA_EXTREME ? (rng_below(r, 2) ? 127 : -127) : (int32_t)rng_below(r, 255) - 127;
    c.args.out_stride = width + 16 * (size_t)rng_below(r, 3);
    const size_t size = ((shape.m - 1) * c.args.out_stride + width) * sizeof(float);
    const bool at_end = rng_below(r, 2);
    c.out = guarded_create(size, 64, at_end);
    c.expected = guarded_create(size, 64, at_end);
    const guarded *inputs[] = {&c.weights, &c.a, &c.a_scale, &c.a_sum, &c.x, &c.codebook, &c.panels};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) guarded_read_only(inputs[i]);
    if (shape.list != LIST_DENSE) guarded_read_only(&c.offsets);
    const char *failure = run_into(&c, reference(shape.dtype), &c.expected);
    if (failure != NULL || !guarded_intact(&c.expected)) {
        fprintf(stderr, "the reference itself fails: %s\n", failure != NULL ? failure : "write outside of out");
        exit(2);
    }
    return c;
}

void linear_case_destroy(linear_case *c) {
    if (c->offsets.mapping != NULL) guarded_destroy(&c->offsets);
    guarded *all[] = {&c->weights,  &c->a,      &c->a_scale, &c->a_sum,   &c->x,
                      &c->codebook, &c->panels, &c->out,     &c->expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guarded_destroy(all[i]);
}

const char *linear_case_run(linear_case *c, ingot_linear_fn kernel) {
    const char *failure = run_into(c, kernel, &c->out);
    if (failure != NULL) return failure;
    if (!guarded_intact(&c->out)) return "write outside of out";
    return memcmp(c->out.data, c->expected.data, c->out.size) == 0 ? NULL : "out differs from the reference";
}
