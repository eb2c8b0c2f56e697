/* SPDX-License-Identifier: Apache-2.0 */
/* The 'step' entry of a file, prepared once at open: kernels chosen, pointers resolved, nothing left to check. */
#ifndef INGOT_PROGRAM_H
#define INGOT_PROGRAM_H

#include <stdatomic.h>
#include <stdbool.h>

#include "core/file.h"
#include "ingot.h"
#include "ingot_format.h"
#include "kernels/linear/linear.h"
#include "kernels/row_kernels.h"

enum { INGOT_MAX_PARTS = 3 };

/* How far a row of k activations is quantized: as far as any format's group reaches. */
static inline uint32_t ingot_quantized_width(uint32_t k) { return (k + 127) / 128 * 128; }

/* One weight of a linear. */
typedef struct ingot_linear_part {
    ingot_linear_fn kernel;
    const uint8_t *weights;
    const int8_t *codebook;
    const float *bias; /* NULL without */
    uint64_t tile_bytes;   /* dense */
    uint64_t stored_bytes; /* of all tiles */
    const uint64_t *tile_offsets; /* sparse, owned; NULL: dense */
    uint32_t dtype;
    uint32_t layout;
    bool reads_panels; /* of int8 activations, where there are some */
    uint32_t n;     /* outputs, without padding */
    uint32_t tiles; /* of 16 rows */
    uint32_t k;     /* padded to the format's group */
    uint32_t group;
    int32_t delta;
    uint32_t output; /* tensor id */
} ingot_linear_part;

typedef struct ingot_step {
    uint32_t opcode;
    uint32_t flags;
    const uint32_t *inputs;
    const uint32_t *outputs;
    const void *parameters;
    uint32_t part_count; /* linear */
    uint32_t epilogue;
    bool quantizes;        /* linear: some part reads int8 activations with a scale per 32 k */
    bool quantizes_tokens; /* linear: some part (t2) reads them with a scale per token */
    bool reads_float;      /* linear: some part reads float activations */
    bool reads_panels;     /* linear: some part reads int8 activations as panels */
    uint32_t state_index;  /* attention: its place in the session's list */
    int32_t absorbed_step; /* what it does itself for one token, or -1: a linear the rms_norm before it, on every
                            * thread; an attention the rope before it, head by head */
    bool absorbed;         /* rms_norm, rope: the next step does it where m is 1 */
    bool absorbed_always;  /* rms_norm: for any m, row by row */
    bool takes_panels;     /* linear: every part can read panels, and none reads anything else */
    bool feeds;            /* gated linear: the next step, a linear, is its only reader and may take panels */
    ingot_linear_part parts[INGOT_MAX_PARTS];
} ingot_step;

/* Where the keys and values of one attention lie in a session. */
typedef struct ingot_state_place {
    uint32_t kv_heads;
    uint32_t head_size;
    uint32_t head_padded;
    uint64_t bytes_per_token; /* keys and values together, padding of the values included */
} ingot_state_place;

struct ingot_backend_model;

struct ingot_model {
    ingot_file file;
    struct ingot_backend_model *backend; /* NULL: the CPU does all */
    uint32_t isa_mask; /* levels that kernels may be of */
    ingot_row_kernels rows;
    ingot_step *steps;
    uint32_t step_count;
    ingot_state_place *states;
    uint32_t state_count;
    uint32_t embedding_rows; /* of the smallest table: token ids must be below it */
    uint32_t widest_k;      /* padded to 128: the longest int8 activation row */
    bool reads_panels;      /* some step does */
    bool feeds;             /* some step does */
    uint32_t widest_row;    /* floats of the widest row that a thread makes for itself, padded to 32 */
    uint32_t widest_head;   /* head_padded */
    uint32_t padded_float_k; /* widest k of float weights whose rows need padding to 32, 0 if none */
    _Atomic uint32_t prefaulted; /* the first session has brought the weights into memory */
    _Atomic uint32_t references; /* the handle and its sessions */
};

/** Prepares model->file. @return INGOT_ERROR_OUT_OF_MEMORY, INGOT_ERROR_UNSUPPORTED. */
ingot_status ingot_program_prepare(ingot_model *model);
void ingot_program_discard(ingot_model *model);

#endif
