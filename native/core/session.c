/* SPDX-License-Identifier: Apache-2.0 */
#include "core/session.h"

#include <stdlib.h>

#include "core/backend.h"
#include "core/error.h"
#include "core/linear_feed.h"
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

static uint32_t round_up(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

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
    uint64_t attention = ingot_attention_scratch(model->widest_head);
    area->tile = carve(state, session->tile_floats * sizeof(float));
    area->attention = carve(state, attention * sizeof(float));
    area->row = carve(state, model->widest_row * sizeof(float));
    const uint64_t fed = round_up(session->chunk, INGOT_PANEL_TOKENS) * INGOT_FEED_COLUMNS * sizeof(float);
    area->fed = carve(state, model->feeds ? fed : 0);
    area->a = carve(state, model->widest_k);
    area->a_scale = carve(state, model->widest_k / 32 * sizeof(float));
    area->a_sum = carve(state, model->widest_k / 32 * sizeof(int32_t));
    uint32_t rows = session->logits_rows < INGOT_PICK_ROWS ? session->logits_rows : INGOT_PICK_ROWS;
    area->picks = carve(state, (uint64_t)rows * INGOT_PICK_MOST * sizeof(ingot_pick));
    area->picked = carve(state, INGOT_PICK_ROWS * sizeof(uint32_t));
    carve(state, 128); /* keeps the threads' lines apart */
}

/* What several threads put together for a few tokens: the results of runs of positions. */
static void carve_partials(ingot_session *session, carver *state) {
    const uint64_t runs = (session->capacity + INGOT_ATTENTION_RUN - 1) / INGOT_ATTENTION_RUN;
    uint64_t floats = 0, heads = 0;
    for (uint32_t index = 0; index < session->model->step_count; index++) {
        const ingot_step *step = &session->model->steps[index];
        if (step->opcode == INGOT_OPCODE_ATTENTION) {
            const ingot_attention_parameters *parameters = step->parameters;
            const ingot_state_place *place = &session->model->states[step->state_index];
            uint64_t wanted = runs * parameters->heads * INGOT_SPLIT_TOKENS * ingot_attention_state(place->head_padded);
            floats = wanted > floats ? wanted : floats;
            heads = parameters->kv_heads > heads ? parameters->kv_heads : heads;
        }
    }
    session->partials = carve(state, session->most_threads > 1 && runs > 1 ? floats * sizeof(float) : 0);
    session->arrivals = carve(state, heads * sizeof(_Atomic uint32_t));
}

static void carve_tables(ingot_session *session, carver *state) {
    session->kv.blocks = carve(state, session->kv.length * sizeof *session->kv.blocks);
    session->kv.held = carve(state, session->kv.length * sizeof *session->kv.held);
}

static void carve_sampler(ingot_session *session, carver *state) {
    const uint64_t ids = session->model->file.plan->vocabulary;
    session->sampler.values = carve(state, ids * sizeof(float));
    session->sampler.ids = carve(state, ids * sizeof(int32_t));
    session->sampler.seen = carve(state, (ids + 63) / 64 * sizeof(uint64_t));
}

static void carve_all(ingot_session *session, carver *state) {
    const ingot_model *model = session->model;
    ingot_memory_info *info = &session->info;
    carve_arenas(session, state);
    info->arena_bytes = state->used;
    session->a = carve(state, (uint64_t)session->chunk * model->widest_k);
    session->a_scale = carve(state, (uint64_t)session->chunk * (model->widest_k / 32) * sizeof(float));
    session->a_sum = carve(state, (uint64_t)session->chunk * (model->widest_k / 32) * sizeof(int32_t));
    session->panel_bytes = (size_t)model->widest_k / 32 * INGOT_PANEL_BLOCK_BYTES;
    uint64_t panels = model->reads_panels ? round_up(session->chunk, INGOT_PANEL_TOKENS) / INGOT_PANEL_TOKENS : 0;
    session->panels = carve(state, panels * session->panel_bytes);
    session->padded = carve(state, (uint64_t)session->chunk * model->padded_float_k * sizeof(float));
    for (uint32_t thread = 0; thread < session->most_threads; thread++) {
        carve_area(session, state, &session->areas[thread]);
    }
    carve_partials(session, state);
    session->passing_bytes = state->used;
    carve_tables(session, state);
    carve_sampler(session, state);
    info->scratch_bytes = state->used - info->arena_bytes;
    info->state_bytes = session->kv.share * session->kv.block_bytes;
    info->total_bytes = state->used + info->state_bytes + info->weights_bytes;
}

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
        session->logits_rows > session->chunk || config->kv_format > INGOT_KV_K8V4) {
        return ingot_fail(
            INGOT_ERROR_INVALID_ARGUMENT,
            "threads %u and %u (at most %d), logits rows %u (at most the chunk, %u), kv format %u (0 to %d)",
            config->threads, config->prefill_threads, INGOT_MAX_THREADS, session->logits_rows, session->chunk,
            config->kv_format, INGOT_KV_K8V4);
    }
    session->threads = session->threads > INGOT_MAX_THREADS ? INGOT_MAX_THREADS : session->threads;
    session->prefill_threads = config->prefill_threads != 0 ? config->prefill_threads : session->threads;
    session->most_threads = session->threads > session->prefill_threads ? session->threads : session->prefill_threads;
    uint32_t wide = 2 * session->chunk > 64 ? 2 * session->chunk : 64;
    session->tile_floats = INGOT_TILE_ROWS * wide;
    return INGOT_OK;
}

