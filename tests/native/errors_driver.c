/* SPDX-License-Identifier: Apache-2.0 */
/* Reaches the error returns of the C interface that neither files nor a lack of memory reach.
 *
 *   errors_driver PLAIN WINDOW TINY SPARSE SCRATCH [--plant status]
 *
 * PLAIN and WINDOW are decoders that run, WINDOW sees 9 positions back and 2 sinks; TINY has a section "meta"; SPARSE
 * has a sparse weight; SCRATCH is a folder for files. Each call must give the status that is named, with a message. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/model.h"
#include "core/session.h"
#include "kernels/dispatch.h"
#include "tests/native/expect.h"

enum { MANY = 100, MOST_CANDIDATES = 64, MOST_FLOATS = 4096 };

static const char *scratch;
static int32_t tokens[MANY];
static float floats[MOST_FLOATS];

static ingot_model *open_file(const char *path) {
    ingot_model *model = NULL;
    EXPECT(OK, ingot_model_open(path, &model));
    if (model == NULL) {
        exit(1);
    }
    return model;
}

static ingot_session *open_session(ingot_model *model, uint32_t rows) {
    const ingot_session_config config = {.struct_size = sizeof config, .threads = 1, .logits_rows = rows};
    ingot_session *session = NULL;
    EXPECT(OK, ingot_session_create(model, &config, &session));
    if (session == NULL) {
        exit(1);
    }
    return session;
}

/* A changed copy of a file. */
static const char *write_copy(const char *path, const char *name, long flipped) {
    static char copy[4096];
    (void)snprintf(copy, sizeof copy, "%s/%s", scratch, name);
    FILE *in = path == NULL ? NULL : fopen(path, "rb"), *out = fopen(copy, "wb");
    for (long at = 0, byte; in != NULL && out != NULL && (byte = fgetc(in)) != EOF; at++) {
        (void)fputc(at == flipped ? (int)byte ^ 1 : (int)byte, out);
    }
    if (in != NULL) {
        (void)fclose(in);
    }
    if (out != NULL) {
        (void)fclose(out);
    }
    return copy;
}

static void check_files(const char *plain, const char *tiny) {
    ingot_model *model = NULL;
    const uint8_t *data = NULL;
    uint64_t size = 0;
    REFUSED(ingot_model_open(NULL, &model));
    REFUSED(ingot_model_open(plain, NULL));
    EXPECT(ERROR_IO, ingot_model_open("no such file", &model));
    EXPECT(ERROR_IO, ingot_model_open(scratch, &model)); /* a folder */
    EXPECT(ERROR_FORMAT, ingot_model_open(write_copy(NULL, "empty.ingot", -1), &model));
    (void)setenv("INGOT_FORCE_ISA", "abacus", 1);
    EXPECT(ERROR_HARDWARE, ingot_model_open(plain, &model));
    (void)setenv("INGOT_FORCE_ISA", (ingot_cpu_features() & INGOT_ISA_NEON) != 0 ? "avx2" : "neon", 1);
    EXPECT(ERROR_HARDWARE, ingot_model_open(plain, &model));
    (void)unsetenv("INGOT_FORCE_ISA");
    EXPECT(ERROR_HARDWARE, ingot_cpu_set_mask(1u << 30));
    model = open_file(tiny);
    REFUSED(ingot_model_section(model, "nothing", &data, &size));
    REFUSED(ingot_model_section(model, NULL, &data, &size));
    REFUSED(ingot_model_section(NULL, "meta", &data, &size));
    EXPECT(OK, ingot_model_section(model, "meta", &data, &size));
    const long at = (long)(data - model->file.data);
    ingot_model_close(model);
    model = open_file(write_copy(tiny, "meta.ingot", at));
    EXPECT(ERROR_CHECKSUM, ingot_model_section(model, "meta", &data, &size));
    ingot_model_close(model);
}

