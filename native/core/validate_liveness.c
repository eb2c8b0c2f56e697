/* SPDX-License-Identifier: Apache-2.0 */
/* No activation is read before it is written, or overwritten in the arena while it is needed.
 *
 * The walk goes backwards over an entry and keeps the set of live activations, ranked by place. In a sound
 * plan they never overlap, so that a new one is compared with its two neighbours only: n log n in all. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/bit_tree.h"
#include "core/sort.h"
#include "core/validate.h"

typedef struct liveness {
    const ingot_validation *v;
    const ingot_entry_record *entry;
    uint32_t *seen; /* by tensor: 1 + the entry that wrote it (activation) or used it (state) */
    uint32_t *order; /* tensor ids by arena and offset */
    uint32_t *ranks; /* place of a tensor in order */
    ingot_bit_tree live;
} liveness;

static const ingot_tensor_record *tensor_of(const liveness *l, uint32_t id) { return &l->v->file.tensors[id]; }

static const uint32_t *inputs_of(const liveness *l, const ingot_instruction *item) {
    return l->v->file.operands + item->first_operand;
}

static bool place_less(const void *context, uint32_t a, uint32_t b) {
    const ingot_tensor_record *x = (const ingot_tensor_record *)context + a;
    const ingot_tensor_record *y = (const ingot_tensor_record *)context + b;
    if (x->rows != y->rows) {
        return x->rows < y->rows;
    }
    return x->offset != y->offset ? x->offset < y->offset : a < b;
}

/* Both lie in an arena, whose size is checked: the sums do not wrap. */
static bool overlap(const ingot_tensor_record *a, const ingot_tensor_record *b) {
    return a->rows == b->rows && a->offset < b->offset + b->size && b->offset < a->offset + a->size;
}

static ingot_status refuse_alias(const liveness *l, uint32_t index, uint32_t id, uint32_t other) {
    return INGOT_REFUSE(INGOT_RULE_OPERAND_ALIASED,
                        "entry '%.16s': instruction %" PRIu32 ": tensor %" PRIu32 " lies over tensor %" PRIu32
                        ", which is needed later",
                        (const char *)l->entry->name, index, id, other);
}

/* Refuses a tensor that overlaps a live one. */
static ingot_status check_hit(const liveness *l, uint32_t index, uint32_t id) {
    uint32_t near[2] = {ingot_bit_tree_above(&l->live, l->ranks[id]), ingot_bit_tree_below(&l->live, l->ranks[id])};
    for (int side = 0; side < 2; side++) {
        if (near[side] != INGOT_BIT_TREE_NONE && overlap(tensor_of(l, l->order[near[side]]), tensor_of(l, id))) {
            return refuse_alias(l, index, id, l->order[near[side]]);
        }
    }
    return INGOT_OK;
}

static ingot_status check_read(liveness *l, uint32_t index, uint32_t id, uint32_t mark) {
    const ingot_tensor_record *tensor = tensor_of(l, id);
    if (tensor->role == INGOT_ROLE_ACTIVATION && l->seen[id] != mark) {
        return INGOT_REFUSE(INGOT_RULE_OPERAND_UNWRITTEN,
                            "entry '%.16s': instruction %" PRIu32 " reads tensor %" PRIu32 ", not written yet",
                            (const char *)l->entry->name, index, id);
    }
    return INGOT_OK;
}

static ingot_status check_written(liveness *l, uint32_t mark) {
    const ingot_entry_record *entry = l->entry;
    l->seen[entry->input] = mark;
    for (uint32_t i = entry->first; i < entry->first + entry->count; i++) {
        const ingot_instruction *item = &l->v->file.instructions[i];
        const uint32_t *inputs = inputs_of(l, item);
        for (uint32_t k = 0; k < item->inputs; k++) {
            ingot_status status = check_read(l, i, inputs[k], mark);
            if (status != INGOT_OK) {
                return status;
            }
        }
        for (uint32_t k = 0; k < item->outputs; k++) {
            l->seen[inputs[item->inputs + k]] = mark;
        }
    }
    if (l->seen[entry->output] != mark) {
        return INGOT_REFUSE(INGOT_RULE_OPERAND_UNWRITTEN,
                            "entry '%.16s': no instruction writes its output, tensor %" PRIu32,
                            (const char *)entry->name, entry->output);
    }
    return INGOT_OK;
}

/* A state has one writer: two of them would append twice per token. */
static ingot_status check_states(liveness *l, uint32_t mark) {
    for (uint32_t i = l->entry->first; i < l->entry->first + l->entry->count; i++) {
        const ingot_instruction *item = &l->v->file.instructions[i];
        for (uint32_t k = 0; k < item->inputs; k++) {
            uint32_t id = inputs_of(l, item)[k];
            if (tensor_of(l, id)->role != INGOT_ROLE_STATE) {
                continue;
            }
            if (l->seen[id] == mark) {
                return INGOT_REFUSE(INGOT_RULE_OPERAND_ALIASED,
                                    "entry '%.16s': instruction %" PRIu32 " appends to state %" PRIu32
                                    ", which another operand appends to",
                                    (const char *)l->entry->name, i, id);
            }
            l->seen[id] = mark;
        }
    }
    return INGOT_OK;
}

