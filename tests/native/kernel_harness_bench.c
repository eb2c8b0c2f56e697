/* SPDX-License-Identifier: Apache-2.0 */
/* Speed of the linear kernels: decode (m = 1, weights from memory) next to a streaming read of the same bytes; cycles per
 * weight with weights from the cache; prefill (m = 128) in integer or float operations, next to the peak of registers.
 * A row "half" has every other superblock absent: its GB/s are of stored bytes, its cycles per weight of all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ingot.h"
#include "ingot_format.h"
#include "kernel_harness.h"

enum { DEPTH = 2048, TOKENS = 128, PREFILL_TILES = 32, UNIT = 4 << 20, MOST_UNITS = 4096, CACHED_TILES = 6 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *aligned(size_t size) {
    void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (memory == NULL) {
        fprintf(stderr, "no memory for %zu bytes\n", size);
        exit(2);
    }
    return memory;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The q-quantile; changes the order of `values`. */
static double quantile(double *values, size_t count, double q) {
    qsort(values, count, sizeof *values, compare);
    return values[(size_t)(q * (double)(count - 1))];
}

typedef struct bench {
    ingot_linear_args args;
    uint8_t *weights;
    uint64_t *offsets; /* of the tiles; args has them where tiles are sparse */
    uint32_t tiles;
} bench;

static void pack_panels(bench *b) {
    uint8_t *panels = aligned(TOKENS / INGOT_PANEL_TOKENS * b->args.panel_bytes);
    for (uint32_t i = 0; i < TOKENS; i += INGOT_PANEL_TOKENS) {
        const ingot_quantized_rows rows = {
            .a = b->args.a + i * b->args.a_stride,
            .a_scale = b->args.a_scale + i * b->args.s_stride,
            .a_sum = b->args.a_sum + i * b->args.s_stride,
            .a_stride = b->args.a_stride,
            .s_stride = b->args.s_stride,
            .count = INGOT_PANEL_TOKENS,
        };
        ingot_panel_pack(&rows, DEPTH, panels + i / INGOT_PANEL_TOKENS * b->args.panel_bytes);
    }
    b->args.panels = panels;
}

static bool keeps_even(uint32_t superblock, uint32_t of, void *argument) {
    (void)of;
    (void)argument;
    return superblock % 2 == 0;
}

/* Rewrites the tiles in place, each without its odd superblocks. */
static void thin_tiles(bench *b, uint32_t dtype, uint32_t group) {
    const linear_shape shape = {.dtype = dtype, .k = DEPTH, .group = group};
    const size_t tile_bytes = b->args.tile_bytes;
    uint8_t *tile = aligned(tile_bytes), *thin = aligned(tile_bytes + 4096);
    uint64_t at = 0;
    for (uint32_t t = 0; t < b->tiles; t++) {
        memcpy(tile, b->weights + t * tile_bytes, tile_bytes);
        const size_t size = linear_tile_thin(&shape, tile, keeps_even, NULL, thin);
        memcpy(b->weights + at, thin, size);
        b->offsets[t] = at;
        at += size;
    }
    b->offsets[b->tiles] = at;
    b->args.tile_offsets = b->offsets;
    free(tile);
    free(thin);
}

static bench prepare(const harness *h, uint32_t dtype, uint32_t group, bool half) {
    rng r = {1};
    const size_t tile_bytes = linear_tile_size(dtype, DEPTH, group),
                 size = (size_t)h->bench_bytes / tile_bytes * tile_bytes;
    bench b = {.weights = aligned(size), .tiles = (uint32_t)(size / tile_bytes)};
    b.offsets = aligned((b.tiles + 1) * sizeof *b.offsets);
    for (uint32_t t = 0; t <= b.tiles; t++) b.offsets[t] = t * tile_bytes;
    int8_t *a = aligned(TOKENS * DEPTH), *codebook = aligned(32);
    float *x = aligned(TOKENS * DEPTH * sizeof(float)), *a_scale = aligned(TOKENS * DEPTH / 32 * sizeof(float));
    int32_t *a_sum = aligned(TOKENS * DEPTH / 32 * sizeof(int32_t));
    /* bytes below 0x40: finite f16, any codes */
    for (size_t i = 0; i + 8 <= size; i += 8) {
        const uint64_t word = rng_next(&r) & 0x3f3f3f3f3f3f3f3fu;
        memcpy(b.weights + i, &word, sizeof word);
    }
    for (uint32_t i = 0; i < TOKENS * DEPTH; i++) a[i] = (int8_t)((int32_t)rng_below(&r, 255) - 127);
    for (uint32_t i = 0; i < TOKENS * DEPTH; i++) x[i] = rng_uniform(&r, -1.0f, 1.0f);
    for (uint32_t i = 0; i < TOKENS * DEPTH / 32; i++) {
        a_scale[i] = 0.01f;
        a_sum[i] = 0;
        for (uint32_t j = 0; j < 32; j++) a_sum[i] += a[32 * i + j];
    }
    for (int i = 0; i < 32; i++) codebook[i] = (int8_t)(8 * i - 120);
    const size_t width = 16 * (size / tile_bytes);
    b.args = (ingot_linear_args){
        .weights = b.weights,
        .tile_bytes = tile_bytes,
        .k = DEPTH,
        .group = group,
        .codebook = codebook,
        .delta = 5,
        .a = a,
        .a_scale = a_scale,
        .a_sum = a_sum,
        .x = x,
        .panel_bytes = DEPTH / 32 * INGOT_PANEL_BLOCK_BYTES,
        .a_stride = DEPTH,
        .s_stride = DEPTH / 32,
        .x_stride = DEPTH,
        .out = aligned(sizeof(float) * (width > TOKENS * 512 ? width : TOKENS * 512)),
        .out_stride = 16 * PREFILL_TILES,
    };
    pack_panels(&b);
    if (half) thin_tiles(&b, dtype, group);
    return b;
}

