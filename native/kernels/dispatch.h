/* SPDX-License-Identifier: Apache-2.0 */
/* The table of kernels (kernels.def) and the choice among them. Adding an op: its number, its DECLARE line here, a
 * typed select function, its rows in kernels.def. */
#ifndef INGOT_KERNELS_DISPATCH_H
#define INGOT_KERNELS_DISPATCH_H

#include <stdint.h>

#include "ingot.h"
#include "kernels/linear/linear.h"

typedef enum ingot_kernel_op {
    INGOT_KERNEL_OP_linear, /* lower case: pasted from the op column of kernels.def */
} ingot_kernel_op;

typedef struct ingot_kernel {
    const char *name; /* stem of the source file */
    ingot_kernel_op op;
    uint32_t dtype;        /* enum ingot_dtype */
    uint32_t isa;          /* one bit of ingot_isa */
    void (*run)(void);     /* to be cast back to the function type of its op */
} ingot_kernel;

#define DECLARE_linear(symbol) void symbol(const ingot_linear_args *args);
#define X(symbol, op, dtype, isa, stem) DECLARE_##op(symbol)
#include "kernels/kernels.def"
#undef X

/** Row `index` of kernels.def; NULL beyond the last. */
const ingot_kernel *ingot_kernel_at(uint32_t index);

/** The best kernel of the levels that `mask` and the CPU mask allow; NULL if there is none for that op and format. */
const ingot_kernel *ingot_kernel_select(ingot_kernel_op op, uint32_t dtype, uint32_t mask);

/** The best linear kernel for weights of `dtype`; NULL for one that is no weight format.
 * @param mask levels that it may be of. @param isa its level, written if not NULL. */
ingot_linear_fn ingot_linear_select(uint32_t dtype, uint32_t mask, uint32_t *isa);

/* Whether outputs of many tokens are fetched before they are written: measured on x86, on ARM only instructions. And
 * whether kernels that read panels read the tokens of a short last panel there too, and not as rows. */
#if defined(__x86_64__)
enum { INGOT_PREFETCH_OUTPUTS = 1, INGOT_PANELS_ALONE = 1 };
#else
enum { INGOT_PREFETCH_OUTPUTS = 0, INGOT_PANELS_ALONE = 0 };
#endif

/* Levels whose linear kernels read panels (linear.h), and the tokens from which panels are faster than rows. */
enum {
    INGOT_PANEL_LEVELS = INGOT_ISA_AVX512VNNI | INGOT_ISA_AVXVNNI | INGOT_ISA_AVX2 | INGOT_ISA_NEON_DOTPROD,
    INGOT_PANEL_FROM = 5
};

#endif
