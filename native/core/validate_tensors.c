/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/layout.h"
#include "core/sort.h"
#include "core/validate.h"

/* Arguments for TENSOR; a message shows at most 80 bytes of a name. */
#define WHERE(v, t) (t)->id, shown(t), (v)->file.names + (t)->name_offset
#define TENSOR "tensor %" PRIu32 " '%.*s': "

static int shown(const ingot_tensor_record *t) { return t->name_size < 80 ? (int)t->name_size : 80; }

static bool stored(const ingot_tensor_record *t) {
    return t->role == INGOT_ROLE_WEIGHT || t->role == INGOT_ROLE_CONSTANT;
}

/* Shortest form only, no surrogates, at most U+10FFFF. Source: Unicode 15, table 3-7. */
static bool is_utf8(const uint8_t *text, uint32_t size) {
    for (uint32_t i = 0; i < size;) {
        uint8_t first = text[i++];
        uint32_t more = first < 0x80 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
        if (first > 0xF4 || (first >= 0x80 && first < 0xC2) || more > size - i) {
            return false;
        }
        for (uint32_t k = 0; k < more; k++, i++) {
            uint8_t low = 0x80, high = 0xBF;
            if (k == 0) {
                low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
                high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
            }
            if (text[i] < low || text[i] > high) {
                return false;
            }
        }
    }
    return true;
}

static ingot_status check_name(const ingot_validation *v, const ingot_tensor_record *t, uint32_t index) {
    if (t->id != index) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_ID, "tensor %" PRIu32 ": its record says id %" PRIu32, index, t->id);
    }
    if (t->name_size < 1 || t->name_size > 255 || !ingot_fits(t->name_offset, t->name_size, v->names_size)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_NAME,
                            "tensor %" PRIu32 ": name of %" PRIu32 " bytes at %" PRIu32 " of %" PRIu64
                            ", expected 1 to 255 inside",
                            index, t->name_size, t->name_offset, v->names_size);
    }
    if (!is_utf8((const uint8_t *)v->file.names + t->name_offset, t->name_size)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_NAME, "tensor %" PRIu32 ": name is not UTF-8", index);
    }
    return INGOT_OK;
}

static bool role_good(const ingot_tensor_record *t) {
    bool rows = t->role == INGOT_ROLE_ACTIVATION ? t->rows == INGOT_ROWS_TOKENS || t->rows == INGOT_ROWS_SELECTED
                                                 : t->rows == INGOT_ROWS_NONE;
    uint32_t kind = t->role == INGOT_ROLE_STATE ? INGOT_STATE_KIND_APPEND : INGOT_STATE_KIND_NONE;
    return t->role >= INGOT_ROLE_WEIGHT && t->role <= INGOT_ROLE_STATE && rows && t->state_kind == kind;
}

static bool dtype_good(const ingot_tensor_record *t) {
    switch (t->role) {
        case INGOT_ROLE_WEIGHT: return ingot_weight_scale_kind(t->dtype) >= 0;
        case INGOT_ROLE_CONSTANT: return t->dtype == INGOT_DTYPE_F32;
        case INGOT_ROLE_STATE: return t->dtype == INGOT_DTYPE_F16;
        default: return t->dtype == INGOT_DTYPE_F32 || (t->dtype == INGOT_DTYPE_I32 && t->rows == INGOT_ROWS_TOKENS);
    }
}

static ingot_status check_kind(const ingot_validation *v, const ingot_tensor_record *t) {
    bool weight = t->role == INGOT_ROLE_WEIGHT;
    if (!role_good(t)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_ROLE, TENSOR "role %u with rows %u and state kind %u", WHERE(v, t),
                            t->role, t->rows, t->state_kind);
    }
    if (!dtype_good(t)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_DTYPE, TENSOR "dtype %u is unknown, reserved or not possible for role %u",
                            WHERE(v, t), t->dtype, t->role);
    }
    int scale_kind = weight ? ingot_weight_scale_kind(t->dtype) : INGOT_SCALE_KIND_NONE;
    if (t->scale_kind != scale_kind) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_SCALE_KIND, TENSOR "scale kind %u, dtype %u has %d", WHERE(v, t),
                            t->scale_kind, t->dtype, scale_kind);
    }
    if (weight ? !ingot_layout_valid(t->dtype, t->layout) : t->layout != INGOT_LAYOUT_PLAIN) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_LAYOUT, TENSOR "layout %u, which role %u with dtype %u does not have",
                            WHERE(v, t), t->layout, t->role, t->dtype);
    }
    if (t->sparsity > (weight ? INGOT_SPARSITY_SUPERBLOCK : INGOT_SPARSITY_DENSE)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_SPARSITY, TENSOR "sparsity %u, which role %u does not have", WHERE(v, t),
                            t->sparsity, t->role);
    }
    return INGOT_OK;
}

