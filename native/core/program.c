/* SPDX-License-Identifier: Apache-2.0 */
#include "core/program.h"

#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/layout.h"
#include "core/linear_feed.h"
#include "kernels/dispatch.h"

static uint32_t round_up(uint32_t value, uint32_t step) { return (value + step - 1) / step * step; }

static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Where the tiles of a sparse weight begin: each tells its size by its list. */
static ingot_status find_tiles(const ingot_model *model, uint32_t weight, ingot_linear_part *part) {
    const ingot_tensor_record *record = &model->file.tensors[weight];
    part->stored_bytes = part->tile_bytes * part->tiles;
    if (record->sparsity != INGOT_SPARSITY_SUPERBLOCK) {
        return INGOT_OK;
    }
    uint64_t *offsets = malloc((part->tiles + (size_t)1) * sizeof *offsets);
    if (offsets == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for %u tiles of tensor %u", part->tiles, weight);
    }
    part->tile_offsets = offsets;
    if (!ingot_sparse_walk(record->dtype, part->n, record->shape[1], record->group, part->weights, record->size,
                           offsets)) {
        return ingot_fail(INGOT_ERROR_FORMAT, "tensor %u: the lists of its tiles do not fill its %llu bytes", weight,
                          (unsigned long long)record->size);
    }
    part->stored_bytes = offsets[part->tiles];
    return INGOT_OK;
}

static ingot_status prepare_part(const ingot_model *model, uint32_t weight, uint32_t output, ingot_linear_part *part) {
    const ingot_tensor_record *record = &model->file.tensors[weight];
    uint32_t group = record->group != 0 ? record->group : 32;
    uint32_t isa = 0;
    part->kernel = ingot_linear_select(record->dtype, model->isa_mask, &isa);
    if (part->kernel == NULL) {
        return ingot_fail_rule(INGOT_ERROR_UNSUPPORTED, INGOT_RULE_REQUIRED_UNSUPPORTED,
                               "no linear kernel for dtype %u of tensor %u", record->dtype, weight);
    }
    part->weights = model->file.weights + record->offset;
    part->codebook = record->codebook;
    part->delta = record->delta;
    part->dtype = record->dtype;
    part->layout = record->layout;
    part->reads_panels = record->dtype != INGOT_DTYPE_F16 && (isa & INGOT_PANEL_LEVELS) != 0;
    part->n = (uint32_t)record->shape[0];
    part->tiles = round_up(part->n, INGOT_TILE_ROWS) / INGOT_TILE_ROWS;
    part->k = round_up((uint32_t)record->shape[1], group);
    part->group = group;
    part->tile_bytes = ingot_tile_bytes(record->dtype, record->shape[1], record->group);
    part->output = output;
    return find_tiles(model, weight, part);
}

static ingot_status prepare_linear(ingot_model *model, ingot_step *step) {
    const ingot_linear_parameters *parameters = step->parameters;
    step->part_count = parameters->weights;
    step->epilogue = parameters->epilogue;
    for (uint32_t p = 0; p < step->part_count; p++) {
        ingot_linear_part *part = &step->parts[p];
        ingot_status status = prepare_part(model, step->inputs[1 + p], step->outputs[p], part);
        if (status != INGOT_OK) {
            return status;
        }
        if ((step->flags & INGOT_LINEAR_FLAG_BIAS) != 0) {
            uint32_t bias = step->inputs[1 + step->part_count + p];
            part->bias = (const float *)(const void *)(model->file.weights + model->file.tensors[bias].offset);
        }
        bool floats = part->dtype == INGOT_DTYPE_F16;
        step->reads_float |= floats;
        step->quantizes_tokens |= part->dtype == INGOT_DTYPE_T2;
        step->quantizes |= !floats && part->dtype != INGOT_DTYPE_T2;
        step->reads_panels |= part->reads_panels;
        /* Of activations with a scale per token there are none, nor for layout T16_K8. */
        step->takes_panels = (p == 0 || step->takes_panels) && part->reads_panels && part->dtype != INGOT_DTYPE_T2 &&
                             part->layout == INGOT_LAYOUT_T16;
        model->reads_panels |= part->reads_panels;
        uint32_t k = (uint32_t)model->file.tensors[step->inputs[1 + p]].shape[1];
        model->widest_k = larger(model->widest_k, ingot_quantized_width(k));
        if (floats && k % 32 != 0) {
            model->padded_float_k = larger(model->padded_float_k, round_up(k, 32));
            model->widest_row = larger(model->widest_row, round_up(k, 32));
        }
    }
    return INGOT_OK;
}