/* What a file cannot say, because it is checked before: the program of a file that was changed in memory. */
static void check_program(const char *sparse) {
    ingot_model *model = open_file(sparse);
    const uint64_t size = model->file.size;
    uint8_t *copy = aligned_alloc(64, (size + 63) / 64 * 64);
    memcpy(copy, model->file.data, size);
    ingot_model_close(model);
    ingot_model changed = {.isa_mask = INGOT_ISA_REF};
    REFUSED(ingot_file_validate(copy + 1, size, &changed.file));
    EXPECT(OK, ingot_file_validate(copy, size, &changed.file));
    for (uint32_t id = 0; id < changed.file.tensor_count; id++) {
        const ingot_tensor_record *record = &changed.file.tensors[id];
        if (record->sparsity == INGOT_SPARSITY_SUPERBLOCK) {
            uint8_t *list = copy + (changed.file.weights - changed.file.data) + record->offset;
            list[0] ^= 0xff;
        }
    }
    EXPECT(ERROR_FORMAT, ingot_program_prepare(&changed));
    ingot_program_discard(&changed);
    for (uint32_t id = 0; id < changed.file.tensor_count; id++) {
        ((ingot_tensor_record *)(uintptr_t)&changed.file.tensors[id])->dtype = 31;
    }
    changed.steps = NULL;
    changed.states = NULL;
    changed.state_count = 0;
    EXPECT(ERROR_UNSUPPORTED, ingot_program_prepare(&changed));
    ingot_program_discard(&changed);
    free(copy);
}

static void check_model(ingot_model *model) {
    ingot_model_info info = {.struct_size = 1};
    ingot_tensor_info tensor = {.struct_size = 1};
    REFUSED(ingot_model_info_get(model, &info));
    REFUSED(ingot_model_info_get(model, NULL));
    REFUSED(ingot_model_info_get(NULL, &info));
    info.struct_size = sizeof info;
    EXPECT(OK, ingot_model_info_get(model, &info));
    REFUSED(ingot_model_tensor_info(model, info.tensor_count, &tensor));
    REFUSED(ingot_model_tensor_info(NULL, 0, &tensor));
    REFUSED(ingot_model_tensor_info(model, 0, &tensor));
    REFUSED(ingot_tensor_dequantize(model, info.tensor_count, 0, 1, floats, MOST_FLOATS));
    for (uint32_t id = 0; id < info.tensor_count; id++) {
        const bool stored = model->file.tensors[id].role <= INGOT_ROLE_CONSTANT && model->file.tensors[id].role != 0;
        if (stored) {
            REFUSED(ingot_tensor_dequantize(model, id, 1, 0, floats, MOST_FLOATS));
            REFUSED(ingot_tensor_dequantize(model, id, 0, 1, floats, 0));
        } else {
            REFUSED(ingot_tensor_dequantize(model, id, 0, 1, floats, MOST_FLOATS));
        }
    }
    ingot_topology_info topology = {.struct_size = 1};
    REFUSED(ingot_topology_get("", NULL, 0, &topology));
    REFUSED(ingot_topology_get(NULL, NULL, 0, &topology));
}

static uint32_t kernel_of(uint32_t isa, uint32_t dtype) {
    uint32_t index = 0;
    while (ingot_kernel_at(index) != NULL &&
           (ingot_kernel_at(index)->isa != isa || ingot_kernel_at(index)->dtype != dtype)) {
        index++;
    }
    return index;
}

static ingot_linear_call linear_call(uint32_t dtype) {
    static _Alignas(64) uint8_t weights[8192];
    return (ingot_linear_call){.struct_size = sizeof(ingot_linear_call),
                               .dtype = dtype,
                               .k = 32,
                               .group = 32,
                               .m = 1,
                               .tile_end = 1,
                               .weights = weights,
                               .weights_size = sizeof weights,
                               .x = floats,
                               .out = floats + 64};
}

