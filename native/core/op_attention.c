/* SPDX-License-Identifier: Apache-2.0 */
/* attention: append this pass's keys and values, then share out (KV head, run of tokens). A few tokens are shared out
 * as (KV head, run of positions) as well; who finishes a head's last run merges them. Both give the same bits. */
#include "core/ops.h"

enum { ITEMS_OF_THREAD = 4 };

static const ingot_attention_kernels *kernels_of(const ingot_session *session) {
    return &session->model->rows.attention[session->kv.format - 1];
}

/* Whether the rope before was left to whoever takes a head. */
static bool rotates(const ingot_session *session, const ingot_step *step) {
    return step->absorbed_step >= 0 && session->m == 1 && !session->tracing;
}

/* `count` heads of the one token from head `first` on, rotated into `to`. Sides: 0 queries, 1 keys. */
static const float *rotated(const ingot_session *session, const ingot_step *step, uint32_t side, uint32_t first,
                            uint32_t count, float *to) {
    const ingot_step *rope = &session->model->steps[step->absorbed_step];
    const uint32_t size = session->model->states[step->state_index].head_size;
    const float *from = ingot_row(session, rope->inputs[side], 0) + (size_t)first * size;
    ingot_rope_heads(rope->parameters, ingot_rope_table(session, rope, 0), from, count * size, to);
    return to;
}

static void append_head(const ingot_lane *lane, const ingot_step *step, uint32_t head) {
    const ingot_session *session = lane->session;
    const ingot_attention_parameters *parameters = step->parameters;
    const ingot_state_place *sizes = &session->model->states[step->state_index];
    const ingot_kv_place *place = &session->kv.places[step->state_index];
    const uint64_t keys = place->offset + head * place->head_bytes;
    for (uint32_t row = 0; row < session->m; row++) {
        const uint32_t position = session->position + row;
        uint8_t *block = session->kv.blocks[position / INGOT_ATTENTION_BLOCK];
        const float *key = ingot_row(session, step->inputs[1], row) + (size_t)head * sizes->head_size;
        if (rotates(session, step)) { /* behind the queries of head_args */
            const size_t queries = (size_t)(parameters->heads / parameters->kv_heads) * sizes->head_size;
            key = rotated(session, step, 1, head, 1, lane->area->row + queries);
        }
        kernels_of(session)->append(block + keys, block + keys + place->key_bytes, sizes->head_size, sizes->head_padded,
                                    position % INGOT_ATTENTION_BLOCK, key,
                                    ingot_row(session, step->inputs[2], row) + (size_t)head * sizes->head_size);
    }
}

/* Tokens [begin, end) of a KV head over the whole context. */
static ingot_attention_args head_args(const ingot_lane *lane, const ingot_step *step, uint32_t head, uint32_t begin,
                                      uint32_t end) {
    const ingot_session *session = lane->session;
    const ingot_attention_parameters *parameters = step->parameters;
    const ingot_state_place *sizes = &session->model->states[step->state_index];
    const ingot_kv_place *place = &session->kv.places[step->state_index];
    const uint32_t group = parameters->heads / parameters->kv_heads;
    const size_t first = (size_t)head * group * sizes->head_size;
    const uint64_t keys = place->offset + head * place->head_bytes;
    return (ingot_attention_args){
        .blocks = session->kv.blocks,
        .keys = keys,
        .values = keys + place->key_bytes,
        .head_size = sizes->head_size,
        .head_padded = sizes->head_padded,
        .scale = parameters->scale,
        .window = parameters->window,
        .sinks = parameters->sinks,
        .rows = (end - begin) * group,
        .group = group,
        .first_last = session->position + begin,
        .q = rotates(session, step) ? rotated(session, step, 0, head * group, group, lane->area->row)
                                    : ingot_row(session, step->inputs[0], begin) + first,
        .q_stride = session->places[step->inputs[0]].stride,
        .out = ingot_row(session, step->outputs[0], begin) + first,
        .out_stride = session->places[step->outputs[0]].stride,
        .run_end = (session->position + end - 1) / INGOT_ATTENTION_RUN + 1,
        .scratch = lane->area->attention,
    };
}

