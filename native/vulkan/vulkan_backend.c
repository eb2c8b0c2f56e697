/* SPDX-License-Identifier: Apache-2.0 */
/* The one thing that this library exports. */
#include "vulkan/vulkan_session.h"

static uint32_t device_count(void) {
    ingot_vulkan_traits traits[INGOT_VULKAN_MOST_DEVICES];
    uint32_t count;
    return ingot_vulkan_devices(traits, &count) == INGOT_OK ? count : 0;
}

static ingot_status device_info(uint32_t device, ingot_backend_device *info) {
    ingot_vulkan_traits traits[INGOT_VULKAN_MOST_DEVICES];
    uint32_t count;
    const ingot_status status = ingot_vulkan_devices(traits, &count);
    if (status != INGOT_OK) {
        return status;
    }
    if (device >= count) {
        return ingot_vulkan_fail(INGOT_ERROR_INVALID_ARGUMENT, "device %u of %u", device, count);
    }
    ingot_vulkan_describe(&traits[device], info);
    return ingot_vulkan_silent(INGOT_OK);
}

static const ingot_backend BACKEND = {
    .abi = INGOT_BACKEND_ABI,
    .struct_size = sizeof(ingot_backend),
    .name = "vulkan",
    .last_error = ingot_vulkan_last_error,
    .device_count = device_count,
    .device_info = device_info,
    .model_open = ingot_vulkan_model_open,
    .model_close = ingot_vulkan_model_close,
    .session_open = ingot_vulkan_session_open,
    .session_close = ingot_vulkan_session_close,
    .run = ingot_vulkan_run,
    .write = ingot_vulkan_write,
    .read = ingot_vulkan_read,
    .picks = ingot_vulkan_picks,
    .state_write = ingot_vulkan_state_write,
    .state_read = ingot_vulkan_state_read,
    .memory = ingot_vulkan_memory,
};

const ingot_backend *ingot_backend_get(void) { return &BACKEND; }
