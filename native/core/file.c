/* SPDX-License-Identifier: Apache-2.0 */
#include "core/file.h"

#include <string.h>

#include "core/validate.h"
#include "platform/platform.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file is little-endian and read in place"
#endif

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

ingot_status ingot_file_open(const char *path, ingot_file *file) {
    const uint8_t *data = NULL;
    uint64_t size = 0;
    ingot_status status = ingot_platform_map(path, &data, &size);
    if (status != INGOT_OK) {
        return status;
    }
    status = ingot_file_validate(data, size, file);
    if (status != INGOT_OK) {
        ingot_platform_unmap(data, size);
    }
    return status;
}

void ingot_file_close(ingot_file *file) {
    if (file->data != NULL) {
        ingot_platform_unmap(file->data, file->size);
    }
    memset(file, 0, sizeof *file);
}
