/* SPDX-License-Identifier: Apache-2.0 */
/* The ops that treat each row by itself. */
#include "cuda_model.h"
#include "kernels/ingot_opcodes.h"

_Static_assert(INGOT_CUDA_ACTIVATION == (int)INGOT_OPCODE_ACTIVATION && INGOT_CUDA_ADD == (int)INGOT_OPCODE_ADD &&
                   INGOT_CUDA_MUL == (int)INGOT_OPCODE_MUL && INGOT_CUDA_SCALE == (int)INGOT_OPCODE_SCALE &&
                   INGOT_CUDA_SOFT_CAP == (int)INGOT_OPCODE_SOFT_CAP &&
                   INGOT_CUDA_SELECT_LAST == (int)INGOT_OPCODE_SELECT_LAST,
               "ingot_opcodes.h");
_Static_assert((int)INGOT_EPILOGUE_SILU_GATE == (int)INGOT_ACTIVATION_KIND_SILU &&
                   (int)INGOT_EPILOGUE_GELU_TANH_GATE == (int)INGOT_ACTIVATION_KIND_GELU_TANH,
               "activate() of device.cuh takes both");

enum { ROW_THREADS = 256 };

/* As many warps as have something to do. */
static uint32_t threads_for(uint32_t width) {
    const uint32_t padded = (width + 31) / 32 * 32;
    return padded < ROW_THREADS ? padded : (uint32_t)ROW_THREADS;
}

ingot_status ingot_cuda_embed(cuda_walk *walk, const cuda_step *step) {
    const cuda_session *session = walk->session;
    const cuda_model *model = session->model;
    const uint32_t dtype = model->program->tensors[step->inputs[1]].dtype;
    cuda_embed_args args = {.weight = ingot_cuda_weight(model, step->inputs[1]), .pass = ingot_cuda_at(session->pass)};
    args.out = ingot_cuda_at(ingot_cuda_tensor(session, step->outputs[0], &args.out_stride));
    const uint32_t threads = threads_for(dtype >= INGOT_DTYPE_Q8 ? (args.weight.k + 7) / 8 : args.weight.k);
    return ingot_cuda_launch(session,
                             model->kernels.embed[ingot_cuda_format(&model->program->tensors[step->inputs[1]])],
                             ingot_cuda_rows(walk, step->outputs[0]), 1, 1, threads, &args, "embed");
}

/* Where int8 rows go. */
static void want_codes(cuda_walk *walk, cuda_norm_args *args, uint32_t tensor, bool groups, bool tokens) {
    const cuda_session *session = walk->session;
    walk->set = 0;
    if (groups) {
        args->a = session->codes_of[0].a;
        args->a_scale = session->codes_of[0].a_scale;
        args->a_sum = session->codes_of[0].a_sum;
    }
    if (tokens) {
        args->token_a = session->token_codes.a;
        args->token_scale = session->token_codes.a_scale;
        args->token_sum = session->token_codes.a_sum;
    }
    args->a_stride = session->model->padded_k;
    args->padded = (args->width + 127) / 128 * 128;
    walk->quantized = groups || tokens ? tensor : UINT32_MAX;
}

static ingot_status launch_norm(const cuda_walk *walk, cuda_norm_args *args, uint32_t rows) {
    return ingot_cuda_launch(walk->session, walk->session->model->kernels.normalize, args->slices, rows, 1,
                             threads_for(args->width), args, "norm and quantization");
}

ingot_status ingot_cuda_quantize(cuda_walk *walk, uint32_t tensor, bool groups, bool tokens) {
    if ((!groups && !tokens) || walk->quantized == tensor) {
        return INGOT_OK;
    }
    cuda_norm_args args = {
        .kind = CUDA_NORM_NONE, .slices = 1, .width = ingot_cuda_width(walk->session->model, tensor)};
    args.x = ingot_cuda_at(ingot_cuda_tensor(walk->session, tensor, &args.x_stride));
    want_codes(walk, &args, tensor, groups, tokens);
    const ingot_status status = launch_norm(walk, &args, ingot_cuda_rows(walk, tensor));
    walk->quantized = UINT32_MAX; /* the next linear may want other ones */
    return status;
}

ingot_status ingot_cuda_norm(cuda_walk *walk, const cuda_step *step, const cuda_step *next) {
    const cuda_session *session = walk->session;
    const cuda_model *model = session->model;
    const ingot_norm_parameters *parameters = step->parameters;
    const ingot_tensor_record *tensors = model->program->tensors;
    const bool layer = step->record->opcode == INGOT_OPCODE_LAYER_NORM;
    const uint32_t width = ingot_cuda_width(model, step->inputs[0]);
    cuda_norm_args args = {.kind = layer ? CUDA_NORM_LAYER : CUDA_NORM_RMS,
                           .weight = ingot_cuda_at(model->weights + tensors[step->inputs[1]].offset),
                           .width = parameters->width,
                           .slices = width / parameters->width,
                           .epsilon = parameters->epsilon};
    if (layer) {
        args.bias = ingot_cuda_at(model->weights + tensors[step->inputs[2]].offset);
    }
    args.x = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[0], &args.x_stride));
    args.y = ingot_cuda_at(ingot_cuda_tensor(session, step->outputs[0], &args.y_stride));
    if (next != NULL && next->record->opcode == INGOT_OPCODE_LINEAR && next->inputs[0] == step->outputs[0] &&
        args.slices == 1) {
        bool groups, tokens;
        ingot_cuda_linear_wants(model, next, &groups, &tokens);
        want_codes(walk, &args, step->outputs[0], groups, tokens);
    }
    return launch_norm(walk, &args, ingot_cuda_rows(walk, step->outputs[0]));
}

ingot_status ingot_cuda_elements(cuda_walk *walk, const cuda_step *step) {
    const cuda_session *session = walk->session;
    const uint32_t opcode = step->record->opcode;
    cuda_element_args args = {.opcode = opcode,
                              .rows = ingot_cuda_rows(walk, step->outputs[0]),
                              .width = ingot_cuda_width(session->model, step->outputs[0])};
    cu_pointer a = ingot_cuda_tensor(session, step->inputs[0], &args.a_stride);
    if (opcode == INGOT_OPCODE_SELECT_LAST) {
        a += (uint64_t)(walk->pass->m - args.rows) * args.a_stride * sizeof(float);
    } else if (opcode == INGOT_OPCODE_ADD || opcode == INGOT_OPCODE_MUL) {
        args.b = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[1], &args.b_stride));
    } else if (opcode == INGOT_OPCODE_ACTIVATION) {
        args.kind = ((const ingot_activation_parameters *)step->parameters)->kind;
    } else {
        args.value = ((const ingot_scalar_parameters *)step->parameters)->value;
    }
    args.a = ingot_cuda_at(a);
    args.out = ingot_cuda_at(ingot_cuda_tensor(session, step->outputs[0], &args.out_stride));
    const uint32_t threads = threads_for(args.width);
    return ingot_cuda_launch(session, session->model->kernels.elements, (args.width + threads - 1) / threads, args.rows,
                             1, threads, &args, "an elementwise op");
}
