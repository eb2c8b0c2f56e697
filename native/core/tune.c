/* SPDX-License-Identifier: Apache-2.0 */
/* Races threads, kernels and grains on the model's own linears, within a budget of time. */
#include <string.h>

#include "core/error.h"
#include "core/executor.h"
#include "core/float_mode.h"
#include "core/ops.h"
#include "core/session.h"
#include "kernels/dispatch.h"
#include "platform/platform.h"

enum { MOST_STEPS = 512, MOST_ROUNDS = 16, PREFILL_TOKENS = 32 };

/* Of the time of what holds: a rival with fewer threads must be clearly faster, another kernel only by more than noise;
 * one that is hopeless has no second trial. */
static const double MARGIN_THREADS = 0.9, MARGIN = 0.96, HOPELESS = 1.5;
/* Seconds that a trial should take, and how long one that cannot be cut may. */
static const double LEAST_TRIAL = 0.5e-3, MOST_TRIAL = 4e-3;
/* Shares of the budget. */
static const double THREADS_SHARE = 0.2, KERNELS_SHARE = 0.15, GRAIN_SHARE = 0.1;

typedef struct tuner {
    ingot_session *session;
    ingot_tuning *tuning;
    ingot_tune_candidate *candidates;
    uint32_t capacity, count;
    double budget;
    uint32_t phase;
    const ingot_step *steps[MOST_STEPS]; /* that may be run */
    uint32_t step_count, first, length;  /* a trial runs `length` of them from `first` on, each one others */
    uint64_t bytes, multiply_adds;       /* of the first `length` */
    double deadline;
    uint32_t awake; /* threads of the last trial */
} tuner;

static void run_steps(void *argument, uint32_t thread) {
    tuner *state = argument;
    ingot_lane lane = {.session = state->session, .area = &state->session->areas[thread], .thread = thread};
    uint64_t mode = ingot_float_mode_get();
    ingot_float_mode_set(INGOT_FLOAT_MODE_STANDARD);
    for (uint32_t index = 0; index < state->length; index++) {
        ingot_op_linear(&lane, state->steps[(state->first + index) % state->step_count]);
    }
    ingot_float_mode_set(mode);
}

/* Each trial reads weights that the one before it has not brought into the cache, as a token does. */
static double run_trial(tuner *state, uint32_t threads) {
    double start = ingot_platform_seconds();
    ingot_pool_run(state->session->pool, threads, run_steps, state);
    double seconds = ingot_platform_seconds() - start;
    state->first = (state->first + state->length) % state->step_count;
    return seconds;
}

/* Workers that a trial before left asleep are woken by a trial that does not count. */
static double time_trial(tuner *state, uint32_t threads) {
    if (threads > state->awake) {
        (void)run_trial(state, threads);
    }
    state->awake = threads;
    return run_trial(state, threads);
}

static bool reads(const ingot_step *step, uint32_t dtype) {
    for (uint32_t p = 0; p < step->part_count; p++) {
        if (step->parts[p].dtype == dtype) {
            return true;
        }
    }
    return false;
}

static void count_step(tuner *state, const ingot_step *step) {
    const uint64_t rows = ingot_row_count(state->session, step->outputs[0]);
    for (uint32_t p = 0; p < step->part_count; p++) {
        const ingot_tensor_record *weight = &state->session->model->file.tensors[step->inputs[1 + p]];
        state->bytes += weight->size;
        state->multiply_adds += rows * weight->shape[0] * weight->shape[1];
    }
}

/* Linears of the model that run in this pass: of one dtype, or all but the head (dtype 0). */
static void list_steps(tuner *state, uint32_t dtype) {
    const ingot_model *model = state->session->model;
    state->step_count = state->first = state->length = 0;
    state->bytes = state->multiply_adds = 0;
    for (uint32_t index = 0; index < model->step_count && state->step_count < MOST_STEPS; index++) {
        const ingot_step *step = &model->steps[index];
        const bool head = step->outputs[0] == model->file.step_output;
        if (step->opcode == INGOT_OPCODE_LINEAR && ingot_row_count(state->session, step->outputs[0]) != 0 &&
            (dtype == 0 ? !head : reads(step, dtype))) {
            state->steps[state->step_count++] = step;
        }
    }
}

/* As many of them as take long enough on one thread. @return false if there is nothing to be timed within reason. */
static bool gather(tuner *state, uint32_t dtype) {
    list_steps(state, dtype);
    double seconds = 0.0;
    while (state->length < state->step_count && seconds < LEAST_TRIAL) {
        count_step(state, state->steps[state->length++]);
        (void)time_trial(state, 1);
        seconds = time_trial(state, 1);
    }
    state->first = 0;
    return state->length != 0 && seconds < MOST_TRIAL;
}

static void set_pass(tuner *state, uint32_t phase) {
    static const int32_t none[PREFILL_TOKENS];
    ingot_session *session = state->session;
    uint32_t most = session->chunk < session->context ? session->chunk : session->context;
    state->phase = phase;
    session->tokens = none;
    session->m = phase == 0 ? 1 : most < PREFILL_TOKENS ? most : PREFILL_TOKENS;
    session->selected = phase == 0 ? 1 : 0;
}

