/* SPDX-License-Identifier: Apache-2.0 */
#include "core/file.h"

#include <string.h>

#include "core/layout.h"
#include "core/validate.h"
#include "platform/platform.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file is little-endian and read in place"
#endif

enum { MOST_STRUCTURE = 64 << 20 }; /* bytes; that of a model of 70B parameters is below one million */

static ingot_status run_checks(ingot_validation *v) {
    static ingot_status (*const CHECKS[])(ingot_validation *) = {
        ingot_validate_header,  ingot_validate_required, ingot_validate_plan,
        ingot_validate_tensors, ingot_validate_program,
    };
    static ingot_status (*const CROSS_CHECKS[])(const ingot_validation *) = {
        ingot_validate_liveness,
        ingot_validate_required_covers,
        ingot_validate_plan_covers,
    };
    ingot_status status = INGOT_OK;
    for (size_t i = 0; status == INGOT_OK && i < sizeof CHECKS / sizeof CHECKS[0]; i++) {
        status = CHECKS[i](v);
    }
    for (size_t i = 0; status == INGOT_OK && i < sizeof CROSS_CHECKS / sizeof CROSS_CHECKS[0]; i++) {
        status = CROSS_CHECKS[i](v);
    }
    return status;
}

ingot_status ingot_file_validate(const uint8_t *data, uint64_t size, ingot_file *file) {
    if (data == NULL || file == NULL || (uintptr_t)data % INGOT_SECTION_ALIGNMENT != 0) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "a file in memory must be aligned to %d bytes",
                          INGOT_SECTION_ALIGNMENT);
    }
    ingot_validation v = {.file = {.data = data, .size = size}};
    ingot_status status = run_checks(&v);
    if (status == INGOT_OK) {
        *file = v.file;
    }
    return status;
}

static bool is_structure(uint32_t kind) {
    return kind == INGOT_SECTION_TENSORS || kind == INGOT_SECTION_PROGRAM || kind == INGOT_SECTION_REQUIRED ||
           kind == INGOT_SECTION_PLAN;
}

/* Header, section table and structure are checked once and trusted from then on, in place: they must not change after
 * the check, whatever happens to the file. Nothing is believed here; the checks that follow read the copies. */
static ingot_status keep_structure(const uint8_t *data, uint64_t size) {
    const uint64_t start = sizeof(ingot_header) + INGOT_MAX_SECTIONS * sizeof(ingot_section_record);
    ingot_status status = ingot_platform_keep(data, size < start ? size : start);
    const ingot_header *header = (const ingot_header *)(const void *)data;
    const ingot_section_record *table = (const ingot_section_record *)(const void *)(header + 1);
    uint64_t left = MOST_STRUCTURE;
    for (uint32_t i = 0;
         status == INGOT_OK && i < INGOT_MAX_SECTIONS && (const uint8_t *)(table + i + 1) <= data + size; i++) {
        if (i >= header->section_count || !is_structure(table[i].kind) ||
            !ingot_fits(table[i].offset, table[i].size, size)) {
            continue;
        }
        if (table[i].size > left) {
            return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "tensors and program take more than %d bytes", MOST_STRUCTURE);
        }
        left -= table[i].size;
        status = ingot_platform_keep(data + table[i].offset, table[i].size);
    }
    return status;
}

static ingot_status check_mapped(const uint8_t *data, uint64_t size, ingot_file *file) {
    ingot_guard *guard = file->guard;
    ingot_status status = size < sizeof(ingot_header) ? INGOT_OK : keep_structure(data, size);
    status = status == INGOT_OK ? ingot_file_validate(data, size, file) : status;
    file->guard = guard;
    ingot_status lost = ingot_file_intact(file); /* says more than what zeros were taken for */
    return lost != INGOT_OK ? lost : status;
}

ingot_status ingot_file_open(const char *path, uint32_t flags, ingot_file *file) {
    const uint8_t *data = NULL;
    uint64_t size = 0;
    ingot_file opened = {0};
    ingot_status status = ingot_platform_map(path, (flags & INGOT_OPEN_STRICT) != 0, &data, &size);
    if (status == INGOT_OK && (flags & INGOT_OPEN_GUARD) != 0) {
        status = ingot_guard_add(data, size, &opened.guard);
    }
    status = status == INGOT_OK ? check_mapped(data, size, &opened) : status;
    if (status != INGOT_OK) {
        ingot_guard_remove(opened.guard);
        ingot_platform_unmap(data, size);
        return status;
    }
    *file = opened;
    return INGOT_OK;
}

ingot_status ingot_file_intact(const ingot_file *file) {
    if (!ingot_guard_lost(file->guard)) {
        return INGOT_OK;
    }
    return ingot_fail(
        INGOT_ERROR_FILE_LOST,
        "the file was cut short, or its storage failed, while it was open: copy it again and open it anew");
}

void ingot_file_close(ingot_file *file) {
    ingot_guard_remove(file->guard);
    if (file->data != NULL) {
        ingot_platform_unmap(file->data, file->size);
    }
    memset(file, 0, sizeof *file);
}
