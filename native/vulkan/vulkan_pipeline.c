/* SPDX-License-Identifier: Apache-2.0 */
/* Shaders by name, their pipelines, and the cache of what the driver compiled. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vulkan/vulkan_device.h"
#include "vulkan_shaders.h" /* made from shaders/: INGOT_VULKAN_SHADERS */

enum { SHADERS = sizeof INGOT_VULKAN_SHADERS / sizeof INGOT_VULKAN_SHADERS[0], MOST_CACHE = 64 << 20 };

static ingot_status open_layouts(ingot_vulkan_device *device) {
    VkDescriptorSetLayoutBinding bindings[INGOT_VULKAN_BINDINGS];
    for (uint32_t i = 0; i < INGOT_VULKAN_BINDINGS; i++) {
        bindings[i] = (VkDescriptorSetLayoutBinding){.binding = i,
                                                     .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                                     .descriptorCount = 1,
                                                     .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    }
    const VkDescriptorSetLayoutCreateInfo set = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                                 .bindingCount = INGOT_VULKAN_BINDINGS,
                                                 .pBindings = bindings};
    VkResult result = device->vk.CreateDescriptorSetLayout(device->device, &set, NULL, &device->set_layout);
    if (result != VK_SUCCESS) {
        return ingot_vulkan_check(result, "vkCreateDescriptorSetLayout");
    }
    const VkPushConstantRange words = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT,
                                       .size = INGOT_VULKAN_WORDS * sizeof(uint32_t)};
    const VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                               .setLayoutCount = 1,
                                               .pSetLayouts = &device->set_layout,
                                               .pushConstantRangeCount = 1,
                                               .pPushConstantRanges = &words};
    result = device->vk.CreatePipelineLayout(device->device, &layout, NULL, &device->pipeline_layout);
    return ingot_vulkan_check(result, "vkCreatePipelineLayout");
}

/* The driver's own key is in the name: another driver reads another file. */
static void name_cache(ingot_vulkan_device *device, const char *folder) {
    const VkPhysicalDeviceProperties *properties = &device->traits.properties;
    char uuid[2 * VK_UUID_SIZE + 1];
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++) {
        (void)snprintf(uuid + 2 * i, 3, "%02x", properties->pipelineCacheUUID[i]);
    }
    const int length = snprintf(device->cache_path, sizeof device->cache_path, "%s/vulkan-%04x-%04x-%08x-%s.cache",
                                folder, properties->vendorID, properties->deviceID, properties->driverVersion, uuid);
    if (length < 0 || (size_t)length >= sizeof device->cache_path) {
        device->cache_path[0] = '\0';
    }
}

/* The file's bytes, or NULL; the driver checks them by their header. */
static void *read_cache(const char *path, size_t *size) {
    *size = 0;
    FILE *file = *path != '\0' ? fopen(path, "rbe") : NULL;
    struct stat about;
    void *data = NULL;
    if (file != NULL && fstat(fileno(file), &about) == 0 && about.st_size > 0 && about.st_size < MOST_CACHE) {
        data = malloc((size_t)about.st_size);
        *size = data != NULL ? fread(data, 1, (size_t)about.st_size, file) : 0;
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    return data;
}

/* A header of another device or driver: version 1, vendor, device, UUID. */
static bool is_ours(const ingot_vulkan_device *device, const void *data, size_t size) {
    VkPipelineCacheHeaderVersionOne header;
    const VkPhysicalDeviceProperties *properties = &device->traits.properties;
    if (size < sizeof header) {
        return false;
    }
    memcpy(&header, data, sizeof header);
    return header.headerSize >= sizeof header && header.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE &&
           header.vendorID == properties->vendorID && header.deviceID == properties->deviceID &&
           memcmp(header.pipelineCacheUUID, properties->pipelineCacheUUID, VK_UUID_SIZE) == 0;
}

ingot_status ingot_vulkan_pipelines_open(ingot_vulkan_device *device, const char *cache_folder) {
    ingot_status status = open_layouts(device);
    if (status != INGOT_OK) {
        return status;
    }
    if (cache_folder != NULL) {
        name_cache(device, cache_folder);
    }
    size_t size;
    void *data = read_cache(device->cache_path, &size);
    const bool use = is_ours(device, data, size);
    const VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO,
                                            .initialDataSize = use ? size : 0,
                                            .pInitialData = use ? data : NULL};
    const VkResult result = device->vk.CreatePipelineCache(device->device, &info, NULL, &device->cache);
    free(data);
    return ingot_vulkan_check(result, "vkCreatePipelineCache");
}

void ingot_vulkan_pipelines_close(ingot_vulkan_device *device) {
    for (uint32_t i = 0; i < device->pipeline_count; i++) {
        device->vk.DestroyPipeline(device->device, device->pipelines[i].pipeline, NULL);
    }
    device->vk.DestroyPipelineCache(device->device, device->cache, NULL);
    device->vk.DestroyPipelineLayout(device->device, device->pipeline_layout, NULL);
    device->vk.DestroyDescriptorSetLayout(device->device, device->set_layout, NULL);
}

/* Specialization constants by their ids: the planted fault, which only shaders of the tests have, the flags, and the
 * shape that linear_matrix.comp is made for. Others have no such constants. */
