/* SPDX-License-Identifier: Apache-2.0 */
/* The public calls that choose tokens: step and sample. */
#include "core/backend.h"
#include "core/error.h"
#include "core/float_mode.h"
#include "core/pick.h"

/* Chooses from row `row`, in the float mode that the passes have. */
static ingot_status choose(ingot_session *session, uint32_t row, const ingot_sampling *config,
                           const ingot_history *history, uint64_t position, int32_t *token) {
    ingot_sampler *sampler = &session->sampler;
    uint64_t mode = ingot_float_mode_get();
    ingot_float_mode_set(INGOT_FLOAT_MODE_STANDARD);
    ingot_status status = INGOT_OK;
    if (ingot_backend_picks(session)) {
        status = ingot_backend_collect(session, row);
    } else if (session->pick_count != 0) {
        ingot_pick_collect(session, row);
    } else {
        const float *logits = ingot_session_logits(session, row);
        float penalty = (float)config->repetition_penalty;
        ingot_sample_load(sampler, logits, session->model->file.plan->vocabulary, penalty, history);
    }
    status = status == INGOT_OK ? ingot_sample_choose(sampler, config, position, token) : status;
    ingot_float_mode_set(mode);
    return status;
}

/* One token after another as far as the guesses agree. */
static ingot_status choose_all(ingot_session *session, const int32_t *guesses, uint32_t drafted,
                               const ingot_sampling *config, ingot_history history, int32_t *chosen, uint32_t *count) {
    const uint32_t first = session->position - drafted;
    uint32_t row = 0;
    ingot_status status = choose(session, 0, config, &history, first, &chosen[0]);
    while (status == INGOT_OK && row < drafted && chosen[row] == guesses[row]) {
        row++;
        history.second_count++; /* the guesses follow the tokens in memory */
        status = choose(session, row, config, &history, (uint64_t)first + row, &chosen[row]);
    }
    ingot_session_cut(session, first + (status == INGOT_OK ? row : 0));
    *count = row + 1;
    return status;
}

static ingot_status check_call(const ingot_session *session, uint32_t count, uint32_t drafted,
                               const ingot_sampling *config, const void *history, uint32_t history_count,
                               const void *out) {
    if (drafted >= count || drafted >= session->logits_rows) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "%u drafted of %u tokens, at most %u: see logits_rows", drafted,
                          count, session->logits_rows - 1);
    }
    if (out == NULL || (history == NULL && history_count != 0)) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "a place for tokens, or the history, is NULL");
    }
    return ingot_sample_check(config);
}

ingot_status ingot_session_step(ingot_session *session, const int32_t *tokens, uint32_t count, uint32_t drafted,
                                const ingot_sampling *config, const int32_t *history, uint32_t history_count,
                                int32_t *chosen, uint32_t *chosen_count) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    status = check_call(session, count, drafted, config, history, history_count,
                        chosen_count == NULL ? NULL : (const void *)chosen);
    if (status == INGOT_OK) {
        bool picks = ingot_pick_possible(session, config, drafted + 1);
        ingot_pick_begin(session, !picks ? 0 : config->temperature == 0.0 ? 1 : config->top_k);
        status = ingot_session_feed(session, tokens, count, drafted + 1);
    }
    if (status == INGOT_OK) {
        uint32_t agreed = 0;
        ingot_history seen = {history, tokens, history_count, count - drafted};
        status = choose_all(session, tokens + count - drafted, drafted, config, seen, chosen, &agreed);
        *chosen_count = agreed;
    }
    session->selected = 0;
    ingot_session_leave(session);
    return status;
}

ingot_status ingot_session_sample(ingot_session *session, uint32_t row, const ingot_sampling *config,
                                  const int32_t *history, uint32_t history_count, uint64_t position, int32_t *token) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    status = check_call(session, 1, 0, config, history, history_count, token);
    if (status == INGOT_OK && ingot_session_logits(session, row) == NULL) {
        status = ingot_fail(INGOT_ERROR_WRONG_STATE, "row %u: the last eval kept the logits of %u positions", row,
                            session->selected);
    }
    if (status == INGOT_OK) {
        ingot_history seen = {history, NULL, history_count, 0};
        status = choose(session, row, config, &seen, position, token);
    }
    ingot_session_leave(session);
    return status;
}
