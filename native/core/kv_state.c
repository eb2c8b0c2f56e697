/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kv_state.h"

#include <string.h>

#include "core/error.h"
#include "kernels/attention/attention.h"

enum { BLOCK = INGOT_ATTENTION_BLOCK };

static const ingot_attention_parameters *attention_of(const ingot_model *model, uint32_t state_index) {
    for (uint32_t index = 0; index < model->step_count; index++) {
        const ingot_step *step = &model->steps[index];
        if (step->opcode == INGOT_OPCODE_ATTENTION && step->state_index == state_index) {
            return step->parameters;
        }
    }
    return NULL;
}

static void widen_window(ingot_kv_state *state, const ingot_attention_parameters *parameters, bool first) {
    const bool none = parameters->window == 0 || (!first && state->window == 0);
    const uint32_t wider = parameters->window > state->window ? parameters->window : state->window;
    state->window = none ? 0 : wider;
    state->sinks = parameters->sinks > state->sinks ? parameters->sinks : state->sinks;
}

ingot_status ingot_kv_state_layout(const ingot_model *model, uint32_t format, ingot_kv_state *state) {
    state->format = format == INGOT_KV_AUTO ? INGOT_KV_KV8 : format;
    state->window = state->sinks = 0;
    uint64_t used = 0;
    for (uint32_t index = 0; index < model->state_count; index++) {
        const ingot_state_place *place = &model->states[index];
        if (state->format == INGOT_KV_K8V4 && (place->head_size & (place->head_size - 1)) != 0) {
            return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                              "kv format k8v4 rotates heads and needs a head size that is a power of two; this model "
                              "has %u: take kv8",
                              place->head_size);
        }
        ingot_kv_place *own = &state->places[index];
        own->offset = used;
        own->key_bytes = ingot_attention_key_bytes(state->format, place->head_size, place->head_padded);
        own->head_bytes = own->key_bytes + ingot_attention_value_bytes(state->format, place->head_padded);
        used += own->head_bytes * place->kv_heads;
        widen_window(state, attention_of(model, index), index == 0);
    }
    state->block_bytes = state->held_bytes = used;
    return INGOT_OK;
}

static uint32_t blocks_of(uint32_t positions) { return (positions + BLOCK - 1) / BLOCK; }

void ingot_kv_state_size(ingot_kv_state *state, uint32_t capacity, uint32_t chunk) {
    state->length = state->share = blocks_of(capacity);
    if (state->window != 0 && state->window < capacity) {
        /* Sinks, the window with a part of a block at each end, one to take tokens back, and a pass. */
        const uint64_t wanted =
            (uint64_t)blocks_of(state->sinks) + blocks_of(state->window) + 3 + (uint64_t)blocks_of(chunk);
        state->share = wanted < state->length ? (uint32_t)wanted : state->length;
    }
}

static void drop(ingot_kv_state *state, uint32_t block) {
    if (state->held[block] != NULL) {
        ingot_kv_give_back(state->family, state->held[block]);
        state->held[block] = NULL;
        state->blocks[block] = NULL;
    }
}

/* A block of one's own in place of none or of a shared one. */
static ingot_status own_block(ingot_kv_state *state, uint32_t index) {
    ingot_kv_block *old = state->held[index];
    if (old != NULL && atomic_load(&old->users) == 1) {
        return INGOT_OK;
    }
    ingot_kv_block *block = ingot_kv_take(state->family);
    if (block == NULL) {
        return ingot_fail(INGOT_ERROR_INTERNAL, "no free block of keys and values for block %u of %u", index,
                          state->length);
    }
    if (old != NULL) {
        memcpy(block->data, old->data, state->held_bytes);
        ingot_kv_give_back(state->family, old);
    }
    state->held[index] = block;
    state->blocks[index] = block->data;
    return INGOT_OK;
}

ingot_status ingot_kv_state_own(ingot_kv_state *state, uint32_t begin, uint32_t end) {
    ingot_status status = INGOT_OK;
    for (uint32_t block = begin / BLOCK; block < blocks_of(end) && status == INGOT_OK; block++) {
        status = own_block(state, block);
    }
    return status;
}

void ingot_kv_state_cut(ingot_kv_state *state, uint32_t position) {
    for (uint32_t block = blocks_of(position); block < state->length; block++) {
        drop(state, block);
    }
}

void ingot_kv_state_slide(ingot_kv_state *state, uint32_t position) {
    if (state->window == 0 || position + 1 <= state->window + BLOCK) {
        return;
    }
    const uint32_t end = (position + 1 - state->window - BLOCK) / BLOCK; /* first block that is kept */
    for (uint32_t block = blocks_of(state->sinks); block < end; block++) {
        drop(state, block);
    }
}

bool ingot_kv_state_complete(const ingot_kv_state *state, uint32_t position) {
    uint32_t first = 0;
    if (state->window != 0 && position + 1 > state->window) {
        first = (position + 1 - state->window) / BLOCK;
    }
    for (uint32_t block = 0; block < blocks_of(position); block++) {
        const bool seen = block >= first || block < blocks_of(state->sinks);
        if (seen && state->held[block] == NULL) {
            return false;
        }
    }
    return true;
}

void ingot_kv_state_share(const ingot_kv_state *parent, uint32_t position, ingot_kv_state *child) {
    for (uint32_t block = 0; block < blocks_of(position); block++) {
        if (parent->held[block] != NULL) {
            ingot_kv_share(parent->held[block]);
            child->held[block] = parent->held[block];
            child->blocks[block] = parent->blocks[block];
        }
    }
}
