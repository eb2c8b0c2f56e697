/* SPDX-License-Identifier: Apache-2.0 */
/* Records of the program section; operands and liveness have their own files. */
#include <inttypes.h>
#include <string.h>

#include "core/layout.h"
#include "core/validate.h"

static ingot_status check_section(ingot_validation *v) {
    const ingot_program_header *header = (const void *)ingot_section_bytes(v, INGOT_SECTION_PROGRAM);
    uint64_t size = v->sections[INGOT_SECTION_PROGRAM]->size;
    if (size < sizeof *header) {
        return INGOT_REFUSE(INGOT_RULE_PROGRAM_SIZE, "section program has %" PRIu64 " bytes", size);
    }
    /* Four u32 counts times at most 64 bytes: no wrap in 64 bits. */
    uint64_t entries = sizeof *header;
    uint64_t instructions = entries + (uint64_t)header->entry_count * sizeof(ingot_entry_record);
    uint64_t operands = instructions + (uint64_t)header->instruction_count * sizeof(ingot_instruction);
    uint64_t operands_end = operands + (uint64_t)header->operand_count * sizeof(uint32_t);
    uint64_t parameters = ingot_round_up(operands_end, 8);
    if (header->entry_count > INGOT_MAX_ENTRIES || header->instruction_count > INGOT_MAX_INSTRUCTIONS ||
        header->operand_count > INGOT_MAX_OPERANDS || parameters + header->parameters_size != size) {
        return INGOT_REFUSE(INGOT_RULE_PROGRAM_SIZE,
                            "section program: %" PRIu32 " entries, %" PRIu32 " instructions, %" PRIu32
                            " operands and %" PRIu32 " bytes of parameters do not add up to %" PRIu64,
                            header->entry_count, header->instruction_count, header->operand_count,
                            header->parameters_size, size);
    }
    const uint8_t *bytes = (const uint8_t *)header;
    if (!ingot_all_zero(header->reserved, sizeof header->reserved) ||
        !ingot_all_zero(bytes + operands_end, parameters - operands_end)) {
        return INGOT_REFUSE(INGOT_RULE_PROGRAM_RESERVED, "section program: reserved or padding bytes are set");
    }
    v->file.entries = (const void *)(bytes + entries);
    v->file.entry_count = header->entry_count;
    v->file.instructions = (const void *)(bytes + instructions);
    v->file.instruction_count = header->instruction_count;
    v->file.operands = (const void *)(bytes + operands);
    v->file.operand_count = header->operand_count;
    v->file.parameters = bytes + parameters;
    v->parameters_size = header->parameters_size;
    return INGOT_OK;
}

/* Printable ASCII, then zeros to the end. */
static bool name_good(const ingot_entry_record *entry) {
    size_t length = 0;
    while (length < sizeof entry->name && entry->name[length] > 0x20 && entry->name[length] < 0x7F) {
        length++;
    }
    return length > 0 && ingot_all_zero(entry->name + length, sizeof entry->name - length);
}

static bool same_name(const ingot_entry_record *a, const ingot_entry_record *b) {
    return memcmp(a->name, b->name, sizeof a->name) == 0;
}

static ingot_status check_entry(const ingot_validation *v, uint32_t index) {
    const ingot_entry_record *entry = &v->file.entries[index];
    bool good = name_good(entry);
    for (uint32_t i = 0; good && i < index; i++) {
        good = !same_name(entry, &v->file.entries[i]);
    }
    if (!good) {
        return INGOT_REFUSE(INGOT_RULE_ENTRY, "entry %" PRIu32 ": name is not printable ASCII, zero padded, used once",
                            index);
    }
    if (entry->count < 1 || !ingot_fits(entry->first, entry->count, v->file.instruction_count)) {
        return INGOT_REFUSE(INGOT_RULE_ENTRY, "entry '%.16s': %" PRIu32 " instructions from %" PRIu32 " of %" PRIu32,
                            (const char *)entry->name, entry->count, entry->first, v->file.instruction_count);
    }
    return INGOT_OK;
}

static ingot_status check_entries(ingot_validation *v) {
    static const ingot_entry_record STEP = {.name = "step"};
    const ingot_entry_record *step = NULL;
    for (uint32_t i = 0; i < v->file.entry_count; i++) {
        ingot_status status = check_entry(v, i);
        if (status != INGOT_OK) {
            return status;
        }
        if (same_name(&v->file.entries[i], &STEP)) {
            step = &v->file.entries[i];
        }
    }
    if (step == NULL) {
        return INGOT_REFUSE(INGOT_RULE_ENTRY, "no entry 'step'");
    }
    v->file.step_first = step->first;
    v->file.step_count = step->count;
    v->file.step_input = step->input;
    v->file.step_output = step->output;
    return INGOT_OK;
}

