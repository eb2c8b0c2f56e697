/* SPDX-License-Identifier: Apache-2.0 */
/* A run of instructions: launched one by one, or for a few tokens captured once as a graph and replayed. Position and
 * tokens lie in a buffer of the device, so that a graph holds for all positions. */
#include <math.h>
#include <string.h>

#include "cuda_model.h"

enum { PICK_THREADS = 256 };

ingot_status ingot_cuda_launch(const cuda_session *session, cu_function function, uint32_t x, uint32_t y, uint32_t z,
                               uint32_t threads, void *args, const char *what) {
    const ingot_cuda_driver *driver = session->model->driver;
    void *arguments[1] = {args};
    return ingot_cuda_check(
        driver, driver->launch(function, x, y, z, threads, 1, 1, 0, session->stream, arguments, NULL), what);
}

uint32_t ingot_cuda_rows(const cuda_walk *walk, uint32_t tensor) {
    const ingot_tensor_record *record = &walk->session->model->program->tensors[tensor];
    return record->rows == INGOT_ROWS_SELECTED ? walk->pass->selected : walk->pass->m;
}

/* Launches instruction `index`, and the one after it where both are one kernel; returns how many in *done. */
static ingot_status step_of(cuda_walk *walk, uint32_t index, uint32_t end, uint32_t *done) {
    const cuda_model *model = walk->session->model;
    const cuda_step step = ingot_cuda_step(model, index);
    const cuda_step next = ingot_cuda_step(model, index + 1 < end ? index + 1 : index);
    const cuda_step after = ingot_cuda_step(model, index + 2 < end ? index + 2 : index);
    const bool followed = index + 1 < end;
    *done = 1;
    switch (step.record->opcode) {
        case INGOT_OPCODE_EMBED: return ingot_cuda_embed(walk, &step);
        case INGOT_OPCODE_RMS_NORM:
        case INGOT_OPCODE_LAYER_NORM: return ingot_cuda_norm(walk, &step, followed ? &next : NULL);
        case INGOT_OPCODE_LINEAR: return ingot_cuda_linear(walk, &step, followed ? &next : NULL);
        case INGOT_OPCODE_ROPE:
            if (followed && ingot_cuda_ropes_for(&step, &next)) {
                *done = 2;
                return ingot_cuda_attention(walk, index + 1, &step, index + 2 < end ? &after : NULL);
            }
            return ingot_cuda_rope(walk, &step);
        case INGOT_OPCODE_ATTENTION: return ingot_cuda_attention(walk, index, NULL, followed ? &next : NULL);
        default: return ingot_cuda_elements(walk, &step);
    }
}

static ingot_status launch_picks(const cuda_walk *walk) {
    const cuda_session *session = walk->session;
    const ingot_backend_program *program = session->model->program;
    const uint32_t vocabulary = program->plan->vocabulary;
    cuda_pick_args args = {.candidates = ingot_cuda_at(session->candidates),
                           .best = ingot_cuda_at(session->best),
                           .vocabulary = vocabulary,
                           .segments = (vocabulary + CUDA_PICK_SEGMENT - 1) / CUDA_PICK_SEGMENT,
                           .count = walk->pass->pick_count};
    args.logits = ingot_cuda_at(ingot_cuda_tensor(session, program->output, &args.stride));
    const uint32_t rows = walk->pass->selected;
    ingot_status status = ingot_cuda_launch(session, session->model->kernels.pick_segment, args.segments, rows, 1,
                                            PICK_THREADS, &args, "the best logits of segments");
    if (status == INGOT_OK) {
        status = ingot_cuda_launch(session, session->model->kernels.pick_merge, rows, 1, 1, PICK_THREADS, &args,
                                   "the best logits");
    }
    return status;
}

static ingot_status launch_all(cuda_session *session, const ingot_backend_pass *pass) {
    cuda_walk walk = {session, pass, UINT32_MAX, 0};
    const uint32_t end = pass->first + pass->count;
    uint32_t done = 1;
    bool ends_with_logits = false;
    for (uint32_t i = pass->first; i < end; i += done) {
        const cuda_step step = ingot_cuda_step(session->model, i);
        done = 1;
        if (ingot_cuda_rows(&walk, step.outputs[0]) == 0) {
            continue;
        }
        const uint32_t kept = walk.quantized;
        const ingot_status status = step_of(&walk, i, end, &done);
        if (status != INGOT_OK) {
            return status;
        }
        if (walk.quantized == kept) {
            walk.quantized = UINT32_MAX; /* only the linear right behind a norm finds its rows */
        }
        ends_with_logits = step.outputs[0] == session->model->program->output;
    }
    return pass->pick_count != 0 && pass->selected != 0 && ends_with_logits ? launch_picks(&walk) : INGOT_OK;
}

/* ---- graphs ---- */

static bool same_pass(const ingot_backend_pass *a, const ingot_backend_pass *b) {
    return a->first == b->first && a->count == b->count && a->m == b->m && a->selected == b->selected &&
           a->pick_count == b->pick_count;
}