static bool rank_good(const ingot_tensor_record *t) {
    switch (t->role) {
        case INGOT_ROLE_WEIGHT: return t->rank == 2;
        case INGOT_ROLE_CONSTANT: return t->rank >= 1 && t->rank <= INGOT_MAX_RANK;
        case INGOT_ROLE_STATE: return t->rank == 3;
        default: return t->rank == (t->dtype == INGOT_DTYPE_I32 ? 1 : 2);
    }
}

static ingot_status check_shape(const ingot_validation *v, const ingot_tensor_record *t) {
    if (!rank_good(t)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_RANK, TENSOR "rank %u is not possible for role %u", WHERE(v, t), t->rank,
                            t->role);
    }
    uint32_t dynamic = t->role == INGOT_ROLE_ACTIVATION ? 0 : t->role == INGOT_ROLE_STATE ? 1 : INGOT_MAX_RANK;
    for (uint32_t axis = 0; axis < INGOT_MAX_RANK; axis++) {
        bool empty = axis >= t->rank || axis == dynamic;
        uint64_t least = empty ? 0 : 1, most = empty ? 0 : INGOT_MAX_DIMENSION;
        if (t->shape[axis] < least || t->shape[axis] > most) {
            return INGOT_REFUSE(INGOT_RULE_TENSOR_SHAPE,
                                TENSOR "dimension %" PRIu32 " is %" PRIu64 ", expected %" PRIu64 " to %" PRIu64,
                                WHERE(v, t), axis, t->shape[axis], least, most);
        }
    }
    bool weight = t->role == INGOT_ROLE_WEIGHT;
    if (weight ? !ingot_group_valid(t->dtype, t->group) : t->group != 0) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_GROUP, TENSOR "group %" PRIu32 ", which dtype %u does not have",
                            WHERE(v, t), t->group, t->dtype);
    }
    return INGOT_OK;
}

static ingot_status check_unused(const ingot_validation *v, const ingot_tensor_record *t) {
    uint32_t used = ingot_codebook_entries(t->dtype);
    int32_t limit = used != 0 ? 127 : 0;
    if (!ingot_all_zero((const uint8_t *)t->codebook + used, sizeof t->codebook - used) || t->delta < -limit ||
        t->delta > limit || !ingot_all_zero(t->reserved, sizeof t->reserved)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_RESERVED,
                            TENSOR "reserved or unused bytes are set, or delta %" PRId32 " is beyond %" PRId32,
                            WHERE(v, t), t->delta, limit);
    }
    bool placed = stored(t) || ingot_in_arena(t);
    if (!placed && t->offset != 0) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_RESERVED,
                            TENSOR "offset %" PRIu64 " of a tensor that has no place, expected 0", WHERE(v, t),
                            t->offset);
    }
    return INGOT_OK;
}

/* Bytes that shape and format give; 0 if they do not fit 63 bits. */
static uint64_t expected_size(const ingot_tensor_record *t) {
    uint64_t size = sizeof(float);
    switch (t->role) {
        case INGOT_ROLE_WEIGHT: return ingot_packed_bytes(t->dtype, t->shape[0], t->shape[1], t->group);
        case INGOT_ROLE_STATE: return t->shape[0] * t->shape[2] * 2;
        case INGOT_ROLE_CONSTANT:
            for (uint32_t axis = 0; axis < t->rank; axis++) {
                if (!ingot_multiply(size, t->shape[axis], &size)) {
                    return 0;
                }
            }
            return size;
        default: return t->dtype == INGOT_DTYPE_I32 ? 4 : ingot_round_up(t->shape[1] * 4, INGOT_ROW_ALIGNMENT);
    }
}

static bool sparse(const ingot_tensor_record *t) { return t->sparsity == INGOT_SPARSITY_SUPERBLOCK; }

/* Lists are what kernels trust, so that they are read now; the size of a sparse weight is what they add up to. */
static ingot_status check_superblocks(const ingot_validation *v, const ingot_tensor_record *t) {
    const uint8_t *data = ingot_section_bytes(v, INGOT_SECTION_WEIGHTS) + t->offset;
    if (!ingot_sparse_walk(t->dtype, t->shape[0], t->shape[1], t->group, data, t->size, NULL)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_SUPERBLOCKS,
                            TENSOR
                            "a list of superblocks is out of order or range, badly padded, or the tiles do not "
                            "add up to %" PRIu64 " bytes",
                            WHERE(v, t), t->size);
    }
    return INGOT_OK;
}

