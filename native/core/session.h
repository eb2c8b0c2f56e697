/* SPDX-License-Identifier: Apache-2.0 */
/* A session: one block of memory, laid out once, and the threads that work in it. */
#ifndef INGOT_SESSION_H
#define INGOT_SESSION_H

#include "core/model.h"
#include "core/pool.h"
#include "core/profile.h"
#include "core/tune.h"

enum { INGOT_DECODE_TOKENS = 8 }; /* passes of at most these run on the threads of decoding */

/* What one thread writes without asking anybody. */
typedef struct ingot_thread_area {
    float *tile;      /* accumulators of the tiles in work */
    float *attention; /* scratch of the attention kernel */
    float *row;       /* a normalized row */
    int8_t *a;        /* a quantized row */
    float *a_scale;
    int32_t *a_sum;
} ingot_thread_area;

/* Rows of one activation in the arena. */
typedef struct ingot_activation_place {
    float *data;
    uint32_t stride; /* floats */
    uint32_t width;
    bool selected; /* rows are the selected positions, not the tokens */
} ingot_activation_place;

struct ingot_session {
    ingot_model *model;
    ingot_pool *pool;
    uint64_t process;
    uint32_t context, capacity, chunk, logits_rows;
    uint32_t threads, prefill_threads; /* of a pass of few tokens, and of a longer one */
    uint32_t most_threads;             /* of the pool */
    uint32_t position;
    _Atomic uint32_t busy, cancelled;
    uint64_t executed;

    void *memory;
    uint64_t memory_size;
    ingot_memory_info info;
    ingot_activation_place *places; /* by tensor id */
    uint16_t **keys;                /* by state index */
    uint16_t **values;
    int8_t *a; /* quantized rows of a chunk: (chunk, widest_k) */
    float *a_scale;
    int32_t *a_sum;
    float *padded; /* (chunk, padded_float_k) */
    uint32_t tile_floats;
    ingot_thread_area areas[INGOT_MAX_THREADS];

    /* The pass in work. */
    const int32_t *tokens;
    uint32_t m;        /* tokens */
    uint32_t selected; /* of them the last whose logits are wanted */
    uint32_t limit;    /* instructions to run */
    bool tracing;      /* absorbed norms are written out as well */
    ingot_profile *profile; /* NULL while off */
    ingot_choices choices;
};

/** Checks for use from a second thread or a forked child and takes the session. */
ingot_status ingot_session_enter(ingot_session *session);
void ingot_session_leave(ingot_session *session);

#endif
