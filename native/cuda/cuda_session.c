/* SPDX-License-Identifier: Apache-2.0 */
/* A session's memory on the device, and what is copied in and out of it. */
#include "cuda_model.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, FEW = CUDA_FEW_TOKENS };

/* Hands out places of one allocation; the first time without it, to know its size. */
typedef struct cuda_places {
    cu_pointer base;
    uint64_t used;
} cuda_places;

static cu_pointer place(cuda_places *places, uint64_t bytes) {
    const cu_pointer found = places->base + places->used;
    places->used += ingot_cuda_padded(bytes, ALIGNMENT);
    return found;
}

static void place_arenas(cuda_session *session, cuda_places *places) {
    const ingot_plan_header *plan = session->model->program->plan;
    session->tokens_arena = place(places, plan->arena_bytes_per_token * session->config.chunk);
    session->selected_arena = place(places, plan->arena_bytes_per_selected * session->config.logits_rows);
}

static void place_codes(const cuda_session *session, cuda_places *places, uint64_t rows, cuda_codes *codes) {
    const uint64_t k = session->model->padded_k;
    codes->a = ingot_cuda_at(place(places, rows * k));
    codes->a_scale = ingot_cuda_at(place(places, rows * k / 32 * sizeof(float)));
    codes->a_sum = ingot_cuda_at(place(places, rows * k / 32 * sizeof(int32_t)));
    codes->a_stride = (uint32_t)k;
}

static void place_scratch(cuda_session *session, cuda_places *places) {
    const cuda_model *model = session->model;
    const uint64_t chunk = session->config.chunk, rows = session->config.logits_rows;
    const uint64_t heads = model->widest_heads, head = model->widest_head;
    const uint64_t few = chunk < FEW ? chunk : FEW;
    const uint64_t segments = model->program->plan->vocabulary / CUDA_PICK_SEGMENT + 1;
    session->pass = place(places, 4 * (1 + chunk));
    place_codes(session, places, chunk, &session->codes_of[0]);
    place_codes(session, places, few, &session->codes_of[1]); /* of passes that fuse */
    if (model->quantizes_tokens) {
        place_codes(session, places, chunk, &session->token_codes);
    }
    session->codes = place(places, chunk * heads * head);
    session->factors = place(places, 4 * chunk * heads);
    session->partials = place(places, 4 * session->most_splits * few * heads * (CUDA_PARTIAL + head));
    session->candidates = place(places, 8 * rows * segments * CUDA_MOST_PICKS);
    session->best = place(places, 8 * rows * CUDA_MOST_PICKS);
}

static ingot_status allocate(cuda_session *session) {
    const ingot_cuda_driver *driver = session->model->driver;
    cuda_places places = {0, 0};
    place_arenas(session, &places);
    session->arena_bytes = places.used;
    place_scratch(session, &places);
    session->scratch_bytes = places.used - session->arena_bytes;
    session->state_bytes = session->config.block_bytes * (session->config.capacity / 64);
    const uint64_t total = places.used + session->state_bytes, limit = session->config.memory_limit;
    if (limit != 0 && total > limit) {
        return ingot_cuda_fail(INGOT_ERROR_MEMORY_LIMIT,
                               "the session takes %llu bytes of the device, the limit is %llu",
                               (unsigned long long)total, (unsigned long long)limit);
    }
    cu_result result = driver->memory_allocate(&session->memory, places.used);
    if (result == 0) result = driver->memory_set(session->memory, 0, places.used);
    if (result == 0 && session->state_bytes != 0) {
        result = driver->memory_allocate(&session->state, session->state_bytes);
        if (result == 0) result = driver->memory_set(session->state, 0, session->state_bytes);
    }
    if (result == 0) result = driver->host_allocate((void **)&session->host_pass, 4 * (1 + session->config.chunk), 0);
    if (result == 0) result = driver->stream_create(&session->stream, CU_STREAM_NON_BLOCKING);
    places = (cuda_places){session->memory, 0};
    place_arenas(session, &places);
    place_scratch(session, &places);
    return ingot_cuda_settle(driver, result, "memory for a session");
}

uint32_t ingot_cuda_splits(const cuda_session *session, uint32_t blocks) {
    const uint32_t wanted = (4 * session->model->multiprocessors + blocks - 1) / blocks;
    return wanted < session->most_splits ? wanted : session->most_splits;
}

