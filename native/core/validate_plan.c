/* SPDX-License-Identifier: Apache-2.0 */
/* Sections required and plan, alone and against the program. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/layout.h"
#include "core/validate.h"

#define ABSURD ((uint64_t)1 << 32) /* bytes per token: more is no plan for any device */

static bool supported(const ingot_required_record *record) {
    const ingot_op_spec *spec = ingot_op_spec_of(record->opcode);
    if (spec == NULL || record->version != spec->version) {
        return false;
    }
    if (record->dtype == INGOT_DTYPE_NONE) {
        return record->scale_kind == INGOT_SCALE_KIND_NONE && record->layout == INGOT_LAYOUT_PLAIN;
    }
    bool has_weights = record->opcode == INGOT_OPCODE_EMBED || record->opcode == INGOT_OPCODE_LINEAR;
    return has_weights && ingot_weight_scale_kind(record->dtype) == record->scale_kind &&
           ingot_layout_valid(record->dtype, record->layout);
}

static ingot_status refuse_unsupported(const ingot_required_record *records, uint32_t count) {
    char list[INGOT_ERROR_BYTES] = "";
    size_t used = 0;
    for (uint32_t i = 0; i < count && used < 160; i++) {
        if (!supported(&records[i])) {
            int size = snprintf(list + used, sizeof list - used, " op %u version %u format %u scales %u layout %u;",
                                records[i].opcode, records[i].version, records[i].dtype, records[i].scale_kind,
                                records[i].layout);
            used += (size_t)size;
        }
    }
    return INGOT_REFUSE(INGOT_RULE_REQUIRED_UNSUPPORTED, "this reader does not support:%.200s use a newer ingot", list);
}

ingot_status ingot_validate_required(ingot_validation *v) {
    const ingot_required_header *header = (const void *)ingot_section_bytes(v, INGOT_SECTION_REQUIRED);
    uint64_t size = v->sections[INGOT_SECTION_REQUIRED]->size;
    if (size < sizeof *header || header->count > INGOT_MAX_REQUIRED ||
        sizeof *header + header->count * sizeof(ingot_required_record) != size ||
        !ingot_all_zero(header->reserved, sizeof header->reserved)) {
        return INGOT_REFUSE(INGOT_RULE_REQUIRED_SIZE,
                            "section required: its records do not add up to %" PRIu64 " bytes, or reserved set", size);
    }
    v->required = (const void *)(header + 1);
    v->required_count = header->count;
    bool all = true;
    for (uint32_t i = 0; i < v->required_count; i++) {
        if (v->required[i].reserved != 0) {
            return INGOT_REFUSE(INGOT_RULE_REQUIRED_SIZE, "section required: reserved byte of record %" PRIu32, i);
        }
        all = all && supported(&v->required[i]);
    }
    return all ? INGOT_OK : refuse_unsupported(v->required, v->required_count);
}

static bool arena_good(uint64_t bytes) { return bytes <= ABSURD && bytes % INGOT_ROW_ALIGNMENT == 0; }

static ingot_status check_plan_values(const ingot_plan_header *plan) {
    if (plan->context < 1 || plan->context > INGOT_MAX_CONTEXT || plan->chunk < 1 || plan->chunk > INGOT_MAX_CHUNK ||
        plan->chunk > plan->context || plan->vocabulary < 1 || plan->vocabulary > INGOT_MAX_DIMENSION) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_VALUE,
                            "plan: context %" PRIu32 ", chunk %" PRIu32 ", vocabulary %" PRIu32
                            "; expected context 1 to %d, chunk 1 to %d and at most the context",
                            plan->context, plan->chunk, plan->vocabulary, INGOT_MAX_CONTEXT, INGOT_MAX_CHUNK);
    }
    if (!arena_good(plan->arena_bytes_per_token) || !arena_good(plan->arena_bytes_per_selected) ||
        !arena_good(plan->scratch_bytes_per_token)) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_ARENA,
                            "plan: arena of %" PRIu64 " and %" PRIu64 ", scratch of %" PRIu64
                            " bytes, expected multiples of 64 up to %" PRIu64,
                            plan->arena_bytes_per_token, plan->arena_bytes_per_selected, plan->scratch_bytes_per_token,
                            ABSURD);
    }
    if (plan->state_bytes_per_token > ABSURD) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_STATE, "plan: state of %" PRIu64 " bytes per token, at most %" PRIu64,
                            plan->state_bytes_per_token, ABSURD);
    }
    return INGOT_OK;
}

