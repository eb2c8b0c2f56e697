/* SPDX-License-Identifier: Apache-2.0 */
/* One instruction: counts, ids, roles, parameter values and shapes of its operands. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/layout.h"
#include "core/validate.h"

enum { MAX_OPERANDS = 16, MAX_HEAD = 1024, MAX_HEADS = 65536, MAX_WEIGHTS = 3, ANY_ROWS = 0 };

/* An instruction with its operands looked up. */
typedef struct call {
    const ingot_op_spec *spec;
    const void *parameters;
    uint32_t index;
    uint32_t flags;
    uint32_t context; /* of the plan */
    uint32_t inputs;
    uint32_t outputs;
    const ingot_tensor_record *in[MAX_OPERANDS];
    const ingot_tensor_record *out[MAX_OPERANDS];
} call;

typedef struct signature {
    char inputs[MAX_OPERANDS];
    char outputs[MAX_OPERANDS];
} signature;

#define AT "instruction %" PRIu32 " (%s): "
#define VALUE(c, ...) INGOT_REFUSE(INGOT_RULE_PARAMETERS_VALUE, AT __VA_ARGS__)
#define SHAPE(c, ...) INGOT_REFUSE(INGOT_RULE_OPERAND_SHAPE, AT __VA_ARGS__)
#define ME(c) (c)->index, (c)->spec->name

static uint64_t width(const ingot_tensor_record *tensor) { return tensor->shape[1]; }

static bool is_vector(const ingot_tensor_record *tensor, uint64_t size) {
    return tensor->rank == 1 && tensor->shape[0] == size;
}

static bool positive(float value) { return value > 0 && value < INFINITY; }

/* All f32 activations have the same kind of rows, this one if it is not ANY_ROWS. */
static ingot_status check_rows(const call *c, uint32_t rows) {
    uint32_t wanted = rows != ANY_ROWS ? rows : c->out[0]->rows;
    bool same = true;
    for (uint32_t i = 0; i < c->inputs; i++) {
        same = same && (!ingot_in_arena(c->in[i]) || c->in[i]->rows == wanted);
    }
    for (uint32_t i = 0; i < c->outputs; i++) {
        same = same && c->out[i]->rows == wanted;
    }
    return same ? INGOT_OK : SHAPE(c, "its activations do not all have rows of kind %" PRIu32, ME(c), wanted);
}

/* Elementwise ops: rows and width of all activations are the same. */
static ingot_status check_same_widths(const call *c) {
    ingot_status status = check_rows(c, ANY_ROWS);
    for (uint32_t i = 0; status == INGOT_OK && i < c->inputs; i++) {
        if (c->in[i]->role == INGOT_ROLE_ACTIVATION && width(c->in[i]) != width(c->out[0])) {
            status =
                SHAPE(c, "input of width %" PRIu64 ", output of %" PRIu64, ME(c), width(c->in[i]), width(c->out[0]));
        }
    }
    return status;
}

static ingot_status check_embed(const call *c) {
    ingot_status status = check_rows(c, INGOT_ROWS_TOKENS);
    if (status == INGOT_OK && width(c->in[1]) != width(c->out[0])) {
        status = SHAPE(c, "table of width %" PRIu64 ", output of %" PRIu64, ME(c), width(c->in[1]), width(c->out[0]));
    }
    return status;
}

static ingot_status check_norm(const call *c) {
    const ingot_norm_parameters *p = c->parameters;
    if (!positive(p->epsilon)) {
        return VALUE(c, "epsilon %g, expected a positive number", ME(c), (double)p->epsilon);
    }
    if (p->width < 1) {
        return VALUE(c, "width 0", ME(c));
    }
    ingot_status status = check_same_widths(c);
    if (status == INGOT_OK && width(c->out[0]) % p->width != 0) {
        status = SHAPE(c, "width %" PRIu32 " does not divide %" PRIu64, ME(c), p->width, width(c->out[0]));
    }
    for (uint32_t i = 1; status == INGOT_OK && i < c->inputs; i++) {
        if (!is_vector(c->in[i], p->width)) {
            status = SHAPE(c, "constant %" PRIu32 " of rank %u and %" PRIu64 " rows, expected %" PRIu32 " elements",
                           ME(c), c->in[i]->id, c->in[i]->rank, c->in[i]->shape[0], p->width);
        }
    }
    return status;
}

