/* SPDX-License-Identifier: Apache-2.0 */
/* The public calls on a session: feed tokens, read results, cancel, cut back. */
#include <string.h>

#include "core/backend.h"
#include "core/error.h"
#include "core/executor.h"
#include "core/pick.h"
#include "core/session.h"
#include "platform/platform.h"

ingot_status ingot_session_enter(ingot_session *session) {
    if (session == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "the session is NULL");
    }
    if (session->process != ingot_platform_process()) {
        return ingot_fail(INGOT_ERROR_FORKED, "a session cannot be used in a forked child; open the model there");
    }
    if (atomic_exchange(&session->busy, 1) != 0) {
        return ingot_fail(INGOT_ERROR_BUSY, "another thread is inside this session; give each thread its own");
    }
    return INGOT_OK;
}

void ingot_session_leave(ingot_session *session) { atomic_store(&session->busy, 0); }

static ingot_status check_tokens(const ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted) {
    ingot_model_info info = {.struct_size = sizeof info};
    ingot_status status = ingot_file_intact(&session->model->file);
    status = status == INGOT_OK ? ingot_model_info_get(session->model, &info) : status;
    if (status != INGOT_OK) {
        return status;
    }
    if (tokens == NULL || count == 0) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "no tokens to evaluate");
    }
    if (wanted > session->logits_rows || wanted > count) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "logits of %u positions wanted, of %u tokens, the session keeps %u", wanted, count,
                          session->logits_rows);
    }
    if (count > session->context - session->position) {
        return ingot_fail(INGOT_ERROR_CONTEXT_FULL, "%u tokens after %u do not fit a context of %u", count,
                          session->position, session->context);
    }
    for (uint32_t index = 0; index < count; index++) {
        if (tokens[index] < 0 || (uint32_t)tokens[index] >= info.embedding_rows) {
            return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "token %u is %d, the embedding has %u rows", index,
                              tokens[index], info.embedding_rows);
        }
    }
    return INGOT_OK;
}

/* Runs the instructions of a pass on the CPU; false if it was cancelled on the way. */
static bool run_here(ingot_session *session) {
    const uint32_t wanted = session->m <= INGOT_DECODE_TOKENS ? session->threads : session->prefill_threads;
    const uint32_t limit = atomic_load_explicit(&session->thread_limit, memory_order_relaxed);
    const uint32_t threads = limit != 0 && limit < wanted ? limit : wanted;
    if (session->profile != NULL) {
        ingot_profile_start(session, threads);
    }
    ingot_pool_run(session->pool, threads, ingot_executor_run, session);
    return atomic_load(&session->cancelled) == 0;
}

static ingot_status run_pass(ingot_session *session, const int32_t *tokens, uint32_t m, uint32_t selected) {
    session->tokens = tokens;
    session->m = m;
    session->selected = selected;
    if (session->device != NULL) {
        return ingot_backend_pass_run(session, run_here);
    }
    if (!run_here(session)) {
        return ingot_fail(INGOT_ERROR_CANCELLED, "cancelled; %u positions are fed", session->position);
    }
    session->executed += session->limit;
    return INGOT_OK;
}

/* The last pass must hold all wanted positions: the passes before it may then be cut shorter. */
static uint32_t pass_length(const ingot_session *session, uint32_t left, uint32_t wanted) {
    if (left <= session->chunk) {
        return left;
    }
    return left - session->chunk < wanted && left - wanted > 0 && left - wanted < session->chunk ? left - wanted
                                                                                                 : session->chunk;
}

/* Blocks that were written and not taken up by ingot_session_resume() are room for what is fed now. */
static void drop_written(ingot_session *session) {
    if (session->position == 0) {
        ingot_kv_state_cut(&session->kv, 0);
    }
}

static ingot_status feed(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted) {
    session->limit = session->model->step_count;
    session->tracing = false;
    drop_written(session);
    while (count > 0) {
        uint32_t m = pass_length(session, count, wanted);
        ingot_status status = ingot_kv_state_own(&session->kv, session->position, session->position + m);
        if (status != INGOT_OK) {
            return status;
        }
        if (atomic_load(&session->cancelled) != 0) {
            return ingot_fail(INGOT_ERROR_CANCELLED, "cancelled; %u positions are fed", session->position);
        }
        status = run_pass(session, tokens, m, m == count ? wanted : 0);
        status = status == INGOT_OK ? ingot_file_intact(&session->model->file) : status;
        if (status != INGOT_OK) { /* this pass read zeros where weights were: it does not count */
            return status;
        }
        session->position += m;
        ingot_kv_state_slide(&session->kv, session->position);
        tokens += m;
        count -= m;
    }
    return INGOT_OK;
}