static ingot_status check_op(const ingot_instruction *item, uint32_t index) {
    const ingot_op_spec *spec = ingot_op_spec_of(item->opcode);
    if (spec == NULL) {
        return INGOT_REFUSE(INGOT_RULE_OPCODE, "instruction %" PRIu32 ": unknown opcode %u", index, item->opcode);
    }
    if (item->version != spec->version) {
        return INGOT_REFUSE(INGOT_RULE_OP_VERSION,
                            "instruction %" PRIu32 ": %s version %u, this reader has %" PRIu32 "; use a newer ingot",
                            index, spec->name, item->version, spec->version);
    }
    uint32_t known = item->opcode == INGOT_OPCODE_LINEAR ? INGOT_LINEAR_FLAG_BIAS | INGOT_LINEAR_FLAG_RESIDUAL : 0;
    if ((item->flags & ~known) != 0) {
        return INGOT_REFUSE(INGOT_RULE_OP_FLAGS, "instruction %" PRIu32 ": flags %#" PRIx32 ", %s has %#" PRIx32, index,
                            item->flags, spec->name, known);
    }
    if (!ingot_all_zero(item->reserved, sizeof item->reserved)) {
        return INGOT_REFUSE(INGOT_RULE_PROGRAM_RESERVED, "instruction %" PRIu32 ": reserved bytes are set", index);
    }
    return INGOT_OK;
}

static ingot_status check_ranges(const ingot_validation *v, uint32_t index) {
    const ingot_instruction *item = &v->file.instructions[index];
    uint64_t operands = (uint64_t)item->inputs + item->outputs;
    if (!ingot_fits(item->first_operand, operands, v->file.operand_count)) {
        return INGOT_REFUSE(INGOT_RULE_OPERAND_RANGE,
                            "instruction %" PRIu32 ": %" PRIu64 " operands from %" PRIu32 " of %" PRIu32, index,
                            operands, item->first_operand, v->file.operand_count);
    }
    uint32_t size = ingot_op_spec_of(item->opcode)->parameters_size;
    if (item->parameters_size != size || item->parameters_offset % 4 != 0 ||
        !ingot_fits(item->parameters_offset, size, v->parameters_size) || (size == 0 && item->parameters_offset != 0)) {
        return INGOT_REFUSE(INGOT_RULE_PARAMETERS_RANGE,
                            "instruction %" PRIu32 ": parameters of %" PRIu32 " bytes at %" PRIu64 " of %" PRIu64
                            ", the op takes %" PRIu32 " bytes at a multiple of 4",
                            index, item->parameters_size, item->parameters_offset, v->parameters_size, size);
    }
    return INGOT_OK;
}

static bool entry_operand_good(const ingot_validation *v, uint32_t id, uint32_t dtype, uint32_t rows) {
    if (id >= v->file.tensor_count) {
        return false;
    }
    const ingot_tensor_record *tensor = &v->file.tensors[id];
    return tensor->role == INGOT_ROLE_ACTIVATION && tensor->dtype == dtype && tensor->rows == rows;
}

static ingot_status check_entry_operands(const ingot_validation *v, const ingot_entry_record *entry) {
    if (!entry_operand_good(v, entry->input, INGOT_DTYPE_I32, INGOT_ROWS_TOKENS)) {
        return INGOT_REFUSE(INGOT_RULE_ENTRY_OPERAND, "entry '%.16s': input %" PRIu32 " is not the token ids",
                            (const char *)entry->name, entry->input);
    }
    if (!entry_operand_good(v, entry->output, INGOT_DTYPE_F32, INGOT_ROWS_SELECTED)) {
        return INGOT_REFUSE(INGOT_RULE_ENTRY_OPERAND,
                            "entry '%.16s': output %" PRIu32 " is no f32 activation of the selected rows",
                            (const char *)entry->name, entry->output);
    }
    return INGOT_OK;
}

ingot_status ingot_validate_program(ingot_validation *v) {
    ingot_status status = check_section(v);
    if (status == INGOT_OK) {
        status = check_entries(v);
    }
    for (uint32_t i = 0; status == INGOT_OK && i < v->file.instruction_count; i++) {
        status = check_op(&v->file.instructions[i], i);
        status = status != INGOT_OK ? status : check_ranges(v, i);
        status = status != INGOT_OK ? status : ingot_validate_operands(v, i);
    }
    for (uint32_t i = 0; status == INGOT_OK && i < v->file.entry_count; i++) {
        status = check_entry_operands(v, &v->file.entries[i]);
    }
    return status;
}