static void release(bench *b) {
    free((void *)(uintptr_t)b->args.codebook);
    free((void *)(uintptr_t)b->args.a);
    free((void *)(uintptr_t)b->args.a_scale);
    free((void *)(uintptr_t)b->args.a_sum);
    free((void *)(uintptr_t)b->args.x);
    free((void *)(uintptr_t)b->args.panels);
    free(b->args.out);
    free(b->offsets);
    free(b->weights);
}

typedef struct speed {
    double kernel, stream; /* bytes per second */
    double fraction; /* median of neighbours */
} speed;

/* Units alternate between kernel and read, half the working set apart, so that neither finds them in cache. */
static speed measure_decode(const bench *b, ingot_linear_fn run) {
    static double kernel[MOST_UNITS], stream[MOST_UNITS], ratio[MOST_UNITS];
    ingot_linear_args args = b->args;
    const uint64_t unit = b->offsets[b->tiles] / b->tiles;
    const uint32_t tiles = (uint32_t)(UNIT / unit), units = b->tiles / tiles;
    static volatile uint64_t sink;
    uint32_t count = 0;
    args.m = 1;
    args.panels = NULL;
    for (uint32_t pass = 0; pass < 4 && count < MOST_UNITS - units; pass++) {
        for (uint32_t u = 0; u < units; u++, count++) {
            args.tile_begin = u * tiles;
            args.tile_end = args.tile_begin + tiles;
            const double bytes = (double)(b->offsets[args.tile_end] - b->offsets[args.tile_begin]);
            double start = now();
            run(&args);
            kernel[count] = bytes / (now() - start);
            const uint32_t other = (u + units / 2) % units * tiles;
            const uint64_t read = b->offsets[other + tiles] - b->offsets[other];
            start = now();
            sink += harness_read(b->weights + b->offsets[other], read);
            stream[count] = (double)read / (now() - start);
            ratio[count] = kernel[count] / stream[count];
        }
    }
    return (speed){quantile(kernel, count, 0.8), quantile(stream, count, 0.8), quantile(ratio, count, 0.5)};
}

/* The best of repeated calls, in seconds. */
static double best_time(const ingot_linear_args *args, ingot_linear_fn run, double patience) {
    double best = 1e9;
    const double limit = now() + patience;
    for (int i = 0; i < 3 || now() < limit; i++) {
        const double start = now();
        run(args);
        const double seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

/* Operations per second: two per weight and token. */
static double measure_prefill(const bench *b, ingot_linear_fn run, uint32_t tokens, uint32_t tiles) {
    ingot_linear_args args = b->args;
    args.m = tokens;
    if (tokens < INGOT_PANEL_FROM) args.panels = NULL;
    args.tile_end = tiles;
    return 2.0 * 16 * (double)tiles * (double)DEPTH * tokens / best_time(&args, run, 0.15);
}

/* Seconds per weight of decode from the second-level cache. */
static double measure_cached(const bench *b, ingot_linear_fn run) {
    ingot_linear_args args = b->args;
    args.m = 1;
    args.panels = NULL;
    args.tile_end = CACHED_TILES;
    return best_time(&args, run, 0.05) / (16.0 * CACHED_TILES * DEPTH);
}

static void bench_kernel(const harness *h, const ingot_kernel *kernel, uint32_t group, bool half) {
    bench b = prepare(h, kernel->dtype, group, half);
    const ingot_linear_fn run = (ingot_linear_fn)kernel->run;
    const ingot_kernel *ref = kernel;
    while (ref->isa != INGOT_ISA_REF || ref->dtype != kernel->dtype) ref++;
    const double slow = measure_prefill(&b, (ingot_linear_fn)ref->run, 4, 1);
    const double clock = harness_clock();
    const speed s = measure_decode(&b, run);
    const double cycles = measure_cached(&b, run) * clock, peak = harness_dot_peak(kernel->isa);
    const double four = half ? 0 : measure_prefill(&b, run, 4, PREFILL_TILES);
    const double many = half ? 0 : measure_prefill(&b, run, TOKENS, PREFILL_TILES);
    const bool integers = peak > 0 && kernel->dtype != INGOT_DTYPE_F16;
    printf("%-30s %5u %-5s %8.1f %8.1f %5.0f%% %8.4f %8.1f %8.1f %5.0f%% %8.1fx\n", kernel->name, group,
           half ? "half" : "all", s.kernel * 1e-9, s.stream * 1e-9, 100 * s.fraction, cycles, four * 1e-9, many * 1e-9,
           integers ? 100 * many / peak : 0.0, many / slow);
    fflush(stdout);
    release(&b);
}

void linear_bench(harness *h) {
    const ingot_kernel *kernel;
    printf("clock %.2f GHz\n", harness_clock() * 1e-9);
    printf("%-30s %5s %-5s %8s %8s %6s %8s %8s %8s %6s %9s\n", "kernel", "group", "tiles", "decode", "read", "of it",
           "cycles/w", "m=4", "m=128", "peak", "vs ref");
    for (uint32_t i = 0; (kernel = ingot_kernel_at(i)) != NULL; i++) {
        if (kernel->op != INGOT_KERNEL_OP_linear || (kernel->isa & ingot_cpu_mask()) == 0) continue;
        if (!harness_wants(h, kernel->name) || kernel->isa == INGOT_ISA_REF) continue;
        const uint32_t group = kernel->dtype == INGOT_DTYPE_F16 ? 0 : 32;
        bench_kernel(h, kernel, group, false);
        bench_kernel(h, kernel, group, true);
        if (linear_has_groups(kernel->dtype)) bench_kernel(h, kernel, 128, false);
    }
}
