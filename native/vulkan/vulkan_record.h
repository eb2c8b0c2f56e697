/* SPDX-License-Identifier: Apache-2.0 */
/* From instructions to dispatches. The same walk prepares descriptor sets and pipelines when a session opens and records
 * commands later. */
#ifndef INGOT_VULKAN_RECORD_H
#define INGOT_VULKAN_RECORD_H

#include "vulkan/vulkan_session.h"

typedef struct ingot_vulkan_recorder {
    ingot_vulkan_session *session;
    VkCommandBuffer commands; /* VK_NULL_HANDLE: descriptor sets are written and pipelines made instead */
    uint32_t m, selected;
    uint32_t instruction;
    bool pending; /* something was dispatched since the last barrier */
} ingot_vulkan_recorder;

/* One dispatch. Bindings without a buffer are bound to something that nobody reads. */
typedef struct ingot_vulkan_dispatch {
    const char *shader;
    uint32_t flags; /* specialization constant 1 */
    uint32_t slot; /* descriptor set, of those of the instruction */
    uint32_t x, y, z;
    bool indirect; /* x, y, z come from the instruction's indirect command */
    VkDescriptorBufferInfo bindings[INGOT_VULKAN_BINDINGS];
    uint32_t words[INGOT_VULKAN_WORDS];
} ingot_vulkan_dispatch;

/* Rows of an activation as a shader reads them. */
typedef struct ingot_vulkan_rows {
    VkDescriptorBufferInfo binding;
    uint32_t base, stride; /* floats */
    uint32_t width;
    uint32_t count; /* of this pass */
} ingot_vulkan_rows;

/** Dispatches or prepares; sizes of 0 are left out. */
ingot_status ingot_vulkan_emit(ingot_vulkan_recorder *recorder, const ingot_vulkan_dispatch *dispatch);
/** What was dispatched is done and can be read. */
void ingot_vulkan_barrier(ingot_vulkan_recorder *recorder);
ingot_vulkan_rows ingot_vulkan_rows_at(const ingot_vulkan_recorder *recorder, uint32_t tensor);
VkDescriptorBufferInfo ingot_vulkan_whole(const ingot_vulkan_buffer *buffer);
static inline VkDescriptorBufferInfo ingot_vulkan_piece_binding(const ingot_vulkan_piece *piece) {
    return (VkDescriptorBufferInfo){piece->buffer, piece->offset, piece->range};
}
/** The only piece of a constant. */
const ingot_vulkan_piece *ingot_vulkan_constant(const ingot_vulkan_recorder *recorder, uint32_t tensor);

/** Descriptor sets that an instruction may need. */
uint32_t ingot_vulkan_slots_of(const ingot_vulkan_model *model, uint32_t instruction);
/** Instructions [first, first + count) and, where the logits are among their results, the best of them. */
ingot_status ingot_vulkan_record_range(ingot_vulkan_recorder *recorder, uint32_t first, uint32_t count);

/* The ops. */
ingot_status ingot_vulkan_record_linear(ingot_vulkan_recorder *recorder);
ingot_status ingot_vulkan_record_embed(ingot_vulkan_recorder *recorder);
ingot_status ingot_vulkan_record_norm(ingot_vulkan_recorder *recorder);
ingot_status ingot_vulkan_record_rope(ingot_vulkan_recorder *recorder);
ingot_status ingot_vulkan_record_elementwise(ingot_vulkan_recorder *recorder);
ingot_status ingot_vulkan_record_attention(ingot_vulkan_recorder *recorder);
/** Workgroups of the split attention of an instruction at a position. */
VkDispatchIndirectCommand ingot_vulkan_attention_groups(const ingot_vulkan_session *session, uint32_t instruction,
                                                        uint32_t m, uint32_t position);

static inline uint32_t ingot_vulkan_ceiling(uint32_t value, uint32_t step) { return (value + step - 1) / step; }

static inline uint32_t ingot_vulkan_bits(float value) {
    union {
        float value;
        uint32_t bits;
    } both = {value};
    return both.bits;
}

#endif
