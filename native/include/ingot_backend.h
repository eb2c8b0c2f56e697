/* SPDX-License-Identifier: Apache-2.0 */
/* What a backend is: a shared object that exports ingot_backend_get() and executes the instructions of a file on another
 * processor than the CPU. libingot loads it, cuts the program into runs of instructions that the backend takes and runs
 * that it leaves to the CPU, and moves what one side wrote and the other reads.
 *
 * libingot has checked the file before a backend sees it: counts, ids, shapes, offsets and sizes can be trusted, the
 * bytes of the weights cannot. A backend never prints, aborts or calls back; what fails returns a status and leaves a
 * message for last_error() on this thread. One session is used by one thread at a time, several sessions of a model by
 * several. After session_open nothing is allocated but what a driver needs to record a pass of a new shape. */
#ifndef INGOT_BACKEND_H
#define INGOT_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "ingot.h"
#include "ingot_format.h"

#ifdef __cplusplus
extern "C" {
#endif

#define INGOT_BACKEND_ABI 1u

/* The program of a file: the instructions of entry 'step', and what they name. What it points to is valid until model_close
 * returns; the struct itself and its descriptor only while model_open runs. */
typedef struct ingot_backend_program {
    const ingot_instruction *instructions;
    uint32_t instruction_count;
    uint32_t tensor_count;
    const ingot_tensor_record *tensors; /* by id; offsets of weights and constants are into `weights` */
    const uint32_t *operands; /* of instruction i: operands + first_operand, inputs, then outputs */
    const uint8_t *parameters; /* of instruction i: parameters + parameters_offset */
    const ingot_plan_header *plan;
    uint32_t input; /* tensor id of the token ids */
    uint32_t output; /* tensor id of the logits */
    const uint8_t *weights; /* the weights section, mapped read-only */
    uint64_t weights_size; /* bytes */
    uint64_t weights_offset; /* of the section in the file, a multiple of 64 KiB */
    int descriptor; /* of the file, open for reading, or -1 */
    uint32_t reserved; /* 0 */
} ingot_backend_program;

typedef struct ingot_backend_options {
    uint32_t device; /* index below device_count() */
    uint32_t flags; /* 0 */
    uint64_t memory_limit; /* device bytes of the model, 0: none */
    const char *cache_folder; /* for compiled pipelines, NULL: keep none */
    uint64_t *progress; /* bytes of weights on the device, and in all: see ingot_backend_progress; NULL: nobody looks */
} ingot_backend_options;

typedef enum ingot_backend_kind {
    INGOT_BACKEND_DISCRETE = 1, /* memory of its own */
    INGOT_BACKEND_INTEGRATED = 2, /* the CPU's memory */
    INGOT_BACKEND_SOFTWARE = 3 /* the CPU itself: for tests */
} ingot_backend_kind;

/* A device, described without opening it. */
typedef struct ingot_backend_device {
    char name[128]; /* as the driver gives it */
    char driver[128]; /* name and version: a key for what was measured with it */
    char refused[256]; /* why it is not to be used: a missing feature; "" if it may be */
    uint32_t kind; /* enum ingot_backend_kind */
    uint32_t vendor; /* PCI or Khronos id, 0 unknown */
    uint32_t id; /* of the device at its vendor */
    uint32_t driver_version; /* as the driver packs it */
    uint64_t memory_bytes; /* of the device or shared with the CPU */
    char features[256]; /* words: "int8-dot fp16 subgroup-32 ..." */
} ingot_backend_device;

/* Keys and values of one attention in a block of 64 positions: head after head, each its keys, then its values, the
 * bytes of kernels/attention/attention.h. */
typedef struct ingot_backend_state {
    uint64_t offset; /* of the first head in a block */
    uint64_t key_bytes; /* of one head */
    uint64_t head_bytes; /* keys and values of one head */
} ingot_backend_state;

typedef struct ingot_backend_session_config {
    uint32_t capacity; /* positions, a multiple of 64 */
    uint32_t chunk; /* most tokens of a pass */
    uint32_t logits_rows; /* most selected rows of a pass */
    uint32_t kv_format; /* enum ingot_kv_format, never AUTO */
    uint64_t block_bytes; /* of 64 positions of all attentions */
    const ingot_backend_state *states; /* by instruction; of an attention that was taken */
    uint64_t memory_limit; /* device bytes of the session, 0: none */
} ingot_backend_session_config;

/* A run of instructions for m tokens. When it returns, whatever an instruction of the range wrote and one after the range
 * reads can be read, and so can the outputs of the last instruction; the rest may never have been written. */
typedef struct ingot_backend_pass {
    uint32_t first, count; /* instructions, all taken */
    uint32_t m; /* tokens, 1 to chunk */
    uint32_t selected; /* of them the last whose logits are wanted; instructions on 0 rows are left out */
    uint32_t position; /* of the first token */
    uint32_t pick_count; /* best logits to keep per selected row; 0: the logits themselves are read */
    const int32_t *tokens; /* (m) */
} ingot_backend_pass;

typedef struct ingot_backend_pick {
    float logit;
    int32_t id;
} ingot_backend_pick;

typedef struct ingot_backend_memory {
    uint64_t weights_bytes; /* on the device; 0 where the file's own pages are read */
    uint64_t imported_bytes; /* of the file's mapping that the device reads in place */
    uint64_t arena_bytes;
    uint64_t scratch_bytes;
    uint64_t state_bytes;
} ingot_backend_memory;

typedef struct ingot_backend {
    uint32_t abi; /* INGOT_BACKEND_ABI */
    uint32_t struct_size; /* sizeof(ingot_backend) */
    const char *name; /* "vulkan", "cuda" */

    /** Message of the last failure on this thread, "" before any. */
    const char *(*last_error)(void);
    /** Devices that the driver shows; 0 without a driver, and last_error() says what was looked for. */
    uint32_t (*device_count)(void);
    ingot_status (*device_info)(uint32_t device, ingot_backend_device *info);

    /** Decides which instructions the backend takes and brings their weights to the device.
     * @param takes (instruction_count) 1 for an instruction that is taken; libingot may run fewer of them here. All
     *              attentions are taken or none.
     * @return INGOT_ERROR_HARDWARE for a device that is refused, _OUT_OF_MEMORY, _MEMORY_LIMIT. */
    ingot_status (*model_open)(const ingot_backend_program *program, const ingot_backend_options *options,
                               uint8_t *takes, void **model);
    void (*model_close)(void *model);

    ingot_status (*session_open)(void *model, const ingot_backend_session_config *config, void **session);
    void (*session_close)(void *session);
    /** Runs and waits. @return INGOT_ERROR_HARDWARE if the device is lost. */
    ingot_status (*run)(void *session, const ingot_backend_pass *pass);
    /** Copies rows of a float activation to the device, before a run that reads them.
     * @param data (rows, width) with `stride` floats from row to row. */
    ingot_status (*write)(void *session, uint32_t tensor, uint32_t rows, const float *data, size_t stride);
    ingot_status (*read)(void *session, uint32_t tensor, uint32_t rows, float *data, size_t stride);
    /** The best logits of a selected row of the last run, the best first, ties by the lower id; ids below the plan's
     * vocabulary. A logit that is no number or infinite comes before all others.
     * @param picks room for pick_count. */
    ingot_status (*picks)(void *session, uint32_t row, ingot_backend_pick *picks, uint32_t *count);
    /** Keys and values of positions [64 * block, 64 * block + 64) of all attentions, block_bytes. */
    ingot_status (*state_write)(void *session, uint32_t block, const uint8_t *data);
    ingot_status (*state_read)(void *session, uint32_t block, uint8_t *data);
    void (*memory)(const void *session, ingot_backend_memory *info);
} ingot_backend;

/** Tells whoever waits, on another thread, how far the weights have come. */
static inline void ingot_backend_progress(const ingot_backend_options *options, uint64_t done, uint64_t total) {
    if (options->progress != NULL) {
        __atomic_store_n(&options->progress[1], total, __ATOMIC_RELAXED);
        __atomic_store_n(&options->progress[0], done, __ATOMIC_RELAXED);
    }
}

/** The one symbol that a backend exports: its name is the file's, libingot_<name>.so. */
#ifdef __GNUC__
__attribute__((visibility("default")))
#endif
const ingot_backend *ingot_backend_get(void);

#ifdef __cplusplus
}
#endif

#endif