static void check_kernels(void) {
    static const uint64_t OFFSETS[] = {64, 0};
    ingot_kernel_info info = {.struct_size = 1};
    REFUSED(ingot_kernel_info_get(0, NULL));
    REFUSED(ingot_kernel_info_get(0, &info));
    info.struct_size = sizeof info;
    REFUSED(ingot_kernel_info_get(ingot_kernel_count(), &info));
    const uint32_t q8 = kernel_of(INGOT_ISA_REF, INGOT_DTYPE_Q8), many = ingot_kernel_count();
    ingot_linear_call call = linear_call(INGOT_DTYPE_Q8);
    REFUSED(ingot_kernel_run(q8, NULL));
    REFUSED(ingot_kernel_run(many, &call));
    REFUSED(ingot_kernel_run(kernel_of(INGOT_ISA_REF, INGOT_DTYPE_Q4), &call));
#define CHANGED(field, value)                                  \
    do {                                                       \
        ingot_linear_call other = linear_call(INGOT_DTYPE_Q8); \
        other.field = (value);                                 \
        REFUSED(ingot_kernel_run(q8, &other));                 \
    } while (0)
    CHANGED(k, 31);
    CHANGED(group, 48);
    CHANGED(m, 0);
    CHANGED(tile_begin, 1);
    CHANGED(layout, 9);
    CHANGED(delta, 128);
    CHANGED(weights, NULL);
    CHANGED(weights, call.weights + 1);
    CHANGED(weights_size, 8);
    CHANGED(tile_offsets, OFFSETS);
    EXPECT(OK, ingot_kernel_run(q8, &call));
    if (ingot_kernel_at(0)->isa != INGOT_ISA_REF) {
        EXPECT(OK, ingot_cpu_set_mask(INGOT_ISA_REF));
        ingot_linear_call fast = linear_call(ingot_kernel_at(0)->dtype);
        EXPECT(ERROR_HARDWARE, ingot_kernel_run(0, &fast));
        EXPECT(OK, ingot_cpu_set_mask(ingot_cpu_features()));
    }
}

static void check_create(ingot_model *model) {
    ingot_session *session = NULL;
#define WITH(status, field, value)                                                  \
    do {                                                                            \
        ingot_session_config config = {.struct_size = sizeof config, .threads = 1}; \
        config.field = (value);                                                     \
        EXPECT(status, ingot_session_create(model, &config, &session));             \
    } while (0)
    WITH(ERROR_INVALID_ARGUMENT, struct_size, 1);
    WITH(ERROR_INVALID_ARGUMENT, context, 1 << 20);
    WITH(ERROR_INVALID_ARGUMENT, chunk, 1 << 20);
    WITH(ERROR_INVALID_ARGUMENT, threads, 65);
    WITH(ERROR_INVALID_ARGUMENT, prefill_threads, 65);
    WITH(ERROR_INVALID_ARGUMENT, logits_rows, 1 << 16);
    WITH(ERROR_INVALID_ARGUMENT, kv_format, 4);
    WITH(ERROR_INVALID_ARGUMENT, kv_format, INGOT_KV_K8V4); /* heads of 10 */
    WITH(ERROR_MEMORY_LIMIT, memory_limit, 1);
    session = open_session(model, 1);
    ingot_memory_info memory = {.struct_size = sizeof memory};
    EXPECT(OK, ingot_session_memory(session, &memory));
    ingot_session_destroy(session);
    WITH(ERROR_MEMORY_LIMIT, memory_limit, memory.total_bytes - 1); /* a smaller context fits */
    REFUSED(ingot_session_create(NULL, NULL, &session));
    REFUSED(ingot_session_create(model, NULL, NULL));
}

static void check_eval(ingot_model *model) {
    ingot_session *session = open_session(model, 2);
    const int32_t negative = -1;
    REFUSED(ingot_session_eval(NULL, tokens, 1, 0));
    REFUSED(ingot_session_eval(session, NULL, 1, 0));
    REFUSED(ingot_session_eval(session, tokens, 0, 0));
    REFUSED(ingot_session_eval(session, tokens, 2, 3));
    REFUSED(ingot_session_eval(session, &negative, 1, 0));
    EXPECT(ERROR_CONTEXT_FULL, ingot_session_eval(session, tokens, session->context + 1, 0));
    EXPECT(OK, ingot_session_enter(session));
    EXPECT(ERROR_BUSY, ingot_session_eval(session, tokens, 1, 0));
    ingot_session_leave(session);
    ingot_session_cancel(session);
    EXPECT(ERROR_CANCELLED, ingot_session_eval(session, tokens, 1, 0));
    REFUSED(ingot_session_trace(session, tokens, session->chunk + 1, 0, 1));
    REFUSED(ingot_session_trace(session, tokens, 1, 0, session->model->step_count + 1));
    ingot_session_cancel(session);
    EXPECT(ERROR_CANCELLED, ingot_session_trace(session, tokens, 1, 0, 1));
    EXPECT(OK, ingot_session_eval(session, tokens, 2, 1));
    REFUSED(ingot_session_read(session, UINT32_MAX, floats, MOST_FLOATS));
    REFUSED(ingot_session_read(session, session->model->file.step_output, floats, 1));
    REFUSED(ingot_session_truncate(session, 3));
    REFUSED(ingot_session_memory(session, NULL));
    ingot_session_destroy(session);
}