static void set_capacity(ingot_session *session, uint32_t context) {
    session->capacity = round_up(context, INGOT_ATTENTION_BLOCK);
    ingot_kv_state_size(&session->kv, session->capacity, session->chunk);
}

/* Bytes of model and session at a context. */
static uint64_t total_at(ingot_session *session, uint32_t context) {
    carver measure = {0};
    set_capacity(session, context);
    carve_all(session, &measure);
    return session->info.total_bytes;
}

/* The largest context below the present one that fits, 0 if none. */
static uint32_t fitting_context(ingot_session *session, uint64_t limit) {
    uint32_t fits = 0, too_many = session->capacity / INGOT_ATTENTION_BLOCK;
    while (fits + 1 < too_many) {
        const uint32_t middle = fits + (too_many - fits) / 2;
        if (total_at(session, middle * INGOT_ATTENTION_BLOCK) <= limit) {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    return fits * INGOT_ATTENTION_BLOCK;
}

static ingot_status check_limit(ingot_session *session, uint64_t limit) {
    if (limit == 0 || session->info.total_bytes <= limit) {
        return INGOT_OK;
    }
    const double needed = (double)session->info.total_bytes / 1e9, given = (double)limit / 1e9;
    const uint32_t fits = fitting_context(session, limit);
    if (fits == 0) {
        return ingot_fail(INGOT_ERROR_MEMORY_LIMIT,
                          "context %u needs %.3f GB, the limit is %.3f GB; no context fits: "
                          "weights and buffers alone take %.3f GB",
                          session->context, needed, given, (double)total_at(session, 0) / 1e9);
    }
    return ingot_fail(INGOT_ERROR_MEMORY_LIMIT, "context %u needs %.3f GB, the limit is %.3f GB; context %u fits",
                      session->context, needed, given, fits);
}

static ingot_status start_threads(ingot_session *session, const ingot_topology *topology) {
    const uint32_t threads = session->most_threads;
    uint64_t place[INGOT_TOPOLOGY_CPUS / 64];
    const bool placed = ingot_topology_placement(topology, threads, place);
    return ingot_pool_create(threads, placed ? place : NULL, INGOT_TOPOLOGY_CPUS / 64, &session->pool);
}

static ingot_status allocate_tables(ingot_session *session) {
    session->places = calloc(session->model->file.tensor_count, sizeof *session->places);
    session->kv.places = calloc(session->model->state_count + 1, sizeof *session->kv.places);
    if (session->places == NULL || session->kv.places == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    session->info = (ingot_memory_info){.struct_size = sizeof(ingot_memory_info),
                                        .threads = session->threads,
                                        .weights_bytes = session->model->file.weights_size};
    return INGOT_OK;
}

static ingot_status measure(ingot_session *session, const ingot_session_config *config, ingot_memory_info *info,
                            uint32_t *context) {
    ingot_topology topology;
    ingot_topology_read("", NULL, 0, &topology);
    ingot_status status = read_config(session, config, &topology);
    status = status == INGOT_OK ? allocate_tables(session) : status;
    status = status == INGOT_OK ? ingot_kv_state_layout(session->model, config->kv_format, &session->kv) : status;
    if (status != INGOT_OK) {
        return status;
    }
    const uint64_t limit = config->memory_limit, total = total_at(session, session->context);
    *info = session->info;
    *context = limit == 0 || total <= limit ? session->context : fitting_context(session, limit);
    return INGOT_OK;
}

ingot_status ingot_session_measure(ingot_model *model, const ingot_session_config *config, ingot_memory_info *info,
                                   uint32_t *context) {
    const ingot_session_config standard = {.struct_size = sizeof standard};
    config = config != NULL ? config : &standard;
    if (model == NULL || info == NULL || context == NULL || config->struct_size != sizeof *config ||
        info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_session_measure: struct_size must be %zu and %zu",
                          sizeof *config, sizeof *info);
    }
    ingot_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory to measure a session");
    }
    session->model = model;
    ingot_status status = measure(session, config, info, context);
    free(session->places);
    free(session->kv.places);
    free(session);
    return status;
}

/* The blocks of keys and values: a new family, or the parent's. */
static ingot_status join_family(ingot_session *session, const ingot_session *parent) {
    ingot_kv_state *kv = &session->kv;
    ingot_status status = INGOT_OK;
    if (parent == NULL) {
        status = ingot_kv_family_create(kv->held_bytes, &kv->family);
    } else {
        kv->family = parent->kv.family;
    }
    status = status == INGOT_OK ? ingot_kv_family_join(kv->family, kv->share) : status;
    kv->member = status == INGOT_OK;
    if (status != INGOT_OK && parent == NULL && kv->family != NULL) {
        ingot_kv_family_leave(kv->family);
    }
    return status;
}

static ingot_status allocate(ingot_session *session, const ingot_session_config *config, const ingot_session *parent,
                             const ingot_topology *topology) {
    ingot_status status = allocate_tables(session);
    if (status == INGOT_OK) {
        status = ingot_kv_state_layout(session->model, config->kv_format, &session->kv);
    }
    if (status != INGOT_OK) {
        return status;
    }
    if (session->model->backend != NULL && session->model->backend->keeps_state) {
        session->kv.held_bytes = 0; /* blocks are counted here and lie on the device */
    }
    set_capacity(session, session->context);
    carver measure = {0};
    carve_all(session, &measure);
    status = check_limit(session, config->memory_limit);
    status = status == INGOT_OK ? ingot_platform_allocate(measure.used, &session->memory) : status;
    if (status == INGOT_OK) {
        session->memory_size = measure.used;
        carver hand_out = {session->memory, 0};
        carve_all(session, &hand_out);
        status = join_family(session, parent);
    }
    status = status == INGOT_OK ? start_threads(session, topology) : status;
    return status == INGOT_OK && session->model->backend != NULL ? ingot_backend_session_open(session) : status;
}

/* Every token reads all weights of linear, so that they may as well come now; an embedding table is left alone. */
static void prefault_weights(ingot_model *model) {
    for (uint32_t index = 0; index < model->step_count; index++) {
        const ingot_step *step = &model->steps[index];
        for (uint32_t p = 0; p < step->part_count; p++) {
            ingot_platform_prefault(step->parts[p].weights, step->parts[p].stored_bytes);
        }
    }
}

ingot_status ingot_model_resume(ingot_model *model) {
    if (model == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "the model is NULL");
    }
    prefault_weights(model);
    return ingot_file_intact(&model->file);
}

