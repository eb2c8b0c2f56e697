/* SPDX-License-Identifier: Apache-2.0 */
/* A session whose model has a backend: passes in segments, and what is copied between them. */
#include <stdlib.h>

#include "core/backend.h"
#include "core/error.h"
#include "core/lane.h"
#include "core/session.h"
#include "kernels/attention/attention.h"
#include "platform/platform.h"

static ingot_status failed(const ingot_backend_model *backend, ingot_status status) {
    return status == INGOT_OK ? INGOT_OK
                              : ingot_fail(status, "%s: %.400s", backend->api->name, backend->api->last_error());
}

/* What is left of the session's limit, at least a byte: 0 would be no limit. */
static uint64_t room_of(const ingot_session *session) {
    const uint64_t limit = session->config.memory_limit, all = session->info.total_bytes;
    const uint64_t taken = session->model->backend->keeps_state ? all - session->info.state_bytes : all;
    return limit == 0 ? 0 : limit > taken ? limit - taken : 1;
}

static void add_memory(ingot_session *session) {
    ingot_backend_memory memory = {0};
    const ingot_backend_model *backend = session->model->backend;
    backend->api->memory(session->device, &memory);
    ingot_memory_info *info = &session->info;
    const bool copied = memory.weights_bytes != 0 && memory.imported_bytes == 0;
    if (backend->takes_all && copied) { /* nobody reads the mapping any more: its pages go */
        (void)ingot_platform_forget(session->model->file.weights, session->model->file.weights_size);
        info->total_bytes -= info->weights_bytes;
        info->weights_bytes = 0;
    }
    info->device_bytes = memory.weights_bytes + memory.arena_bytes + memory.scratch_bytes + memory.state_bytes;
    if (backend->keeps_state) {
        info->total_bytes -= info->state_bytes;
        info->state_bytes = memory.state_bytes;
    }
    info->total_bytes += info->device_bytes;
}

/* With what the device says that it took: weights that both sides have are known only now. */
static ingot_status check_total(const ingot_session *session) {
    const uint64_t limit = session->config.memory_limit;
    if (limit == 0 || session->info.total_bytes <= limit) {
        return INGOT_OK;
    }
    return ingot_fail(INGOT_ERROR_MEMORY_LIMIT,
                      "context %u with backend '%s' needs %.3f GB, %.3f GB of them on the device; the limit is %.3f GB",
                      session->context, session->model->backend->api->name, (double)session->info.total_bytes / 1e9,
                      (double)session->info.device_bytes / 1e9, (double)limit / 1e9);
}

