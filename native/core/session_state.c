/* SPDX-License-Identifier: Apache-2.0 */
/* The public calls on a session's keys and values: fork it, copy blocks out and in. */
#include <string.h>

#include "core/backend.h"
#include "core/error.h"
#include "core/session.h"

static ingot_status fork_at(const ingot_session *session, uint32_t position, ingot_session **child) {
    if (child == NULL || position > session->position) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "cannot fork at %u, the session holds %u positions", position,
                          session->position);
    }
    if (!ingot_kv_state_complete(&session->kv, position)) {
        return ingot_fail(INGOT_ERROR_WRONG_STATE,
                          "cannot fork at %u: the window of %u positions has left behind what is before it", position,
                          session->kv.window);
    }
    ingot_status status = ingot_session_open(session->model, &session->config, session, child);
    if (status == INGOT_OK) {
        ingot_kv_state_share(&session->kv, position, &(*child)->kv);
        (*child)->position = position;
    }
    if (status == INGOT_OK && session->device != NULL) {
        status = ingot_backend_session_copy(session, position, *child);
        if (status != INGOT_OK) {
            ingot_session_destroy(*child);
            *child = NULL;
        }
    }
    return status;
}

ingot_status ingot_session_fork(ingot_session *session, uint32_t position, ingot_session **child) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    status = fork_at(session, position, child);
    ingot_session_leave(session);
    return status;
}

uint32_t ingot_session_kv_format(const ingot_session *session) { return session == NULL ? 0 : session->kv.format; }

uint64_t ingot_session_block_bytes(const ingot_session *session) {
    return session == NULL ? 0 : session->kv.block_bytes;
}

static bool on_device(const ingot_session *session) {
    return session->device != NULL && session->model->backend->keeps_state;
}

static ingot_status check_block(const ingot_session *session, uint32_t block, const void *data, uint64_t size) {
    if (data == NULL || block >= session->kv.length || size != session->kv.block_bytes) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "block %u of %u with %llu bytes, a block has %llu", block,
                          session->kv.length, (unsigned long long)size, (unsigned long long)session->kv.block_bytes);
    }
    return INGOT_OK;
}

ingot_status ingot_session_block_read(ingot_session *session, uint32_t block, uint8_t *out, uint64_t size) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    status = check_block(session, block, out, size);
    if (status == INGOT_OK && session->kv.held[block] == NULL) {
        status = ingot_fail(INGOT_ERROR_WRONG_STATE, "the session does not hold block %u", block);
    }
    if (status == INGOT_OK) {
        if (on_device(session)) {
            status = ingot_backend_state_read(session, block, out);
        } else {
            memcpy(out, session->kv.blocks[block], size);
        }
    }
    ingot_session_leave(session);
    return status;
}

/* What a session holds beyond its share is missing to another member of its family. */
static ingot_status check_share(const ingot_session *session, uint32_t block) {
    uint32_t held = session->kv.held[block] == NULL;
    for (uint32_t other = 0; other < session->kv.length; other++) {
        held += session->kv.held[other] != NULL;
    }
    if (held > session->kv.share) {
        return ingot_fail(INGOT_ERROR_WRONG_STATE, "block %u is one too many: a window of %u positions needs %u blocks",
                          block, session->kv.window, session->kv.share);
    }
    return INGOT_OK;
}

/* Blocks from the position on may be written, so that what was fed is never changed. */
static ingot_status write_block(ingot_session *session, uint32_t block, const uint8_t *data, uint64_t size) {
    if (session->position != 0) {
        return ingot_fail(INGOT_ERROR_WRONG_STATE, "blocks are written into an empty session, this one holds %u",
                          session->position);
    }
    const uint32_t begin = block * INGOT_ATTENTION_BLOCK;
    ingot_status status = check_share(session, block);
    if (status != INGOT_OK) {
        return status;
    }
    status = ingot_kv_state_own(&session->kv, begin, begin + INGOT_ATTENTION_BLOCK);
    if (status == INGOT_OK && on_device(session)) {
        return ingot_backend_state_write(session, block, data);
    }
    if (status == INGOT_OK) {
        memcpy(session->kv.blocks[block], data, size);
    }
    return status;
}

ingot_status ingot_session_block_write(ingot_session *session, uint32_t block, const uint8_t *data, uint64_t size) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    status = check_block(session, block, data, size);
    status = status == INGOT_OK ? write_block(session, block, data, size) : status;
    ingot_session_leave(session);
    return status;
}

ingot_status ingot_session_resume(ingot_session *session, uint32_t position) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    if (session->position != 0 || position > session->context) {
        status = ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "cannot resume at %u: the session holds %u of %u", position,
                            session->position, session->context);
    } else if (!ingot_kv_state_complete(&session->kv, position)) {
        status =
            ingot_fail(INGOT_ERROR_WRONG_STATE, "cannot resume at %u: a block before it was not written", position);
    } else { /* what no token will see is room for those that come */
        ingot_kv_state_cut(&session->kv, position);
        ingot_kv_state_slide(&session->kv, position);
        session->position = position;
    }
    ingot_session_leave(session);
    return status;
}
