/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target of what stands between a file and the kernels: an input is a list of edits to the records of a valid
 * file (tensors, program, required, plan), checksums are repaired, and a file that is still accepted is run.
 *
 * Input: one byte chooses the base file, then edits of 12 bytes (struct edit). INGOT_FUZZ_FOLDER holds the base files,
 * plan_0.ingot and on. Nothing that an accepted file says may make the library read or write beyond its memory. */
#include <stdio.h>

#include "ingot.h"
#include "repaired_file.h"
#include "watched_memory.h"

enum { MOST_BASES = 32, MOST_EDITS = 64, MOST_FLOATS = 1 << 16, TOKENS = 3 };
enum action { SET, SET_SMALL, SET_INTERESTING, ADD, FLIP, COPY_FIELD, COPY_RECORD, SWAP_RECORDS, ACTIONS };

typedef struct edit {
    uint8_t records; /* which of the tables */
    uint8_t action;
    uint16_t index, other; /* records of the table */
    uint8_t offset, width; /* of the field */
    uint32_t value;
} edit;

/* One table of records of a file. */
typedef struct table {
    uint64_t start;
    uint32_t stride, count;
} table;

enum { TABLES = 10 };

typedef struct base {
    uint8_t *data;
    size_t size;
    table tables[TABLES];
} base;

static base bases[MOST_BASES];
static uint32_t base_count;
static const base *opened; /* the file that the next open maps */
static uint8_t *changed; /* its bytes */

int LLVMFuzzerInitialize(int *argument_count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#if defined(INGOT_FUZZ_WRAP)
ingot_status __wrap_ingot_platform_map(const char *path, bool strict, const uint8_t **data, uint64_t *size);
ingot_status __wrap_ingot_platform_keep(const uint8_t *data, uint64_t size);
void __wrap_ingot_platform_unmap(const uint8_t *data, uint64_t size);

ingot_status __wrap_ingot_platform_map(const char *path, bool strict, const uint8_t **data, uint64_t *size) {
    (void)path;
    (void)strict;
    *data = changed;
    *size = opened->size;
    return INGOT_OK;
}

/* Nobody else writes these bytes, and they are no mapping that pages could be put over. */
ingot_status __wrap_ingot_platform_keep(const uint8_t *data, uint64_t size) {
    (void)data;
    (void)size;
    return INGOT_OK;
}

void __wrap_ingot_platform_unmap(const uint8_t *data, uint64_t size) {
    (void)data;
    (void)size;
}
#endif

static void find_tables(base *file) {
    uint64_t starts[16] = {0};
    uint32_t count;
    const ingot_section_record *sections = sections_of(file->data, file->size, &count);
    for (uint32_t i = 0; i < count; i++) {
        if (sections[i].kind < 16) {
            starts[sections[i].kind] = sections[i].offset;
        }
    }
    const uint64_t tensors = starts[INGOT_SECTION_TENSORS], program = starts[INGOT_SECTION_PROGRAM];
    const uint64_t required = starts[INGOT_SECTION_REQUIRED], plan = starts[INGOT_SECTION_PLAN];
    const ingot_tensors_header *t = (const void *)(file->data + tensors);
    const ingot_program_header *p = (const void *)(file->data + program);
    const ingot_required_header *r = (const void *)(file->data + required);
    const ingot_plan_header *l = (const void *)(file->data + plan);
    const uint64_t entries = program + sizeof *p, items = entries + 32ull * p->entry_count;
    const uint64_t operands = items + 64ull * p->instruction_count;
    const uint64_t parameters = operands + (4ull * p->operand_count + 7) / 8 * 8;
    const table found[TABLES] = {{tensors, sizeof *t, 1},
                                 {tensors + sizeof *t, sizeof(ingot_tensor_record), t->count},
                                 {program, sizeof *p, 1},
                                 {entries, sizeof(ingot_entry_record), p->entry_count},
                                 {items, sizeof(ingot_instruction), p->instruction_count},
                                 {operands, 4, p->operand_count},
                                 {parameters, 4, p->parameters_size / 4},
                                 {required + sizeof *r, sizeof(ingot_required_record), r->count},
                                 {plan, sizeof *l, 1},
                                 {plan + sizeof *l, sizeof(ingot_peak_record), l->peak_count}};
    memcpy(file->tables, found, sizeof found);
}

static bool load(const char *folder, uint32_t index, base *file) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s/plan_%u.ingot", folder, index);
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        return false;
    }
    (void)fseek(stream, 0, SEEK_END);
    file->size = (size_t)ftell(stream);
    (void)fseek(stream, 0, SEEK_SET);
    bool read = posix_memalign((void **)&file->data, INGOT_SECTION_ALIGNMENT, file->size) == 0 &&
                fread(file->data, 1, file->size, stream) == file->size;
    (void)fclose(stream);
    return read;
}

int LLVMFuzzerInitialize(int *argument_count, char ***arguments) {
    (void)argument_count;
    (void)arguments;
    const char *folder = getenv("INGOT_FUZZ_FOLDER");
    while (folder != NULL && base_count < MOST_BASES && load(folder, base_count, &bases[base_count])) {
        find_tables(&bases[base_count++]);
    }
    if (base_count == 0) {
        (void)fprintf(stderr, "INGOT_FUZZ_FOLDER must hold plan_0.ingot and on; run_fuzz.py makes them\n");
        exit(1);
    }
    return 0;
}

