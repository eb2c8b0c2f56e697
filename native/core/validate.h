/* SPDX-License-Identifier: Apache-2.0 */
/* The checks of a file, one function per section. The order of all checks is that of the Python reader
 * (ingot.container), so that both name the same rule for the same broken file. */
#ifndef INGOT_VALIDATE_H
#define INGOT_VALIDATE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"
#include "core/file.h"
#include "ingot_format.h"

enum { INGOT_SECTION_KINDS = INGOT_SECTION_SIGNATURE + 1, INGOT_DTYPES = INGOT_DTYPE_T2 + 1 };

/* What the checks find on their way. Everything points into the file. */
typedef struct ingot_validation {
    ingot_file file;
    const ingot_section_record *sections[INGOT_SECTION_KINDS]; /* by kind, NULL if absent */
    const ingot_required_record *required;
    uint32_t required_count;
    uint64_t names_size;
    uint64_t parameters_size;
} ingot_validation;

/* Signature of one op from INGOT_OPS. */
typedef struct ingot_op_spec {
    const char *name;
    const char *inputs;
    const char *outputs;
    uint32_t opcode;
    uint32_t version;
    uint32_t parameters_size;
} ingot_op_spec;

/** Sets the message and the rule; the status follows from the rule. */
#define INGOT_REFUSE(rule, ...) ingot_fail_rule(ingot_rule_status(rule), (rule), __VA_ARGS__)

ingot_status ingot_rule_status(uint32_t rule);
/** NULL for an unknown opcode. */
const ingot_op_spec *ingot_op_spec_of(uint32_t opcode);
/** The scale kind of a weight format; -1 for a dtype that is none. */
int ingot_weight_scale_kind(uint32_t dtype);
bool ingot_all_zero(const uint8_t *data, uint64_t size);

static inline const uint8_t *ingot_section_bytes(const ingot_validation *v, uint32_t kind) {
    return v->file.data + v->sections[kind]->offset;
}

/** True for an activation that lies in an arena: f32, not the token ids. */
static inline bool ingot_in_arena(const ingot_tensor_record *tensor) {
    return tensor->role == INGOT_ROLE_ACTIVATION && tensor->dtype == INGOT_DTYPE_F32;
}

ingot_status ingot_validate_header(ingot_validation *v);
ingot_status ingot_validate_required(ingot_validation *v);
ingot_status ingot_validate_plan(ingot_validation *v);
ingot_status ingot_validate_tensors(ingot_validation *v);
ingot_status ingot_validate_program(ingot_validation *v);
/** Operands, parameter values and shapes of an instruction whose record has passed. */
ingot_status ingot_validate_operands(const ingot_validation *v, uint32_t index);
ingot_status ingot_validate_liveness(const ingot_validation *v);
/** Required and plan against the program. */
ingot_status ingot_validate_required_covers(const ingot_validation *v);
ingot_status ingot_validate_plan_covers(const ingot_validation *v);

#endif