static ingot_status check_place(const ingot_validation *v, const ingot_tensor_record *t, uint64_t *end) {
    uint64_t size = expected_size(t);
    if (size == 0 || (t->size != size && !sparse(t))) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_SIZE,
                            TENSOR "size %" PRIu64 ", shape and format give %" PRIu64 " (0: too large)", WHERE(v, t),
                            t->size, size);
    }
    if (!stored(t) && !ingot_in_arena(t)) {
        return INGOT_OK;
    }
    uint64_t alignment = stored(t) ? INGOT_TENSOR_ALIGNMENT : INGOT_ROW_ALIGNMENT;
    if (t->offset % alignment != 0) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_ALIGNMENT, TENSOR "offset %" PRIu64 " is no multiple of %" PRIu64,
                            WHERE(v, t), t->offset, alignment);
    }
    const ingot_plan_header *plan = v->file.plan;
    uint64_t arena = t->rows == INGOT_ROWS_TOKENS ? plan->arena_bytes_per_token : plan->arena_bytes_per_selected;
    uint64_t room = stored(t) ? v->file.weights_size : arena;
    if (!ingot_fits(t->offset, t->size, room)) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_RANGE, TENSOR "%" PRIu64 " bytes at %" PRIu64 " end beyond %" PRIu64,
                            WHERE(v, t), t->size, t->offset, room);
    }
    if (stored(t)) {
        if (t->offset < *end) {
            return INGOT_REFUSE(INGOT_RULE_TENSOR_OVERLAP,
                                TENSOR "starts at %" PRIu64 ", before byte %" PRIu64 " where the tensor before it ends",
                                WHERE(v, t), t->offset, *end);
        }
        *end = t->offset + t->size;
    }
    return sparse(t) ? check_superblocks(v, t) : INGOT_OK;
}

static int compare_names(const ingot_validation *v, uint32_t a, uint32_t b) {
    const ingot_tensor_record *x = &v->file.tensors[a], *y = &v->file.tensors[b];
    if (x->name_size != y->name_size) {
        return x->name_size < y->name_size ? -1 : 1;
    }
    return memcmp(v->file.names + x->name_offset, v->file.names + y->name_offset, x->name_size);
}

static bool name_less(const void *context, uint32_t a, uint32_t b) { return compare_names(context, a, b) < 0; }

static ingot_status check_doubles(const ingot_validation *v) {
    uint32_t count = v->file.tensor_count;
    uint32_t *ids = malloc(((size_t)count + 1) * sizeof *ids);
    if (ids == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory to compare %" PRIu32 " tensor names", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        ids[i] = i;
    }
    ingot_sort(ids, count, name_less, v);
    ingot_status status = INGOT_OK;
    for (uint32_t i = 1; status == INGOT_OK && i < count; i++) {
        if (compare_names(v, ids[i - 1], ids[i]) == 0) {
            const ingot_tensor_record *t = &v->file.tensors[ids[i]];
            status = INGOT_REFUSE(INGOT_RULE_TENSOR_NAME, TENSOR "tensor %" PRIu32 " has the same name", WHERE(v, t),
                                  ids[i - 1]);
        }
    }
    free(ids);
    return status;
}

static ingot_status check_section(ingot_validation *v) {
    const ingot_tensors_header *header = (const void *)ingot_section_bytes(v, INGOT_SECTION_TENSORS);
    uint64_t size = v->sections[INGOT_SECTION_TENSORS]->size;
    if (size < sizeof *header) {
        return INGOT_REFUSE(INGOT_RULE_TENSORS_SIZE, "section tensors has %" PRIu64 " bytes", size);
    }
    uint64_t names_offset = sizeof *header + (uint64_t)header->count * sizeof(ingot_tensor_record);
    if (header->count > INGOT_MAX_TENSORS || header->record_size != sizeof(ingot_tensor_record) ||
        header->names_offset != names_offset || names_offset > size || header->names_size != size - names_offset) {
        return INGOT_REFUSE(INGOT_RULE_TENSORS_SIZE,
                            "section tensors: %" PRIu32 " records of %" PRIu32 " bytes and names at %" PRIu64
                            " of %" PRIu64 " bytes do not add up to %" PRIu64,
                            header->count, header->record_size, header->names_offset, header->names_size, size);
    }
    if (header->reserved != 0) {
        return INGOT_REFUSE(INGOT_RULE_TENSOR_RESERVED, "section tensors: reserved field is set");
    }
    v->file.tensors = (const void *)(header + 1);
    v->file.tensor_count = header->count;
    v->file.names = (const char *)header + names_offset;
    v->names_size = header->names_size;
    return INGOT_OK;
}

ingot_status ingot_validate_tensors(ingot_validation *v) {
    ingot_status status = check_section(v);
    uint64_t end = 0;
    for (uint32_t i = 0; status == INGOT_OK && i < v->file.tensor_count; i++) {
        const ingot_tensor_record *t = &v->file.tensors[i];
        status = check_name(v, t, i);
        status = status != INGOT_OK ? status : check_kind(v, t);
        status = status != INGOT_OK ? status : check_shape(v, t);
        status = status != INGOT_OK ? status : check_unused(v, t);
        status = status != INGOT_OK ? status : check_place(v, t, &end);
    }
    return status != INGOT_OK ? status : check_doubles(v);
}
