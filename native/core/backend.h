/* SPDX-License-Identifier: Apache-2.0 */
/* A model on a backend (ingot_backend.h): which instructions run there, and what passes from side to side. */
#ifndef INGOT_CORE_BACKEND_H
#define INGOT_CORE_BACKEND_H

#include "core/program.h"
#include "ingot_backend.h"

struct ingot_session;

/* Instructions that run on one side, and the activations that must be copied there before. */
typedef struct ingot_segment {
    uint32_t first, count;
    bool there; /* on the backend */
    uint32_t transfer_begin, transfer_end;
} ingot_segment;

typedef struct ingot_backend_model {
    uint64_t process; /* that opened it: a forked child leaves the device alone */
    void *library;
    const ingot_backend *api;
    void *model;
    uint8_t *takes;      /* by instruction */
    bool keeps_state;    /* keys and values are on the device */
    bool takes_all;
    uint32_t segment_count, transfer_count;
    ingot_segment *segments;
    uint32_t *transfers; /* tensor ids */
} ingot_backend_model;

/** Opens model->file on the backend that config names, and makes model->backend.
 * @return INGOT_ERROR_NO_BACKEND if there is no such backend, INGOT_ERROR_HARDWARE if the device is not to be used. */
ingot_status ingot_backend_prepare(ingot_model *model, const ingot_open_config *config, const char *path);
void ingot_backend_discard(ingot_backend_model *backend);

/** The session's part on the device; with a parent, its keys and values before `position`.
 * @return INGOT_ERROR_OUT_OF_MEMORY, INGOT_ERROR_MEMORY_LIMIT with what is left of the config's limit. */
ingot_status ingot_backend_session_open(struct ingot_session *session);
ingot_status ingot_backend_session_copy(const struct ingot_session *parent, uint32_t position,
                                        struct ingot_session *child);
void ingot_backend_session_close(struct ingot_session *session);

/** Runs the pass of a session whose model has a backend. `run` does the instructions [session->first, session->limit) on
 * the CPU and tells whether it was left alone. */
ingot_status ingot_backend_pass_run(struct ingot_session *session, bool (*run)(struct ingot_session *));
/** Brings the rows of an activation that the device wrote into the arena. */
ingot_status ingot_backend_fetch(const struct ingot_session *session, uint32_t tensor);
/** The best logits of a row into the session's sampler. */
ingot_status ingot_backend_collect(struct ingot_session *session, uint32_t row);
/** Whether the head's logits are made on the device. */
bool ingot_backend_picks(const struct ingot_session *session);

ingot_status ingot_backend_state_read(const struct ingot_session *session, uint32_t block, uint8_t *out);
ingot_status ingot_backend_state_write(struct ingot_session *session, uint32_t block, const uint8_t *data);

#endif
