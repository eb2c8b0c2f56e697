/* SPDX-License-Identifier: Apache-2.0 */
/* An ingot file in memory, checked once; after that its offsets, shapes and operands are trusted. */
#ifndef INGOT_FILE_H
#define INGOT_FILE_H

#include <stdint.h>

#include "ingot.h"
#include "ingot_format.h"
#include "platform/guard.h"

/* All pointers lead into data. */
typedef struct ingot_file {
    const uint8_t *data;
    uint64_t size;
    ingot_guard *guard; /* NULL: not asked for */
    const ingot_tensor_record *tensors;
    uint32_t tensor_count;
    const char *names;
    const ingot_entry_record *entries;
    uint32_t entry_count;
    const ingot_instruction *instructions;
    uint32_t instruction_count;
    const uint32_t *operands;
    uint32_t operand_count;
    const uint8_t *parameters;
    const ingot_plan_header *plan;
    const uint8_t *weights;
    uint64_t weights_offset; /* bytes from the start of the file */
    uint64_t weights_size;   /* bytes */
    uint32_t step_first;     /* the entry 'step' */
    uint32_t step_count;
    uint32_t step_input;
    uint32_t step_output;
} ingot_file;

/** Maps and checks a file. All that is trusted afterwards, the weights apart, is kept as a private copy in its place.
 * @param path UTF-8. @param flags of ingot_open_flag.
 * @return as ingot_model_open_with(); *file is written on success only. */
ingot_status ingot_file_open(const char *path, uint32_t flags, ingot_file *file);
/** @return INGOT_ERROR_FILE_LOST if a part of a guarded file was gone when it was read. */
ingot_status ingot_file_intact(const ingot_file *file);
/** Checks a file in memory, 64-byte aligned, which must outlive *file. */
ingot_status ingot_file_validate(const uint8_t *data, uint64_t size, ingot_file *file);
/** Unmaps a file of ingot_file_open(). */
void ingot_file_close(ingot_file *file);

#endif
