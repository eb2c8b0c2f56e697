/* SPDX-License-Identifier: Apache-2.0 */
/* A model and its sessions on a CUDA device. */
#ifndef INGOT_CUDA_MODEL_H
#define INGOT_CUDA_MODEL_H

#include <stdbool.h>

#include "cuda_driver.h"
#include "ingot_backend.h"
#include "kernel_args.h"

enum {
    CUDA_FORMATS = 13,      /* q8 to t2 by dtype, those in T16_K8, then f16 */
    CUDA_FORMAT_T2 = 8,
    CUDA_FORMAT_K8 = 9,     /* q8, q4, c4 */
    CUDA_FORMAT_F16 = 12,
    CUDA_FORMAT_F32 = 13,   /* of an embedding table alone */
    CUDA_ROW_COUNTS = 4,    /* attend_*_1, 2, 4, 8 */
    CUDA_MOST_MODULES = 16,
    CUDA_MOST_GRAPHS = 16
};

/* The least that a device and its driver must be. */
enum { CUDA_LEAST_CAPABILITY = 80, CUDA_LEAST_DRIVER = 12000 };

typedef struct cuda_kernels {
    cu_function gemv[CUDA_FORMATS], few[CUDA_FORMATS], prompt[CUDA_FORMATS];
    cu_function embed[CUDA_FORMATS + 1];
    cu_function normalize, elements, read_rate, merge, pick_segment, pick_merge;
    cu_function prepare[3];                  /* by ingot_kv_format - 1 */
    cu_function attend[3][CUDA_ROW_COUNTS];
    cu_function attend_prompt[3];            /* none for f16 keys */
} cuda_kernels;

/* How the weights came to the device. */
typedef enum cuda_weights_kind {
    CUDA_WEIGHTS_NONE,
    CUDA_WEIGHTS_IMPORTED,
    CUDA_WEIGHTS_MANAGED,
    CUDA_WEIGHTS_UPLOADED
} cuda_weights_kind;

typedef struct cuda_model {
    const ingot_cuda_driver *driver;
    const ingot_backend_program *program; /* the copy below */
    ingot_backend_program own_program;    /* its descriptor holds during model_open alone */
    cu_device device;
    cu_context context;
    cu_module modules[CUDA_MOST_MODULES];
    uint32_t module_count;
    cuda_kernels kernels;
    bool integrated;
    uint32_t multiprocessors;
    cuda_weights_kind weights_kind;
    cu_pointer weights; /* of the section */
    void *registered;   /* the pages that were */
    cu_pointer offsets; /* tile offsets of all sparse weights */
    uint64_t offsets_bytes;
    uint64_t *first_offset; /* by tensor: bytes into offsets, UINT64_MAX where dense */
    uint32_t padded_k;      /* widest row that is quantized, padded to 128 */
    uint32_t widest_heads;  /* most heads of an attention, and the widest of them */
    uint32_t widest_head;
    bool quantizes_tokens;  /* some weight is t2 */
} cuda_model;

/* A captured pass. */
typedef struct cuda_graph {
    ingot_backend_pass pass; /* but for position and tokens */
    cu_executable executable;
    uint64_t used;
} cuda_graph;

typedef struct cuda_session {
    cuda_model *model;
    ingot_backend_session_config config;
    cu_stream stream;
    cu_pointer memory; /* all but the state */
    uint64_t arena_bytes, scratch_bytes, state_bytes;
    cu_pointer tokens_arena, selected_arena;
    cu_pointer pass; /* position, then tokens */
    cuda_codes codes_of[2]; /* int8 rows: a linear may read one set and make the next one's */
    cuda_codes token_codes; /* with a scale per row (t2) */
    cu_pointer codes, factors, partials;
    cu_pointer candidates, best;
    cu_pointer state;
    uint32_t *host_pass; /* pinned */
    uint32_t most_splits;
    ingot_backend_state *states; /* by instruction, a copy */
    uint32_t pick_rows, pick_count; /* of the last run */
    cuda_graph graphs[CUDA_MOST_GRAPHS];
    uint32_t graph_count;
    uint64_t clock;
} cuda_session;

/* The pass that is being launched. */
typedef struct cuda_walk {
    cuda_session *session;
    const ingot_backend_pass *pass;
    uint32_t quantized; /* the tensor whose int8 rows are in the scratch, or UINT32_MAX */
    uint32_t set;       /* of codes_of, in which they are */
} cuda_walk;

/* An instruction with its operands and parameters found. */
typedef struct cuda_step {
    const ingot_instruction *record;
    const uint32_t *inputs, *outputs;
    const void *parameters;
} cuda_step;

static inline cuda_step ingot_cuda_step(const cuda_model *model, uint32_t index) {
    const ingot_instruction *record = &model->program->instructions[index];
    const uint32_t *operands = model->program->operands + record->first_operand;
    return (cuda_step){record, operands, operands + record->inputs,
                       model->program->parameters + record->parameters_offset};
}