static ingot_status check_linear_part(const call *c, uint32_t part) {
    const ingot_linear_parameters *p = c->parameters;
    const ingot_tensor_record *weight = c->in[1 + part], *out = c->out[part];
    uint64_t gated = 2 * ingot_round_up(width(out), INGOT_TILE_ROWS);
    uint64_t n = p->epilogue == INGOT_EPILOGUE_NONE ? width(out) : gated, k = width(c->in[0]);
    if (weight->shape[0] != n || weight->shape[1] != k) {
        return SHAPE(c, "weight %" PRIu32 " of shape (%" PRIu64 ", %" PRIu64 "), expected (%" PRIu64 ", %" PRIu64 ")",
                     ME(c), weight->id, weight->shape[0], weight->shape[1], n, k);
    }
    return INGOT_OK;
}

static ingot_status check_linear(const call *c) {
    uint32_t count = ((const ingot_linear_parameters *)c->parameters)->weights;
    ingot_status status = check_rows(c, ANY_ROWS);
    for (uint32_t i = 0; status == INGOT_OK && i < count; i++) {
        status = check_linear_part(c, i);
    }
    bool bias = (c->flags & INGOT_LINEAR_FLAG_BIAS) != 0;
    for (uint32_t i = 0; status == INGOT_OK && bias && i < count; i++) {
        if (!is_vector(c->in[1 + count + i], width(c->out[i]))) {
            status = SHAPE(c, "bias %" PRIu32 " of rank %u and %" PRIu64 " rows, expected %" PRIu64 " elements", ME(c),
                           c->in[1 + count + i]->id, c->in[1 + count + i]->rank, c->in[1 + count + i]->shape[0],
                           width(c->out[i]));
        }
    }
    bool residual = (c->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0;
    if (status == INGOT_OK && residual && width(c->in[c->inputs - 1]) != width(c->out[0])) {
        status = SHAPE(c, "residual of width %" PRIu64 ", output of %" PRIu64, ME(c), width(c->in[c->inputs - 1]),
                       width(c->out[0]));
    }
    return status;
}

static ingot_status check_rope(const call *c) {
    const ingot_rope_parameters *p = c->parameters;
    if (p->head_size < 1 || p->head_size > MAX_HEAD || p->rotary_size < 2 || p->rotary_size > p->head_size ||
        p->rotary_size % 2 != 0 || p->style > INGOT_ROPE_STYLE_INTERLEAVED || p->reserved != 0) {
        return VALUE(c, "head size %" PRIu32 ", rotary size %" PRIu32 ", style %" PRIu32 ", reserved %" PRIu32, ME(c),
                     p->head_size, p->rotary_size, p->style, p->reserved);
    }
    ingot_status status = check_rows(c, INGOT_ROWS_TOKENS);
    for (uint32_t i = 0; status == INGOT_OK && i < 2; i++) {
        if (width(c->in[i]) != width(c->out[i]) || width(c->in[i]) % p->head_size != 0) {
            status = SHAPE(c, "widths %" PRIu64 " and %" PRIu64 ", expected equal multiples of %" PRIu32, ME(c),
                           width(c->in[i]), width(c->out[i]), p->head_size);
        }
    }
    const ingot_tensor_record *table = c->in[2];
    if (status == INGOT_OK && (table->rank != 2 || table->shape[0] < c->context || table->shape[1] != p->rotary_size)) {
        status = SHAPE(
            c, "table of rank %u and shape (%" PRIu64 ", %" PRIu64 "), expected at least (%" PRIu32 ", %" PRIu32 ")",
            ME(c), table->rank, table->shape[0], table->shape[1], c->context, p->rotary_size);
    }
    return status;
}

static ingot_status check_attention_values(const call *c) {
    const ingot_attention_parameters *p = c->parameters;
    if (p->heads < 1 || p->heads > MAX_HEADS || p->kv_heads < 1 || p->heads % p->kv_heads != 0 || p->head_size < 1 ||
        p->head_size > MAX_HEAD) {
        return VALUE(c,
                     "%" PRIu32 " heads (at most %d), %" PRIu32 " kv heads of %" PRIu32 "; kv heads must divide heads",
                     ME(c), p->heads, MAX_HEADS, p->kv_heads, p->head_size);
    }
    if (!positive(p->scale)) {
        return VALUE(c, "scale %g, expected a positive number", ME(c), (double)p->scale);
    }
    if (p->soft_cap != 0 || p->reserved != 0) {
        return VALUE(c, "soft_cap and reserved must be 0 in version 0", ME(c));
    }
    if (p->sinks != 0 && p->window == 0) {
        return VALUE(c, "%" PRIu32 " sinks without a window", ME(c), p->sinks);
    }
    return INGOT_OK;
}

static ingot_status check_attention(const call *c) {
    const ingot_attention_parameters *p = c->parameters;
    ingot_status status = check_attention_values(c);
    if (status == INGOT_OK) {
        status = check_rows(c, INGOT_ROWS_TOKENS);
    }
    if (status != INGOT_OK) {
        return status;
    }
    uint64_t wide = (uint64_t)p->heads * p->head_size, narrow = (uint64_t)p->kv_heads * p->head_size;
    if (width(c->in[0]) != wide || width(c->in[1]) != narrow || width(c->in[2]) != narrow || width(c->out[0]) != wide) {
        return SHAPE(c,
                     "q %" PRIu64 ", k %" PRIu64 ", v %" PRIu64 ", out %" PRIu64 " wide, expected %" PRIu64
                     " for q and out, %" PRIu64 " for k and v",
                     ME(c), width(c->in[0]), width(c->in[1]), width(c->in[2]), width(c->out[0]), wide, narrow);
    }
    for (uint32_t i = 3; i < 5; i++) {
        const uint64_t *shape = c->in[i]->shape;
        if (shape[0] != p->kv_heads || shape[2] != p->head_size) {
            return SHAPE(
                c, "state %" PRIu32 " of shape (%" PRIu64 ", 0, %" PRIu64 "), expected (%" PRIu32 ", 0, %" PRIu32 ")",
                ME(c), c->in[i]->id, shape[0], shape[2], p->kv_heads, p->head_size);
        }
    }
    return INGOT_OK;
}

static ingot_status check_activation(const call *c) {
    uint32_t kind = ((const ingot_activation_parameters *)c->parameters)->kind;
    if (kind < INGOT_ACTIVATION_KIND_SILU || kind > INGOT_ACTIVATION_KIND_RELU) {
        return VALUE(c, "unknown kind %" PRIu32, ME(c), kind);
    }
    return check_same_widths(c);
}

static ingot_status check_scale(const call *c) {
    float value = ((const ingot_scalar_parameters *)c->parameters)->value;
    return isfinite(value) ? check_same_widths(c) : VALUE(c, "factor %g", ME(c), (double)value);
}

static ingot_status check_soft_cap(const call *c) {
    float value = ((const ingot_scalar_parameters *)c->parameters)->value;
    if (!positive(value)) {
        return VALUE(c, "cap %g, expected a positive number", ME(c), (double)value);
    }
    return check_same_widths(c);
}

static ingot_status check_select_last(const call *c) {
    const ingot_tensor_record *x = c->in[0], *out = c->out[0];
    if (x->rows != INGOT_ROWS_TOKENS || out->rows != INGOT_ROWS_SELECTED || width(x) != width(out)) {
        return SHAPE(c, "rows %u to %u, widths %" PRIu64 " to %" PRIu64, ME(c), x->rows, out->rows, width(x),
                     width(out));
    }
    return INGOT_OK;
}

static ingot_status check_rms_norm(const call *c) { return check_norm(c); }

static ingot_status check_layer_norm(const call *c) { return check_norm(c); }

static ingot_status check_add(const call *c) { return check_same_widths(c); }

static ingot_status check_mul(const call *c) { return check_same_widths(c); }

/* By opcode. An op without a check does not compile. */
static ingot_status (*const CHECKS[])(const call *) = {
#define ROW(name, opcode, version, inputs, outputs, size) [opcode] = check_##name,
    INGOT_OPS(ROW)
#undef ROW
};

static ingot_status check_linear_parameters(const call *c) {
    const ingot_linear_parameters *p = c->parameters;
    bool gated = p->epilogue != INGOT_EPILOGUE_NONE;
    if (p->weights < 1 || p->weights > MAX_WEIGHTS || p->epilogue > INGOT_EPILOGUE_GELU_TANH_GATE ||
        (gated && p->weights != 1)) {
        return VALUE(c, "%" PRIu32 " weights with epilogue %" PRIu32, ME(c), p->weights, p->epilogue);
    }
    bool residual = (c->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0;
    if ((residual && p->weights > 1) || (gated && c->flags != 0)) {
        return INGOT_REFUSE(INGOT_RULE_OP_FLAGS, AT "flags %#" PRIx32 " with %" PRIu32 " weights, epilogue %" PRIu32,
                            ME(c), c->flags, p->weights, p->epilogue);
    }
    return INGOT_OK;
}

static void linear_signature(const call *c, signature *s) {
    uint32_t count = ((const ingot_linear_parameters *)c->parameters)->weights;
    char *at = s->inputs;
    *at++ = 'a';
    memset(at, 'w', count);
    at += count;
    if ((c->flags & INGOT_LINEAR_FLAG_BIAS) != 0) {
        memset(at, 'c', count);
        at += count;
    }
    if ((c->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0) {
        *at = 'a';
    }
    memset(s->outputs, 'a', count);
}

static bool role_good(const ingot_tensor_record *tensor, char letter) {
    switch (letter) {
        case 'w': return tensor->role == INGOT_ROLE_WEIGHT;
        case 'c': return tensor->role == INGOT_ROLE_CONSTANT;
        case 's': return tensor->role == INGOT_ROLE_STATE;
        case 't': return tensor->role == INGOT_ROLE_ACTIVATION && tensor->dtype == INGOT_DTYPE_I32;
        default: return ingot_in_arena(tensor);
    }
}

static ingot_status look_up(const ingot_validation *v, call *c, const signature *s) {
    const uint32_t *ids = v->file.operands + v->file.instructions[c->index].first_operand;
    uint32_t count = c->inputs + c->outputs;
    for (uint32_t i = 0; i < count; i++) {
        if (ids[i] >= v->file.tensor_count) {
            return INGOT_REFUSE(INGOT_RULE_OPERAND_ID, AT "operand %" PRIu32 ", there are %" PRIu32 " tensors", ME(c),
                                ids[i], v->file.tensor_count);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        const ingot_tensor_record *tensor = &v->file.tensors[ids[i]];
        bool input = i < c->inputs;
        char letter = input ? s->inputs[i] : s->outputs[i - c->inputs];
        if (!role_good(tensor, letter)) {
            return INGOT_REFUSE(INGOT_RULE_OPERAND_ROLE,
                                AT "tensor %" PRIu32
                                   " has role %u and dtype %u, needed is '%c' (w weight, "
                                   "c constant, a f32 activation, t token ids, s state)",
                                ME(c), ids[i], tensor->role, tensor->dtype, letter);
        }
        *(input ? &c->in[i] : &c->out[i - c->inputs]) = tensor;
    }
    return INGOT_OK;
}

ingot_status ingot_validate_operands(const ingot_validation *v, uint32_t index) {
    const ingot_instruction *item = &v->file.instructions[index];
    call c = {.spec = ingot_op_spec_of(item->opcode), .index = index, .flags = item->flags};
    c.parameters = v->file.parameters + item->parameters_offset;
    c.context = v->file.plan->context;
    signature s = {{0}, {0}};
    if (item->opcode == INGOT_OPCODE_LINEAR) {
        ingot_status status = check_linear_parameters(&c);
        if (status != INGOT_OK) {
            return status;
        }
        linear_signature(&c, &s);
    } else {
        memcpy(s.inputs, c.spec->inputs, strlen(c.spec->inputs));
        memcpy(s.outputs, c.spec->outputs, strlen(c.spec->outputs));
    }
    c.inputs = (uint32_t)strlen(s.inputs);
    c.outputs = (uint32_t)strlen(s.outputs);
    if (item->inputs != c.inputs || item->outputs != c.outputs) {
        return INGOT_REFUSE(INGOT_RULE_OPERAND_COUNT, AT "%u inputs and %u outputs, expected %" PRIu32 " and %" PRIu32,
                            ME(&c), item->inputs, item->outputs, c.inputs, c.outputs);
    }
    ingot_status status = look_up(v, &c, &s);
    return status != INGOT_OK ? status : CHECKS[item->opcode](&c);
}
