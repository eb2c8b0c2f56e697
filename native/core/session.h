/* SPDX-License-Identifier: Apache-2.0 */
/* A session: one block of memory, laid out once, and the threads that work in it. */
#ifndef INGOT_SESSION_H
#define INGOT_SESSION_H

#include "core/kv_state.h"
#include "core/model.h"
#include "core/pool.h"
#include "core/sample.h"

enum { INGOT_PICK_MOST = 64, INGOT_PICK_ROWS = 16 }; /* logits kept per row, rows of a pass, see pick.h */

typedef struct ingot_pick {
    float logit;
    int32_t id;
} ingot_pick;
#include "core/profile.h"
#include "core/tune.h"

enum { INGOT_DECODE_TOKENS = 8 }; /* passes of at most these run on the threads of decoding */

/* Fewer tokens than this split attention over the context as well. */
enum { INGOT_SPLIT_TOKENS = 4 };

/* What one thread writes without asking anybody. */
typedef struct ingot_thread_area {
    float *tile;      /* accumulators of the tiles in work */
    float *attention; /* scratch of the attention kernel */
    float *row;       /* a normalized row, or the rotated queries and key of a head */
    float *fed;       /* (chunk, INGOT_FEED_COLUMNS): gated outputs on their way into a panel */
    int8_t *a;        /* a quantized row */
    float *a_scale;
    int32_t *a_sum;
    ingot_pick *picks; /* (rows, INGOT_PICK_MOST) */
    uint32_t *picked;  /* (INGOT_PICK_ROWS) how many of each row */
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
    ingot_session_config config; /* as given; forks take the same */
    uint64_t process;
    uint32_t context, capacity, chunk, logits_rows;
    uint32_t threads, prefill_threads; /* of a pass of few tokens, and of a longer one */
    uint32_t most_threads;             /* of the pool */
    _Atomic uint32_t thread_limit;     /* 0: none */
    uint32_t position;
    _Atomic uint32_t busy, cancelled;
    uint64_t executed, executed_there; /* instructions on the CPU, on the backend */
    void *device; /* the backend's part, NULL without */

    void *memory;
    uint64_t memory_size;
    uint64_t passing_bytes; /* of memory, from its start: nothing in there outlives a pass but the logits */
    ingot_memory_info info;
    ingot_activation_place *places; /* by tensor id */
    ingot_kv_state kv;
    float *partials;            /* attention: results of runs, (kv_heads, runs, rows, state) */
    _Atomic uint32_t *arrivals; /* attention: runs of a KV head that are done */
    int8_t *a; /* quantized rows of a chunk: (chunk, widest_k) */
    float *a_scale;
    int32_t *a_sum;
    uint8_t *panels; /* the same rows as panels of linear.h; NULL where no kernel reads them */
    size_t panel_bytes;
    float *padded; /* (chunk, padded_float_k) */
    uint32_t tile_floats;
    ingot_sampler sampler;
    ingot_thread_area areas[INGOT_MAX_THREADS];

    /* The pass in work. */
    const int32_t *tokens;
    uint32_t m;        /* tokens */
    uint32_t selected; /* of them the last whose logits are wanted */
    uint32_t first, limit; /* instructions to run */
    uint32_t pick_count; /* best logits to keep per row instead of writing all; 0: write them */
    bool tracing;      /* absorbed steps are written out as well */
    ingot_profile *profile; /* NULL while off */
    ingot_choices choices;
};

/** Opens a session; with a parent one of its family, of the parent's sizes. */
ingot_status ingot_session_open(ingot_model *model, const ingot_session_config *config, const ingot_session *parent,
                                ingot_session **session);
/** Checks for use from a second thread or a forked child and takes the session. */
ingot_status ingot_session_enter(ingot_session *session);
void ingot_session_leave(ingot_session *session);
/** Forgets positions from `position` on, which must not be beyond the session's; its logits are gone. */
void ingot_session_cut(ingot_session *session, uint32_t position);
/** What ingot_session_eval does, in a session that was entered. */
ingot_status ingot_session_feed(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted);

#endif