ingot_status ingot_validate_plan(ingot_validation *v) {
    const ingot_plan_header *plan = (const void *)ingot_section_bytes(v, INGOT_SECTION_PLAN);
    uint64_t size = v->sections[INGOT_SECTION_PLAN]->size;
    if (size < sizeof *plan || sizeof *plan + (uint64_t)plan->peak_count * sizeof(ingot_peak_record) != size ||
        !ingot_all_zero(plan->reserved, sizeof plan->reserved)) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_SIZE,
                            "section plan: its peaks do not add up to %" PRIu64 " bytes, or reserved set", size);
    }
    ingot_status status = check_plan_values(plan);
    const ingot_peak_record *peaks = (const void *)(plan + 1);
    for (uint32_t i = 0; status == INGOT_OK && i < plan->peak_count; i++) {
        if (peaks[i].context < 1 || peaks[i].context > plan->context || peaks[i].chunk < 1 ||
            peaks[i].chunk > plan->chunk) {
            status = INGOT_REFUSE(INGOT_RULE_PLAN_VALUE,
                                  "plan: peak %" PRIu32 " at context %" PRIu32 " and chunk %" PRIu32
                                  " is beyond the plan's, or zero",
                                  i, peaks[i].context, peaks[i].chunk);
        }
    }
    v->file.plan = plan;
    return status;
}

ingot_status ingot_validate_required_covers(const ingot_validation *v) {
    bool listed[INGOT_OPCODE_SELECT_LAST + 1][INGOT_DTYPES][INGOT_LAYOUT_T16_K8 + 1] = {{{false}}};
    for (uint32_t i = 0; i < v->required_count; i++) {
        listed[v->required[i].opcode][v->required[i].dtype][v->required[i].layout] = true;
    }
    for (uint32_t i = 0; i < v->file.instruction_count; i++) {
        const ingot_instruction *item = &v->file.instructions[i];
        bool has_weights = false;
        for (uint32_t k = 0; k < item->inputs; k++) {
            uint32_t id = v->file.operands[item->first_operand + k];
            const ingot_tensor_record *tensor = &v->file.tensors[id];
            bool weight = tensor->role == INGOT_ROLE_WEIGHT;
            has_weights = has_weights || weight;
            if (weight && !listed[item->opcode][tensor->dtype][tensor->layout]) {
                return INGOT_REFUSE(INGOT_RULE_REQUIRED_MISSING,
                                    "instruction %" PRIu32 " uses op %u with format %u and layout %u, not listed", i,
                                    item->opcode, tensor->dtype, tensor->layout);
            }
        }
        if (!has_weights && !listed[item->opcode][INGOT_DTYPE_NONE][INGOT_LAYOUT_PLAIN]) {
            return INGOT_REFUSE(INGOT_RULE_REQUIRED_MISSING, "instruction %" PRIu32 " uses op %u, which is not listed",
                                i, item->opcode);
        }
    }
    return INGOT_OK;
}

static ingot_status check_vocabulary(const ingot_validation *v, uint64_t rows, const char *what) {
    if (v->file.plan->vocabulary > rows) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_VALUE, "plan: vocabulary %" PRIu32 ", %s has %" PRIu64 " rows",
                            v->file.plan->vocabulary, what, rows);
    }
    return INGOT_OK;
}

static ingot_status check_scratch(const ingot_validation *v, uint32_t index, uint64_t k) {
    uint64_t padded = ingot_round_up(k, 128);
    uint64_t need = ingot_round_up(padded + padded / 32 * 8, INGOT_ROW_ALIGNMENT);
    if (v->file.plan->scratch_bytes_per_token < need) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_ARENA,
                            "plan: scratch of %" PRIu64 " bytes per token, instruction %" PRIu32 " needs %" PRIu64,
                            v->file.plan->scratch_bytes_per_token, index, need);
    }
    return INGOT_OK;
}

static ingot_status check_state(const ingot_validation *v) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < v->file.tensor_count && total <= ABSURD; i++) {
        total += v->file.tensors[i].role == INGOT_ROLE_STATE ? v->file.tensors[i].size : 0;
    }
    if (v->file.plan->state_bytes_per_token != total) {
        return INGOT_REFUSE(INGOT_RULE_PLAN_STATE,
                            "plan: state of %" PRIu64 " bytes per token, the tensors give %" PRIu64,
                            v->file.plan->state_bytes_per_token, total);
    }
    return INGOT_OK;
}

ingot_status ingot_validate_plan_covers(const ingot_validation *v) {
    ingot_status status = INGOT_OK;
    for (uint32_t i = 0; status == INGOT_OK && i < v->file.instruction_count; i++) {
        const ingot_instruction *item = &v->file.instructions[i];
        const uint32_t *inputs = v->file.operands + item->first_operand;
        if (item->opcode == INGOT_OPCODE_LINEAR) {
            status = check_scratch(v, i, v->file.tensors[inputs[0]].shape[1]);
        } else if (item->opcode == INGOT_OPCODE_EMBED) {
            status = check_vocabulary(v, v->file.tensors[inputs[1]].shape[0], "the embedding table");
        }
    }
    if (status == INGOT_OK) {
        status = check_state(v);
    }
    if (status == INGOT_OK) {
        status = check_vocabulary(v, v->file.tensors[v->file.step_output].shape[1], "the output of 'step'");
    }
    return status;
}