static void prepare_attention(ingot_model *model, ingot_step *step) {
    const ingot_attention_parameters *parameters = step->parameters;
    ingot_state_place *place = &model->states[model->state_count];
    place->kv_heads = parameters->kv_heads;
    place->head_size = parameters->head_size;
    place->head_padded = round_up(parameters->head_size, 16);
    uint64_t halves = (uint64_t)place->head_size + place->head_padded;
    place->bytes_per_token = 2 * halves * place->kv_heads;
    model->widest_head = larger(model->widest_head, place->head_padded);
    uint32_t group = parameters->heads / parameters->kv_heads;
    model->widest_row = larger(model->widest_row, round_up((group + 1) * parameters->head_size, 32));
    step->state_index = model->state_count++;
}

static bool overlap(const ingot_tensor_record *a, const ingot_tensor_record *b) {
    return a->rows == b->rows && a->offset < b->offset + b->size && b->offset < a->offset + a->size;
}

/* A norm whose only reader is the next linear, as its first input, can be repeated by every thread, which saves a
 * barrier; not where the linear overwrites the norm's input, and not where a head-wise norm (QK norm) is meant. */
static bool absorbs_norm(const ingot_model *model, uint32_t index, const uint32_t *last_readers) {
    const ingot_step *norm = &model->steps[index], *linear = &model->steps[index + 1];
    const ingot_tensor_record *tensors = model->file.tensors;
    if (norm->opcode != INGOT_OPCODE_RMS_NORM || linear->opcode != INGOT_OPCODE_LINEAR ||
        linear->inputs[0] != norm->outputs[0] || last_readers[norm->outputs[0]] != index + 1 ||
        model->file.step_output == norm->outputs[0]) {
        return false;
    }
    uint32_t last_input = model->file.instructions[model->file.step_first + index + 1].inputs - 1u;
    if (linear->inputs[last_input] == norm->outputs[0]) { /* it is the residual as well */
        return false;
    }
    const ingot_norm_parameters *parameters = norm->parameters;
    if (parameters->width != tensors[norm->inputs[0]].shape[1]) {
        return false;
    }
    for (uint32_t p = 0; p < linear->part_count; p++) {
        if (overlap(&tensors[norm->inputs[0]], &tensors[linear->outputs[p]])) {
            return false;
        }
    }
    return true;
}

/* A rope whose only reader is the next attention can be done by whoever takes a head there; not where the attention's
 * output lies on what is still to be rotated. */
static bool absorbs_rope(const ingot_model *model, uint32_t index, const uint32_t *last_readers) {
    const ingot_step *rope = &model->steps[index], *attention = &model->steps[index + 1];
    const ingot_tensor_record *tensors = model->file.tensors;
    if (rope->opcode != INGOT_OPCODE_ROPE || attention->opcode != INGOT_OPCODE_ATTENTION) {
        return false;
    }
    const ingot_rope_parameters *parameters = rope->parameters;
    const ingot_attention_parameters *heads = attention->parameters;
    for (uint32_t side = 0; side < 2; side++) {
        if (attention->inputs[side] != rope->outputs[side] || last_readers[rope->outputs[side]] != index + 1 ||
            model->file.step_output == rope->outputs[side] ||
            overlap(&tensors[rope->inputs[side]], &tensors[attention->outputs[0]])) {
            return false;
        }
    }
    return parameters->head_size == heads->head_size && attention->inputs[2] != rope->outputs[0] &&
           attention->inputs[2] != rope->outputs[1];
}