static void check_forked_process(ingot_model *model) {
    ingot_session *session = open_session(model, 1);
    const pid_t child = fork();
    if (child == 0) {
        _exit(ingot_session_eval(session, tokens, 1, 0) == INGOT_ERROR_FORKED ? 0 : 1);
    }
    session->process++; /* as the child found it, for the coverage of this process */
    EXPECT(ERROR_FORKED, ingot_session_eval(session, tokens, 1, 0));
    session->process--;
    int status = -1;
    (void)waitpid(child, &status, 0);
    expect(INGOT_OK, status == 0 ? INGOT_OK : INGOT_ERROR_INTERNAL, "eval in a forked process", __LINE__);
    ingot_session_destroy(session);
}

static void check_choice(ingot_model *model) {
    ingot_session *session = open_session(model, 2);
    const ingot_sampling good = {sizeof good, 0, 1.0, 1.0, 0.0, 1.0, 0};
    int32_t chosen[2];
    uint32_t count = 0;
    REFUSED(ingot_session_step(session, tokens, 1, 1, &good, NULL, 0, chosen, &count));
    REFUSED(ingot_session_step(session, tokens, 3, 2, &good, NULL, 0, chosen, &count));
    REFUSED(ingot_session_step(session, tokens, 1, 0, &good, NULL, 1, chosen, &count));
    REFUSED(ingot_session_step(session, tokens, 1, 0, &good, NULL, 0, chosen, NULL));
    REFUSED(ingot_session_step(session, tokens, 1, 0, NULL, NULL, 0, chosen, &count));
    for (int field = 0; field < 4; field++) {
        ingot_sampling bad = good;
        *(field == 0   ? &bad.temperature
          : field == 1 ? &bad.top_p
          : field == 2 ? &bad.min_p
                       : &bad.repetition_penalty) = -1.0;
        REFUSED(ingot_session_sample(session, 0, &bad, NULL, 0, 0, chosen));
    }
    EXPECT(ERROR_WRONG_STATE, ingot_session_sample(session, 0, &good, NULL, 0, 0, chosen));
    EXPECT(OK, ingot_session_eval(session, tokens, 1, 1));
    float *logits = (float *)(uintptr_t)ingot_session_logits(session, 0);
    for (uint32_t id = 0; id < session->model->file.plan->vocabulary; id++) {
        logits[id] = -__builtin_inff();
    }
    EXPECT(ERROR_INTERNAL, ingot_session_sample(session, 0, &good, NULL, 0, 0, chosen));
    ingot_session_destroy(session);
}

/* All free blocks are somebody's: nobody can do that from outside. */
static void check_no_block(ingot_model *model) {
    ingot_session *session = open_session(model, 1);
    ingot_kv_block *taken = NULL, *block;
    while ((block = ingot_kv_take(session->kv.family)) != NULL) {
        block->next = taken;
        taken = block;
    }
    EXPECT(ERROR_INTERNAL, ingot_session_eval(session, tokens, 1, 0));
    while (taken != NULL) {
        block = taken;
        taken = block->next;
        ingot_kv_give_back(session->kv.family, block);
    }
    EXPECT(OK, ingot_session_eval(session, tokens, 1, 0));
    ingot_session_destroy(session);
}