/* One run of positions for all tokens; the last of a head's runs to be done merges them. */
static void attend_part(const ingot_lane *lane, const ingot_step *step, uint32_t head, uint32_t run, uint32_t runs) {
    ingot_session *session = lane->session;
    ingot_attention_args args = head_args(lane, step, head, 0, session->m);
    const size_t state = ingot_attention_state(args.head_padded) * args.rows;
    float *partials = session->partials + (size_t)head * runs * state;
    if (session->m == 1 && run + 1 == runs) {
        append_head(lane, step, head); /* the new position lies in the last run: nobody else reads it */
    }
    args.partials = partials + run * state;
    args.run_begin = run;
    args.run_end = run + 1;
    kernels_of(session)->attend(&args);
    if (atomic_fetch_add(&session->arrivals[head], 1) + 1 == runs) {
        atomic_store(&session->arrivals[head], 0);
        args.partials = partials;
        args.run_begin = 0;
        args.run_end = runs;
        kernels_of(session)->merge(&args);
    }
}

static void share_parts(ingot_lane *lane, const ingot_step *step, uint32_t heads, uint32_t runs) {
    uint32_t begin, end;
    ingot_lane_share(lane);
    while (ingot_lane_take(lane, heads * runs, 1, &begin, &end)) {
        for (uint32_t item = begin; item < end; item++) {
            attend_part(lane, step, item / runs, item % runs, runs);
        }
    }
}

/* Tokens of an item: a slab of rows, fewer where threads would go without. */
static uint32_t tokens_of_item(const ingot_session *session, uint32_t heads, uint32_t group) {
    const uint32_t most = group < INGOT_ATTENTION_SLAB ? INGOT_ATTENTION_SLAB / group : 1;
    const uint64_t share = (uint64_t)session->m * heads / ((uint64_t)ITEMS_OF_THREAD * session->most_threads);
    return share == 0 ? 1 : (share < most ? (uint32_t)share : most);
}

static void share_tokens(ingot_lane *lane, const ingot_step *step, uint32_t heads, uint32_t group) {
    const ingot_session *session = lane->session;
    const uint32_t m = session->m, tokens = tokens_of_item(session, heads, group);
    uint32_t begin, end;
    ingot_lane_share(lane);
    while (ingot_lane_take(lane, heads * ((m + tokens - 1) / tokens), 1, &begin, &end)) {
        for (uint32_t item = begin; item < end; item++) {
            const uint32_t head = item % heads, first = item / heads * tokens;
            if (m == 1) {
                append_head(lane, step, head); /* whoever has the head appends for it */
            }
            const ingot_attention_args args =
                head_args(lane, step, head, first, first + tokens < m ? first + tokens : m);
            kernels_of(session)->attend(&args);
        }
    }
}

void ingot_op_attention(ingot_lane *lane, const ingot_step *step) {
    const ingot_session *session = lane->session;
    const ingot_attention_parameters *parameters = step->parameters;
    const uint32_t heads = parameters->kv_heads, m = session->m;
    const uint32_t runs = (session->position + m - 1) / INGOT_ATTENTION_RUN + 1;
    uint32_t begin, end;
    if (m > 1) {
        ingot_lane_share(lane);
        while (ingot_lane_take(lane, heads, 1, &begin, &end)) {
            for (uint32_t head = begin; head < end; head++) {
                append_head(lane, step, head);
            }
        }
    }
    if (m <= INGOT_SPLIT_TOKENS && runs > 1 && session->threads > 1) {
        share_parts(lane, step, heads, runs);
    } else {
        share_tokens(lane, step, heads, parameters->heads / heads);
    }
}
