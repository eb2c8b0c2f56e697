/* SPDX-License-Identifier: Apache-2.0 */
#include "core/profile.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/session.h"
#include "platform/platform.h"

static size_t mark_count(const ingot_session *session) {
    return (size_t)session->most_threads * session->model->step_count;
}

void ingot_profile_start(ingot_session *session, uint32_t threads) {
    ingot_profile *profile = session->profile;
    memset(profile->marks, 0, mark_count(session) * sizeof *profile->marks);
    profile->threads = threads;
    profile->limit = session->limit;
    profile->m = session->m;
    profile->selected = session->selected;
    profile->position = session->position;
    profile->start = ingot_platform_seconds();
}

ingot_status ingot_session_profile(ingot_session *session, uint32_t enable) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    if (session->device != NULL) {
        status = ingot_fail(INGOT_ERROR_WRONG_STATE, "a profile is of the CPU's instructions: open without a backend");
    } else if (enable == 0) {
        free(session->profile);
        session->profile = NULL;
    } else if (session->profile == NULL) {
        session->profile = calloc(1, sizeof *session->profile + mark_count(session) * sizeof(ingot_profile_mark));
        if (session->profile == NULL) {
            status = ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory to profile %u instructions",
                                session->model->step_count);
        }
    }
    ingot_session_leave(session);
    return status;
}

static uint64_t rows_of(const ingot_session *session, const ingot_profile *profile, uint32_t tensor) {
    return session->places[tensor].selected ? profile->selected : profile->m;
}

static void count_linear(const ingot_session *session, const ingot_step *step, uint64_t rows,
                         ingot_profile_entry *entry) {
    const ingot_tensor_record *tensors = session->model->file.tensors;
    entry->weight = step->inputs[1];
    for (uint32_t p = 0; p < step->part_count && rows != 0; p++) {
        const ingot_tensor_record *weight = &tensors[step->inputs[1 + p]];
        entry->weight_bytes += weight->size;
        entry->multiply_adds += rows * weight->shape[0] * weight->shape[1];
    }
}

/* Scores and sums over all earlier positions; a window is not looked at. */
static uint64_t attention_multiply_adds(const ingot_profile *profile, const ingot_step *step) {
    const ingot_attention_parameters *parameters = step->parameters;
    uint64_t pairs = 0;
    for (uint64_t row = 0; row < profile->m; row++) {
        pairs += profile->position + row + 1;
    }
    return 2 * pairs * parameters->heads * parameters->head_size;
}

static void describe(const ingot_session *session, uint32_t index, ingot_profile_entry *entry) {
    const ingot_profile *profile = session->profile;
    const ingot_step *step = &session->model->steps[index];
    const uint64_t rows = rows_of(session, profile, step->outputs[0]);
    entry->instruction = index;
    entry->opcode = step->opcode;
    entry->weight = UINT32_MAX;
    if (step->opcode == INGOT_OPCODE_LINEAR) {
        count_linear(session, step, rows, entry);
    } else if (step->opcode == INGOT_OPCODE_EMBED) {
        const ingot_tensor_record *table = &session->model->file.tensors[step->inputs[1]];
        entry->weight_bytes = rows * (table->size / table->shape[0]);
    } else if (step->opcode == INGOT_OPCODE_ATTENTION) {
        entry->multiply_adds = attention_multiply_adds(profile, step);
    }
}

static void read_marks(const ingot_session *session, uint32_t thread, ingot_profile_entry *entries) {
    const ingot_profile *profile = session->profile;
    const ingot_profile_mark *marks = profile->marks + (size_t)thread * session->model->step_count;
    for (uint32_t index = 0; index < profile->limit; index++) {
        entries[index] = (ingot_profile_entry){.barriers = marks[index].barriers, .wait = marks[index].wait};
        if (marks[index].end > 0.0) { /* else: not run, or skipped by this thread */
            entries[index].begin = marks[index].begin - profile->start;
            entries[index].end = marks[index].end - profile->start;
        }
        describe(session, index, &entries[index]);
    }
}

ingot_status ingot_session_profile_read(ingot_session *session, uint32_t thread, ingot_profile_entry *entries,
                                        uint32_t capacity, uint32_t *count) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    const ingot_profile *profile = session->profile;
    if (profile == NULL || entries == NULL || count == NULL) {
        status = ingot_fail(INGOT_ERROR_WRONG_STATE, "no profile: call ingot_session_profile(session, 1) before eval");
    } else if (capacity < profile->limit) {
        status = ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "the pass had %u instructions, the buffer holds %u",
                            profile->limit, capacity);
    } else {
        *count = thread < profile->threads ? profile->limit : 0;
        if (*count != 0) {
            read_marks(session, thread, entries);
        }
    }
    ingot_session_leave(session);
    return status;
}