static void check_state(ingot_model *plain, ingot_model *window) {
    ingot_session *session = open_session(plain, 1), *child = NULL, *slid = open_session(window, 1);
    const uint64_t size = ingot_session_block_bytes(session);
    uint8_t *block = calloc(1, size);
    EXPECT(ERROR_WRONG_STATE, ingot_session_block_read(session, 0, block, size));
    EXPECT(ERROR_WRONG_STATE, ingot_session_resume(session, 1));
    EXPECT(OK, ingot_session_eval(session, tokens, 3, 0));
    REFUSED(ingot_session_fork(session, 4, &child));
    REFUSED(ingot_session_fork(session, 3, NULL));
    REFUSED(ingot_session_block_read(session, 9999, block, size));
    REFUSED(ingot_session_block_read(session, 0, block, size + 1));
    REFUSED(ingot_session_block_read(session, 0, NULL, size));
    EXPECT(ERROR_WRONG_STATE, ingot_session_block_write(session, 0, block, size));
    REFUSED(ingot_session_resume(session, 3));
    free(block);
    for (uint32_t turn = 0; turn < 3; turn++) {
        EXPECT(OK, ingot_session_eval(slid, tokens, MANY, 0));
    }
    EXPECT(ERROR_WRONG_STATE, ingot_session_truncate(slid, 100));
    EXPECT(ERROR_WRONG_STATE, ingot_session_fork(slid, 100, &child));
    ingot_session_destroy(slid);
    slid = open_session(window, 1);
    const uint64_t slid_size = ingot_session_block_bytes(slid);
    block = calloc(1, slid_size);
    for (uint32_t index = 0; index < slid->kv.share; index++) {
        EXPECT(OK, ingot_session_block_write(slid, index, block, slid_size));
    }
    EXPECT(ERROR_WRONG_STATE, ingot_session_block_write(slid, slid->kv.share, block, slid_size));
    free(block);
    ingot_session_destroy(slid);
    ingot_session_destroy(session);
}

static void check_measuring(ingot_model *model) {
    ingot_session *session = open_session(model, 1);
    ingot_profile_entry entries[MOST_CANDIDATES];
    ingot_tune_candidate candidates[MOST_CANDIDATES];
    ingot_tuning tuning = {.struct_size = 1};
    uint32_t count = 0;
    double gigabytes = 0.0;
    REFUSED(ingot_session_stream(session, 3, &gigabytes));
    EXPECT(ERROR_WRONG_STATE, ingot_session_stream(session, 0, &gigabytes)); /* too small to be measured */
    EXPECT(ERROR_WRONG_STATE, ingot_session_profile_read(session, 0, entries, MOST_CANDIDATES, &count));
    EXPECT(OK, ingot_session_profile(session, 1));
    EXPECT(OK, ingot_session_eval(session, tokens, 1, 0));
    REFUSED(ingot_session_profile_read(session, 0, entries, 1, &count));
    REFUSED(ingot_session_tune(session, 0.1, 0, &tuning, candidates, MOST_CANDIDATES, &count));
    REFUSED(ingot_session_apply(session, &tuning));
    tuning = (ingot_tuning){.struct_size = sizeof tuning, .threads = 64};
    REFUSED(ingot_session_apply(session, &tuning));
    tuning = (ingot_tuning){.struct_size = sizeof tuning};
    tuning.kernels[INGOT_DTYPE_Q8] = UINT32_MAX;
    REFUSED(ingot_session_apply(session, &tuning));
    ingot_session_destroy(session);
}

/* A copy whose tensors are said to take more than any model's. */
static const char *write_wide(const char *plain) {
    const char *copy = write_copy(plain, "wide.ingot", -1);
    FILE *file = fopen(copy, "rb+");
    ingot_section_record record = {0};
    long at = (long)sizeof(ingot_header) - (long)sizeof record;
    while (file != NULL && record.kind != INGOT_SECTION_TENSORS) {
        at += (long)sizeof record;
        if (fseek(file, at, SEEK_SET) != 0 || fread(&record, sizeof record, 1, file) != 1) {
            exit(1);
        }
    }
    record.offset = 0;
    record.size = (64u << 20) + 1;
    if (file == NULL || fseek(file, at, SEEK_SET) != 0 || fwrite(&record, sizeof record, 1, file) != 1 ||
        ftruncate(fileno(file), (off_t)record.size) != 0 || fclose(file) != 0) {
        exit(1);
    }
    return copy;
}