/* True if this op may write output `place` over input `position`, both at the same offset. */
static bool in_place(const ingot_instruction *item, uint32_t position, uint32_t place) {
    switch (item->opcode) {
        case INGOT_OPCODE_ROPE: return position == place;
        case INGOT_OPCODE_ADD:
        case INGOT_OPCODE_MUL:
        case INGOT_OPCODE_SCALE:
        case INGOT_OPCODE_SOFT_CAP:
        case INGOT_OPCODE_ACTIVATION:
        case INGOT_OPCODE_RMS_NORM:
        case INGOT_OPCODE_LAYER_NORM: return true;
        case INGOT_OPCODE_LINEAR:
            return (item->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0 && position == item->inputs - 1u;
        default: return false;
    }
}

/* Outputs overlap neither each other nor an input, but for elementwise ops in place. */
static ingot_status check_in_place(const liveness *l, uint32_t index) {
    const ingot_instruction *item = &l->v->file.instructions[index];
    const uint32_t *inputs = inputs_of(l, item), *outputs = inputs + item->inputs;
    for (uint32_t place = 0; place < item->outputs; place++) {
        const ingot_tensor_record *out = tensor_of(l, outputs[place]);
        for (uint32_t k = place + 1; k < item->outputs; k++) {
            if (overlap(out, tensor_of(l, outputs[k]))) {
                return refuse_alias(l, index, outputs[place], outputs[k]);
            }
        }
        for (uint32_t k = 0; k < item->inputs; k++) {
            const ingot_tensor_record *in = tensor_of(l, inputs[k]);
            bool allowed = in_place(item, k, place) && in->offset == out->offset;
            if (ingot_in_arena(in) && !allowed && overlap(out, in)) {
                return refuse_alias(l, index, outputs[place], inputs[k]);
            }
        }
    }
    return INGOT_OK;
}

static ingot_status check_instruction(liveness *l, uint32_t index) {
    const ingot_instruction *item = &l->v->file.instructions[index];
    const uint32_t *inputs = inputs_of(l, item), *outputs = inputs + item->inputs;
    ingot_status status = INGOT_OK;
    for (uint32_t k = 0; k < item->outputs; k++) {
        ingot_bit_tree_remove(&l->live, l->ranks[outputs[k]]);
    }
    for (uint32_t k = 0; status == INGOT_OK && k < item->outputs; k++) {
        status = check_hit(l, index, outputs[k]);
    }
    if (status == INGOT_OK) {
        status = check_in_place(l, index);
    }
    for (uint32_t k = 0; status == INGOT_OK && k < item->inputs; k++) {
        bool arena = ingot_in_arena(tensor_of(l, inputs[k]));
        if (arena && !ingot_bit_tree_has(&l->live, l->ranks[inputs[k]])) {
            status = check_hit(l, index, inputs[k]);
            ingot_bit_tree_add(&l->live, l->ranks[inputs[k]]);
        }
    }
    return status;
}

static ingot_status check_aliases(liveness *l) {
    ingot_status status = INGOT_OK;
    ingot_bit_tree_clear(&l->live);
    ingot_bit_tree_add(&l->live, l->ranks[l->entry->output]);
    for (uint32_t i = l->entry->count; status == INGOT_OK && i > 0; i--) {
        status = check_instruction(l, l->entry->first + i - 1);
    }
    return status;
}

static void rank_tensors(liveness *l) {
    uint32_t count = l->v->file.tensor_count;
    for (uint32_t i = 0; i < count; i++) {
        l->order[i] = i;
    }
    ingot_sort(l->order, count, place_less, l->v->file.tensors);
    for (uint32_t i = 0; i < count; i++) {
        l->ranks[l->order[i]] = i;
    }
}

static ingot_status check_entries(liveness *l) {
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; status == INGOT_OK && i < l->v->file.entry_count; i++) {
        l->entry = &l->v->file.entries[i];
        status = check_written(l, i + 1);
        status = status != INGOT_OK ? status : check_states(l, i + 1);
        status = status != INGOT_OK ? status : check_aliases(l);
    }
    return status;
}

ingot_status ingot_validate_liveness(const ingot_validation *v) {
    size_t count = v->file.tensor_count; /* at least the input and the output of an entry */
    liveness l = {.v = v};
    uint32_t *memory = calloc(3 * count, sizeof *memory);
    if (memory == NULL || !ingot_bit_tree_create(&l.live, v->file.tensor_count)) {
        free(memory);
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory to check %zu tensors", count);
    }
    l.seen = memory;
    l.order = memory + count;
    l.ranks = memory + 2 * count;
    rank_tensors(&l);
    ingot_status status = check_entries(&l);
    ingot_bit_tree_destroy(&l.live);
    free(memory);
    return status;
}
