/* SPDX-License-Identifier: Apache-2.0 */
/* libvulkan.so.1 and the instance, with the validation layer where INGOT_VULKAN_VALIDATE=1. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "vulkan/vulkan_api.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static ingot_vulkan_instance shared_instance; /* complete once `ready` */
static bool ready;

static const char LAYER[] = "VK_LAYER_KHRONOS_validation";
static const char *const LIBRARIES[] = {"libvulkan.so.1", "libvulkan.so"}; /* the second is Android's */

const char *ingot_vulkan_text(const char *word) {
    char name[64];
    (void)snprintf(name, sizeof name, "INGOT_VULKAN_%s", word);
    return getauxval(AT_SECURE) != 0 ? NULL : getenv(name);
}

bool ingot_vulkan_wanted(const char *word) {
    const char *text = ingot_vulkan_text(word);
    return text != NULL && strcmp(text, "1") == 0;
}

uint64_t ingot_vulkan_setting(const char *word, uint64_t otherwise) {
    const char *text = ingot_vulkan_text(word);
    return text != NULL && *text != '\0' ? strtoull(text, NULL, 10) : otherwise;
}

static VKAPI_ATTR VkBool32 VKAPI_CALL hear(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                           VkDebugUtilsMessageTypeFlagsEXT types,
                                           const VkDebugUtilsMessengerCallbackDataEXT *data, void *user) {
    (void)severity;
    (void)types;
    (void)user;
    ingot_vulkan_count_message(data->pMessage);
    return VK_FALSE;
}

static const VkDebugUtilsMessengerCreateInfoEXT MESSENGER = {
    .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
    .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
    .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
    .pfnUserCallback = hear,
};

static bool layer_there(const ingot_vulkan_instance *to) {
    VkLayerProperties layers[64];
    uint32_t count = sizeof layers / sizeof layers[0];
    const VkResult result = to->EnumerateInstanceLayerProperties(&count, layers);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < count; i++) {
        if (strcmp(layers[i].layerName, LAYER) == 0) {
            return true;
        }
    }
    return false;
}

static ingot_status create_instance(ingot_vulkan_instance *to) {
    const VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .pApplicationName = "ingot", .apiVersion = VK_API_VERSION_1_1};
    const bool validate = ingot_vulkan_wanted("VALIDATE");
    const char *const layers[] = {LAYER}, *const extensions[] = {VK_EXT_DEBUG_UTILS_EXTENSION_NAME};
    if (validate && !layer_there(to)) {
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "INGOT_VULKAN_VALIDATE=1, but the layer %s is not installed",
                                 LAYER);
    }
    const VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
                                       .pNext = validate ? &MESSENGER : NULL,
                                       .pApplicationInfo = &application,
                                       .enabledLayerCount = validate ? 1 : 0,
                                       .ppEnabledLayerNames = layers,
                                       .enabledExtensionCount = validate ? 1 : 0,
                                       .ppEnabledExtensionNames = extensions};
    ingot_status status = ingot_vulkan_check(to->CreateInstance(&info, NULL, &to->instance), "vkCreateInstance");
    if (status == INGOT_OK && validate) {
        PFN_vkCreateDebugUtilsMessengerEXT create =
            (PFN_vkCreateDebugUtilsMessengerEXT)to->GetInstanceProcAddr(to->instance, "vkCreateDebugUtilsMessengerEXT");
        VkDebugUtilsMessengerEXT messenger;
        status = create == NULL ? ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "the loader has no VK_EXT_debug_utils")
                                : ingot_vulkan_check(create(to->instance, &MESSENGER, NULL, &messenger),
                                                     "vkCreateDebugUtilsMessengerEXT");
    }
    return status;
}

#define LOAD(name)                                                                                \
    to->name = (PFN_vk##name)to->GetInstanceProcAddr(to->instance, "vk" #name);                   \
    if (to->name == NULL) {                                                                       \
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "Vulkan 1.1: the loader has no vk" #name); \
    }

static ingot_status load_global(ingot_vulkan_instance *to) {
    INGOT_VULKAN_GLOBAL(LOAD)
    return INGOT_OK;
}

static ingot_status load_instance(ingot_vulkan_instance *to) {
    INGOT_VULKAN_INSTANCE(LOAD)
    return INGOT_OK;
}

static ingot_status open_library(ingot_vulkan_instance *to) {
    void *library = NULL;
    for (uint32_t i = 0; library == NULL && i < sizeof LIBRARIES / sizeof LIBRARIES[0]; i++) {
        library = dlopen(LIBRARIES[i], RTLD_NOW | RTLD_LOCAL);
    }
    void *symbol = library != NULL ? dlsym(library, "vkGetInstanceProcAddr") : NULL;
    if (symbol == NULL) {
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "no Vulkan driver: libvulkan.so.1 was not found");
    }
    memcpy(&to->GetInstanceProcAddr, &symbol, sizeof symbol); /* C has no cast between the two kinds of pointers */
    return INGOT_OK;
}

ingot_status ingot_vulkan_instance_get(const ingot_vulkan_instance **instance) {
    ingot_status status = INGOT_OK;
    pthread_mutex_lock(&lock);
    if (!ready) {
        ingot_vulkan_instance made = {0};
        status = open_library(&made);
        status = status == INGOT_OK ? load_global(&made) : status;
        status = status == INGOT_OK ? create_instance(&made) : status;
        status = status == INGOT_OK ? load_instance(&made) : status;
        if (status == INGOT_OK) {
            shared_instance = made;
            ready = true;
        }
    }
    pthread_mutex_unlock(&lock);
    *instance = &shared_instance;
    return status;
}

ingot_status ingot_vulkan_load_device(VkDevice device, ingot_vulkan_functions *to) {
    const PFN_vkGetDeviceProcAddr get = shared_instance.GetDeviceProcAddr;
#define LOAD_OF_DEVICE(name)                                                                      \
    to->name = (PFN_vk##name)get(device, "vk" #name);                                             \
    if (to->name == NULL) {                                                                       \
        return ingot_vulkan_fail(INGOT_ERROR_HARDWARE, "Vulkan 1.1: the driver has no vk" #name); \
    }
    INGOT_VULKAN_DEVICE(LOAD_OF_DEVICE)
    to->GetMemoryHostPointerPropertiesEXT =
        (PFN_vkGetMemoryHostPointerPropertiesEXT)get(device, "vkGetMemoryHostPointerPropertiesEXT");
    return INGOT_OK;
}
