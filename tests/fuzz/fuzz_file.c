/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target of the file's checks. Checksums are repaired first, so that the fuzzer gets past them;
 * a file that passes is read through all its records, as an executor would. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/file.h"
#include "repaired_file.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
int LLVMFuzzerInitialize(int *argument_count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

static int failing_allocation = -1; /* this many allocations from now fails, -1: none */

#if defined(INGOT_FUZZ_WRAP) /* linked with --wrap=malloc --wrap=calloc */
enum { ALLOCATIONS = 3 };

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);

static bool allocation_fails(void) { return failing_allocation >= 0 && failing_allocation-- == 0; }

void *__wrap_malloc(size_t size) { return allocation_fails() ? NULL : __real_malloc(size); }

void *__wrap_calloc(size_t count, size_t size) { return allocation_fails() ? NULL : __real_calloc(count, size); }
#else
enum { ALLOCATIONS = 0 };
#endif

/* Reads the first and the last byte of all that an accepted file points to; ASan watches. */
static uint64_t read_through(const ingot_file *file) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < file->tensor_count; i++) {
        const ingot_tensor_record *t = &file->tensors[i];
        if (t->role == INGOT_ROLE_WEIGHT || t->role == INGOT_ROLE_CONSTANT) {
            sum += (uint64_t)file->weights[t->offset] + file->weights[t->offset + t->size - 1];
        }
        sum += (uint64_t)file->names[t->name_offset] + (uint64_t)file->names[t->name_offset + t->name_size - 1];
    }
    for (uint32_t i = 0; i < file->instruction_count; i++) {
        const ingot_instruction *item = &file->instructions[i];
        for (uint32_t k = 0; k < (uint32_t)item->inputs + item->outputs; k++) {
            sum += file->tensors[file->operands[item->first_operand + k]].size;
        }
        if (item->parameters_size > 0) {
            sum += file->parameters[item->parameters_offset + item->parameters_size - 1];
        }
    }
    return sum + file->tensors[file->step_input].size + file->tensors[file->step_output].size;
}

static ingot_status validate(const uint8_t *data, size_t size, int failing) {
    ingot_file file;
    failing_allocation = failing;
    ingot_status status = ingot_file_validate(data, size, &file);
    failing_allocation = -1;
    if (status == INGOT_OK) {
        volatile uint64_t used = read_through(&file);
        (void)used;
    }
    return status;
}

/* Arguments that no file can stand for. */
int LLVMFuzzerInitialize(int *argument_count, char ***arguments) {
    static _Alignas(INGOT_SECTION_ALIGNMENT) const uint8_t bytes[128];
    ingot_file file;
    (void)argument_count;
    (void)arguments;
    if (ingot_file_validate(NULL, 64, &file) != INGOT_ERROR_INVALID_ARGUMENT ||
        ingot_file_validate(bytes, 64, NULL) != INGOT_ERROR_INVALID_ARGUMENT ||
        ingot_file_validate(bytes + 8, 64, &file) != INGOT_ERROR_INVALID_ARGUMENT) {
        abort();
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    void *copy = NULL;
    if (posix_memalign(&copy, INGOT_SECTION_ALIGNMENT, size == 0 ? 1 : size) != 0) {
        return 0;
    }
    if (size > 0) {
        memcpy(copy, data, size);
    }
    repair(copy, size);
    if (validate(copy, size, -1) == INGOT_OK) {
        for (int failing = 0; failing < ALLOCATIONS; failing++) {
            if (validate(copy, size, failing) != INGOT_ERROR_OUT_OF_MEMORY) {
                abort(); /* an allocation failed and nobody noticed */
            }
        }
    }
    free(copy);
    return 0;
}

/* Mostly changes bytes inside one small section: the weights are long and say nothing to the checks. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    uint32_t count;
    ingot_section_record *table = sections_of(data, size, &count);
    if (count == 0 || seed % 8 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    uint32_t place = seed / 8 % (count + 1);
    if (place == count) {
        (void)LLVMFuzzerMutate(data, 64 + count * sizeof *table, 64 + count * sizeof *table);
        return size;
    }
    const ingot_section_record *section = &table[place];
    if (section->kind <= INGOT_SECTION_PLAN && section->size > 0 && ingot_fits(section->offset, section->size, size)) {
        (void)LLVMFuzzerMutate(data + section->offset, section->size, section->size);
        return size;
    }
    return LLVMFuzzerMutate(data, size, max_size);
}
