/* SPDX-License-Identifier: Apache-2.0 */
/* The ops that treat each row by itself: serial for one row, shared by rows otherwise. */
#include <math.h>
#include <string.h>

#include "core/dequantize.h"
#include "core/ops.h"

typedef void (*row_fn)(const ingot_session *session, const ingot_step *step, uint32_t row);

static void for_each_row(ingot_lane *lane, const ingot_step *step, row_fn function) {
    const uint32_t rows = ingot_row_count(lane->session, step->outputs[0]);
    if (rows == 1) {
        if (ingot_lane_serial(lane)) {
            function(lane->session, step, 0);
        }
        return;
    }
    uint32_t begin, end;
    ingot_lane_share(lane);
    while (ingot_lane_take(lane, rows, 1, &begin, &end)) {
        for (uint32_t row = begin; row < end; row++) {
            function(lane->session, step, row);
        }
    }
}

static void embed_row(const ingot_session *session, const ingot_step *step, uint32_t row) {
    const ingot_file *file = &session->model->file;
    const ingot_tensor_record *table = &file->tensors[step->inputs[1]];
    ingot_row_dequantize(table, file->weights + table->offset, (uint64_t)session->tokens[row],
                         ingot_row(session, step->outputs[0], row));
}

void ingot_op_embed(ingot_lane *lane, const ingot_step *step) { for_each_row(lane, step, embed_row); }

static void rms_norm_row(const ingot_session *session, const ingot_step *step, uint32_t row) {
    const ingot_norm_parameters *parameters = step->parameters;
    const uint32_t width = session->places[step->inputs[0]].width;
    const float *weight = ingot_constant(session, step->inputs[1]);
    const float *x = ingot_row(session, step->inputs[0], row);
    float *y = ingot_row(session, step->outputs[0], row);
    for (uint32_t start = 0; start < width; start += parameters->width) {
        session->model->rows.rms_norm(x + start, weight, parameters->width, parameters->epsilon, y + start);
    }
}

void ingot_op_rms_norm(ingot_lane *lane, const ingot_step *step) {
    const ingot_session *session = lane->session;
    const bool alone = ingot_row_count(session, step->outputs[0]) == 1;
    if (!session->tracing && (alone ? step->absorbed : step->absorbed_always)) {
        return; /* the next linear does it: of one row on every thread, else where it quantizes a row */
    }
    for_each_row(lane, step, rms_norm_row);
}

static void layer_norm_slice(const float *x, const float *weight, const float *bias, uint32_t n, float epsilon,
                             float *y) {
    float sum = 0.0f, squares = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        sum += x[i];
    }
    float mean = sum / (float)n;
    for (uint32_t i = 0; i < n; i++) {
        squares += (x[i] - mean) * (x[i] - mean);
    }
    float inverse = 1.0f / sqrtf(squares / (float)n + epsilon);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
    }
}

static void layer_norm_row(const ingot_session *session, const ingot_step *step, uint32_t row) {
    const ingot_norm_parameters *parameters = step->parameters;
    const uint32_t width = session->places[step->inputs[0]].width;
    for (uint32_t start = 0; start < width; start += parameters->width) {
        layer_norm_slice(ingot_row(session, step->inputs[0], row) + start, ingot_constant(session, step->inputs[1]),
                         ingot_constant(session, step->inputs[2]), parameters->width, parameters->epsilon,
                         ingot_row(session, step->outputs[0], row) + start);
    }
}

void ingot_op_layer_norm(ingot_lane *lane, const ingot_step *step) { for_each_row(lane, step, layer_norm_row); }

enum { ROPE_RUN = 8 };

/* ROPE_RUN pairs that lie `half` apart, in values that a compiler keeps in vectors; `to` may be `from`. */
static void rotate_run(const float *cosines, const float *sines, const float *from, uint32_t half, float *to) {
    float a[ROPE_RUN], b[ROPE_RUN], first[ROPE_RUN], second[ROPE_RUN];
    memcpy(a, from, sizeof a);
    memcpy(b, from + half, sizeof b);
    for (uint32_t i = 0; i < ROPE_RUN; i++) {
        first[i] = a[i] * cosines[i] - b[i] * sines[i];
        second[i] = b[i] * cosines[i] + a[i] * sines[i];
    }
    memcpy(to, first, sizeof first);
    memcpy(to + half, second, sizeof second);
}