/* What a file may be and still not be opened, and what is said when it changes afterwards. */
static void check_opening(const char *plain) {
    ingot_model *model = NULL, *guarded[MANY] = {0};
    ingot_open_config config = {.struct_size = sizeof config, .isa_mask = 1u << 30};
    REFUSED(ingot_model_open_with(NULL, &config, &model));
    REFUSED(ingot_model_open_with(plain, NULL, &model));
    EXPECT(ERROR_HARDWARE, ingot_model_open_with(plain, &config, &model));
    EXPECT(ERROR_OUT_OF_MEMORY, ingot_model_open(write_wide(plain), &model));
    config = (ingot_open_config){.struct_size = sizeof config, .flags = INGOT_OPEN_STRICT};
    const char *copy = write_copy(plain, "trusted.ingot", -1);
    (void)chmod(copy, 0666);
    EXPECT(ERROR_UNTRUSTED, ingot_model_open_with(copy, &config, &model));
    (void)chmod(copy, 0644);
    if (geteuid() == 0 && chown(copy, 1, (gid_t)-1) == 0) { /* root owns what everybody trusts */
        EXPECT(ERROR_UNTRUSTED, ingot_model_open_with(copy, &config, &model));
    }
    config.flags = INGOT_OPEN_GUARD;
    uint32_t count = 0;
    while (count < MANY && ingot_model_open_with(copy, &config, &guarded[count]) == INGOT_OK) {
        count++;
    }
    EXPECT(ERROR_OUT_OF_MEMORY, ingot_model_open_with(copy, &config, &guarded[MANY - 1]));
    (void)truncate(copy, 0);
    ingot_session *session = open_session(guarded[0], 1);
    EXPECT(ERROR_FILE_LOST, ingot_session_eval(session, tokens, 1, 0));
    EXPECT(ERROR_FILE_LOST, ingot_model_intact(guarded[0]));
    ingot_session_destroy(session);
    while (count > 0) {
        ingot_model_close(guarded[--count]);
    }
}

/* Calls about memory that lack what they are about. */
static void check_memory(ingot_model *model) {
    ingot_session *session = open_session(model, 1);
    ingot_session_config config = {.struct_size = 1};
    ingot_memory_info memory = {.struct_size = sizeof memory};
    uint64_t bytes;
    uint32_t context;
    uint8_t digest[32];
    REFUSED(ingot_session_trim(session, NULL));
    REFUSED(ingot_session_limit_threads(NULL, 1));
    REFUSED(ingot_model_intact(NULL));
    REFUSED(ingot_model_release(model, NULL));
    REFUSED(ingot_model_release(NULL, &bytes));
    REFUSED(ingot_model_resume(NULL));
    REFUSED(ingot_model_digest(NULL, digest));
    REFUSED(ingot_session_measure(model, &config, &memory, &context));
    EXPECT(OK, ingot_session_measure(model, NULL, &memory, &context));
    ingot_session_destroy(session);
}

int main(int count, char **arguments) {
    if (count < 6) {
        printf("usage: errors_driver PLAIN WINDOW TINY SPARSE SCRATCH [--plant status]\n");
        return 2;
    }
    planted = count > 6 ? 7 : 0;
    scratch = arguments[5];
    check_files(arguments[1], arguments[3]);
    check_opening(arguments[1]);
    check_program(arguments[4]);
    check_kernels();
    ingot_model *plain = open_file(arguments[1]), *window = open_file(arguments[2]);
    check_model(plain);
    check_create(plain);
    check_memory(plain);
    check_eval(plain);
    check_forked_process(plain);
    check_choice(plain);
    check_no_block(plain);
    check_state(plain, window);
    check_measuring(plain);
    ingot_model_close(window);
    ingot_model_close(plain);
    return concluded();
}
