/* SPDX-License-Identifier: Apache-2.0 */
/* What went wrong, and what the validation layer said. */
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "vulkan/vulkan_api.h"

static _Thread_local char last_message[1024];
static char first_remark[800]; /* of the layer; written by whoever counts from 0 to 1 */
static atomic_uint remarks;
static atomic_bool remark_written;

ingot_status ingot_vulkan_fail(ingot_status status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(last_message, sizeof last_message, format, arguments);
    va_end(arguments);
    return status;
}

const char *ingot_vulkan_last_error(void) { return last_message; }

ingot_status ingot_vulkan_check(VkResult result, const char *what) {
    switch (result) {
        case VK_SUCCESS: return INGOT_OK;
        case VK_ERROR_OUT_OF_HOST_MEMORY:
        case VK_ERROR_OUT_OF_DEVICE_MEMORY:
            return ingot_vulkan_fail(INGOT_ERROR_OUT_OF_MEMORY, "%s: out of %s memory", what,
                                     result == VK_ERROR_OUT_OF_HOST_MEMORY ? "host" : "device");
        case VK_ERROR_DEVICE_LOST: return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "%s: the device is lost", what);
        default: return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "%s: VkResult %d", what, (int)result);
    }
}

void ingot_vulkan_count_message(const char *text) {
    if (atomic_fetch_add(&remarks, 1) == 0) {
        (void)snprintf(first_remark, sizeof first_remark, "%s", text);
        atomic_store(&remark_written, true);
    }
}

ingot_status ingot_vulkan_silent(ingot_status status) {
    const unsigned count = atomic_load(&remarks);
    if (status != INGOT_OK || count == 0) {
        return status;
    }
    return ingot_vulkan_fail(INGOT_ERROR_INTERNAL, "the validation layer has %u messages, the first: %s", count,
                             atomic_load(&remark_written) ? first_remark : "");
}
