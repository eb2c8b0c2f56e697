/* SPDX-License-Identifier: Apache-2.0 */
/* Cooperative matrices: which shape linear_matrix.comp is made for, and what a device is opened with for it. What Vulkan's
 * headers may be too old for is declared here. */
#ifndef INGOT_VULKAN_MATRIX_H
#define INGOT_VULKAN_MATRIX_H

#include "vulkan/vulkan_device.h"

#ifndef VK_KHR_cooperative_matrix
enum { VK_COMPONENT_TYPE_SINT8_KHR = 3, VK_COMPONENT_TYPE_SINT32_KHR = 5, VK_SCOPE_SUBGROUP_KHR = 3 };
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR ((VkStructureType)1000506000)
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506002)

typedef struct VkCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize;
    int32_t AType, BType, CType, ResultType; /* VkComponentTypeKHR */
    VkBool32 saturatingAccumulation;
    int32_t scope; /* VkScopeKHR */
} VkCooperativeMatrixPropertiesKHR;

typedef struct VkPhysicalDeviceCooperativeMatrixFeaturesKHR {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;

typedef struct VkPhysicalDeviceCooperativeMatrixPropertiesKHR {
    VkStructureType sType;
    void *pNext;
    VkShaderStageFlags cooperativeMatrixSupportedStages;
} VkPhysicalDeviceCooperativeMatrixPropertiesKHR;

typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(VkPhysicalDevice, uint32_t *,
                                                                                   VkCooperativeMatrixPropertiesKHR *);
#endif

enum { INGOT_VULKAN_MATRIX_EXTENSIONS = 4 };

/* What a device is created with; its structs point at each other, so that it must not be moved. */
typedef struct ingot_vulkan_matrix_request {
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix;
    VkPhysicalDeviceVulkanMemoryModelFeatures memory_model;
    VkPhysicalDeviceShaderFloat16Int8Features small;
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT subgroups;
    const char *const *extensions;
    uint32_t extension_count; /* at most INGOT_VULKAN_MATRIX_EXTENSIONS */
} ingot_vulkan_matrix_request;

/** Looks for a shape; traits->matrix stays 0 where none fits, a feature is missing, or the shaders were not built. */
void ingot_vulkan_matrix_find(const ingot_vulkan_instance *vk, const ingot_vulkan_extensions *extensions,
                              ingot_vulkan_traits *traits);
#ifdef INGOT_PLANT
/** For tests: the shape of INGOT_VULKAN_EMULATE, as 16x16x32x64, the last its lanes. @return INGOT_ERROR_INVALID_ARGUMENT
 * for one that a device could not be given. */
ingot_status ingot_vulkan_matrix_emulate(ingot_vulkan_matrix *matrix);
#endif
/** The word for a device's features, with a blank behind it; "" without the extension. */
void ingot_vulkan_matrix_describe(const ingot_vulkan_traits *traits, char *to, size_t room);
/** Fills in what a device of these traits needs. @return the first of a chain that ends in `next`. */
void *ingot_vulkan_matrix_ask(const ingot_vulkan_traits *traits, ingot_vulkan_matrix_request *request, void *next);

#endif
