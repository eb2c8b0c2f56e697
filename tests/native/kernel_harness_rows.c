/* SPDX-License-Identifier: Apache-2.0 */
/* The suite of the row kernels, of each level against the reference set: attention (kernel_harness_attention.c),
 * quantize, rms_norm, gate. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ingot.h"
#include "kernel_harness_rows.h"
#include "kernels/cpu.h"

enum { FAMILIES = 9, CASES = 240, QUICK_CASES = 60 };

guarded random_floats(rng *r, size_t count, float largest, size_t alignment) {
    guarded g = guarded_create(count * sizeof(float), alignment, rng_below(r, 2));
    for (size_t i = 0; i < count; i++) floats(&g)[i] = rng_uniform(r, -largest, largest);
    return g;
}

/* 1 to about 300, half of them next to a multiple of `step`: where registers and blocks end. */
uint32_t random_count(rng *r, uint32_t step) {
    if (rng_below(r, 2)) return 1 + rng_below(r, 300);
    const uint32_t edge = step * (1 + rng_below(r, 300 / step));
    return edge - 1 + rng_below(r, 3);
}

float random_size(rng *r) {
    static const float sizes[] = {0.0f, 1e-38f, 1e-31f, 1e-3f, 1.0f, 1e4f, 1e18f};
    return sizes[rng_below(r, sizeof sizes / sizeof *sizes)];
}

static void call_quantize(const row_case *c, const ingot_row_kernels *set, const guarded *out) {
    set->quantize(floats(&c->in[0]), c->n, c->padded, (int8_t *)out[0].data, floats(&out[1]),
                  (int32_t *)(void *)out[2].data);
}

/* Ties: with a largest value of 127 the factor is 1 and every other value is a half. */
static void fill_ties(rng *r, const guarded *g, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) floats(g)[i] = (float)rng_below(r, 253) - 126.0f + 0.5f;
    for (uint32_t i = 0; i < count; i += 32) floats(g)[i] = rng_below(r, 2) ? 127.0f : -127.0f;
}

void fill_no_numbers(rng *r, const guarded *g, uint32_t count) {
    for (uint32_t i = 0; i < count; i += 1 + rng_below(r, 40)) floats(g)[i] = rng_below(r, 4) ? NAN : -INFINITY;
}

static row_case quantize_case(rng *r) {
    row_case c = {.call = call_quantize, .n = random_count(r, 32)};
    c.padded = (c.n + 127) / 128 * 128;
    c.in[0] = random_floats(r, c.n, random_size(r), 4);
    if (rng_below(r, 2)) fill_ties(r, &c.in[0], c.n);
    if (rng_below(r, 4) == 0) fill_no_numbers(r, &c.in[0], c.n);
    const size_t groups = c.padded / 32;
    memcpy(c.out_bytes, (size_t[]){c.padded, groups * sizeof(float), groups * sizeof(int32_t)}, sizeof c.out_bytes);
    snprintf(c.shape, sizeof c.shape, "k %u of %u", c.n, c.padded);
    return c;
}

static void call_rms_norm(const row_case *c, const ingot_row_kernels *set, const guarded *out) {
    set->rms_norm(floats(&c->in[0]), floats(&c->in[1]), c->n, c->number, floats(&out[0]));
}

static row_case rms_norm_case(rng *r) {
    row_case c = {.call = call_rms_norm, .n = random_count(r, 16), .number = 1e-6f};
    const float size = random_size(r);
    c.in[0] = random_floats(r, c.n, size, 4);
    c.in[1] = random_floats(r, c.n, 2.0f, 4);
    c.out_bytes[0] = c.n * sizeof(float);
    snprintf(c.shape, sizeof c.shape, "n %u, up to %g", c.n, (double)size);
    return c;
}

static void call_gate(const row_case *c, const ingot_row_kernels *set, const guarded *out) {
    const float *up = c->in[1].data != NULL ? floats(&c->in[1]) : NULL;
    set->gate((ingot_activation_kind)c->option, floats(&c->in[0]), up, floats(&out[0]));
}

static row_case gate_case(rng *r) {
    row_case c = {.call = call_gate, .option = 1 + rng_below(r, 3)};
    static const float sizes[] = {0.0f, 0.1f, 3.0f, 30.0f, 200.0f};
    c.in[0] = random_floats(r, 16, sizes[rng_below(r, 5)], 4);
    if (rng_below(r, 2)) c.in[1] = random_floats(r, 16, 2.0f, 4);
    c.out_bytes[0] = 16 * sizeof(float);
    snprintf(c.shape, sizeof c.shape, "activation %u, %s up", c.option, c.in[1].data != NULL ? "with" : "without");
    return c;
}

