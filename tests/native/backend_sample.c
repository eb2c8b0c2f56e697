/* SPDX-License-Identifier: Apache-2.0 */
/* A backend that takes rms_norm and select_last and leaves the rest to the CPU: what passes from side to side is its
 * subject, not speed. With INGOT_SAMPLE_TAKES=attention it also keeps the state and gives values instead of attention.
 * INGOT_SAMPLE_FAULT plants a fault: norm (a wrong sum), stale (a row that is not copied), refuse (a device that may not
 * be used), lost (a run that fails), full (no session), picks (more than were asked for), abi (another build). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingot_backend.h"

typedef struct sample_model {
    ingot_backend_program program;
} sample_model;

typedef struct sample_session {
    const sample_model *model;
    uint32_t chunk;
    float **rows; /* by tensor: (chunk, width) */
    uint64_t block_bytes;
    uint8_t *state; /* blocks, one after the other */
} sample_session;

static _Thread_local char message[256];

static ingot_status fail(ingot_status status, const char *text) {
    snprintf(message, sizeof message, "%s", text);
    return status;
}

static int is_set(const char *variable, const char *value) {
    const char *found = getenv(variable);
    return found != NULL && strcmp(found, value) == 0;
}

static int planted(const char *fault) { return is_set("INGOT_SAMPLE_FAULT", fault); }

static const char *last_error(void) { return message; }

static uint32_t device_count(void) { return 1; }

static ingot_status device_info(uint32_t device, ingot_backend_device *info) {
    (void)device;
    *info = (ingot_backend_device){.name = "sample", .driver = "1", .kind = INGOT_BACKEND_SOFTWARE};
    snprintf(info->refused, sizeof info->refused, "%s", planted("refuse") ? "planted" : "");
    return INGOT_OK;
}

static ingot_status model_open(const ingot_backend_program *program, const ingot_backend_options *options,
                               uint8_t *takes, void **model) {
    sample_model *made = calloc(1, sizeof *made);
    if (made == NULL || options->device != 0 || planted("refuse")) {
        free(made);
        return fail(INGOT_ERROR_HARDWARE, "no device of this number may be used");
    }
    made->program = *program;
    for (uint32_t i = 0; i < program->instruction_count; i++) {
        const uint16_t opcode = program->instructions[i].opcode;
        takes[i] = opcode == INGOT_OPCODE_RMS_NORM || opcode == INGOT_OPCODE_SELECT_LAST ||
                   (opcode == INGOT_OPCODE_ATTENTION && is_set("INGOT_SAMPLE_TAKES", "attention"));
    }
    ingot_backend_progress(options, program->weights_size, program->weights_size);
    *model = made;
    return INGOT_OK;
}

static void session_close(void *session) {
    sample_session *closed = session;
    for (uint32_t i = 0; i < closed->model->program.tensor_count; i++) {
        free(closed->rows[i]);
    }
    free(closed->rows);
    free(closed->state);
    free(closed);
}

static ingot_status session_open(void *model, const ingot_backend_session_config *config, void **session) {
    sample_session *made = calloc(1, sizeof *made);
    const sample_model *of = model;
    if (made == NULL || planted("full")) {
        free(made);
        return fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory");
    }
    *made = (sample_session){of, config->chunk, calloc(of->program.tensor_count, sizeof *made->rows),
                             config->block_bytes, calloc(config->capacity / 64, config->block_bytes)};
    for (uint32_t i = 0; i < of->program.tensor_count && made->rows != NULL; i++) {
        const ingot_tensor_record *record = &of->program.tensors[i];
        if (record->role == INGOT_ROLE_ACTIVATION) {
            made->rows[i] = calloc((size_t)config->chunk * record->shape[1], sizeof(float));
        }
    }
    *session = made;
    return INGOT_OK;
}

static void rms_norm(const sample_session *session, const ingot_instruction *instruction, uint32_t count) {
    const ingot_backend_program *program = &session->model->program;
    const uint32_t *operands = program->operands + instruction->first_operand;
    ingot_norm_parameters norm;
    memcpy(&norm, program->parameters + instruction->parameters_offset, sizeof norm);
    const uint8_t *bytes = program->weights + program->tensors[operands[1]].offset;
    const float *weight = (const float *)(const void *)bytes;
    const float *x = session->rows[operands[0]];
    float *y = session->rows[operands[2]];
    const size_t floats = count * (size_t)program->tensors[operands[0]].shape[1];
    for (size_t start = 0; start < floats; start += norm.width) {
        double sum = planted("norm") ? 1.0 : 0.0;
        for (size_t i = start; i < start + norm.width; i++) {
            sum += (double)x[i] * x[i];
        }
        const double scale = 1.0 / sqrt(sum / norm.width + norm.epsilon);
        for (size_t i = start; i < start + norm.width; i++) {
            y[i] = (float)(x[i] * scale * weight[i - start]);
        }
    }
}