static ingot_linear_fn kernel_of(uint32_t choice) {
    return choice == 0 ? NULL : (ingot_linear_fn)ingot_kernel_at(choice - 1)->run;
}

static uint32_t threads_of(const tuner *state) {
    return state->phase == 0 ? state->session->threads : state->session->prefill_threads;
}

static void apply(tuner *state, const ingot_tune_candidate *candidate) {
    ingot_session *session = state->session;
    if (candidate->dtype != 0) {
        session->choices.kernels[state->phase][candidate->dtype] = kernel_of(candidate->kernel);
        state->tuning->kernels[state->phase * INGOT_DTYPE_SLOTS + candidate->dtype] = candidate->kernel;
    }
    session->choices.grain[state->phase] = candidate->grain;
    *(state->phase == 0 ? &session->threads : &session->prefill_threads) = candidate->threads;
    *(state->phase == 0 ? &state->tuning->threads : &state->tuning->prefill_threads) = candidate->threads;
    *(state->phase == 0 ? &state->tuning->grain : &state->tuning->prefill_grain) = candidate->grain;
}

static void try_once(tuner *state, ingot_tune_candidate *rival) {
    apply(state, rival);
    const double taken = time_trial(state, threads_of(state));
    rival->seconds = rival->seconds <= 0.0 || taken < rival->seconds ? taken : rival->seconds;
}

static uint32_t find_best(const ingot_tune_candidate *rivals, uint32_t count, double margin) {
    uint32_t best = 0;
    for (uint32_t index = 1; index < count; index++) {
        const double bar = best == 0 ? margin * rivals[0].seconds : rivals[best].seconds;
        best = rivals[index].seconds < bar ? index : best;
    }
    return best;
}

/* Runs the rivals in turn until their share of the time is gone; the first of them holds unless clearly beaten. */
static void race(tuner *state, uint32_t first, double share, double margin) {
    ingot_tune_candidate *rivals = state->candidates + first;
    const uint32_t count = state->count - first;
    double deadline = ingot_platform_seconds() + share * state->budget;
    deadline = deadline < state->deadline ? deadline : state->deadline;
    for (uint32_t round = 0; round < MOST_ROUNDS && (round < 2 || ingot_platform_seconds() < deadline); round++) {
        const double bar = HOPELESS * rivals[find_best(rivals, count, 1.0)].seconds;
        for (uint32_t index = 0; index < count; index++) {
            if (round == 0 || index == 0 || rivals[index].seconds < bar) {
                try_once(state, &rivals[index]);
            }
        }
    }
    for (uint32_t index = 0; index < count; index++) {
        rivals[index].gigabytes_per_second = (double)state->bytes / rivals[index].seconds * 1e-9;
        rivals[index].giga_operations_per_second = 2.0 * (double)state->multiply_adds / rivals[index].seconds * 1e-9;
    }
    ingot_tune_candidate *best = &rivals[find_best(rivals, count, margin)];
    best->chosen = 1;
    apply(state, best);
}

/* The candidates from `first` on, if there is a choice among them and time left for it; else none of them. */
static void race_if_worth_it(tuner *state, uint32_t first, uint32_t dtype, double share, double margin) {
    if (state->count - first < 2 || ingot_platform_seconds() > state->deadline || !gather(state, dtype)) {
        state->count = first;
        return;
    }
    race(state, first, share, margin);
}

static ingot_tune_candidate *add_candidate(tuner *state) {
    if (state->count == state->capacity) {
        return NULL;
    }
    ingot_tune_candidate *candidate = &state->candidates[state->count++];
    *candidate = (ingot_tune_candidate){
        .phase = state->phase, .threads = threads_of(state), .grain = state->session->choices.grain[state->phase]};
    candidate->grain = candidate->grain == 0 ? 1 : candidate->grain;
    return candidate;
}

static void race_threads(tuner *state) {
    const uint32_t first = state->count, all = threads_of(state);
    for (uint32_t quarters = 4; quarters > 0 && all > 1; quarters--) {
        const uint32_t threads = all * quarters / 4;
        ingot_tune_candidate *last = state->count > first ? &state->candidates[state->count - 1] : NULL;
        if (threads == 0 || (last != NULL && last->threads == threads)) {
            continue;
        }
        ingot_tune_candidate *candidate = add_candidate(state);
        if (candidate != NULL) {
            candidate->threads = threads;
        }
    }
    race_if_worth_it(state, first, 0, THREADS_SHARE, MARGIN_THREADS);
}

static bool worth_trying(const ingot_session *session, const ingot_kernel *kernel, uint32_t dtype) {
    return kernel->op == INGOT_KERNEL_OP_linear && kernel->dtype == dtype && kernel->isa != INGOT_ISA_REF &&
           (kernel->isa & session->model->isa_mask) != 0;
}

