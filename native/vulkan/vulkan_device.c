/* SPDX-License-Identifier: Apache-2.0 */
/* Devices: enumeration, features, refusals, opening. */
#include "vulkan/vulkan_device.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "vulkan/vulkan_matrix.h"
#include "vulkan_traps.h" /* made from targets/traps/vulkan_devices.toml */

enum { LEAST_LANES = 128, LEAST_SHARED = 16384 };

/* Enabled where they are there. */
static const char INT_DOT[] = "VK_KHR_shader_integer_dot_product";
static const char HOST_MEMORY[] = "VK_EXT_external_memory_host";
static const char SUBGROUP_CONTROL[] = "VK_EXT_subgroup_size_control";

bool ingot_vulkan_has(const ingot_vulkan_extensions *list, const char *name) {
    for (uint32_t i = 0; i < list->count; i++) {
        if (strcmp(list->known[i].extensionName, name) == 0) {
            return true;
        }
    }
    return false;
}

static void read_features(const ingot_vulkan_instance *vk, const ingot_vulkan_extensions *list,
                          ingot_vulkan_traits *traits) {
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES};
    VkPhysicalDevice8BitStorageFeatures bytes = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_8BIT_STORAGE_FEATURES};
    VkPhysicalDevice16BitStorageFeatures halves = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES};
    VkPhysicalDeviceShaderFloat16Int8Features small = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES};
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT subgroups = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &halves};
    void **end = &halves.pNext;
    if (ingot_vulkan_has(list, INT_DOT)) {
        *end = &dot;
        end = &dot.pNext;
    }
    if (ingot_vulkan_has(list, "VK_KHR_8bit_storage")) {
        *end = &bytes;
        end = &bytes.pNext;
    }
    if (ingot_vulkan_has(list, "VK_KHR_shader_float16_int8")) {
        *end = &small;
        end = &small.pNext;
    }
    if (ingot_vulkan_has(list, SUBGROUP_CONTROL)) {
        *end = &subgroups;
    }
    vk->GetPhysicalDeviceFeatures2(traits->physical, &features);
    traits->int_dot = dot.shaderIntegerDotProduct != VK_FALSE;
    traits->storage_8 = bytes.storageBuffer8BitAccess != VK_FALSE;
    traits->storage_16 = halves.storageBuffer16BitAccess != VK_FALSE;
    traits->float16 = small.shaderFloat16 != VK_FALSE;
    traits->subgroup_control = subgroups.subgroupSizeControl != VK_FALSE;
}

static void read_properties(const ingot_vulkan_instance *vk, const ingot_vulkan_extensions *list,
                            ingot_vulkan_traits *traits) {
    VkPhysicalDeviceMaintenance3Properties sizes = {.sType =
                                                        VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES};
    VkPhysicalDeviceSubgroupProperties subgroups = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES,
                                                    .pNext = &sizes};
    VkPhysicalDeviceExternalMemoryHostPropertiesEXT host = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT};
    traits->driver = (VkPhysicalDeviceDriverProperties){.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES};
    VkPhysicalDeviceProperties2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &subgroups};
    void **end = &sizes.pNext;
    if (ingot_vulkan_has(list, HOST_MEMORY)) {
        *end = &host;
        end = &host.pNext;
    }
    if (ingot_vulkan_has(list, "VK_KHR_driver_properties")) {
        *end = &traits->driver;
    }
    vk->GetPhysicalDeviceProperties2(traits->physical, &all);
    traits->driver.pNext = NULL;
    traits->properties = all.properties;
    traits->subgroup = subgroups.subgroupSize;
    traits->largest_allocation = sizes.maxMemoryAllocationSize;
    traits->import_alignment = host.minImportedHostPointerAlignment;
}

