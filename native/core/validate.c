/* SPDX-License-Identifier: Apache-2.0 */
/* Facts of the format that several checks need. */
#include "core/validate.h"

#include <stddef.h>

static const ingot_op_spec OPS[] = {
#define ROW(name, opcode, version, inputs, outputs, size) {#name, inputs, outputs, opcode, version, size},
    INGOT_OPS(ROW)
#undef ROW
};

ingot_status ingot_rule_status(uint32_t rule) {
    switch (rule) {
        case INGOT_RULE_VERSION: return INGOT_ERROR_VERSION;
        case INGOT_RULE_HEADER_CHECKSUM:
        case INGOT_RULE_SECTION_DIGEST: return INGOT_ERROR_CHECKSUM;
        case INGOT_RULE_SECTION_UNKNOWN:
        case INGOT_RULE_OPCODE:
        case INGOT_RULE_OP_VERSION:
        case INGOT_RULE_REQUIRED_UNSUPPORTED: return INGOT_ERROR_UNSUPPORTED;
        default: return INGOT_ERROR_FORMAT;
    }
}

const ingot_op_spec *ingot_op_spec_of(uint32_t opcode) {
    for (size_t i = 0; i < sizeof OPS / sizeof OPS[0]; i++) {
        if (OPS[i].opcode == opcode) {
            return &OPS[i];
        }
    }
    return NULL;
}

int ingot_weight_scale_kind(uint32_t dtype) {
    switch (dtype) {
        case INGOT_DTYPE_F16: return INGOT_SCALE_KIND_NONE;
        case INGOT_DTYPE_Q8:
        case INGOT_DTYPE_Q4: return INGOT_SCALE_KIND_F16_GROUP;
        case INGOT_DTYPE_Q4Z: return INGOT_SCALE_KIND_F16_ZERO8_GROUP;
        case INGOT_DTYPE_Q6: return INGOT_SCALE_KIND_I8_ROW16;
        case INGOT_DTYPE_C5:
        case INGOT_DTYPE_C4:
        case INGOT_DTYPE_C3:
        case INGOT_DTYPE_C2: return INGOT_SCALE_KIND_SUB8_ROW16;
        case INGOT_DTYPE_T2: return INGOT_SCALE_KIND_F32_ROW;
        default: return -1;
    }
}

bool ingot_all_zero(const uint8_t *data, uint64_t size) {
    for (uint64_t i = 0; i < size; i++) {
        if (data[i] != 0) {
            return false;
        }
    }
    return true;
}
