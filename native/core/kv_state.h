/* SPDX-License-Identifier: Apache-2.0 */
/* A session's view of its keys and values: a table of blocks and where the layers lie in a block. */
#ifndef INGOT_KV_STATE_H
#define INGOT_KV_STATE_H

#include "core/kv_blocks.h"
#include "core/program.h"

/* Where one attention's keys and values lie in a block: head after head, each its keys, then its values. */
typedef struct ingot_kv_place {
    uint64_t offset;
    uint64_t key_bytes;  /* of one head */
    uint64_t head_bytes; /* keys and values of one head */
} ingot_kv_place;

typedef struct ingot_kv_state {
    ingot_kv_family *family;
    bool member;
    uint32_t format; /* never INGOT_KV_AUTO */
    uint32_t length; /* of the tables */
    uint32_t share;  /* blocks that the session may hold */
    uint32_t window; /* widest of all attentions, 0 if one has none */
    uint32_t sinks;  /* most of all attentions */
    uint64_t block_bytes;
    uint64_t held_bytes; /* of a block here: none of it is read where a device keeps the state */
    uint8_t **blocks;      /* (length) data, NULL where nothing is held */
    ingot_kv_block **held; /* (length) */
    ingot_kv_place *places; /* by state index */
} ingot_kv_state;

/** Fills format, window, sinks, block_bytes and places (room for model->state_count).
 * @return INGOT_ERROR_INVALID_ARGUMENT for a format that the model's head sizes do not allow. */
ingot_status ingot_kv_state_layout(const ingot_model *model, uint32_t format, ingot_kv_state *state);
/** Sets length and share for a context and the most tokens of a pass. */
void ingot_kv_state_size(ingot_kv_state *state, uint32_t capacity, uint32_t chunk);

/** Makes the blocks of positions [begin, end) the session's own, with what they hold. @return INGOT_ERROR_INTERNAL. */
ingot_status ingot_kv_state_own(ingot_kv_state *state, uint32_t begin, uint32_t end);
/** Gives back the blocks that hold nothing before `position`. */
void ingot_kv_state_cut(ingot_kv_state *state, uint32_t position);
/** Gives back what no later token sees, but for one block so that a few tokens can be taken back. */
void ingot_kv_state_slide(ingot_kv_state *state, uint32_t position);
/** Whether all is there that the token at `position` and later ones see. */
bool ingot_kv_state_complete(const ingot_kv_state *state, uint32_t position);
/** Shares the parent's blocks before `position` with an empty state. */
void ingot_kv_state_share(const ingot_kv_state *parent, uint32_t position, ingot_kv_state *child);

#endif
