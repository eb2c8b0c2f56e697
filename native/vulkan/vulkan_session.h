/* SPDX-License-Identifier: Apache-2.0 */
/* A session: buffers, descriptor sets and recorded commands, all made when it opens. */
#ifndef INGOT_VULKAN_SESSION_H
#define INGOT_VULKAN_SESSION_H

#include "vulkan/vulkan_model.h"

enum {
    INGOT_VULKAN_FEW = 8,        /* tokens that linear_few.comp and splits of the context take */
    INGOT_VULKAN_RECORDINGS = 16,
    INGOT_VULKAN_MOST_PICKS = 64,
    INGOT_VULKAN_SLICE = 2048,   /* logits of a workgroup of picks.comp */
    INGOT_VULKAN_SPLIT_BLOCKS = 4, /* least blocks of 64 positions of a split */
    INGOT_VULKAN_MOST_SPLITS = 64
};

/* Head of the pass buffer, as interface.glsl has it; the tokens follow. */
typedef struct ingot_vulkan_pass_head {
    uint32_t position, m, selected, picks;
} ingot_vulkan_pass_head;

/* Keys and values of one attention: block i at i * bytes; in a block of the CPU they lie at `offset`. */
typedef struct ingot_vulkan_state {
    ingot_vulkan_buffer buffer;
    uint64_t offset, bytes, key_bytes, head_bytes;
} ingot_vulkan_state;

/* Commands of a pass; position and tokens are not in them, so that they serve every pass of that shape. */
typedef struct ingot_vulkan_recording {
    uint32_t first, count, m, selected; /* m 0: nothing is recorded */
    uint64_t used;                      /* when, in passes */
    VkCommandBuffer commands;
} ingot_vulkan_recording;

typedef struct ingot_vulkan_session {
    ingot_vulkan_model *model;
    ingot_backend_session_config config;
    ingot_vulkan_buffer arenas[2];  /* rows of tokens, selected rows */
    ingot_vulkan_buffer scratch;    /* int8 activations with their scales: per 32 k, then per token */
    uint64_t scratch_codes, scratch_groups; /* bytes of both parts of one of these */
    ingot_vulkan_buffer partials;   /* of attention, split over the context */
    ingot_vulkan_buffer picks;
    ingot_vulkan_buffer pass;       /* ingot_vulkan_pass_head, tokens */
    ingot_vulkan_buffer indirect;   /* a VkDispatchIndirectCommand, padded to 16 bytes, of each instruction */
    ingot_vulkan_transfer transfer;
    ingot_vulkan_state *states; /* (instruction_count), of attentions */
    uint32_t split_blocks, splits;
    uint32_t *slots; /* (instruction_count + 2): first descriptor set of each instruction; the last but one picks */
    VkDescriptorPool set_pool;
    VkDescriptorSet *sets;
    VkCommandPool command_pool;
    VkFence fence;
    ingot_vulkan_recording recordings[INGOT_VULKAN_RECORDINGS];
    uint64_t passes;
    ingot_backend_pass last;
    uint64_t state_bytes;
} ingot_vulkan_session;

ingot_status ingot_vulkan_session_open(void *model, const ingot_backend_session_config *config, void **session);
void ingot_vulkan_session_close(void *session);

ingot_status ingot_vulkan_run(void *session, const ingot_backend_pass *pass);
ingot_status ingot_vulkan_write(void *session, uint32_t tensor, uint32_t rows, const float *data, size_t stride);
ingot_status ingot_vulkan_read(void *session, uint32_t tensor, uint32_t rows, float *data, size_t stride);
ingot_status ingot_vulkan_picks(void *session, uint32_t row, ingot_backend_pick *picks, uint32_t *count);
ingot_status ingot_vulkan_state_write(void *session, uint32_t block, const uint8_t *data);
ingot_status ingot_vulkan_state_read(void *session, uint32_t block, uint8_t *data);
void ingot_vulkan_memory(const void *session, ingot_backend_memory *info);

/** The arena of an activation and where its row 0 starts in it, in bytes. */
const ingot_vulkan_buffer *ingot_vulkan_arena_of(const ingot_vulkan_session *session, uint32_t tensor, uint64_t *start);
/** Rows that the arena of an activation has. */
uint32_t ingot_vulkan_rows_of(const ingot_vulkan_session *session, uint32_t tensor);

#endif
