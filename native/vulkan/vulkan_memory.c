/* SPDX-License-Identifier: Apache-2.0 */
#include "vulkan/vulkan_memory.h"

#include <string.h>

static const VkBufferUsageFlags USAGE = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                                        VK_BUFFER_USAGE_TRANSFER_DST_BIT | VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT;

enum {
    MAPPED = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
    CACHED = MAPPED | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
    LOCAL = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
};

/* Kinds of memory, the best first. */
static const VkMemoryPropertyFlags UNIFIED_KINDS[] = {LOCAL | CACHED, LOCAL | MAPPED, CACHED, MAPPED};
static const VkMemoryPropertyFlags DEVICE_KINDS[] = {LOCAL, 0, 0, 0};
static const VkMemoryPropertyFlags HOST_KINDS[] = {CACHED, MAPPED, MAPPED, MAPPED};

static uint32_t find_type(const ingot_vulkan_device *device, uint32_t possible, const VkMemoryPropertyFlags kinds[4]) {
    const VkPhysicalDeviceMemoryProperties *memory = &device->traits.memory;
    for (uint32_t kind = 0; kind < 4; kind++) {
        for (uint32_t i = 0; i < memory->memoryTypeCount; i++) {
            if ((possible >> i & 1) != 0 && (memory->memoryTypes[i].propertyFlags & kinds[kind]) == kinds[kind]) {
                return i;
            }
        }
    }
    return UINT32_MAX;
}

static ingot_status create_buffer(ingot_vulkan_device *device, uint64_t size, const void *next,
                                  ingot_vulkan_buffer *buffer, VkMemoryRequirements *needs) {
    *buffer = (ingot_vulkan_buffer){.size = size};
    const VkBufferCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .pNext = next, .size = size, .usage = USAGE};
    const VkResult result = device->vk.CreateBuffer(device->device, &info, NULL, &buffer->buffer);
    if (result == VK_SUCCESS) {
        device->vk.GetBufferMemoryRequirements(device->device, buffer->buffer, needs);
    }
    return ingot_vulkan_check(result, "vkCreateBuffer");
}

static ingot_status give_memory(ingot_vulkan_device *device, const VkMemoryAllocateInfo *info, bool map,
                                ingot_vulkan_buffer *buffer) {
    VkResult result = device->vk.AllocateMemory(device->device, info, NULL, &buffer->memory);
    ingot_status status = ingot_vulkan_check(result, "vkAllocateMemory");
    if (status == INGOT_OK) {
        result = device->vk.BindBufferMemory(device->device, buffer->buffer, buffer->memory, 0);
        status = ingot_vulkan_check(result, "vkBindBufferMemory");
    }
    void *mapped = NULL;
    if (status == INGOT_OK && map) {
        result = device->vk.MapMemory(device->device, buffer->memory, 0, VK_WHOLE_SIZE, 0, &mapped);
        status = ingot_vulkan_check(result, "vkMapMemory");
    }
    buffer->mapped = mapped;
    if (status != INGOT_OK) {
        ingot_vulkan_buffer_close(device, buffer);
    }
    return status;
}

ingot_status ingot_vulkan_buffer_open(ingot_vulkan_device *device, uint64_t size, ingot_vulkan_place place,
                                      ingot_vulkan_buffer *buffer) {
    VkMemoryRequirements needs;
    const bool mapped = place == INGOT_VULKAN_HOST || device->unified;
    const VkMemoryPropertyFlags *kinds =
        place == INGOT_VULKAN_HOST ? HOST_KINDS : (device->unified ? UNIFIED_KINDS : DEVICE_KINDS);
    ingot_status status = create_buffer(device, (size + 255) / 256 * 256 + 256, NULL, buffer, &needs);
    if (status != INGOT_OK) {
        return status;
    }
    const VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                       .allocationSize = needs.size,
                                       .memoryTypeIndex = find_type(device, needs.memoryTypeBits, kinds)};
    if (info.memoryTypeIndex == UINT32_MAX) {
        ingot_vulkan_buffer_close(device, buffer);
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "the device has no memory that the host can map");
    }
    return give_memory(device, &info, mapped, buffer);
}

ingot_status ingot_vulkan_buffer_import(ingot_vulkan_device *device, const void *data, uint64_t size,
                                        ingot_vulkan_buffer *buffer) {
    const VkExternalMemoryHandleTypeFlagBits kind = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    const uint64_t unit = device->traits.import_alignment;
    const VkExternalMemoryBufferCreateInfo external = {.sType = VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO,
                                                       .handleTypes = kind};
    VkMemoryHostPointerPropertiesEXT host = {.sType = VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT};
    VkMemoryRequirements needs;
    /* The device only reads; Vulkan has no way to say so, and a driver may refuse pages that it cannot write. */
    void *pages = (void *)(uintptr_t)data;
    VkResult result = device->vk.GetMemoryHostPointerPropertiesEXT(device->device, kind, pages, &host);
    if (result != VK_SUCCESS) {
        return ingot_vulkan_check(result, "vkGetMemoryHostPointerPropertiesEXT");
    }
    ingot_status status = create_buffer(device, size, &external, buffer, &needs);
    if (status != INGOT_OK) {
        return status;
    }
    const uint32_t possible = needs.memoryTypeBits & host.memoryTypeBits;
    const VkImportMemoryHostPointerInfoEXT import = {
        .sType = VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT, .handleType = kind, .pHostPointer = pages};
    const VkMemoryAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                       .pNext = &import,
                                       .allocationSize = (size + unit - 1) / unit * unit,
                                       .memoryTypeIndex = find_type(device, possible, DEVICE_KINDS)};
    if (info.memoryTypeIndex == UINT32_MAX || needs.size > info.allocationSize) {
        ingot_vulkan_buffer_close(device, buffer);
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "no memory type takes the file's pages");
    }
    return give_memory(device, &info, false, buffer);
}

