/* SPDX-License-Identifier: Apache-2.0 */
/* The suite of `linear`: which shapes and data every kernel meets. */
#include <stdio.h>

#include "ingot.h"
#include "ingot_format.h"
#include "kernel_harness.h"

enum { MOST_KERNELS = 64 };

/* Multiples of 32 around one, two and four blocks, primes of blocks, a long one. */
static const uint32_t depths[] = {32, 64, 96, 128, 160, 192, 224, 256, 288, 352, 416, 544, 576, 896, 1024, 1056};
static const uint32_t token_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 33, 128};
static const uint32_t tile_counts[] = {1, 2, 3, 5};
enum {
    DEPTHS = sizeof depths / sizeof *depths,
    TOKENS = sizeof token_counts / sizeof *token_counts,
    TILES = sizeof tile_counts / sizeof *tile_counts,
};

/* A kernel under test: its name, how it did so far. */
typedef struct candidate {
    const char *name;
    uint32_t isa;
    ingot_linear_fn run;
    uint32_t cases;
    char failure[200];
} candidate;

static linear_shape choose_shape(rng *r, uint32_t dtype, uint32_t index) {
    static const uint32_t groups[] = {32, 64, 128};
    linear_shape s = {.dtype = dtype, .k = depths[index / TOKENS], .m = token_counts[index % TOKENS], .group = 32};
    if (dtype == INGOT_DTYPE_F16) s.group = 0;
    if (linear_has_groups(dtype)) s.group = groups[rng_below(r, 3)];
    const bool has_k8 = dtype == INGOT_DTYPE_Q8 || dtype == INGOT_DTYPE_Q4 || dtype == INGOT_DTYPE_C4;
    s.layout = has_k8 && rng_below(r, 3) == 0 ? INGOT_LAYOUT_T16_K8 : INGOT_LAYOUT_T16;
    s.list = rng_below(r, 2) ? LIST_DENSE : (linear_list)rng_below(r, LIST_COUNT);
    if (s.m == 128 && s.k > 256) s.k = 32 * (1 + rng_below(r, 8));
    s.tile_begin = rng_below(r, 2) * rng_below(r, 8);
    s.tile_end = s.tile_begin + tile_counts[rng_below(r, TILES)];
    s.data = rng_below(r, 2) ? DATA_RANDOM : (linear_data)rng_below(r, DATA_COUNT);
    return s;
}

static void run_candidates(rng *r, linear_shape s, candidate *candidates, uint32_t count) {
    static const char *const data_names[] = {"random", "extreme", "zero", "special scales"};
    static const char *const list_names[] = {"dense", "all listed", "none", "every other", "the last", "random list"};
    linear_case c = linear_case_create(r, s);
    for (uint32_t i = 0; i < count; i++) {
        candidate *k = &candidates[i];
        const char *failure = linear_case_run(&c, k->run);
        k->cases++;
        if (failure == NULL || k->failure[0] != '\0') continue;
        snprintf(k->failure, sizeof k->failure, "%s: k %u, group %u, layout %u, m %u, tiles %u to %u, %s, %s data",
                 failure, s.k, s.group, s.layout, s.m, s.tile_begin, s.tile_end, list_names[s.list],
                 data_names[s.data]);
    }
    linear_case_destroy(&c);
}

/* Every k with every m, then the overflow-prone data at the sizes where blocks and panels end. */
static void check_format(harness *h, uint32_t dtype, candidate *candidates, uint32_t count) {
    for (uint32_t i = 0; i < DEPTHS * TOKENS; i++) {
        if (h->quick && rng_below(&h->random, 3) != 0) continue;
        run_candidates(&h->random, choose_shape(&h->random, dtype, i), candidates, count);
    }
    for (uint32_t i = 0; i < (h->quick ? 16 : 64); i++) {
        linear_shape s = choose_shape(&h->random, dtype, rng_below(&h->random, 9 * TOKENS - 2));
        s.data = (linear_data)(i % DATA_COUNT);
        run_candidates(&h->random, s, candidates, count);
    }
}

static uint32_t collect(const harness *h, uint32_t dtype, candidate *candidates) {
    const ingot_kernel *kernel;
    uint32_t count = 0;
    for (uint32_t i = 0; (kernel = ingot_kernel_at(i)) != NULL && count < MOST_KERNELS; i++) {
        if (kernel->op != INGOT_KERNEL_OP_linear || kernel->dtype != dtype) continue;
        if ((kernel->isa & ingot_cpu_mask()) == 0 || !harness_wants(h, kernel->name)) continue;
        candidates[count++] =
            (candidate){.name = kernel->name, .isa = kernel->isa, .run = (ingot_linear_fn)kernel->run};
    }
    return count;
}

static void check(harness *h) {
    for (const linear_geometry *g = linear_geometries; g->dtype != 0; g++) {
        candidate candidates[MOST_KERNELS];
        const uint32_t count = collect(h, g->dtype, candidates);
        if (count == 0) continue;
        check_format(h, g->dtype, candidates, count);
        for (uint32_t i = 0; i < count; i++) {
            const candidate *k = &candidates[i];
            harness_report(h, k->name, k->isa, k->cases, k->failure[0] != '\0' ? k->failure : NULL);
        }
    }
}

/* Each fault must be flagged, and the reference, which goes the same way, must not. */
static uint32_t self_test(harness *h) {
    uint32_t missed = 0;
    for (uint32_t i = 0; i < broken_kernel_count; i++) {
        const broken_kernel *b = &broken_kernels[i];
        candidate k = {.name = b->fault, .run = b->run};
        check_format(h, b->dtype, &k, 1);
        const bool sound = b->fault[0] == '(', flagged = k.failure[0] != '\0';
        missed += flagged == sound;
        printf("  %-44s %s %s\n", b->fault, flagged == sound ? "WRONG" : "OK", flagged ? k.failure : "not flagged");
    }
    return missed;
}

const suite linear_suite = {"linear", check, linear_bench, self_test};
