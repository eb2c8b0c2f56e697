/* SPDX-License-Identifier: Apache-2.0 */
/* A device: what it can, whether it may be used, and what a model holds of it. */
#ifndef INGOT_VULKAN_DEVICE_H
#define INGOT_VULKAN_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "ingot_backend.h"
#include "vulkan/vulkan_api.h"

enum {
    INGOT_VULKAN_BINDINGS = 8,
    INGOT_VULKAN_WORDS = 32, /* of push constants: the 128 bytes that every device has */
    INGOT_VULKAN_MOST_DEVICES = 16,
    INGOT_VULKAN_MOST_EXTENSIONS = 512,
    INGOT_VULKAN_MOST_PIPELINES = 512
};

/* Shape of the matrices that linear_matrix.comp is made for; a depth of 0: there are none. */
typedef struct ingot_vulkan_matrix {
    uint32_t rows, tokens, depth;
    uint32_t lanes; /* of a subgroup */
    bool emulated;  /* in tests: by shaders that need no such device */
} ingot_vulkan_matrix;

/* What a physical device says of itself. */
typedef struct ingot_vulkan_traits {
    VkPhysicalDevice physical;
    VkPhysicalDeviceProperties properties;
    VkPhysicalDeviceDriverProperties driver;
    VkPhysicalDeviceMemoryProperties memory;
    uint32_t family; /* with compute, UINT32_MAX if there is none */
    uint32_t subgroup;
    uint64_t largest_allocation;
    uint64_t import_alignment; /* of host memory, 0: cannot */
    bool int_dot, storage_8, storage_16, float16, subgroup_control, cooperative_matrix;
    ingot_vulkan_matrix matrix;
} ingot_vulkan_traits;

typedef struct ingot_vulkan_extensions {
    VkExtensionProperties known[INGOT_VULKAN_MOST_EXTENSIONS];
    uint32_t count;
} ingot_vulkan_extensions;

/* A trap of targets/traps/vulkan_devices.toml: a device whose name has `name` in it, and of this driver if one is given. */
typedef struct ingot_vulkan_trap {
    const char *name;
    uint32_t driver; /* VkDriverId, 0: any */
    const char *reason;
    const char *source;
} ingot_vulkan_trap;

/* A shader as it is linked into this library. */
typedef struct ingot_vulkan_shader {
    const char *name;
    const uint32_t *words; /* SPIR-V */
    size_t size;           /* bytes */
} ingot_vulkan_shader;

typedef struct ingot_vulkan_pipeline_entry {
    uint32_t shader, flags;
    VkPipeline pipeline;
} ingot_vulkan_pipeline_entry;

typedef struct ingot_vulkan_device {
    ingot_vulkan_traits traits;
    VkDevice device;
    ingot_vulkan_functions vk;
    VkQueue queue;
    pthread_mutex_t lock; /* of the queue and the pipelines */
    bool unified;         /* buffers of the device are mapped */
    uint64_t range;       /* most bytes of a binding */
    uint64_t alignment;   /* of its offset */
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout pipeline_layout;
    VkPipelineCache cache;
    char cache_path[512]; /* "" without one */
    uint32_t pipeline_count;
    ingot_vulkan_pipeline_entry pipelines[INGOT_VULKAN_MOST_PIPELINES];
} ingot_vulkan_device;

/** The traits of all devices. @return INGOT_ERROR_HARDWARE without a driver. */
ingot_status ingot_vulkan_devices(ingot_vulkan_traits *traits, uint32_t *count);
/** Whether a physical device has an extension. */
bool ingot_vulkan_has(const ingot_vulkan_extensions *extensions, const char *name);
/** Fills in a description; `refused` is "" for a device that may be used. */
void ingot_vulkan_describe(const ingot_vulkan_traits *traits, ingot_backend_device *info);
ingot_status ingot_vulkan_device_open(uint32_t index, const char *cache_folder, ingot_vulkan_device *device);
void ingot_vulkan_device_close(ingot_vulkan_device *device);
/** Submits commands and waits. @param fence unsignalled, and again so afterwards. */
ingot_status ingot_vulkan_submit(ingot_vulkan_device *device, VkCommandBuffer commands, VkFence fence);

/** Layouts and the pipeline cache, read from its file. */
ingot_status ingot_vulkan_pipelines_open(ingot_vulkan_device *device, const char *cache_folder);
void ingot_vulkan_pipelines_close(ingot_vulkan_device *device);
/** The pipeline of a shader by its name, made at first use. @param flags its specialization constant 1. */
ingot_status ingot_vulkan_pipeline(ingot_vulkan_device *device, const char *name, uint32_t flags, VkPipeline *pipeline);
/** Writes the pipeline cache to its file: a new one, then a rename. What fails is no error. */
void ingot_vulkan_cache_keep(ingot_vulkan_device *device);

#endif
