/* SPDX-License-Identifier: Apache-2.0 */
#include "core/session.h"

#include <stdlib.h>

#include "core/error.h"
#include "platform/platform.h"
#include "platform/topology.h"

/* Walks over the block: first with no memory to learn the size, then to hand out the places. */
typedef struct carver {
    uint8_t *memory;
    uint64_t used;
} carver;

static void *carve(carver *state, uint64_t bytes) {
    uint8_t *place = state->memory == NULL ? NULL : state->memory + state->used;
    state->used += (bytes + 63) / 64 * 64;
    return place;
}

static uint64_t state_bytes(const ingot_model *model, uint64_t capacity) {
    uint64_t bytes = 0;
    for (uint32_t index = 0; index < model->state_count; index++) {
        bytes += model->states[index].bytes_per_token * capacity;
    }
    return bytes;
}

static void carve_states(ingot_session *session, carver *state) {
    const ingot_model *model = session->model;
    for (uint32_t index = 0; index < model->state_count; index++) {
        const ingot_state_place *place = &model->states[index];
        uint64_t rows = (uint64_t)place->kv_heads * session->capacity;
        session->keys[index] = carve(state, rows * place->head_size * sizeof(uint16_t));
        session->values[index] = carve(state, rows * place->head_padded * sizeof(uint16_t));
    }
}

static void carve_arenas(ingot_session *session, carver *state) {
    const ingot_file *file = &session->model->file;
    uint8_t *tokens = carve(state, file->plan->arena_bytes_per_token * session->chunk);
    uint8_t *selected = carve(state, file->plan->arena_bytes_per_selected * session->logits_rows);
    for (uint32_t id = 0; id < file->tensor_count && tokens != NULL; id++) {
        const ingot_tensor_record *record = &file->tensors[id];
        if (record->role != INGOT_ROLE_ACTIVATION || record->dtype != INGOT_DTYPE_F32) {
            continue;
        }
        bool few = record->rows == INGOT_ROWS_SELECTED;
        uint8_t *start =
            few ? selected + record->offset * session->logits_rows : tokens + record->offset * session->chunk;
        session->places[id] = (ingot_activation_place){(float *)(void *)start, (uint32_t)(record->size / sizeof(float)),
                                                       (uint32_t)record->shape[1], few};
    }
}

static void carve_area(const ingot_session *session, carver *state, ingot_thread_area *area) {
    const ingot_model *model = session->model;
    uint64_t attention = INGOT_ATTENTION_MAX_TILE * (uint64_t)(INGOT_ATTENTION_BLOCK + model->widest_head + 16);
    area->tile = carve(state, session->tile_floats * sizeof(float));
    area->attention = carve(state, attention * sizeof(float));
    area->row = carve(state, model->widest_row * sizeof(float));
    area->a = carve(state, model->widest_k);
    area->a_scale = carve(state, model->widest_k / 32 * sizeof(float));
    area->a_sum = carve(state, model->widest_k / 32 * sizeof(int32_t));
    carve(state, 128); /* keeps the threads' lines apart */
}

static void carve_all(ingot_session *session, carver *state) {
    const ingot_model *model = session->model;
    ingot_memory_info *info = &session->info;
    carve_arenas(session, state);
    info->arena_bytes = state->used;
    session->a = carve(state, (uint64_t)session->chunk * model->widest_k);
    session->a_scale = carve(state, (uint64_t)session->chunk * (model->widest_k / 32) * sizeof(float));
    session->a_sum = carve(state, (uint64_t)session->chunk * (model->widest_k / 32) * sizeof(int32_t));
    session->padded = carve(state, (uint64_t)session->chunk * model->padded_float_k * sizeof(float));
    for (uint32_t thread = 0; thread < session->most_threads; thread++) {
        carve_area(session, state, &session->areas[thread]);
    }
    info->scratch_bytes = state->used - info->arena_bytes;
    carve_states(session, state);
    info->state_bytes = state->used - info->arena_bytes - info->scratch_bytes;
    info->total_bytes = state->used + info->weights_bytes;
}

static uint32_t round_up(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

static ingot_status read_config(ingot_session *session, const ingot_session_config *config,
                                const ingot_topology *topology) {
    const ingot_plan_header *plan = session->model->file.plan;
    session->context = config->context != 0 ? config->context : plan->context;
    session->chunk = config->chunk != 0 ? config->chunk : plan->chunk;
    session->logits_rows = config->logits_rows != 0 ? config->logits_rows : 1;
    session->threads = config->threads != 0 ? config->threads : topology->threads;
    if (session->context > plan->context || session->chunk > plan->chunk) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "context %u and chunk %u: the file is planned for at most %u and %u; compress with --context",
                          session->context, session->chunk, plan->context, plan->chunk);
    }
    if (config->threads > INGOT_MAX_THREADS || config->prefill_threads > INGOT_MAX_THREADS ||
        session->logits_rows > session->chunk) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "threads %u and %u (at most %d), logits rows %u (at most the chunk, %u)", config->threads,
                          config->prefill_threads, INGOT_MAX_THREADS, session->logits_rows, session->chunk);
    }
    session->threads = session->threads > INGOT_MAX_THREADS ? INGOT_MAX_THREADS : session->threads;
    session->prefill_threads = config->prefill_threads != 0 ? config->prefill_threads : session->threads;
    session->most_threads = session->threads > session->prefill_threads ? session->threads : session->prefill_threads;
    session->capacity = round_up(session->context, INGOT_ATTENTION_BLOCK);
    uint32_t wide = 2 * session->chunk > 64 ? 2 * session->chunk : 64;
    session->tile_floats = INGOT_TILE_ROWS * wide;
    return INGOT_OK;
}