static void race_kernels(tuner *state, uint32_t dtype) {
    const uint32_t first = state->count;
    for (uint32_t index = 0; index < ingot_kernel_count(); index++) { /* best first: dispatch's choice leads */
        if (worth_trying(state->session, ingot_kernel_at(index), dtype)) {
            ingot_tune_candidate *candidate = add_candidate(state);
            if (candidate != NULL) {
                candidate->dtype = dtype;
                candidate->kernel = 1 + index;
            }
        }
    }
    race_if_worth_it(state, first, dtype, KERNELS_SHARE, MARGIN);
}

static void race_grains(tuner *state) {
    const uint32_t first = state->count;
    for (uint32_t grain = 1; grain <= 4; grain *= 2) {
        ingot_tune_candidate *candidate = add_candidate(state);
        if (candidate != NULL) {
            candidate->grain = grain;
        }
    }
    race_if_worth_it(state, first, 0, GRAIN_SHARE, MARGIN);
}

static uint64_t linear_bytes(const ingot_model *model, uint32_t dtype) {
    uint64_t bytes = 0;
    for (uint32_t index = 0; index < model->step_count; index++) {
        for (uint32_t p = 0; p < model->steps[index].part_count; p++) {
            const bool counts = model->steps[index].parts[p].dtype == dtype;
            bytes += counts ? model->file.tensors[model->steps[index].inputs[1 + p]].size : 0;
        }
    }
    return bytes;
}

static void race_phase(tuner *state, uint32_t phase, bool threads) {
    set_pass(state, phase);
    if (threads) {
        race_threads(state);
    }
    uint64_t all = 0;
    for (uint32_t dtype = 1; dtype < INGOT_DTYPE_SLOTS; dtype++) {
        all += linear_bytes(state->session->model, dtype);
    }
    for (uint32_t dtype = 1; dtype < INGOT_DTYPE_SLOTS; dtype++) {
        if (linear_bytes(state->session->model, dtype) * 8 > all) { /* the rest does not decide anything */
            race_kernels(state, dtype);
        }
    }
    if (phase == 0) {
        race_grains(state);
    }
}

ingot_status ingot_session_tune(ingot_session *session, double seconds, uint32_t threads, ingot_tuning *tuning,
                                ingot_tune_candidate *candidates, uint32_t capacity, uint32_t *count) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    if (tuning == NULL || tuning->struct_size != sizeof *tuning || candidates == NULL || count == NULL ||
        !(seconds > 0.0 && seconds < 60.0) || session->position != 0) {
        ingot_session_leave(session);
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "ingot_session_tune: tuning->struct_size must be %zu, seconds 0 to 60, the session empty",
                          sizeof *tuning);
    }
    *tuning = (ingot_tuning){.struct_size = sizeof *tuning};
    memset(candidates, 0, capacity * sizeof *candidates);
    tuner state = {.session = session, .tuning = tuning, .candidates = candidates, .capacity = capacity};
    state.budget = seconds;
    state.deadline = ingot_platform_seconds() + seconds;
    session->tracing = false;
    const uint32_t before[] = {session->threads, session->prefill_threads, ingot_pool_stalls(session->pool)};
    race_phase(&state, 0, threads != 0);
    race_phase(&state, 1, threads != 0);
    *count = state.count;
    if (ingot_pool_stalls(session->pool) != before[2]) { /* fewer threads won because others took the CPUs */
        session->threads = before[0];
        session->prefill_threads = before[1];
        tuning->threads = tuning->prefill_threads = 0;
        tuning->disturbed = 1;
    }
    session->m = session->selected = 0;
    status = ingot_file_intact(&session->model->file);
    ingot_session_leave(session);
    return status;
}

static bool fits(const ingot_session *session, const ingot_tuning *tuning) {
    const uint32_t most = session->most_threads;
    if (tuning->threads > most || tuning->prefill_threads > most || tuning->grain > 64 || tuning->prefill_grain > 64) {
        return false;
    }
    for (uint32_t slot = 0; slot < INGOT_PHASES * INGOT_DTYPE_SLOTS; slot++) {
        const uint32_t choice = tuning->kernels[slot];
        const ingot_kernel *kernel = choice == 0 ? NULL : ingot_kernel_at(choice - 1);
        if (choice != 0 && (kernel == NULL || !worth_trying(session, kernel, slot % INGOT_DTYPE_SLOTS))) {
            return false;
        }
    }
    return true;
}

ingot_status ingot_session_apply(ingot_session *session, const ingot_tuning *tuning) {
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    if (tuning == NULL || tuning->struct_size != sizeof *tuning || !fits(session, tuning)) {
        status = ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                            "this tuning is not for this session, build or CPU; measure again with `ingot tune`");
    } else {
        session->threads = tuning->threads != 0 ? tuning->threads : session->threads;
        session->prefill_threads = tuning->prefill_threads != 0 ? tuning->prefill_threads : session->prefill_threads;
        session->choices.grain[0] = tuning->grain;
        session->choices.grain[1] = tuning->prefill_grain;
        for (uint32_t slot = 0; slot < INGOT_PHASES * INGOT_DTYPE_SLOTS; slot++) {
            session->choices.kernels[slot / INGOT_DTYPE_SLOTS][slot % INGOT_DTYPE_SLOTS] =
                kernel_of(tuning->kernels[slot]);
        }
    }
    ingot_session_leave(session);
    return status;
}