static uint32_t compute_family(const ingot_vulkan_instance *vk, VkPhysicalDevice physical) {
    VkQueueFamilyProperties families[32];
    uint32_t count = sizeof families / sizeof families[0];
    vk->GetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
    for (uint32_t i = 0; i < count; i++) {
        if ((families[i].queueFlags & VK_QUEUE_COMPUTE_BIT) != 0) {
            return i;
        }
    }
    return UINT32_MAX;
}

static void read_traits(const ingot_vulkan_instance *vk, VkPhysicalDevice physical, ingot_vulkan_traits *traits) {
    ingot_vulkan_extensions list = {.count = INGOT_VULKAN_MOST_EXTENSIONS};
    *traits = (ingot_vulkan_traits){.physical = physical};
    const VkResult result = vk->EnumerateDeviceExtensionProperties(physical, NULL, &list.count, list.known);
    list.count = result == VK_SUCCESS || result == VK_INCOMPLETE ? list.count : 0;
    read_properties(vk, &list, traits);
    read_features(vk, &list, traits);
    vk->GetPhysicalDeviceMemoryProperties(physical, &traits->memory);
    traits->family = compute_family(vk, physical);
    ingot_vulkan_matrix_find(vk, &list, traits);
}

ingot_status ingot_vulkan_devices(ingot_vulkan_traits *traits, uint32_t *count) {
    const ingot_vulkan_instance *vk;
    VkPhysicalDevice found[INGOT_VULKAN_MOST_DEVICES];
    *count = 0;
    ingot_status status = ingot_vulkan_instance_get(&vk);
    if (status != INGOT_OK) {
        return status;
    }
    uint32_t there = INGOT_VULKAN_MOST_DEVICES;
    const VkResult result = vk->EnumeratePhysicalDevices(vk->instance, &there, found);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) {
        return ingot_vulkan_check(result, "vkEnumeratePhysicalDevices");
    }
    for (uint32_t i = 0; i < there; i++) {
        read_traits(vk, found[i], &traits[i]);
    }
    *count = there;
    return there != 0 ? INGOT_OK
                      : ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "the Vulkan loader found no driver with a device");
}

static const ingot_vulkan_trap *trap_of(const ingot_vulkan_traits *traits) {
    const char *other = ingot_vulkan_text("NAME"); /* for tests: as if the device had this name */
    const char *name = other != NULL ? other : traits->properties.deviceName;
    for (uint32_t i = 0; i < sizeof INGOT_VULKAN_TRAPS / sizeof INGOT_VULKAN_TRAPS[0]; i++) {
        const ingot_vulkan_trap *trap = &INGOT_VULKAN_TRAPS[i];
        const bool driver = trap->driver == 0 || trap->driver == (uint32_t)traits->driver.driverID;
        if (driver && strstr(name, trap->name) != NULL) {
            return trap;
        }
    }
    return NULL;
}

static void refuse(const ingot_vulkan_traits *traits, char *to, size_t room) {
    const VkPhysicalDeviceLimits *limits = &traits->properties.limits;
    const ingot_vulkan_trap *trap = trap_of(traits);
    const uint32_t version = traits->properties.apiVersion;
    if (trap != NULL) {
        (void)snprintf(to, room, "%s (%s)", trap->reason, trap->source);
    } else if (version < VK_API_VERSION_1_1) {
        (void)snprintf(to, room, "Vulkan %u.%u, expected at least 1.1", VK_API_VERSION_MAJOR(version),
                       VK_API_VERSION_MINOR(version));
    } else if (traits->family == UINT32_MAX) {
        (void)snprintf(to, room, "no queue that computes");
    } else if (limits->maxPerStageDescriptorStorageBuffers < INGOT_VULKAN_BINDINGS) {
        (void)snprintf(to, room, "%u storage buffers for a shader, expected at least %d",
                       limits->maxPerStageDescriptorStorageBuffers, INGOT_VULKAN_BINDINGS);
    } else if (limits->maxComputeWorkGroupInvocations < LEAST_LANES ||
               limits->maxComputeWorkGroupSize[0] < LEAST_LANES) {
        (void)snprintf(to, room, "workgroups of %u, expected at least %d", limits->maxComputeWorkGroupInvocations,
                       LEAST_LANES);
    } else if (limits->maxComputeSharedMemorySize < LEAST_SHARED) {
        (void)snprintf(to, room, "%u bytes of shared memory, expected at least %d", limits->maxComputeSharedMemorySize,
                       LEAST_SHARED);
    }
}