static ingot_status check_limit(const ingot_session *session, uint64_t limit) {
    const ingot_memory_info *info = &session->info;
    if (limit == 0 || info->total_bytes <= limit) {
        return INGOT_OK;
    }
    uint64_t fixed = info->total_bytes - info->state_bytes;
    uint64_t block = state_bytes(session->model, INGOT_ATTENTION_BLOCK);
    uint64_t fits = fixed >= limit || block == 0 ? 0 : (limit - fixed) / block * INGOT_ATTENTION_BLOCK;
    double needed = (double)info->total_bytes / 1e9, given = (double)limit / 1e9;
    if (fits == 0) {
        return ingot_fail(INGOT_ERROR_MEMORY_LIMIT,
                          "context %u needs %.3f GB, the limit is %.3f GB; no context fits: "
                          "weights and buffers alone take %.3f GB",
                          session->context, needed, given, (double)fixed / 1e9);
    }
    return ingot_fail(INGOT_ERROR_MEMORY_LIMIT, "context %u needs %.3f GB, the limit is %.3f GB; context %llu fits",
                      session->context, needed, given, (unsigned long long)fits);
}

static ingot_status start_threads(ingot_session *session, const ingot_topology *topology) {
    const uint32_t threads = session->most_threads;
    uint64_t place[INGOT_TOPOLOGY_CPUS / 64];
    const bool placed = ingot_topology_placement(topology, threads, place);
    return ingot_pool_create(threads, placed ? place : NULL, INGOT_TOPOLOGY_CPUS / 64, &session->pool);
}

static ingot_status allocate(ingot_session *session, uint64_t limit, const ingot_topology *topology) {
    const ingot_file *file = &session->model->file;
    session->places = calloc(file->tensor_count, sizeof *session->places);
    session->keys = calloc(session->model->state_count + 1, sizeof *session->keys);
    session->values = calloc(session->model->state_count + 1, sizeof *session->values);
    if (session->places == NULL || session->keys == NULL || session->values == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    session->info = (ingot_memory_info){
        .struct_size = sizeof(ingot_memory_info), .threads = session->threads, .weights_bytes = file->weights_size};
    carver measure = {0};
    carve_all(session, &measure);
    ingot_status status = check_limit(session, limit);
    if (status == INGOT_OK) {
        status = ingot_platform_allocate(measure.used, &session->memory);
    }
    if (status == INGOT_OK) {
        session->memory_size = measure.used;
        carver hand_out = {session->memory, 0};
        carve_all(session, &hand_out);
        status = start_threads(session, topology);
    }
    return status;
}

/* Every token reads all weights of linear, so that they may as well come now; an embedding table is left alone. */
static void prefault_weights(ingot_model *model) {
    if (atomic_exchange(&model->prefaulted, 1) != 0) {
        return;
    }
    for (uint32_t index = 0; index < model->step_count; index++) {
        const ingot_step *step = &model->steps[index];
        for (uint32_t p = 0; p < step->part_count; p++) {
            ingot_platform_prefault(step->parts[p].weights, step->parts[p].tile_bytes * step->parts[p].tiles);
        }
    }
}

ingot_status ingot_session_create(ingot_model *model, const ingot_session_config *config, ingot_session **session) {
    const ingot_session_config standard = {.struct_size = sizeof standard};
    config = config != NULL ? config : &standard;
    if (model == NULL || session == NULL || config->struct_size != sizeof *config) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_session_create: config->struct_size must be %zu",
                          sizeof *config);
    }
    ingot_session *created = calloc(1, sizeof *created);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    created->model = model;
    created->process = ingot_platform_process();
    ingot_model_acquire(model);
    ingot_topology topology;
    ingot_topology_read("", NULL, 0, &topology);
    ingot_status status = read_config(created, config, &topology);
    status = status == INGOT_OK ? allocate(created, config->memory_limit, &topology) : status;
    if (status != INGOT_OK) {
        ingot_session_destroy(created);
        return status;
    }
    prefault_weights(model);
    *session = created;
    return INGOT_OK;
}

void ingot_session_destroy(ingot_session *session) {
    if (session == NULL) {
        return;
    }
    if (session->process == ingot_platform_process()) {
        ingot_pool_destroy(session->pool);
    } else if (session->pool != NULL) {
        ingot_pool_abandon(session->pool);
    }
    ingot_platform_release(session->memory, session->memory_size);
    free(session->profile);
    free(session->places);
    free(session->keys);
    free(session->values);
    ingot_model_close(session->model);
    free(session);
}
