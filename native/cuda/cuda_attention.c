/* SPDX-License-Identifier: Apache-2.0 */
/* rope, and attention with the rope before it in the same kernel. */
#include "cuda_model.h"

enum { PREPARE_THREADS = 64 };

bool ingot_cuda_ropes_for(const cuda_step *rope, const cuda_step *attention) {
    const ingot_rope_parameters *turns = rope->parameters;
    const ingot_attention_parameters *parameters = attention->parameters;
    return rope->record->opcode == INGOT_OPCODE_ROPE && attention->record->opcode == INGOT_OPCODE_ATTENTION &&
           rope->outputs[0] == attention->inputs[0] && rope->outputs[1] == attention->inputs[1] &&
           turns->head_size == parameters->head_size;
}

static void add_rope(const cuda_session *session, const cuda_step *rope, cuda_attention_args *args) {
    const cuda_model *model = session->model;
    const ingot_rope_parameters *parameters = rope->parameters;
    args->table = ingot_cuda_at(model->weights + model->program->tensors[rope->inputs[2]].offset);
    args->rotary = parameters->rotary_size;
    args->interleaved = parameters->style == INGOT_ROPE_STYLE_INTERLEAVED;
    args->q = ingot_cuda_at(ingot_cuda_tensor(session, rope->inputs[0], &args->q_stride));
    args->k = ingot_cuda_at(ingot_cuda_tensor(session, rope->inputs[1], &args->k_stride));
    args->q_out = ingot_cuda_at(ingot_cuda_tensor(session, rope->outputs[0], &args->q_out_stride));
    args->k_out = ingot_cuda_at(ingot_cuda_tensor(session, rope->outputs[1], &args->k_out_stride));
}

static cuda_attention_args attention_args(const cuda_walk *walk, const cuda_step *step, uint32_t index) {
    const cuda_session *session = walk->session;
    const ingot_attention_parameters *parameters = step->parameters;
    const ingot_backend_state *place = &session->states[index];
    cuda_attention_args args = {.pass = ingot_cuda_at(session->pass),
                                .state = ingot_cuda_at(session->state),
                                .block_bytes = session->config.block_bytes,
                                .state_offset = place->offset,
                                .key_bytes = place->key_bytes,
                                .head_bytes = place->head_bytes,
                                .codes = ingot_cuda_at(session->codes),
                                .factors = ingot_cuda_at(session->factors),
                                .partials = ingot_cuda_at(session->partials),
                                .m = walk->pass->m,
                                .heads = parameters->heads,
                                .kv_heads = parameters->kv_heads,
                                .d = parameters->head_size,
                                .d_padded = (parameters->head_size + 15) / 16 * 16,
                                .appends = 1,
                                .window = parameters->window,
                                .sinks = parameters->sinks,
                                .splits = 1,
                                .scale = parameters->scale};
    args.q = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[0], &args.q_stride));
    args.k = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[1], &args.k_stride));
    args.v = ingot_cuda_at(ingot_cuda_tensor(session, step->inputs[2], &args.v_stride));
    args.out = ingot_cuda_at(ingot_cuda_tensor(session, step->outputs[0], &args.out_stride));
    return args;
}

/* Many tokens with int8 keys: the matrix units; else as many rows together as there are, and for few tokens parts. */
static ingot_status attend(const cuda_session *session, cuda_attention_args *args) {
    const cuda_kernels *kernels = &session->model->kernels;
    const uint32_t kv = session->config.kv_format - 1;
    const uint32_t rows = args->m * (args->heads / args->kv_heads);
    if (args->m > CUDA_FEW_TOKENS && kernels->attend_prompt[kv] != NULL) {
        const uint32_t tiles = (rows + CUDA_PROMPT_ROWS - 1) / CUDA_PROMPT_ROWS;
        const uint32_t parts = (args->d_padded + CUDA_PROMPT_HEAD - 1) / CUDA_PROMPT_HEAD;
        return ingot_cuda_launch(session, kernels->attend_prompt[kv], args->kv_heads, tiles, parts, CUDA_PROMPT_THREADS,
                                 args, "attention of a prompt");
    }
    uint32_t choice = 0;
    while (choice + 1 < CUDA_ROW_COUNTS && 1u << choice < rows) {
        choice++;
    }
    const uint32_t tiles = (rows + (1u << choice) - 1) >> choice;
    if (args->m <= CUDA_FEW_TOKENS) {
        args->splits = ingot_cuda_splits(session, args->kv_heads * tiles);
    }
    return ingot_cuda_launch(session, kernels->attend[kv][choice], args->kv_heads, tiles, args->splits, CUDA_SPAN, args,
                             "attention");
}

ingot_status ingot_cuda_attention(cuda_walk *walk, uint32_t index, const cuda_step *rope, const cuda_step *next) {
    const cuda_session *session = walk->session;
    const cuda_kernels *kernels = &session->model->kernels;
    const cuda_step step = ingot_cuda_step(session->model, index);
    const uint32_t kv = session->config.kv_format - 1;
    cuda_attention_args args = attention_args(walk, &step, index);
    if (rope != NULL) {
        add_rope(session, rope, &args);
    }
    ingot_status status = ingot_cuda_launch(session, kernels->prepare[kv], args.heads + 2 * args.kv_heads, args.m, 1,
                                            PREPARE_THREADS, &args, "rope and state");
    status = status == INGOT_OK ? attend(session, &args) : status;
    if (status == INGOT_OK && args.splits > 1) {
        if (args.d % 32 == 0 && args.heads * args.d % 128 == 0 && ingot_cuda_wants_rows(session->model, &step, next)) {
            walk->set = 0;
            walk->quantized = step.outputs[0];
            args.next = session->codes_of[0];
        }
        status = ingot_cuda_launch(session, kernels->merge, args.heads, args.m, 1, PREPARE_THREADS, &args,
                                   "attention's parts");
    }
    return status;
}

ingot_status ingot_cuda_rope(cuda_walk *walk, const cuda_step *step) {
    const cuda_session *session = walk->session;
    const ingot_rope_parameters *parameters = step->parameters;
    const uint32_t d = parameters->head_size;
    cuda_attention_args args = {.pass = ingot_cuda_at(session->pass),
                                .m = walk->pass->m,
                                .heads = ingot_cuda_width(session->model, step->inputs[0]) / d,
                                .kv_heads = ingot_cuda_width(session->model, step->inputs[1]) / d,
                                .d = d,
                                .d_padded = (d + 15) / 16 * 16};
    add_rope(session, step, &args);
    return ingot_cuda_launch(session, session->model->kernels.prepare[0], args.heads + args.kv_heads, args.m, 1,
                             PREPARE_THREADS, &args, "rope");
}