static void select_last(const sample_session *session, const ingot_instruction *instruction, uint32_t m,
                        uint32_t selected) {
    const uint32_t *operands = session->model->program.operands + instruction->first_operand;
    const size_t width = (size_t)session->model->program.tensors[operands[0]].shape[1];
    memcpy(session->rows[operands[1]], session->rows[operands[0]] + (m - selected) * width,
           selected * width * sizeof(float));
}

/* No attention: out is q, and the keys of the first positions are kept so that a state can be told from another. */
static void attention(const sample_session *session, const ingot_instruction *instruction, uint32_t m,
                      uint32_t position) {
    const uint32_t *operands = session->model->program.operands + instruction->first_operand;
    const size_t width = (size_t)session->model->program.tensors[operands[0]].shape[1];
    memcpy(session->rows[operands[5]], session->rows[operands[0]], m * width * sizeof(float));
    const float *keys = session->rows[operands[1]];
    for (uint32_t row = 0; row < m; row++) {
        const uint32_t at = position + row;
        memcpy(session->state + at / 64 * session->block_bytes + at % 64 * sizeof(float),
               keys + row * (size_t)session->model->program.tensors[operands[1]].shape[1], sizeof(float));
    }
}

static ingot_status run(void *session, const ingot_backend_pass *pass) {
    const sample_session *of = session;
    if (planted("lost")) {
        return fail(INGOT_ERROR_HARDWARE, "the device is lost");
    }
    for (uint32_t i = pass->first; i < pass->first + pass->count; i++) {
        const ingot_instruction *instruction = &of->model->program.instructions[i];
        const uint32_t output = of->model->program.operands[instruction->first_operand + instruction->inputs];
        const uint8_t few = of->model->program.tensors[output].rows == INGOT_ROWS_SELECTED;
        if (instruction->opcode == INGOT_OPCODE_SELECT_LAST) {
            select_last(of, instruction, pass->m, pass->selected);
        } else if (instruction->opcode == INGOT_OPCODE_ATTENTION) {
            attention(of, instruction, pass->m, pass->position);
        } else {
            rms_norm(of, instruction, few ? pass->selected : pass->m);
        }
    }
    return INGOT_OK;
}

static ingot_status write_rows(void *session, uint32_t tensor, uint32_t rows, const float *data, size_t stride) {
    const sample_session *to = session;
    const size_t width = (size_t)to->model->program.tensors[tensor].shape[1];
    for (uint32_t row = planted("stale") ? 1 : 0; row < rows; row++) {
        memcpy(to->rows[tensor] + row * width, data + row * stride, width * sizeof(float));
    }
    return INGOT_OK;
}

static ingot_status read_rows(void *session, uint32_t tensor, uint32_t rows, float *data, size_t stride) {
    const sample_session *from = session;
    const size_t width = (size_t)from->model->program.tensors[tensor].shape[1];
    for (uint32_t row = 0; row < rows; row++) {
        memcpy(data + row * stride, from->rows[tensor] + row * width, width * sizeof(float));
    }
    return INGOT_OK;
}

static ingot_status picks(void *session, uint32_t row, ingot_backend_pick *out, uint32_t *count) {
    (void)session, (void)row, (void)out;
    *count = 1000;
    return planted("picks") ? INGOT_OK : fail(INGOT_ERROR_INTERNAL, "the head is not taken");
}

static ingot_status state_write(void *session, uint32_t block, const uint8_t *data) {
    const sample_session *to = session;
    memcpy(to->state + block * to->block_bytes, data, to->block_bytes);
    return INGOT_OK;
}

static ingot_status state_read(void *session, uint32_t block, uint8_t *data) {
    const sample_session *from = session;
    memcpy(data, from->state + block * from->block_bytes, from->block_bytes);
    return INGOT_OK;
}

static void memory(const void *session, ingot_backend_memory *info) {
    const sample_session *of = session;
    info->weights_bytes = planted("weights") ? 1ull << 40 : 0; /* as if it had copies of them */
    for (uint32_t i = 0; i < of->model->program.tensor_count; i++) {
        const ingot_tensor_record *record = &of->model->program.tensors[i];
        info->arena_bytes += of->rows[i] == NULL ? 0 : (uint64_t)of->chunk * record->shape[1] * sizeof(float);
    }
}

const ingot_backend *ingot_backend_get(void) {
    static ingot_backend api = {
        .struct_size = sizeof(ingot_backend),
        .name = "sample",
        .last_error = last_error,
        .device_count = device_count,
        .device_info = device_info,
        .model_open = model_open,
        .model_close = free,
        .session_open = session_open,
        .session_close = session_close,
        .run = run,
        .write = write_rows,
        .read = read_rows,
        .picks = picks,
        .state_write = state_write,
        .state_read = state_read,
        .memory = memory,
    };
    api.abi = planted("abi") ? INGOT_BACKEND_ABI + 1 : INGOT_BACKEND_ABI;
    return &api;
}