/** A device pointer as a kernel's argument has it. */
static inline void *ingot_cuda_at(cu_pointer pointer) { return (void *)(uintptr_t)pointer; }
static inline uint64_t ingot_cuda_padded(uint64_t value, uint64_t step) { return (value + step - 1) / step * step; }

/* ---- cuda_device.c ---- */
uint32_t ingot_cuda_device_count(void);
ingot_status ingot_cuda_device_info(uint32_t device, ingot_backend_device *info);
/** The capability of a device, 87 for 8.7, 0 on failure. */
int ingot_cuda_capability(const ingot_cuda_driver *driver, cu_device device);
/** Whether there is code for it; `ptx` says which kind. */
bool ingot_cuda_code_for(const ingot_cuda_driver *driver, int capability, bool *ptx);
/** Loads all modules for the model's device and finds the kernels. */
ingot_status ingot_cuda_load_kernels(cuda_model *model);

/* ---- cuda_model.c ---- */
ingot_status ingot_cuda_model_open(const ingot_backend_program *program, const ingot_backend_options *options,
                                   uint8_t *takes, void **model);
void ingot_cuda_model_close(void *model);
/** Index into the kernels by format. */
uint32_t ingot_cuda_format(const ingot_tensor_record *record);
/** A weight as the kernels take it. */
cuda_weight ingot_cuda_weight(const cuda_model *model, uint32_t tensor);
/** Width of an activation. */
uint32_t ingot_cuda_width(const cuda_model *model, uint32_t tensor);

/* ---- cuda_weights.c ---- */
/** Brings the section to the device. @return INGOT_ERROR_OUT_OF_MEMORY, _MEMORY_LIMIT, _IO, _HARDWARE. */
ingot_status ingot_cuda_weights_place(cuda_model *model, const ingot_backend_options *options);
void ingot_cuda_weights_release(cuda_model *model);

/* ---- cuda_session.c ---- */
ingot_status ingot_cuda_session_open(void *model, const ingot_backend_session_config *config, void **session);
void ingot_cuda_session_close(void *session);
ingot_status ingot_cuda_write(void *session, uint32_t tensor, uint32_t rows, const float *data, size_t stride);
ingot_status ingot_cuda_read(void *session, uint32_t tensor, uint32_t rows, float *data, size_t stride);
ingot_status ingot_cuda_state_write(void *session, uint32_t block, const uint8_t *data);
ingot_status ingot_cuda_state_read(void *session, uint32_t block, uint8_t *data);
void ingot_cuda_memory(const void *session, ingot_backend_memory *info);
/** Row 0 of an activation; `stride` in floats. */
cu_pointer ingot_cuda_tensor(const cuda_session *session, uint32_t tensor, uint32_t *stride);
/** Parts that the context is cut into, for so many blocks of threads per part. */
uint32_t ingot_cuda_splits(const cuda_session *session, uint32_t blocks);

/* ---- cuda_pass.c ---- */
ingot_status ingot_cuda_run(void *session, const ingot_backend_pass *pass);
ingot_status ingot_cuda_picks(void *session, uint32_t row, ingot_backend_pick *picks, uint32_t *count);
/** Puts one kernel into the session's stream. */
ingot_status ingot_cuda_launch(const cuda_session *session, cu_function function, uint32_t x, uint32_t y, uint32_t z,
                               uint32_t threads, void *args, const char *what);
/** Rows of a tensor in this pass. */
uint32_t ingot_cuda_rows(const cuda_walk *walk, uint32_t tensor);

/* ---- cuda_linear.c, cuda_rows.c, cuda_attention.c: the ops ---- */
/* `next` is the instruction behind it, or NULL: int8 rows that it wants are made at once where that is possible. */
ingot_status ingot_cuda_linear(cuda_walk *walk, const cuda_step *step, const cuda_step *next);
/** Whether `next` is a linear that reads an output of `step` as int8 rows with a scale per 32 k and no others. */
bool ingot_cuda_wants_rows(const cuda_model *model, const cuda_step *step, const cuda_step *next);
/** Which int8 rows the instruction wants of its first input. */
void ingot_cuda_linear_wants(const cuda_model *model, const cuda_step *step, bool *groups, bool *tokens);
ingot_status ingot_cuda_embed(cuda_walk *walk, const cuda_step *step);
/** A norm, and the int8 rows that the linear behind it wants. */
ingot_status ingot_cuda_norm(cuda_walk *walk, const cuda_step *step, const cuda_step *next);
/** The int8 rows of a tensor, unless they are there. */
ingot_status ingot_cuda_quantize(cuda_walk *walk, uint32_t tensor, bool groups, bool tokens);
ingot_status ingot_cuda_elements(cuda_walk *walk, const cuda_step *step);
/** An attention; `rope` is the instruction before it where that is its rope, else NULL. */
ingot_status ingot_cuda_attention(cuda_walk *walk, uint32_t index, const cuda_step *rope, const cuda_step *next);
ingot_status ingot_cuda_rope(cuda_walk *walk, const cuda_step *step);
/** Whether `rope` makes the queries and keys of `attention` and can be done with it. */
bool ingot_cuda_ropes_for(const cuda_step *rope, const cuda_step *attention);

#endif