void ingot_rope_heads(const ingot_rope_parameters *parameters, const float *table, const float *x, uint32_t width,
                      float *y) {
    const uint32_t half = parameters->rotary_size / 2;
    const bool interleaved = parameters->style == INGOT_ROPE_STYLE_INTERLEAVED;
    const uint32_t step = interleaved ? 2 : 1, distance = interleaved ? 1 : half;
    for (uint32_t start = 0; start < width; start += parameters->head_size) {
        const float *from = x + start;
        float *to = y + start;
        uint32_t i = 0;
        for (; !interleaved && i + ROPE_RUN <= half; i += ROPE_RUN) {
            rotate_run(table + i, table + half + i, from + i, half, to + i);
        }
        for (; i < half; i++) {
            float cosine = table[i], sine = table[half + i];
            float a = from[i * step], b = from[i * step + distance];
            to[i * step] = a * cosine - b * sine;
            to[i * step + distance] = b * cosine + a * sine;
        }
        if (to != from) {
            memcpy(to + 2 * half, from + 2 * half, (parameters->head_size - 2 * half) * sizeof(float));
        }
    }
}

const float *ingot_rope_table(const ingot_session *session, const ingot_step *step, uint32_t row) {
    const ingot_rope_parameters *parameters = step->parameters;
    return ingot_constant(session, step->inputs[2]) + (size_t)(session->position + row) * parameters->rotary_size;
}

static void rope_row(const ingot_session *session, const ingot_step *step, uint32_t row) {
    const ingot_rope_parameters *parameters = step->parameters;
    const float *table = ingot_rope_table(session, step, row);
    for (uint32_t side = 0; side < 2; side++) {
        ingot_rope_heads(parameters, table, ingot_row(session, step->inputs[side], row),
                         session->places[step->inputs[side]].width, ingot_row(session, step->outputs[side], row));
    }
}

void ingot_op_rope(ingot_lane *lane, const ingot_step *step) {
    if (step->absorbed && ingot_row_count(lane->session, step->outputs[0]) == 1 && !lane->session->tracing) {
        return; /* whoever takes a head in the attention rotates it */
    }
    for_each_row(lane, step, rope_row);
}

/* tanh(x) = 2 silu(2x) / (2x) - 1 = 2 / (1 + e^-2x) - 1, by the exact kernel of the ISA: silu(z) / z. */
static float tanh_by_gate(const ingot_session *session, float x) {
    float z[16] = {0}, y[16];
    z[0] = 2.0f * x;
    if (z[0] == 0.0f) {
        return x;
    }
    session->model->rows.gate(INGOT_ACTIVATION_KIND_SILU, z, NULL, y);
    return 2.0f * (y[0] / z[0]) - 1.0f;
}

static void activation_row(const ingot_session *session, ingot_activation_kind kind, const float *x, uint32_t width,
                           float *y) {
    for (uint32_t start = 0; start < width; start += 16) {
        uint32_t count = width - start < 16 ? width - start : 16;
        float lanes[16] = {0}, result[16];
        memcpy(lanes, x + start, count * sizeof(float));
        session->model->rows.gate(kind, lanes, NULL, result);
        memcpy(y + start, result, count * sizeof(float));
    }
}

static void elementwise_row(const ingot_session *session, const ingot_step *step, uint32_t row) {
    const uint32_t width = session->places[step->outputs[0]].width;
    const float *a = ingot_row(session, step->inputs[0], row);
    float *y = ingot_row(session, step->outputs[0], row);
    if (step->opcode == INGOT_OPCODE_ACTIVATION) {
        const ingot_activation_parameters *parameters = step->parameters;
        activation_row(session, (ingot_activation_kind)parameters->kind, a, width, y);
        return;
    }
    if (step->opcode == INGOT_OPCODE_ADD || step->opcode == INGOT_OPCODE_MUL) {
        const float *b = ingot_row(session, step->inputs[1], row);
        for (uint32_t i = 0; i < width; i++) {
            y[i] = step->opcode == INGOT_OPCODE_ADD ? a[i] + b[i] : a[i] * b[i];
        }
        return;
    }
    const ingot_scalar_parameters *parameters = step->parameters;
    for (uint32_t i = 0; i < width; i++) {
        y[i] = step->opcode == INGOT_OPCODE_SCALE ? parameters->value * a[i]
                                                  : parameters->value * tanh_by_gate(session, a[i] / parameters->value);
    }
}

void ingot_op_elementwise(ingot_lane *lane, const ingot_step *step) { for_each_row(lane, step, elementwise_row); }

static void select_row(const ingot_session *session, const ingot_step *step, uint32_t row) {
    uint32_t from = session->m - session->selected + row;
    memcpy(ingot_row(session, step->outputs[0], row), ingot_row(session, step->inputs[0], from),
           session->places[step->outputs[0]].width * sizeof(float));
}

void ingot_op_select_last(ingot_lane *lane, const ingot_step *step) { for_each_row(lane, step, select_row); }