ingot_status ingot_cuda_session_open(void *opaque, const ingot_backend_session_config *config, void **result) {
    cuda_model *model = opaque;
    const size_t states = model->program->instruction_count * sizeof(ingot_backend_state);
    cuda_session *session = calloc(1, sizeof *session);
    if (session != NULL && config->states != NULL) session->states = malloc(states + 1);
    if (session == NULL || (config->states != NULL && session->states == NULL)) {
        free(session);
        return ingot_cuda_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    if (config->states != NULL) memcpy(session->states, config->states, states);
    session->model = model;
    session->config = *config;
    session->config.states = session->states;
    const uint32_t spans = (config->capacity + CUDA_SPAN - 1) / CUDA_SPAN;
    const uint32_t wanted = 4 * model->multiprocessors, most = wanted < CUDA_MOST_SPLITS ? wanted : CUDA_MOST_SPLITS;
    session->most_splits = spans < 1 ? 1 : (spans < most ? spans : most);
    cu_context before;
    (void)model->driver->context_push(model->context);
    const ingot_status status = allocate(session);
    (void)model->driver->context_pop(&before);
    if (status != INGOT_OK) {
        ingot_cuda_session_close(session);
        return status;
    }
    *result = session;
    return INGOT_OK;
}

void ingot_cuda_session_close(void *opaque) {
    cuda_session *session = opaque;
    cu_context before;
    if (session == NULL) {
        return;
    }
    const ingot_cuda_driver *driver = session->model->driver;
    (void)driver->context_push(session->model->context);
    for (uint32_t i = 0; i < session->graph_count; i++) (void)driver->executable_destroy(session->graphs[i].executable);
    if (session->stream != NULL) (void)driver->stream_destroy(session->stream);
    if (session->memory != 0) (void)driver->memory_free(session->memory);
    if (session->state != 0) (void)driver->memory_free(session->state);
    if (session->host_pass != NULL) (void)driver->host_free(session->host_pass);
    (void)driver->context_pop(&before);
    free(session->states);
    free(session);
}

/* ---- copies ---- */

cu_pointer ingot_cuda_tensor(const cuda_session *session, uint32_t tensor, uint32_t *stride) {
    const ingot_tensor_record *record = &session->model->program->tensors[tensor];
    const bool selected = record->rows == INGOT_ROWS_SELECTED;
    const uint64_t most = selected ? session->config.logits_rows : session->config.chunk;
    *stride = (uint32_t)(record->size / sizeof(float));
    return (selected ? session->selected_arena : session->tokens_arena) + record->offset * most;
}

static ingot_status copy(const cuda_session *session, cu_copy2d *copy, uint32_t tensor, uint32_t rows,
                         const char *what) {
    const ingot_cuda_driver *driver = session->model->driver;
    cu_context before;
    copy->width = (size_t)ingot_cuda_width(session->model, tensor) * sizeof(float);
    copy->height = rows;
    if (rows == 0) {
        return INGOT_OK;
    }
    (void)driver->context_push(session->model->context);
    const ingot_status status = ingot_cuda_settle(driver, driver->copy2d(copy), what);
    (void)driver->context_pop(&before);
    return status;
}

ingot_status ingot_cuda_write(void *opaque, uint32_t tensor, uint32_t rows, const float *data, size_t stride) {
    uint32_t own_stride;
    cu_copy2d to_device = {.source_type = CU_MEMORY_HOST,
                           .source_host = data,
                           .source_pitch = stride * sizeof(float),
                           .to_type = CU_MEMORY_DEVICE,
                           .to_device = ingot_cuda_tensor(opaque, tensor, &own_stride)};
    to_device.to_pitch = own_stride * sizeof(float);
    return copy(opaque, &to_device, tensor, rows, "copying an activation to the device");
}

ingot_status ingot_cuda_read(void *opaque, uint32_t tensor, uint32_t rows, float *data, size_t stride) {
    uint32_t own_stride;
    cu_copy2d to_host = {.source_type = CU_MEMORY_DEVICE,
                         .source_device = ingot_cuda_tensor(opaque, tensor, &own_stride),
                         .to_type = CU_MEMORY_HOST,
                         .to_host = data,
                         .to_pitch = stride * sizeof(float)};
    to_host.source_pitch = own_stride * sizeof(float);
    return copy(opaque, &to_host, tensor, rows, "copying an activation from the device");
}

static ingot_status state_block(const cuda_session *session, uint32_t block, cu_pointer *found) {
    if (block >= session->config.capacity / 64 || session->state == 0) {
        return ingot_cuda_fail(INGOT_ERROR_INVALID_ARGUMENT, "block %u of a session of %u positions", block,
                               session->config.capacity);
    }
    *found = session->state + block * session->config.block_bytes;
    return INGOT_OK;
}

ingot_status ingot_cuda_state_write(void *opaque, uint32_t block, const uint8_t *data) {
    const cuda_session *session = opaque;
    const ingot_cuda_driver *driver = session->model->driver;
    cu_pointer to = 0;
    cu_context before;
    ingot_status status = state_block(session, block, &to);
    if (status == INGOT_OK) {
        (void)driver->context_push(session->model->context);
        status = ingot_cuda_settle(driver, driver->copy_to_device(to, data, session->config.block_bytes),
                                   "copying keys and values to the device");
        (void)driver->context_pop(&before);
    }
    return status;
}

ingot_status ingot_cuda_state_read(void *opaque, uint32_t block, uint8_t *data) {
    const cuda_session *session = opaque;
    const ingot_cuda_driver *driver = session->model->driver;
    cu_pointer from = 0;
    cu_context before;
    ingot_status status = state_block(session, block, &from);
    if (status == INGOT_OK) {
        (void)driver->context_push(session->model->context);
        status = ingot_cuda_check(driver, driver->copy_to_host(data, from, session->config.block_bytes),
                                  "copying keys and values from the device");
        (void)driver->context_pop(&before);
    }
    return status;
}

void ingot_cuda_memory(const void *opaque, ingot_backend_memory *info) {
    const cuda_session *session = opaque;
    const cuda_model *model = session->model;
    const bool imported = model->weights_kind == CUDA_WEIGHTS_IMPORTED;
    const uint64_t weights = model->weights_kind == CUDA_WEIGHTS_NONE ? 0 : model->program->weights_size;
    *info = (ingot_backend_memory){.weights_bytes = (imported ? 0 : weights) + model->offsets_bytes,
                                   .imported_bytes = imported ? weights : 0,
                                   .arena_bytes = session->arena_bytes,
                                   .scratch_bytes = session->scratch_bytes,
                                   .state_bytes = session->state_bytes};
}
