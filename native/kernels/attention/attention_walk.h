/* SPDX-License-Identifier: Apache-2.0 */
/* The second half of attention_body.h: slabs of rows walk over blocks and runs; results of runs are merged. */
#include "kernels/attention/attention_body.h"

enum { RUN_BLOCKS = INGOT_ATTENTION_RUN / INGOT_ATTENTION_BLOCK };

static void clear_states(float *states, uint32_t rows, size_t stride) {
    memset(states, 0, rows * stride * sizeof(float));
    for (uint32_t r = 0; r < rows; r++) {
        states[r * stride] = NOTHING_SEEN;
    }
}

static bool slab_sees(const attention_slab *slab, uint32_t block) {
    const ingot_attention_args *args = slab->args;
    const uint32_t first = last_of(args, slab->first_row), last = last_of(args, slab->first_row + slab->rows - 1);
    for (uint32_t token = first; token <= last; token++) {
        if (sees_any(see(args, token, block * BLOCK))) {
            return true;
        }
    }
    return false;
}

static void unpack_values(const uint8_t *values, uint32_t width, float *floats) {
    for (size_t i = 0; i < (size_t)BLOCK * width; i += 16) {
        v16_store(floats + i, load_values(values, i));
    }
}

static void attend_block(const attention_slab *slab, uint32_t block, const uint8_t *next) {
    const ingot_attention_args *args = slab->args;
    const float *floats = NULL;
    if (slab->rows > 2 * VECTOR_ROWS) { /* several tiles: unpack once for all */
        unpack_values(args->blocks[block] + args->values, args->head_padded, slab->values);
        floats = slab->values;
    }
    for (uint32_t first = 0; first < slab->rows; first += VECTOR_ROWS) {
        attend_tile(slab, first, block * BLOCK, first == 0 ? next : NULL, floats);
    }
}

static void attend_run(const attention_slab *slab, uint32_t run) {
    const uint32_t last = last_of(slab->args, slab->first_row + slab->rows - 1) / BLOCK;
    const uint32_t end = smaller(last + 1, (run + 1) * RUN_BLOCKS);
    clear_states(slab->states, slab->rows, slab->stride);
    for (uint32_t block = run * RUN_BLOCKS; block < end; block++) {
        if (slab_sees(slab, block)) {
            attend_block(slab, block, block < last ? slab->args->blocks[block + 1] : NULL);
        }
    }
}

/* Adds the result of a later run to the total. */
static void merge_state(float *total, const float *part, uint32_t width) {
    if (part[0] == NOTHING_SEEN) {
        return;
    }
    if (total[0] == NOTHING_SEEN) {
        memcpy(total, part, ingot_attention_state(width) * sizeof(float));
        return;
    }
    const float largest = part[0] > total[0] ? part[0] : total[0];
    const v16 offset = v16_set(largest);
    const v16 before = v16_exp(v16_sub(v16_set(total[0]), offset)), here = v16_exp(v16_sub(v16_set(part[0]), offset));
    for (uint32_t i = LANES; i < SUMS + width; i += 16) {
        v16_store(total + i, v16_fma(v16_load(part + i), here, v16_mul(v16_load(total + i), before)));
    }
    total[0] = largest;
}

static void finish_row(const ingot_attention_args *args, const float *state, uint32_t row) {
    const float total = v16_tree_sum(v16_load(state + LANES));
    float *out = out_of(args, row);
    uint32_t i = 0;
    for (; i + 16 <= args->head_size; i += 16) {
        v16_store(out + i, v16_div(v16_load(state + SUMS + i), v16_set(total)));
    }
    for (; i < args->head_size; i++) {
        out[i] = state[SUMS + i] / total;
    }
}

static void prepare_queries(const attention_slab *slab) {
#if ATTENTION_FORMAT != 1
    const ingot_attention_args *args = slab->args;
    for (uint32_t r = 0; r < slab->rows; r++) {
        slab->code_sums[r] =
            quantize_query(query_of(args, slab->first_row + r), args->head_size, args->head_padded, args->scale,
                           slab->row, slab->codes + (size_t)r * args->head_padded, &slab->factors[r]);
    }
#else
    (void)slab;
#endif
}

/* Places of a slab in the scratch; totals come first. */
static attention_slab open_slab(const ingot_attention_args *args, uint32_t first_row) {
    const uint32_t width = args->head_padded;
    attention_slab slab = {.args = args,
                           .first_row = first_row,
                           .rows = smaller(args->rows - first_row, INGOT_ATTENTION_SLAB),
                           .stride = ingot_attention_state(width)};
    slab.states = args->scratch + INGOT_ATTENTION_SLAB * slab.stride;
    slab.weights = slab.states + INGOT_ATTENTION_SLAB * slab.stride;
    slab.values = slab.weights + (size_t)INGOT_ATTENTION_MAX_TILE * BLOCK;
    slab.row = slab.values + (size_t)BLOCK * width;
    slab.factors = slab.row + width;
    slab.code_sums = (int32_t *)(void *)(slab.factors + INGOT_ATTENTION_SLAB);
    slab.codes = (int8_t *)(slab.code_sums + INGOT_ATTENTION_SLAB);
    return slab;
}

static void attend_slab(const ingot_attention_args *args, uint32_t first_row) {
    attention_slab slab = open_slab(args, first_row);
    prepare_queries(&slab);
    clear_states(args->scratch, slab.rows, slab.stride);
    for (uint32_t run = args->run_begin; run < args->run_end; run++) {
        if (args->partials != NULL) {
            slab.states = args->partials + ((run - args->run_begin) * (size_t)args->rows + first_row) * slab.stride;
        }
        attend_run(&slab, run);
        for (uint32_t r = 0; r < slab.rows && args->partials == NULL; r++) {
            merge_state(args->scratch + r * slab.stride, slab.states + r * slab.stride, args->head_padded);
        }
    }
    for (uint32_t r = 0; r < slab.rows && args->partials == NULL; r++) {
        finish_row(args, args->scratch + r * slab.stride, first_row + r);
    }
}

static void attend(const ingot_attention_args *args) {
    for (uint32_t row = 0; row < args->rows; row += INGOT_ATTENTION_SLAB) {
        attend_slab(args, row);
    }
}

static void merge(const ingot_attention_args *args) {
    const size_t stride = ingot_attention_state(args->head_padded);
    for (uint32_t row = 0; row < args->rows; row++) {
        clear_states(args->scratch, 1, stride);
        for (uint32_t run = args->run_begin; run < args->run_end; run++) {
            const size_t place = (run - args->run_begin) * (size_t)args->rows + row;
            merge_state(args->scratch, args->partials + place * stride, args->head_padded);
        }
        finish_row(args, args->scratch, row);
    }
}