/* A gated linear whose only reader is the next linear, as its first input. */
static bool feeds_next(const ingot_model *model, uint32_t index, const uint32_t *last_readers) {
    const ingot_step *gated = &model->steps[index], *linear = &model->steps[index + 1];
    if (gated->opcode != INGOT_OPCODE_LINEAR || gated->epilogue == INGOT_EPILOGUE_NONE ||
        linear->opcode != INGOT_OPCODE_LINEAR || linear->inputs[0] != gated->outputs[0] ||
        last_readers[gated->outputs[0]] != index + 1 || model->file.step_output == gated->outputs[0]) {
        return false;
    }
    const uint32_t last_input = model->file.instructions[model->file.step_first + index + 1].inputs - 1u;
    const ingot_tensor_record *outputs = &model->file.tensors[gated->outputs[0]];
    return linear->inputs[last_input] != gated->outputs[0] && linear->takes_panels &&
           outputs->rows == INGOT_ROWS_TOKENS && ingot_feed_fits((uint32_t)outputs->shape[1]);
}

static ingot_status absorb_steps(ingot_model *model) {
    uint32_t *last_readers = calloc(model->file.tensor_count, sizeof *last_readers); /* steps, by tensor */
    if (last_readers == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for %u tensors", model->file.tensor_count);
    }
    for (uint32_t index = 0; index < model->step_count; index++) {
        const ingot_instruction *instruction = &model->file.instructions[model->file.step_first + index];
        for (uint32_t i = 0; i < instruction->inputs; i++) {
            last_readers[model->steps[index].inputs[i]] = index;
        }
    }
    for (uint32_t index = 0; index + 1 < model->step_count; index++) {
        if (absorbs_norm(model, index, last_readers) || absorbs_rope(model, index, last_readers)) {
            model->steps[index].absorbed = true;
            model->steps[index + 1].absorbed_step = (int32_t)index;
            model->steps[index].absorbed_always =
                model->steps[index].opcode == INGOT_OPCODE_RMS_NORM && !model->steps[index + 1].reads_float;
        }
        model->steps[index].feeds = feeds_next(model, index, last_readers);
        model->feeds |= model->steps[index].feeds;
    }
    free(last_readers);
    return INGOT_OK;
}

static ingot_status prepare_step(ingot_model *model, uint32_t index) {
    const ingot_file *file = &model->file;
    const ingot_instruction *instruction = &file->instructions[file->step_first + index];
    ingot_step *step = &model->steps[index];
    step->opcode = instruction->opcode;
    step->flags = instruction->flags;
    step->inputs = file->operands + instruction->first_operand;
    step->outputs = step->inputs + instruction->inputs;
    step->parameters = file->parameters + instruction->parameters_offset;
    step->absorbed_step = -1;
    if (step->opcode == INGOT_OPCODE_LINEAR) {
        return prepare_linear(model, step);
    }
    if (step->opcode == INGOT_OPCODE_EMBED) {
        model->embedding_rows = smaller(model->embedding_rows, (uint32_t)file->tensors[step->inputs[1]].shape[0]);
    }
    if (step->opcode == INGOT_OPCODE_ATTENTION) {
        prepare_attention(model, step);
    }
    if (step->opcode == INGOT_OPCODE_RMS_NORM) {
        uint64_t width = file->tensors[step->inputs[0]].shape[1];
        model->widest_row = larger(model->widest_row, round_up((uint32_t)width, 128));
    }
    return INGOT_OK;
}

ingot_status ingot_program_prepare(ingot_model *model) {
    model->step_count = model->file.step_count;
    model->steps = calloc(model->step_count, sizeof *model->steps);
    model->states = calloc(model->step_count, sizeof *model->states);
    if (model->steps == NULL || model->states == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for %u instructions", model->step_count);
    }
    model->rows = ingot_row_kernels_of(model->isa_mask);
    model->widest_k = model->widest_row = 128;
    model->widest_head = 16;
    model->embedding_rows = UINT32_MAX;
    for (uint32_t index = 0; index < model->step_count; index++) {
        ingot_status status = prepare_step(model, index);
        if (status != INGOT_OK) {
            return status;
        }
    }
    return absorb_steps(model);
}

void ingot_program_discard(ingot_model *model) {
    for (uint32_t index = 0; model->steps != NULL && index < model->step_count; index++) {
        for (uint32_t p = 0; p < INGOT_MAX_PARTS; p++) {
            free((void *)(uintptr_t)model->steps[index].parts[p].tile_offsets);
        }
    }
    free(model->steps);
    free(model->states);
}