static uint64_t interesting(uint32_t value) {
    static const uint64_t VALUES[] = {0,          1,          2,          15,         16,         31,
                                      32,         33,         63,         64,         128,        255,
                                      256,        4096,       0x7FFF,     0x8000,     0xFFFF,     0x10000,
                                      0x3F800000, 0x7F800000, 0x7FC00000, 0xFF800000, 0x80000000, 0x7FFFFFFF,
                                      0xFFFFFFFF, 1ull << 32, 1ull << 40, 1ull << 62, 1ull << 63, ~0ull};
    return VALUES[value % (sizeof VALUES / sizeof *VALUES)];
}

static void change_field(uint8_t *field, const uint8_t *other, size_t width, const edit *e) {
    uint64_t value = 0;
    memcpy(&value, field, width);
    switch (e->action % ACTIONS) {
        case SET: value = e->value; break;
        case SET_SMALL: value = e->value % 64; break;
        case SET_INTERESTING: value = interesting(e->value); break;
        case ADD: value += (uint64_t)(int64_t)(int8_t)e->value * (e->value & 256 ? 64 : 1); break;
        case FLIP: value ^= 1ull << e->value % 64; break;
        default: memcpy(&value, other, width);
    }
    memcpy(field, &value, width);
}

static void apply(uint8_t *data, const table *records, const edit *e) {
    if (records->count == 0) {
        return;
    }
    uint8_t *record = data + records->start + (uint64_t)records->stride * (e->index % records->count);
    uint8_t *other = data + records->start + (uint64_t)records->stride * (e->other % records->count);
    const uint32_t action = e->action % ACTIONS;
    if (action == COPY_RECORD) {
        memmove(record, other, records->stride);
    } else if (action == SWAP_RECORDS) {
        for (uint32_t i = 0; i < records->stride; i++) {
            uint8_t byte = record[i];
            record[i] = other[i];
            other[i] = byte;
        }
    } else {
        size_t width = (size_t)1 << e->width % 4;
        width = width > records->stride ? records->stride : width;
        const size_t at = e->offset % (records->stride / width) * width;
        change_field(record + at, other + at, width, e);
    }
}

static void expect_message(ingot_status status) {
    if (status != INGOT_OK && ingot_last_error()[0] == '\0') {
        abort(); /* a failure that says nothing */
    }
}

static void read_rows(const ingot_model *model, uint32_t tensors) {
    static float row[MOST_FLOATS];
    for (uint32_t id = 0; id < tensors; id++) {
        expect_message(ingot_tensor_dequantize(model, id, 0, 1, row, MOST_FLOATS));
    }
}

static void use(ingot_session *session, const ingot_model_info *info) {
    int32_t tokens[TOKENS], chosen[2];
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (int32_t)(i * 7 % info->embedding_rows);
    }
    ingot_session *child = NULL;
    const ingot_sampling sampling = {sizeof sampling, 3, 0.7, 0.9, 0.0, 1.1, 1};
    uint32_t count = 0;
    expect_message(ingot_session_eval(session, tokens, TOKENS, 1));
    expect_message(ingot_session_step(session, tokens, 1, 0, &sampling, tokens, TOKENS, chosen, &count));
    expect_message(ingot_session_fork(session, ingot_session_position(session), &child));
    expect_message(ingot_session_truncate(session, 1));
    expect_message(ingot_session_eval(session, tokens, 1, 1));
    if (child != NULL) {
        expect_message(ingot_session_eval(child, tokens, 1, 0));
        ingot_session_destroy(child);
    }
}

static void run_file(uint32_t choices) {
    ingot_model *model = NULL;
    ingot_model_info info = {.struct_size = sizeof info};
    ingot_status status = ingot_model_open("changed", &model);
    expect_message(status);
    if (status != INGOT_OK) {
        return;
    }
    (void)ingot_model_info_get(model, &info);
    const ingot_session_config config = {
        .struct_size = sizeof config, .threads = 1, .kv_format = 1 + choices % 3, .memory_limit = WATCHED_MOST};
    ingot_session *session = NULL;
    status = ingot_session_create(model, &config, &session);
    expect_message(status);
    read_rows(model, info.tensor_count);
    if (status == INGOT_OK) {
        use(session, &info);
        ingot_session_destroy(session);
    }
    ingot_model_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    opened = &bases[data[0] % base_count];
    if (posix_memalign((void **)&changed, INGOT_SECTION_ALIGNMENT, opened->size) != 0) {
        return 0;
    }
    memcpy(changed, opened->data, opened->size);
    uint32_t choices = data[0] / base_count;
    for (size_t at = 1, edits = 0; at + sizeof(edit) <= size && edits < MOST_EDITS; at += sizeof(edit), edits++) {
        edit e;
        memcpy(&e, data + at, sizeof e);
        apply(changed, &opened->tables[e.records % TABLES], &e);
        choices += e.records / TABLES;
    }
    repair(changed, opened->size);
    run_file(choices);
    free(changed);
    return 0;
}
