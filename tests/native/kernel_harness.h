/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel tests: every kernel that this CPU can run against the reference, byte for byte, between guard pages.
 *
 * A suite tests the kernels of one op. To add one: write kernel_harness_<op>.c, declare its suite below and name it in
 * the list of kernel_harness.c. */
#ifndef INGOT_KERNEL_HARNESS_H
#define INGOT_KERNEL_HARNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dispatch.h"
#include "kernels/row_kernels.h"

/* ---- random numbers ---- */

typedef struct rng {
    uint64_t state;
} rng;

uint64_t rng_next(rng *r);
/* 0 to bound - 1. */
uint32_t rng_below(rng *r, uint32_t bound);
float rng_uniform(rng *r, float low, float high);

/* ---- memory between two inaccessible pages ---- */

typedef struct guarded {
    uint8_t *mapping;
    size_t mapped;
    uint8_t *data;
    size_t size;
} guarded;

/* Data touches the upper guard page (at_end) or the lower one; all around it is filled with a canary. Exits without
 * memory. alignment: a power of two; where size is no multiple of it, at_end leaves a gap below it. */
guarded guarded_create(size_t size, size_t alignment, bool at_end);
void guarded_read_only(const guarded *g);
/* The canary around data is untouched. */
bool guarded_intact(const guarded *g);
void guarded_destroy(guarded *g);

/* Calls function(argument). NULL, or what happened: a read or write outside, an illegal instruction. */
const char *guarded_call(void (*function)(const void *), const void *argument);

/* ---- suites ---- */

typedef struct harness {
    rng random;
    bool quick;         /* a third of the cases: for emulators */
    const char *filter; /* part of a kernel's name, or NULL */
    uint32_t executed;  /* cases */
    uint32_t failed;    /* kernels */
    uint32_t levels;    /* bits of ingot_isa that executed at least one case */
    double bench_bytes; /* working set of decode benchmarks */
} harness;

typedef struct suite {
    const char *name;
    void (*check)(harness *h);
    void (*bench)(harness *h);
    /* Runs the planted faults; returns how many were not flagged. */
    uint32_t (*self_test)(harness *h);
} suite;

extern const suite linear_suite;
extern const suite rows_suite;

bool harness_wants(const harness *h, const char *kernel);
/* One line per kernel: NULL is OK, else the first failure. */
void harness_report(harness *h, const char *kernel, uint32_t isa, uint32_t cases, const char *failure);

/* ---- linear ---- */

typedef enum linear_data { DATA_RANDOM, DATA_EXTREME, DATA_ZERO, DATA_SCALES, DATA_COUNT } linear_data;

/* Which superblocks of a tile are stored: dense, or by a list of this kind. */
typedef enum linear_list { LIST_DENSE, LIST_ALL, LIST_NONE, LIST_EVEN, LIST_LAST, LIST_RANDOM, LIST_COUNT } linear_list;

typedef struct linear_shape {
    uint32_t dtype, layout, k, group, m, tile_begin, tile_end;
    linear_list list;
    linear_data data;
} linear_shape;

/* Inputs and the expected output of one call. */
typedef struct linear_case {
    linear_shape shape;
    guarded panels, weights, offsets, a, a_scale, a_sum, x, codebook;
    guarded out, expected;
    ingot_linear_args args; /* out not set */
} linear_case;

/* How the tiles of a format are built, in bytes, but for `groups` (of a superblock). */
typedef struct linear_geometry {
    uint32_t dtype, head, groups, scales /* per group */, codes /* per 32 k */;
} linear_geometry;

/* All formats, ending with dtype 0. */
extern const linear_geometry linear_geometries[];
bool linear_has_codebook_entries(uint32_t dtype);
bool linear_has_groups(uint32_t dtype);
/* Bytes of a dense tile. */
size_t linear_tile_size(uint32_t dtype, uint32_t k, uint32_t group);
/* Writes the sparse form of a dense tile that keeps superblock s where keep(s, of, argument); returns its bytes. */
typedef bool (*linear_keep)(uint32_t superblock, uint32_t of, void *argument);
size_t linear_tile_thin(const linear_shape *shape, const uint8_t *dense, linear_keep keep, void *argument,
                        uint8_t *sparse);
linear_case linear_case_create(rng *r, linear_shape shape);
void linear_case_destroy(linear_case *c);
/* Runs kernel and compares all of out, gaps included; NULL or the failure. */
const char *linear_case_run(linear_case *c, ingot_linear_fn kernel);

void linear_bench(harness *h);
/* Reads all bytes, a multiple of 64, as fast as this core can. */
uint64_t harness_read(const uint8_t *bytes, size_t size);
/* Cycles per second, by a chain of additions. */
double harness_clock(void);
/* int8 operations per second (two per product) of a loop of a level's dot product on registers; 0: not known. */
double harness_dot_peak(uint32_t isa);

typedef struct broken_kernel {
    const char *fault;
    uint32_t dtype;
    ingot_linear_fn run;
} broken_kernel;

extern const broken_kernel broken_kernels[];
extern const uint32_t broken_kernel_count;

/* ---- row kernels ---- */

typedef struct broken_row_kernel {
    const char *fault;
    uint32_t family;
    ingot_row_kernels set; /* only the member of the family is used */
} broken_row_kernel;

extern const broken_row_kernel broken_row_kernels[];
extern const uint32_t broken_row_kernel_count;

#endif