static uint32_t kind_of(const ingot_vulkan_traits *traits) {
    switch (traits->properties.deviceType) {
        case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: return INGOT_BACKEND_INTEGRATED;
        case VK_PHYSICAL_DEVICE_TYPE_CPU: return INGOT_BACKEND_SOFTWARE;
        default: return INGOT_BACKEND_DISCRETE;
    }
}

static void write_features(const ingot_vulkan_traits *traits, char *to, size_t room) {
    char matrix[64];
    ingot_vulkan_matrix_describe(traits, matrix, sizeof matrix);
    (void)snprintf(to, room, "%s%s%s%s%s%s%ssubgroup-%u", traits->int_dot ? "int8-dot " : "",
                   traits->float16 ? "fp16 " : "", traits->storage_8 ? "storage-8 " : "",
                   traits->storage_16 ? "storage-16 " : "", traits->subgroup_control ? "subgroup-control " : "", matrix,
                   traits->import_alignment != 0 ? "host-import " : "", traits->subgroup);
}

static uint64_t largest_heap(const ingot_vulkan_traits *traits) {
    uint64_t largest = 0;
    for (uint32_t i = 0; i < traits->memory.memoryHeapCount; i++) {
        const VkMemoryHeap *heap = &traits->memory.memoryHeaps[i];
        if ((heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) != 0 && heap->size > largest) {
            largest = heap->size;
        }
    }
    return largest;
}

void ingot_vulkan_describe(const ingot_vulkan_traits *traits, ingot_backend_device *info) {
    *info = (ingot_backend_device){.kind = kind_of(traits),
                                   .vendor = traits->properties.vendorID,
                                   .id = traits->properties.deviceID,
                                   .driver_version = traits->properties.driverVersion,
                                   .memory_bytes = largest_heap(traits)};
    (void)snprintf(info->name, sizeof info->name, "%.127s", traits->properties.deviceName);
    (void)snprintf(info->driver, sizeof info->driver, "%.60s %.40s %08" PRIx32, traits->driver.driverName,
                   traits->driver.driverInfo, traits->properties.driverVersion);
    write_features(traits, info->features, sizeof info->features);
    refuse(traits, info->refused, sizeof info->refused);
}

static ingot_status create_device(const ingot_vulkan_instance *vk, ingot_vulkan_device *device) {
    const ingot_vulkan_traits *traits = &device->traits;
    const float priority = 1.0f;
    const VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                           .queueFamilyIndex = traits->family,
                                           .queueCount = 1,
                                           .pQueuePriorities = &priority};
    VkPhysicalDeviceShaderIntegerDotProductFeatures dot = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_INTEGER_DOT_PRODUCT_FEATURES,
        .shaderIntegerDotProduct = VK_TRUE};
    ingot_vulkan_matrix_request matrix;
    void *chain = ingot_vulkan_matrix_ask(traits, &matrix, traits->int_dot ? &dot : NULL);
    const char *extensions[2 + INGOT_VULKAN_MATRIX_EXTENSIONS];
    uint32_t count = 0;
    if (traits->int_dot) {
        extensions[count++] = INT_DOT;
    }
    if (traits->import_alignment != 0) {
        extensions[count++] = HOST_MEMORY;
    }
    for (uint32_t i = 0; i < matrix.extension_count; i++) {
        extensions[count++] = matrix.extensions[i];
    }
    const VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                     .pNext = chain,
                                     .queueCreateInfoCount = 1,
                                     .pQueueCreateInfos = &queue,
                                     .enabledExtensionCount = count,
                                     .ppEnabledExtensionNames = extensions};
    return ingot_vulkan_check(vk->CreateDevice(traits->physical, &info, NULL, &device->device), "vkCreateDevice");
}