ingot_status ingot_session_feed(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted) {
    ingot_status status = check_tokens(session, tokens, count, wanted);
    status = status == INGOT_OK ? feed(session, tokens, count, wanted) : status;
    if (status != INGOT_OK) {
        session->selected = 0;
    }
    atomic_store(&session->cancelled, 0);
    return status;
}

ingot_status ingot_session_eval(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    ingot_pick_begin(session, 0);
    status = ingot_session_feed(session, tokens, count, wanted);
    ingot_session_leave(session);
    return status;
}

ingot_status ingot_session_trace(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t wanted,
                                 uint32_t instructions) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    status = check_tokens(session, tokens, count, wanted);
    if (status == INGOT_OK && (count > session->chunk || instructions > session->model->step_count)) {
        status = ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "a trace takes at most %u tokens and %u instructions",
                            session->chunk, session->model->step_count);
    }
    if (status == INGOT_OK) {
        drop_written(session);
        status = ingot_kv_state_own(&session->kv, session->position, session->position + count);
    }
    if (status == INGOT_OK) {
        session->limit = instructions;
        ingot_pick_begin(session, 0);
        session->tracing = true;
        status = run_pass(session, tokens, count, wanted);
        status = status == INGOT_OK ? ingot_file_intact(&session->model->file) : status;
        session->selected = status == INGOT_OK ? session->selected : 0;
    }
    atomic_store(&session->cancelled, 0);
    ingot_session_leave(session);
    return status;
}

const float *ingot_session_logits(const ingot_session *session, uint32_t row) {
    if (session == NULL || row >= session->selected) {
        return NULL;
    }
    const ingot_activation_place *place = &session->places[session->model->file.step_output];
    return place->data + (size_t)row * place->stride;
}

ingot_status ingot_session_read(const ingot_session *session, uint32_t tensor, float *out, uint64_t capacity) {
    if (session == NULL || out == NULL || tensor >= session->model->file.tensor_count ||
        session->places[tensor].data == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "tensor %u is no float activation of this session", tensor);
    }
    const ingot_activation_place *place = &session->places[tensor];
    uint64_t rows = place->selected ? session->selected : session->m;
    ingot_status status = session->device == NULL ? INGOT_OK : ingot_backend_fetch(session, tensor);
    if (status != INGOT_OK) {
        return status;
    }
    if (capacity < rows * place->width) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "tensor %u has %llu x %u floats, the buffer %llu", tensor,
                          (unsigned long long)rows, place->width, (unsigned long long)capacity);
    }
    for (uint64_t row = 0; row < rows; row++) {
        memcpy(out + row * place->width, place->data + row * place->stride, place->width * sizeof(float));
    }
    return INGOT_OK;
}

uint32_t ingot_session_position(const ingot_session *session) { return session == NULL ? 0 : session->position; }

void ingot_session_cut(ingot_session *session, uint32_t position) {
    ingot_kv_state_cut(&session->kv, position);
    session->position = position;
    session->selected = 0;
}

ingot_status ingot_session_truncate(ingot_session *session, uint32_t position) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    if (position > session->position) {
        status = ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "cannot truncate to %u, the session holds %u positions",
                            position, session->position);
    } else if (!ingot_kv_state_complete(&session->kv, position)) {
        status = ingot_fail(INGOT_ERROR_WRONG_STATE,
                            "cannot truncate to %u: the window of %u positions has left behind what is before it; "
                            "truncate to 0 and feed the tokens again",
                            position, session->kv.window);
    } else {
        ingot_session_cut(session, position);
    }
    ingot_session_leave(session);
    return status;
}

void ingot_session_cancel(ingot_session *session) {
    if (session != NULL) {
        atomic_store(&session->cancelled, 1);
    }
}

ingot_status ingot_session_memory(const ingot_session *session, ingot_memory_info *info) {
    if (session == NULL || info == NULL || info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_session_memory: info->struct_size must be %zu",
                          sizeof *info);
    }
    *info = session->info;
    return INGOT_OK;
}

ingot_status ingot_session_trim(ingot_session *session, uint64_t *bytes) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    if (bytes == NULL) {
        status = ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_session_trim: bytes must not be NULL");
    } else {
        session->selected = session->m = 0;
        *bytes = ingot_platform_forget(session->memory, session->passing_bytes) + ingot_kv_trim(session->kv.family);
    }
    ingot_session_leave(session);
    return status;
}

ingot_status ingot_session_limit_threads(ingot_session *session, uint32_t most) {
    if (session == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "the session is NULL");
    }
    atomic_store_explicit(&session->thread_limit, most, memory_order_relaxed);
    return INGOT_OK;
}

uint64_t ingot_session_executed(const ingot_session *session, uint32_t backend) {
    return session == NULL || backend > 1 ? 0 : backend == 1 ? session->executed_there : session->executed;
}