ingot_status ingot_backend_session_open(ingot_session *session) {
    const ingot_model *model = session->model;
    const ingot_backend_model *backend = model->backend;
    ingot_backend_state *states = calloc(model->step_count, sizeof *states);
    if (states == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    for (uint32_t index = 0; index < model->step_count; index++) {
        if (model->steps[index].opcode == INGOT_OPCODE_ATTENTION) {
            const ingot_kv_place *place = &session->kv.places[model->steps[index].state_index];
            states[index] = (ingot_backend_state){place->offset, place->key_bytes, place->head_bytes};
        }
    }
    const ingot_backend_session_config config = {
        .capacity = session->capacity,
        .chunk = session->chunk,
        .logits_rows = session->logits_rows,
        .kv_format = session->kv.format,
        .block_bytes = session->kv.block_bytes,
        .states = states,
        .memory_limit = room_of(session),
    };
    ingot_status status = failed(backend, backend->api->session_open(backend->model, &config, &session->device));
    free(states);
    if (status == INGOT_OK) {
        add_memory(session);
        status = check_total(session);
    }
    return status;
}

void ingot_backend_session_close(ingot_session *session) {
    if (session->device != NULL && session->process == ingot_platform_process()) {
        session->model->backend->api->session_close(session->device);
        session->device = NULL;
    }
}

ingot_status ingot_backend_session_copy(const ingot_session *parent, uint32_t position, ingot_session *child) {
    if (!parent->model->backend->keeps_state) {
        return INGOT_OK;
    }
    uint8_t *block = malloc(parent->kv.block_bytes);
    ingot_status status =
        block == NULL ? ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory to copy keys and values") : INGOT_OK;
    for (uint32_t i = 0; status == INGOT_OK && i * INGOT_ATTENTION_BLOCK < position; i++) {
        if (parent->kv.held[i] != NULL) {
            status = ingot_backend_state_read(parent, i, block);
            status = status == INGOT_OK ? ingot_backend_state_write(child, i, block) : status;
        }
    }
    free(block);
    return status;
}

/* Copies the rows of one activation to the side that reads it. */
static ingot_status move(const ingot_session *session, uint32_t tensor, bool there) {
    const ingot_backend_model *backend = session->model->backend;
    const ingot_activation_place *place = &session->places[tensor];
    const uint32_t rows = ingot_row_count(session, tensor);
    if (rows == 0) {
        return INGOT_OK;
    }
    return failed(backend, there ? backend->api->write(session->device, tensor, rows, place->data, place->stride)
                                 : backend->api->read(session->device, tensor, rows, place->data, place->stride));
}

static ingot_status run_there(ingot_session *session, const ingot_segment *segment, uint32_t end) {
    const ingot_backend_model *backend = session->model->backend;
    const ingot_backend_pass pass = {
        .first = segment->first,
        .count = end - segment->first,
        .m = session->m,
        .selected = session->selected,
        .position = session->position,
        .pick_count = ingot_backend_picks(session) ? session->pick_count : 0,
        .tokens = session->tokens,
    };
    session->executed_there += pass.count;
    return failed(backend, backend->api->run(session->device, &pass));
}

static ingot_status run_segment(ingot_session *session, const ingot_segment *segment, uint32_t limit,
                                bool (*run)(ingot_session *)) {
    const ingot_backend_model *backend = session->model->backend;
    const uint32_t end = segment->first + segment->count < limit ? segment->first + segment->count : limit;
    ingot_status status = INGOT_OK;
    for (uint32_t i = segment->transfer_begin; status == INGOT_OK && i < segment->transfer_end; i++) {
        status = move(session, backend->transfers[i], segment->there);
    }
    if (status != INGOT_OK || segment->there) {
        return status == INGOT_OK ? run_there(session, segment, end) : status;
    }
    session->first = segment->first;
    session->limit = end;
    session->executed += end - segment->first;
    bool whole = run(session);
    session->first = 0;
    session->limit = limit;
    return whole ? INGOT_OK : ingot_fail(INGOT_ERROR_CANCELLED, "cancelled; %u positions are fed", session->position);
}

ingot_status ingot_backend_pass_run(ingot_session *session, bool (*run)(ingot_session *)) {
    const ingot_backend_model *backend = session->model->backend;
    const uint32_t limit = session->limit;
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; status == INGOT_OK && i < backend->segment_count; i++) {
        if (backend->segments[i].first < limit) {
            status = run_segment(session, &backend->segments[i], limit, run);
        }
    }
    const bool logits = limit == session->model->step_count && session->selected != 0 && session->pick_count == 0;
    return status == INGOT_OK && logits ? ingot_backend_fetch(session, session->model->file.step_output) : status;
}

/* By the last instruction of the pass that wrote the tensor. */
static bool written_there(const ingot_session *session, uint32_t tensor) {
    const ingot_model *model = session->model;
    for (uint32_t index = session->limit; index-- > 0;) {
        const uint32_t outputs = model->file.instructions[model->file.step_first + index].outputs;
        for (uint32_t i = 0; i < outputs; i++) {
            if (model->steps[index].outputs[i] == tensor) {
                return model->backend->takes[index] != 0;
            }
        }
    }
    return false;
}

ingot_status ingot_backend_fetch(const ingot_session *session, uint32_t tensor) {
    return written_there(session, tensor) ? move(session, tensor, false) : INGOT_OK;
}

bool ingot_backend_picks(const ingot_session *session) {
    const ingot_backend_model *backend = session->model->backend;
    return backend != NULL && session->pick_count != 0 && backend->takes[session->model->step_count - 1] != 0;
}

ingot_status ingot_backend_collect(ingot_session *session, uint32_t row) {
    const ingot_backend_model *backend = session->model->backend;
    ingot_backend_pick picks[INGOT_PICK_MOST];
    uint32_t count = 0;
    ingot_status status = failed(backend, backend->api->picks(session->device, row, picks, &count));
    if (status != INGOT_OK) {
        return status;
    }
    if (count > session->pick_count) {
        return ingot_fail(INGOT_ERROR_INTERNAL, "%s gave %u candidates where %u were asked for", backend->api->name,
                          count, session->pick_count);
    }
    for (uint32_t i = 0; i < count; i++) {
        session->sampler.values[i] = picks[i].logit;
        session->sampler.ids[i] = picks[i].id;
    }
    session->sampler.count = count;
    ingot_sample_sort(&session->sampler);
    return INGOT_OK;
}

ingot_status ingot_backend_state_read(const ingot_session *session, uint32_t block, uint8_t *out) {
    const ingot_backend_model *backend = session->model->backend;
    return failed(backend, backend->api->state_read(session->device, block, out));
}

ingot_status ingot_backend_state_write(ingot_session *session, uint32_t block, const uint8_t *data) {
    const ingot_backend_model *backend = session->model->backend;
    return failed(backend, backend->api->state_write(session->device, block, data));
}