void ingot_vulkan_buffer_close(ingot_vulkan_device *device, ingot_vulkan_buffer *buffer) {
    device->vk.DestroyBuffer(device->device, buffer->buffer, NULL);
    device->vk.FreeMemory(device->device, buffer->memory, NULL);
    *buffer = (ingot_vulkan_buffer){0};
}

ingot_status ingot_vulkan_transfer_open(ingot_vulkan_device *device, uint64_t room, ingot_vulkan_transfer *transfer) {
    *transfer = (ingot_vulkan_transfer){0};
    const VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                          .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                          .queueFamilyIndex = device->traits.family};
    const VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VkResult result = device->vk.CreateCommandPool(device->device, &pool, NULL, &transfer->pool);
    if (result == VK_SUCCESS) {
        const VkCommandBufferAllocateInfo commands = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                                      .commandPool = transfer->pool,
                                                      .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                                      .commandBufferCount = 1};
        result = device->vk.AllocateCommandBuffers(device->device, &commands, &transfer->commands);
    }
    if (result == VK_SUCCESS) {
        result = device->vk.CreateFence(device->device, &fence, NULL, &transfer->fence);
    }
    ingot_status status = ingot_vulkan_check(result, "commands of a transfer");
    if (status == INGOT_OK) {
        status = ingot_vulkan_buffer_open(device, room, INGOT_VULKAN_HOST, &transfer->staging);
    }
    return status;
}

void ingot_vulkan_transfer_close(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer) {
    ingot_vulkan_buffer_close(device, &transfer->staging);
    device->vk.DestroyFence(device->device, transfer->fence, NULL);
    device->vk.DestroyCommandPool(device->device, transfer->pool, NULL);
    *transfer = (ingot_vulkan_transfer){0};
}

static ingot_status copy_piece(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer, VkBuffer from, VkBuffer to,
                               const VkBufferCopy *piece) {
    const VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                            .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    const VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                                     .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                                     .dstAccessMask = VK_ACCESS_HOST_READ_BIT | VK_ACCESS_SHADER_READ_BIT};
    VkResult result = device->vk.BeginCommandBuffer(transfer->commands, &begin);
    if (result == VK_SUCCESS) {
        device->vk.CmdCopyBuffer(transfer->commands, from, to, 1, piece);
        device->vk.CmdPipelineBarrier(transfer->commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                                      VK_PIPELINE_STAGE_HOST_BIT | VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0, 1, &barrier,
                                      0, NULL, 0, NULL);
        result = device->vk.EndCommandBuffer(transfer->commands);
    }
    ingot_status status = ingot_vulkan_check(result, "commands of a copy");
    return status == INGOT_OK ? ingot_vulkan_submit(device, transfer->commands, transfer->fence) : status;
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

ingot_status ingot_vulkan_copy_in(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer,
                                  const ingot_vulkan_buffer *to, uint64_t offset, const void *data, uint64_t size) {
    if (to->mapped != NULL) {
        memcpy(to->mapped + offset, data, size);
        return INGOT_OK;
    }
    ingot_status status = INGOT_OK;
    for (uint64_t done = 0; done < size && status == INGOT_OK; done += transfer->staging.size) {
        const uint64_t piece = smaller(size - done, transfer->staging.size);
        memcpy(transfer->staging.mapped, (const uint8_t *)data + done, piece);
        const VkBufferCopy copy = {0, offset + done, piece};
        status = copy_piece(device, transfer, transfer->staging.buffer, to->buffer, &copy);
    }
    return status;
}

ingot_status ingot_vulkan_copy_out(ingot_vulkan_device *device, ingot_vulkan_transfer *transfer,
                                   const ingot_vulkan_buffer *from, uint64_t offset, void *data, uint64_t size) {
    if (from->mapped != NULL) {
        memcpy(data, from->mapped + offset, size);
        return INGOT_OK;
    }
    ingot_status status = INGOT_OK;
    for (uint64_t done = 0; done < size && status == INGOT_OK; done += transfer->staging.size) {
        const uint64_t piece = smaller(size - done, transfer->staging.size);
        const VkBufferCopy copy = {offset + done, 0, piece};
        status = copy_piece(device, transfer, from->buffer, transfer->staging.buffer, &copy);
        if (status == INGOT_OK) {
            memcpy((uint8_t *)data + done, transfer->staging.mapped, piece);
        }
    }
    return status;
}