typedef struct constant_values {
    uint32_t plant, flags, rows, tokens, depth, lanes;
} constant_values;

enum { CONSTANTS = sizeof(constant_values) / sizeof(uint32_t) };

static bool is_matrix(const ingot_vulkan_shader *shader) {
    static const char prefix[] = "linear_matrix_";
    return strncmp(shader->name, prefix, sizeof prefix - 1) == 0;
}

static ingot_status create_pipeline(ingot_vulkan_device *device, const ingot_vulkan_shader *shader, uint32_t flags,
                                    VkPipeline *pipeline) {
    const VkShaderModuleCreateInfo words = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = shader->size, .pCode = shader->words};
    VkShaderModule module;
    ingot_status status = ingot_vulkan_check(device->vk.CreateShaderModule(device->device, &words, NULL, &module),
                                             "vkCreateShaderModule");
    if (status != INGOT_OK) {
        return status;
    }
    const ingot_vulkan_matrix *matrix = &device->traits.matrix;
    const constant_values values = {
        (uint32_t)ingot_vulkan_setting("PLANT", 0), flags, matrix->rows, matrix->tokens, matrix->depth, matrix->lanes};
    VkSpecializationMapEntry entries[CONSTANTS];
    for (uint32_t i = 0; i < CONSTANTS; i++) {
        entries[i] = (VkSpecializationMapEntry){i, i * (uint32_t)sizeof(uint32_t), sizeof(uint32_t)};
    }
    const VkSpecializationInfo constants = {
        .mapEntryCount = CONSTANTS, .pMapEntries = entries, .dataSize = sizeof values, .pData = &values};
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT,
        .requiredSubgroupSize = matrix->lanes};
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main",
                  .pSpecializationInfo = &constants},
        .layout = device->pipeline_layout,
    };
    if (is_matrix(shader)) {
        info.stage.pNext = &size;
        info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
    }
    const VkResult result = device->vk.CreateComputePipelines(device->device, device->cache, 1, &info, NULL, pipeline);
    device->vk.DestroyShaderModule(device->device, module, NULL);
    return ingot_vulkan_check(result, shader->name);
}

/* The lock is held. */
static ingot_status find_or_create(ingot_vulkan_device *device, uint32_t shader, uint32_t flags, VkPipeline *pipeline) {
    for (uint32_t i = 0; i < device->pipeline_count; i++) {
        const ingot_vulkan_pipeline_entry *entry = &device->pipelines[i];
        if (entry->shader == shader && entry->flags == flags) {
            *pipeline = entry->pipeline;
            return INGOT_OK;
        }
    }
    if (device->pipeline_count == INGOT_VULKAN_MOST_PIPELINES) {
        return ingot_vulkan_fail(INGOT_ERROR_INTERNAL, "more than %d pipelines", INGOT_VULKAN_MOST_PIPELINES);
    }
    ingot_status status = create_pipeline(device, &INGOT_VULKAN_SHADERS[shader], flags, pipeline);
    if (status == INGOT_OK) {
        device->pipelines[device->pipeline_count++] = (ingot_vulkan_pipeline_entry){shader, flags, *pipeline};
    }
    return status;
}

ingot_status ingot_vulkan_pipeline(ingot_vulkan_device *device, const char *name, uint32_t flags,
                                   VkPipeline *pipeline) {
    uint32_t index = 0;
    while (index < SHADERS && strcmp(INGOT_VULKAN_SHADERS[index].name, name) != 0) {
        index++;
    }
    if (index == SHADERS) {
        return ingot_vulkan_fail(INGOT_ERROR_INTERNAL, "no shader '%s'", name);
    }
    pthread_mutex_lock(&device->lock);
    ingot_status status = find_or_create(device, index, flags, pipeline);
    pthread_mutex_unlock(&device->lock);
    return status;
}

static bool write_all(int descriptor, const uint8_t *data, size_t size) {
    while (size > 0) {
        const ssize_t written = write(descriptor, data, size);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        data += written > 0 ? written : 0;
        size -= written > 0 ? (size_t)written : 0;
    }
    return fsync(descriptor) == 0;
}

static void replace_file(const char *path, const void *data, size_t size) {
    char beside[sizeof((ingot_vulkan_device *)0)->cache_path + 8];
    (void)snprintf(beside, sizeof beside, "%s.XXXXXX", path);
    const int descriptor = mkstemp(beside);
    if (descriptor < 0) {
        return;
    }
    const bool written = write_all(descriptor, data, size);
    if (close(descriptor) != 0 || !written || rename(beside, path) != 0) {
        (void)unlink(beside);
    }
}

void ingot_vulkan_cache_keep(ingot_vulkan_device *device) {
    size_t size = 0;
    struct stat about;
    if (device->cache_path[0] == '\0' || device->cache == VK_NULL_HANDLE ||
        device->vk.GetPipelineCacheData(device->device, device->cache, &size, NULL) != VK_SUCCESS || size == 0 ||
        (stat(device->cache_path, &about) == 0 && (size_t)about.st_size == size)) {
        return;
    }
    void *data = malloc(size);
    if (data != NULL && device->vk.GetPipelineCacheData(device->device, device->cache, &size, data) == VK_SUCCESS) {
        replace_file(device->cache_path, data, size);
    }
    free(data);
}