typedef struct call_arguments {
    const row_case *c;
    const ingot_row_kernels *set;
    const guarded *out;
} call_arguments;

static void call_family(const void *argument) {
    const call_arguments *call = argument;
    call->c->call(call->c, call->set, call->out);
}

static const char *run_set(const row_case *c, const ingot_row_kernels *set, bool at_end, guarded *out) {
    for (int i = 0; i < MOST_OUTPUTS; i++) {
        if (c->out_bytes[i] == 0) continue;
        out[i] = guarded_create(c->out_bytes[i], 64, at_end);
        memset(out[i].data, 0x5a, out[i].size);
    }
    const call_arguments call = {c, set, out};
    const char *failure = guarded_call(call_family, &call);
    for (int i = 0; i < MOST_OUTPUTS && failure == NULL; i++) {
        if (c->out_bytes[i] != 0 && !guarded_intact(&out[i])) failure = "write outside of an output";
    }
    return failure;
}

static void release(guarded *all, int count) {
    for (int i = 0; i < count; i++) {
        if (all[i].data != NULL) guarded_destroy(&all[i]);
    }
}

/* NULL if set does what the reference does. Destroys the case. */
static const char *judge(rng *r, row_case *c, const ingot_row_kernels *set) {
    const ingot_row_kernels reference = ingot_row_kernels_of(INGOT_ISA_REF);
    guarded expected[MOST_OUTPUTS] = {{0}}, out[MOST_OUTPUTS] = {{0}};
    const bool at_end = rng_below(r, 2);
    for (int i = 0; i < MOST_INPUTS; i++) {
        if (c->in[i].data != NULL) guarded_read_only(&c->in[i]);
    }
    const char *failure = run_set(c, &reference, at_end, expected);
    if (failure == NULL) failure = run_set(c, set, at_end, out);
    for (int i = 0; i < MOST_OUTPUTS && failure == NULL; i++) {
        if (c->out_bytes[i] != 0 && memcmp(out[i].data, expected[i].data, out[i].size) != 0) {
            failure = "an output differs from the reference";
        }
    }
    release(expected, MOST_OUTPUTS);
    release(out, MOST_OUTPUTS);
    release(c->in, MOST_INPUTS);
    return failure;
}

static const struct {
    const char *name;
    row_case (*make)(rng *r);
} families[FAMILIES] = {
    {"attention_f16_f32", attention_f16_case},
    {"attention_kv8_f32", attention_kv8_case},
    {"attention_k8v4_f32", attention_k8v4_case},
    {"append_f16_f32", append_f16_case},
    {"append_kv8_f32", append_kv8_case},
    {"append_k8v4_f32", append_k8v4_case},
    {"quantize_f32_a8", quantize_case},
    {"rms_norm_f32_f32", rms_norm_case},
    {"gate_f32_f32", gate_case},
};

/* Runs the cases of a family, writes the first failure. */
static void check_family(harness *h, uint32_t family, const ingot_row_kernels *set, uint32_t cases, char *failure,
                         size_t size) {
    failure[0] = '\0';
    for (uint32_t i = 0; i < cases; i++) {
        row_case c = families[family].make(&h->random);
        const char *found = judge(&h->random, &c, set);
        if (found != NULL && failure[0] == '\0') snprintf(failure, size, "%s: %s", found, c.shape);
    }
}

static void check(harness *h) {
    for (uint32_t bit = 0; bit < 32; bit++) {
        const uint32_t isa = ingot_cpu_mask() & (uint32_t)1 << bit;
        const ingot_row_kernels set = ingot_row_kernels_of(isa);
        for (uint32_t f = 0; f < FAMILIES && isa != 0 && set.isa == isa; f++) {
            char name[64], failure[200];
            snprintf(name, sizeof name, "%s__%s", families[f].name, ingot_isa_name(isa));
            if (!harness_wants(h, name)) continue;
            const uint32_t cases = h->quick ? QUICK_CASES : CASES;
            check_family(h, f, &set, cases, failure, sizeof failure);
            harness_report(h, name, isa, cases, failure[0] != '\0' ? failure : NULL);
        }
    }
}

static uint32_t self_test(harness *h) {
    uint32_t missed = 0;
    for (uint32_t i = 0; i < broken_row_kernel_count; i++) {
        const broken_row_kernel *b = &broken_row_kernels[i];
        char failure[200];
        check_family(h, b->family, &b->set, CASES, failure, sizeof failure);
        const bool sound = b->fault[0] == '(', flagged = failure[0] != '\0';
        missed += flagged == sound;
        printf("  %-44s %s %s\n", b->fault, flagged == sound ? "WRONG" : "OK", flagged ? failure : "not flagged");
    }
    return missed;
}

const suite rows_suite = {"rows", check, NULL, self_test};