static ingot_status choose(uint32_t index, ingot_vulkan_traits *chosen) {
    ingot_vulkan_traits traits[INGOT_VULKAN_MOST_DEVICES];
    ingot_backend_device info;
    uint32_t count;
    ingot_status status = ingot_vulkan_devices(traits, &count);
    if (status != INGOT_OK) {
        return status;
    }
    if (index >= count) {
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "device %u, but the driver shows %u", index, count);
    }
    ingot_vulkan_describe(&traits[index], &info);
    if (info.refused[0] != '\0') {
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "%s is refused: %s", info.name, info.refused);
    }
    *chosen = traits[index];
    return INGOT_OK;
}

ingot_status ingot_vulkan_device_open(uint32_t index, const char *cache_folder, ingot_vulkan_device *device) {
    const ingot_vulkan_instance *vk;
    *device = (ingot_vulkan_device){0};
    pthread_mutex_init(&device->lock, NULL);
    ingot_status status = ingot_vulkan_instance_get(&vk);
    status = status == INGOT_OK ? choose(index, &device->traits) : status;
    if (ingot_vulkan_wanted("NO_DOT")) { /* for tests */
        device->traits.int_dot = false;
    }
    if (ingot_vulkan_wanted("NO_MATRIX")) {
        device->traits.matrix = (ingot_vulkan_matrix){0};
    }
#ifdef INGOT_PLANT
    status = status == INGOT_OK ? ingot_vulkan_matrix_emulate(&device->traits.matrix) : status;
#endif
    status = status == INGOT_OK ? create_device(vk, device) : status;
    status = status == INGOT_OK ? ingot_vulkan_load_device(device->device, &device->vk) : status;
    if (status != INGOT_OK) {
        return status;
    }
    const VkPhysicalDeviceLimits *limits = &device->traits.properties.limits;
    device->vk.GetDeviceQueue(device->device, device->traits.family, 0, &device->queue);
    device->unified = kind_of(&device->traits) != INGOT_BACKEND_DISCRETE && !ingot_vulkan_wanted("STAGING");
    device->alignment = ingot_vulkan_setting("ALIGNMENT", limits->minStorageBufferOffsetAlignment);
    device->range = ingot_vulkan_setting("RANGE", limits->maxStorageBufferRange);
    return ingot_vulkan_pipelines_open(device, cache_folder);
}

void ingot_vulkan_device_close(ingot_vulkan_device *device) {
    if (device->device != VK_NULL_HANDLE && device->vk.DestroyDevice != NULL) {
        ingot_vulkan_pipelines_close(device);
        device->vk.DestroyDevice(device->device, NULL);
    }
    pthread_mutex_destroy(&device->lock);
    *device = (ingot_vulkan_device){0};
}

ingot_status ingot_vulkan_submit(ingot_vulkan_device *device, VkCommandBuffer commands, VkFence fence) {
    const VkSubmitInfo info = {
        .sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &commands};
    pthread_mutex_lock(&device->lock);
    VkResult result = device->vk.QueueSubmit(device->queue, 1, &info, fence);
    pthread_mutex_unlock(&device->lock);
    ingot_status status = ingot_vulkan_check(result, "vkQueueSubmit");
    if (status == INGOT_OK) {
        result = device->vk.WaitForFences(device->device, 1, &fence, VK_TRUE, UINT64_MAX);
        status = ingot_vulkan_check(result, "vkWaitForFences");
    }
    return status == INGOT_OK ? ingot_vulkan_check(device->vk.ResetFences(device->device, 1, &fence), "vkResetFences")
                              : status;
}
