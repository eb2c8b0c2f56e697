/* SPDX-License-Identifier: Apache-2.0 */
/* `linear`: the parts of one format in one launch, by the kernel for so many tokens. */
#include "cuda_model.h"

static bool per_token(const cuda_model *model, uint32_t weight) {
    return model->program->tensors[weight].dtype == INGOT_DTYPE_T2;
}

void ingot_cuda_linear_wants(const cuda_model *model, const cuda_step *step, bool *groups, bool *tokens) {
    const ingot_linear_parameters *parameters = step->parameters;
    *groups = *tokens = false;
    for (uint32_t i = 0; i < parameters->weights; i++) {
        const uint32_t weight = step->inputs[1 + i];
        if (model->program->tensors[weight].dtype != INGOT_DTYPE_F16) {
            *tokens |= per_token(model, weight);
            *groups |= !per_token(model, weight);
        }
    }
}

/* What all parts share. */
static cuda_linear_args shared_args(const cuda_walk *walk, const cuda_step *step, uint32_t m, bool tokens) {
    const cuda_session *session = walk->session;
    const ingot_linear_parameters *parameters = step->parameters;
    const bool bias = (step->record->flags & INGOT_LINEAR_FLAG_BIAS) != 0;
    const cuda_codes *codes = tokens ? &session->token_codes : &session->codes_of[walk->set];
    cuda_linear_args args = {.m = m,
                             .epilogue = parameters->epilogue,
                             .a_stride = codes->a_stride,
                             .a = codes->a,
                             .a_scale = codes->a_scale,
                             .a_sum = codes->a_sum};
    args.x = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[0], &args.x_stride));
    if ((step->record->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0) {
        const uint32_t place = 1 + parameters->weights * (bias ? 2 : 1);
        args.residual = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[place], &args.residual_stride));
    }
    return args;
}

static uint32_t units_of(const cuda_weight *weight, bool gated, bool prompt) {
    if (prompt) return (weight->tiles + CUDA_PROMPT_TILES - 1) / CUDA_PROMPT_TILES;
    return gated ? weight->tiles / 2 : weight->tiles;
}

static void add_part(const cuda_walk *walk, const cuda_step *step, uint32_t index, bool prompt, cuda_linear_args *args,
                     uint32_t *units) {
    const cuda_session *session = walk->session;
    const cuda_model *model = session->model;
    const ingot_linear_parameters *parameters = step->parameters;
    cuda_linear_part *part = &args->parts[args->part_count++];
    part->weight = ingot_cuda_weight(model, step->inputs[1 + index]);
    part->bias = NULL;
    if ((step->record->flags & INGOT_LINEAR_FLAG_BIAS) != 0) {
        const uint32_t bias = step->inputs[1 + parameters->weights + index];
        part->bias = ingot_cuda_at(model->weights + model->program->tensors[bias].offset);
    }
    part->out = ingot_cuda_at(ingot_cuda_tensor(session, step->outputs[index], &part->out_stride));
    part->width = ingot_cuda_width(model, step->outputs[index]);
    part->first_unit = *units;
    part->units = units_of(&part->weight, parameters->epilogue != INGOT_EPILOGUE_NONE, prompt);
    *units += part->units;
}

/* Warps of a block that share a row: two turns or more for each. */
static uint32_t threads_for(uint32_t blocks) {
    const uint32_t warps = (blocks + 3) / 4;
    return 32 * (warps < CUDA_MOST_WARPS ? warps : CUDA_MOST_WARPS);
}

static ingot_status launch_format(const cuda_walk *walk, const cuda_step *step, uint32_t format, uint32_t m,
                                  const cuda_codes *next) {
    const cuda_session *session = walk->session;
    const cuda_kernels *kernels = &session->model->kernels;
    const ingot_linear_parameters *parameters = step->parameters;
    const bool prompt = m > CUDA_FEW_TOKENS && format != CUDA_FORMAT_F16;
    cuda_linear_args args = shared_args(walk, step, m, format == CUDA_FORMAT_T2);
    uint32_t units = 0;
    for (uint32_t i = 0; i < parameters->weights; i++) {
        const ingot_tensor_record *record = &session->model->program->tensors[step->inputs[1 + i]];
        if (ingot_cuda_format(record) == format) {
            add_part(walk, step, i, prompt, &args, &units);
        }
    }
    if (units == 0) {
        return INGOT_OK;
    }
    if (prompt) {
        return ingot_cuda_launch(session, kernels->prompt[format], units,
                                 (m + CUDA_PROMPT_TOKENS - 1) / CUDA_PROMPT_TOKENS, 1, 32 * CUDA_MOST_WARPS, &args,
                                 "linear of a prompt");
    }
    const uint32_t threads = threads_for(args.parts[0].weight.blocks);
    if (m == 1) {
        args.next = *next;
        return ingot_cuda_launch(session, kernels->gemv[format], next->a != NULL ? units / 2 : units, 1, 1, threads,
                                 &args, "linear of a token");
    }
    if (m > CUDA_FEW_TOKENS) { /* f16 */
        const uint32_t tokens = CUDA_F16_COLUMNS * CUDA_FEW_TOKENS;
        return ingot_cuda_launch(session, kernels->prompt[format], units, (m + tokens - 1) / tokens, 1, threads, &args,
                                 "linear of a prompt in f16");
    }
    return ingot_cuda_launch(session, kernels->few[format], units, 1, 1, threads, &args, "linear of a few tokens");
}

bool ingot_cuda_wants_rows(const cuda_model *model, const cuda_step *step, const cuda_step *next) {
    bool groups = false, tokens = false;
    if (next == NULL || next->record->opcode != INGOT_OPCODE_LINEAR || next->inputs[0] != step->outputs[0]) {
        return false;
    }
    ingot_cuda_linear_wants(model, next, &groups, &tokens);
    return groups && !tokens;
}

/* Gate and up of one token in one format of int8: then the kernel has whole groups of 32 columns. */
static bool makes_rows(const cuda_walk *walk, const cuda_step *step, const cuda_step *next, uint32_t m) {
    const cuda_model *model = walk->session->model;
    const ingot_linear_parameters *parameters = step->parameters;
    return m == 1 && parameters->epilogue != INGOT_EPILOGUE_NONE && parameters->weights == 1 &&
           model->program->tensors[step->inputs[1]].dtype != INGOT_DTYPE_F16 &&
           ingot_cuda_width(model, step->outputs[0]) % 128 == 0 && ingot_cuda_wants_rows(model, step, next);
}

ingot_status ingot_cuda_linear(cuda_walk *walk, const cuda_step *step, const cuda_step *next) {
    bool groups, tokens;
    const uint32_t m = ingot_cuda_rows(walk, step->inputs[0]);
    const cuda_codes none = {0};
    ingot_cuda_linear_wants(walk->session->model, step, &groups, &tokens);
    ingot_status status = ingot_cuda_quantize(walk, step->inputs[0], groups, tokens);
    const bool makes = makes_rows(walk, step, next, m);
    const cuda_codes *rows = makes ? &walk->session->codes_of[1 - walk->set] : &none;
    for (uint32_t format = 0; format < CUDA_FORMATS && status == INGOT_OK; format++) {
        status = launch_format(walk, step, format, m, rows);
    }
    if (makes) {
        walk->quantized = step->outputs[0];
        walk->set = 1 - walk->set;
    }
    return status;
}
