/* SPDX-License-Identifier: Apache-2.0 */
/* The functions of Vulkan 1.1 that this backend calls, found at run time: nothing here links with libvulkan. */
#ifndef INGOT_VULKAN_API_H
#define INGOT_VULKAN_API_H

#define VK_NO_PROTOTYPES
#include <vulkan/vulkan_core.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ingot.h"

/* Without an instance. */
#define INGOT_VULKAN_GLOBAL(X)              \
    X(CreateInstance)                       \
    X(EnumerateInstanceExtensionProperties) \
    X(EnumerateInstanceLayerProperties)     \
    X(EnumerateInstanceVersion)

#define INGOT_VULKAN_INSTANCE(X)          \
    X(CreateDevice)                       \
    X(EnumerateDeviceExtensionProperties) \
    X(EnumeratePhysicalDevices)           \
    X(GetDeviceProcAddr)                  \
    X(GetPhysicalDeviceFeatures2)         \
    X(GetPhysicalDeviceMemoryProperties)  \
    X(GetPhysicalDeviceProperties2)       \
    X(GetPhysicalDeviceQueueFamilyProperties)

#define INGOT_VULKAN_DEVICE(X)     \
    X(AllocateCommandBuffers)      \
    X(AllocateDescriptorSets)      \
    X(AllocateMemory)              \
    X(BeginCommandBuffer)          \
    X(BindBufferMemory)            \
    X(CmdBindDescriptorSets)       \
    X(CmdBindPipeline)             \
    X(CmdCopyBuffer)               \
    X(CmdDispatch)                 \
    X(CmdDispatchIndirect)         \
    X(CmdPipelineBarrier)          \
    X(CmdPushConstants)            \
    X(CreateBuffer)                \
    X(CreateCommandPool)           \
    X(CreateComputePipelines)      \
    X(CreateDescriptorPool)        \
    X(CreateDescriptorSetLayout)   \
    X(CreateFence)                 \
    X(CreatePipelineCache)         \
    X(CreatePipelineLayout)        \
    X(CreateShaderModule)          \
    X(DestroyBuffer)               \
    X(DestroyCommandPool)          \
    X(DestroyDescriptorPool)       \
    X(DestroyDescriptorSetLayout)  \
    X(DestroyDevice)               \
    X(DestroyFence)                \
    X(DestroyPipeline)             \
    X(DestroyPipelineCache)        \
    X(DestroyPipelineLayout)       \
    X(DestroyShaderModule)         \
    X(DeviceWaitIdle)              \
    X(EndCommandBuffer)            \
    X(FreeMemory)                  \
    X(GetBufferMemoryRequirements) \
    X(GetDeviceQueue)              \
    X(GetPipelineCacheData)        \
    X(MapMemory)                   \
    X(QueueSubmit)                 \
    X(ResetFences)                 \
    X(UpdateDescriptorSets)        \
    X(WaitForFences)

#define INGOT_VULKAN_POINTER(name) PFN_vk##name name;

typedef struct ingot_vulkan_functions {
    INGOT_VULKAN_DEVICE(INGOT_VULKAN_POINTER)
    PFN_vkGetMemoryHostPointerPropertiesEXT GetMemoryHostPointerPropertiesEXT; /* NULL without the extension */
} ingot_vulkan_functions;

/* The one instance of the process; it is made at the first call and stays. */
typedef struct ingot_vulkan_instance {
    INGOT_VULKAN_GLOBAL(INGOT_VULKAN_POINTER)
    INGOT_VULKAN_INSTANCE(INGOT_VULKAN_POINTER)
    PFN_vkGetInstanceProcAddr GetInstanceProcAddr;
    VkInstance instance;
} ingot_vulkan_instance;

/** The instance, made once. @return INGOT_ERROR_HARDWARE without libvulkan.so.1 or Vulkan 1.1. */
ingot_status ingot_vulkan_instance_get(const ingot_vulkan_instance **instance);
/** Functions of a device. @return INGOT_ERROR_HARDWARE if one is missing. */
ingot_status ingot_vulkan_load_device(VkDevice device, ingot_vulkan_functions *functions);
/** True where the environment asks for what a word names, INGOT_VULKAN_<word>=1; false in set-uid processes. */
bool ingot_vulkan_wanted(const char *word);
/** The number of INGOT_VULKAN_<word>, or `otherwise`. */
uint64_t ingot_vulkan_setting(const char *word, uint64_t otherwise);

/** The text of INGOT_VULKAN_<word>, NULL if it is not set. */
const char *ingot_vulkan_text(const char *word);

/* Messages: one per thread. */
ingot_status ingot_vulkan_fail(ingot_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/** INGOT_OK for VK_SUCCESS, else what it means, with `what` in the message. */
ingot_status ingot_vulkan_check(VkResult result, const char *what);
const char *ingot_vulkan_last_error(void);
/** The layer's callback counts; a status that would be INGOT_OK becomes INGOT_ERROR_INTERNAL after any message. */
void ingot_vulkan_count_message(const char *text);
ingot_status ingot_vulkan_silent(ingot_status status);

#endif
