/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers, each with memory of its own, and copies between them and the host. */
#ifndef INGOT_VULKAN_MEMORY_H
#define INGOT_VULKAN_MEMORY_H

#include "vulkan/vulkan_device.h"

typedef struct ingot_vulkan_buffer {
    VkBuffer buffer;
    VkDeviceMemory memory;
    uint64_t size;
    uint8_t *mapped; /* NULL: by way of a transfer */
} ingot_vulkan_buffer;

/* Where a buffer lies. */
typedef enum ingot_vulkan_place {
    INGOT_VULKAN_DEVICE, /* the device's memory; mapped where that is the CPU's too */
    INGOT_VULKAN_HOST    /* always mapped */
} ingot_vulkan_place;

/* A way for bytes that are not mapped: a mapped buffer and commands that copy. Used by one thread at a time. */
typedef struct ingot_vulkan_transfer {
    VkCommandPool pool;
    VkCommandBuffer commands;
    VkFence fence;
    ingot_vulkan_buffer staging;
} ingot_vulkan_transfer;

/** A buffer of zeros or of nothing in particular. @return INGOT_ERROR_OUT_OF_MEMORY, _HARDWARE. */
ingot_status ingot_vulkan_buffer_open(ingot_vulkan_device *device, uint64_t size, ingot_vulkan_place place,
                                      ingot_vulkan_buffer *buffer);
/** A buffer over host memory that the device reads in place.
 * @param data aligned to traits.import_alignment, and readable to the end of the last such unit. */
ingot_status ingot_vulkan_buffer_import(ingot_vulkan_device *device, const void *data, uint64_t size,
                                        ingot_vulkan_buffer *buffer);
void ingot_vulkan_buffer_close(ingot_vulkan_device *device, ingot_vulkan_buffer *buffer);

ingot_status ingot_vulkan_transfer_open(ingot_vulkan_device *device, uint64_t room, ingot_vulkan_transfer *transfer);
void ingot_vulkan_transfer_close(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer);
/** Copies into, or out of, a buffer; straight where it is mapped, else in pieces of the staging buffer. */
ingot_status ingot_vulkan_copy_in(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer,
                                  const ingot_vulkan_buffer *to, uint64_t offset, const void *data, uint64_t size);
ingot_status ingot_vulkan_copy_out(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer,
                                   const ingot_vulkan_buffer *from, uint64_t offset, void *data, uint64_t size);

#endif