ingot_status ingot_session_open(ingot_model *model, const ingot_session_config *config, const ingot_session *parent,
                                ingot_session **session) {
    ingot_session *created = calloc(1, sizeof *created);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a session");
    }
    created->model = model;
    created->config = *config;
    created->process = ingot_platform_process();
    ingot_model_acquire(model);
    ingot_topology topology;
    ingot_topology_read("", NULL, 0, &topology);
    ingot_status status = read_config(created, config, &topology);
    status = status == INGOT_OK ? allocate(created, config, parent, &topology) : status;
    if (status != INGOT_OK) {
        ingot_session_destroy(created);
        return status;
    }
    const bool here = model->backend == NULL || !model->backend->takes_all;
    if (here && atomic_exchange(&model->prefaulted, 1) == 0) {
        prefault_weights(model);
    }
    *session = created;
    return INGOT_OK;
}

ingot_status ingot_session_create(ingot_model *model, const ingot_session_config *config, ingot_session **session) {
    const ingot_session_config standard = {.struct_size = sizeof standard};
    config = config != NULL ? config : &standard;
    if (model == NULL || session == NULL || config->struct_size != sizeof *config) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_session_create: config->struct_size must be %zu",
                          sizeof *config);
    }
    return ingot_session_open(model, config, NULL, session);
}

/* A forked child has neither the threads nor anybody who would open the family's lock. */
static void leave_family(ingot_session *session) {
    if (session->kv.member && session->process == ingot_platform_process()) {
        ingot_kv_state_cut(&session->kv, 0);
        ingot_kv_family_leave(session->kv.family);
    }
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
    ingot_backend_session_close(session);
    leave_family(session);
    ingot_platform_release(session->memory, session->memory_size);
    free(session->profile);
    free(session->places);
    free(session->kv.places);
    ingot_model_close(session->model);
    free(session);
}