/* A place for one more graph: a free one, or that of the graph which was not used for longest. */
static cuda_graph *graph_place(cuda_session *session) {
    if (session->graph_count < CUDA_MOST_GRAPHS) {
        return &session->graphs[session->graph_count++];
    }
    cuda_graph *oldest = &session->graphs[0];
    for (uint32_t i = 1; i < session->graph_count; i++) {
        oldest = session->graphs[i].used < oldest->used ? &session->graphs[i] : oldest;
    }
    (void)session->model->driver->executable_destroy(oldest->executable);
    return oldest;
}

static ingot_status capture(cuda_session *session, const ingot_backend_pass *pass, cu_executable *executable) {
    const ingot_cuda_driver *driver = session->model->driver;
    cu_graph graph = NULL;
    ingot_status status = ingot_cuda_check(driver, driver->capture_begin(session->stream, CU_CAPTURE_THREAD_LOCAL),
                                           "the start of a graph");
    if (status != INGOT_OK) {
        return status;
    }
    status = launch_all(session, pass);
    const cu_result ended = driver->capture_end(session->stream, &graph);
    if (status == INGOT_OK) status = ingot_cuda_check(driver, ended, "the end of a graph");
    if (status == INGOT_OK) {
        status = ingot_cuda_check(driver, driver->graph_instantiate(executable, graph, 0), "a graph");
    }
    if (graph != NULL) (void)driver->graph_destroy(graph);
    return status;
}

static ingot_status replay(cuda_session *session, const ingot_backend_pass *pass) {
    cuda_graph *found = NULL;
    for (uint32_t i = 0; i < session->graph_count && found == NULL; i++) {
        found = same_pass(&session->graphs[i].pass, pass) ? &session->graphs[i] : NULL;
    }
    if (found == NULL) {
        cu_executable executable;
        const ingot_status status = capture(session, pass, &executable);
        if (status != INGOT_OK) { /* a graph takes memory, launches take none */
            return launch_all(session, pass);
        }
        found = graph_place(session);
        *found = (cuda_graph){.pass = *pass, .executable = executable};
    }
    found->used = ++session->clock;
    const ingot_cuda_driver *driver = session->model->driver;
    return ingot_cuda_check(driver, driver->graph_launch(found->executable, session->stream), "a graph");
}

/* ---- run ---- */

static ingot_status run_here(cuda_session *session, const ingot_backend_pass *pass) {
    const ingot_cuda_driver *driver = session->model->driver;
    session->host_pass[0] = pass->position;
    memcpy(session->host_pass + 1, pass->tokens, pass->m * sizeof(int32_t));
    ingot_status status = ingot_cuda_check(
        driver,
        driver->copy_to_device_async(session->pass, session->host_pass, 4 * (1 + (size_t)pass->m), session->stream),
        "the pass's tokens");
    if (status == INGOT_OK) {
        status = pass->m <= CUDA_FEW_TOKENS ? replay(session, pass) : launch_all(session, pass);
    }
    const cu_result finished = driver->stream_synchronize(session->stream);
    return status == INGOT_OK ? ingot_cuda_check(driver, finished, "the pass") : status;
}

ingot_status ingot_cuda_run(void *opaque, const ingot_backend_pass *pass) {
    cuda_session *session = opaque;
    cu_context before;
    ingot_backend_pass own = *pass;
    const uint32_t vocabulary = session->model->program->plan->vocabulary;
    own.pick_count = own.pick_count < CUDA_MOST_PICKS ? own.pick_count : (uint32_t)CUDA_MOST_PICKS;
    own.pick_count = own.pick_count < vocabulary ? own.pick_count : vocabulary;
    session->pick_rows = session->pick_count = 0;
    (void)session->model->driver->context_push(session->model->context);
    const ingot_status status = run_here(session, &own);
    (void)session->model->driver->context_pop(&before);
    if (status == INGOT_OK && own.pick_count != 0) {
        session->pick_rows = own.selected;
        session->pick_count = own.pick_count;
    }
    return status;
}

static ingot_backend_pick pick_of(uint64_t key) {
    const uint32_t order = (uint32_t)(key >> 32);
    const uint32_t bits = order >> 31 ? order & 0x7fffffffu : ~order;
    ingot_backend_pick pick = {NAN, (int32_t)(0xffffffffu - (uint32_t)key)};
    if (order != 0xffffffffu) {
        memcpy(&pick.logit, &bits, sizeof pick.logit);
    }
    return pick;
}

ingot_status ingot_cuda_picks(void *opaque, uint32_t row, ingot_backend_pick *picks, uint32_t *count) {
    const cuda_session *session = opaque;
    const ingot_cuda_driver *driver = session->model->driver;
    uint64_t keys[CUDA_MOST_PICKS];
    cu_context before;
    if (row >= session->pick_rows) {
        return ingot_cuda_fail(INGOT_ERROR_INVALID_ARGUMENT, "row %u, the last pass kept the best of %u rows", row,
                               session->pick_rows);
    }
    const size_t bytes = session->pick_count * sizeof(uint64_t);
    (void)driver->context_push(session->model->context);
    const ingot_status status =
        ingot_cuda_check(driver, driver->copy_to_host(keys, session->best + row * bytes, bytes), "the best logits");
    (void)driver->context_pop(&before);
    if (status != INGOT_OK) {
        return status;
    }
    for (uint32_t i = 0; i < session->pick_count; i++) {
        picks[i] = pick_of(keys[i]);
    }
    *count = session->pick_count;
    return INGOT_OK;
}
