/* SPDX-License-Identifier: Apache-2.0 */
#include "vulkan/vulkan_matrix.h"

#include <stdio.h>

enum {
    BLOCK_ROWS = 64, /* as linear_block.glsl has it */
    BLOCK_TOKENS = 32,
    BLOCK_K = 32,
    BLOCK_LANES = 128,
    LEAST_SHARED = 20480, /* linear_matrix.comp takes 17.5 kB */
    MOST_SHAPES = 256
};

#ifdef INGOT_VULKAN_MATRIX
static const bool BUILT = true;
#else
static const bool BUILT = false; /* the compiler of shaders does not know GL_KHR_cooperative_matrix */
#endif

static const char MATRIX[] = "VK_KHR_cooperative_matrix";
static const char *const EXTENSIONS[] = {MATRIX, "VK_KHR_vulkan_memory_model", "VK_KHR_shader_float16_int8",
                                         "VK_EXT_subgroup_size_control"};
enum { NEEDED = sizeof EXTENSIONS / sizeof EXTENSIONS[0] };

/* All that SPIR-V with int8 matrices asks of a device. */
static bool has_features(const ingot_vulkan_instance *vk, const ingot_vulkan_traits *traits) {
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR};
    VkPhysicalDeviceVulkanMemoryModelFeatures model = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES, .pNext = &matrix};
    VkPhysicalDeviceShaderFloat16Int8Features small = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES, .pNext = &model};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &small};
    vk->GetPhysicalDeviceFeatures2(traits->physical, &features);
    return matrix.cooperativeMatrix != VK_FALSE && model.vulkanMemoryModel != VK_FALSE && small.shaderInt8 != VK_FALSE;
}

static bool in_compute(const ingot_vulkan_instance *vk, const ingot_vulkan_traits *traits) {
    VkPhysicalDeviceCooperativeMatrixPropertiesKHR matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
    VkPhysicalDeviceProperties2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &matrix};
    vk->GetPhysicalDeviceProperties2(traits->physical, &all);
    return (matrix.cooperativeMatrixSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0;
}

/* Modules before SPIR-V 1.6 must be given full subgroups (VUID-RuntimeSpirv-OpTypeCooperativeMatrixKHR-10770), and drivers
 * may start others than of the size they tell, unless one is demanded. */
static bool can_demand_subgroups(const ingot_vulkan_instance *vk, const ingot_vulkan_traits *traits) {
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT can = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT};
    VkPhysicalDeviceSubgroupSizeControlPropertiesEXT sizes = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &can};
    VkPhysicalDeviceProperties2 all = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &sizes};
    vk->GetPhysicalDeviceFeatures2(traits->physical, &features);
    vk->GetPhysicalDeviceProperties2(traits->physical, &all);
    return can.subgroupSizeControl != VK_FALSE && can.computeFullSubgroups != VK_FALSE &&
           (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
           (uint64_t)sizes.maxComputeWorkgroupSubgroups * traits->subgroup >= BLOCK_LANES &&
           traits->subgroup >= sizes.minSubgroupSize && traits->subgroup <= sizes.maxSubgroupSize;
}

static bool divides(uint32_t part, uint32_t whole) { return part >= 8 && part <= 32 && whole % part == 0; }

/* Whether the block is whole matrices, and as many for each subgroup. */
static bool fits(const VkCooperativeMatrixPropertiesKHR *shape, uint32_t lanes) {
    if (shape->AType != VK_COMPONENT_TYPE_SINT8_KHR || shape->BType != VK_COMPONENT_TYPE_SINT8_KHR ||
        shape->CType != VK_COMPONENT_TYPE_SINT32_KHR || shape->ResultType != VK_COMPONENT_TYPE_SINT32_KHR ||
        shape->scope != VK_SCOPE_SUBGROUP_KHR || shape->saturatingAccumulation != VK_FALSE ||
        !divides(shape->MSize, BLOCK_ROWS) || !divides(shape->NSize, BLOCK_TOKENS) || !divides(shape->KSize, BLOCK_K)) {
        return false;
    }
    const uint32_t matrices = BLOCK_ROWS / shape->MSize * (BLOCK_TOKENS / shape->NSize);
    return lanes != 0 && BLOCK_LANES % lanes == 0 && matrices % (BLOCK_LANES / lanes) == 0;
}

static bool better(const VkCooperativeMatrixPropertiesKHR *shape, const ingot_vulkan_matrix *than) {
    return shape->KSize > than->depth ||
           (shape->KSize == than->depth && shape->MSize * shape->NSize > than->rows * than->tokens);
}

static void find_shape(const ingot_vulkan_instance *vk, ingot_vulkan_traits *traits) {
    const PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)vk->GetInstanceProcAddr(
            vk->instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    VkCooperativeMatrixPropertiesKHR shapes[MOST_SHAPES];
    uint32_t count = MOST_SHAPES;
    for (uint32_t i = 0; i < MOST_SHAPES; i++) {
        shapes[i] = (VkCooperativeMatrixPropertiesKHR){.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
    }
    const VkResult result = get == NULL ? VK_ERROR_EXTENSION_NOT_PRESENT : get(traits->physical, &count, shapes);
    for (uint32_t i = 0; (result == VK_SUCCESS || result == VK_INCOMPLETE) && i < count; i++) {
        if (fits(&shapes[i], traits->subgroup) && better(&shapes[i], &traits->matrix)) {
            traits->matrix.rows = shapes[i].MSize;
            traits->matrix.tokens = shapes[i].NSize;
            traits->matrix.depth = shapes[i].KSize;
            traits->matrix.lanes = traits->subgroup;
        }
    }
}

void ingot_vulkan_matrix_find(const ingot_vulkan_instance *vk, const ingot_vulkan_extensions *extensions,
                              ingot_vulkan_traits *traits) {
    traits->cooperative_matrix = ingot_vulkan_has(extensions, MATRIX);
    bool can = BUILT && traits->properties.limits.maxComputeSharedMemorySize >= LEAST_SHARED;
    for (uint32_t i = 0; i < NEEDED; i++) {
        can = can && ingot_vulkan_has(extensions, EXTENSIONS[i]);
    }
    if (can && has_features(vk, traits) && in_compute(vk, traits) && can_demand_subgroups(vk, traits)) {
        find_shape(vk, traits);
    }
}

#ifdef INGOT_PLANT
ingot_status ingot_vulkan_matrix_emulate(ingot_vulkan_matrix *matrix) {
    const char *text = ingot_vulkan_text("EMULATE");
    VkCooperativeMatrixPropertiesKHR shape = {.AType = VK_COMPONENT_TYPE_SINT8_KHR,
                                              .BType = VK_COMPONENT_TYPE_SINT8_KHR,
                                              .CType = VK_COMPONENT_TYPE_SINT32_KHR,
                                              .ResultType = VK_COMPONENT_TYPE_SINT32_KHR,
                                              .scope = VK_SCOPE_SUBGROUP_KHR};
    uint32_t lanes = 0;
    if (text == NULL || *text == '\0') {
        return INGOT_OK;
    }
    const int found = sscanf(text, "%ux%ux%ux%u", &shape.MSize, &shape.NSize, &shape.KSize, &lanes);
    if (found != 4 || !fits(&shape, lanes) || shape.MSize * shape.NSize % lanes != 0) {
        return ingot_vulkan_fail(INGOT_ERROR_INVALID_ARGUMENT, "matrices of %s do not fit", text);
    }
    *matrix = (ingot_vulkan_matrix){shape.MSize, shape.NSize, shape.KSize, lanes, true};
    return INGOT_OK;
}
#endif

void ingot_vulkan_matrix_describe(const ingot_vulkan_traits *traits, char *to, size_t room) {
    const ingot_vulkan_matrix *matrix = &traits->matrix;
    if (!traits->cooperative_matrix) {
        *to = '\0';
    } else if (!BUILT) {
        (void)snprintf(to, room, "cooperative-matrix-not-built ");
    } else if (matrix->depth == 0) {
        (void)snprintf(to, room, "cooperative-matrix-unfit ");
    } else {
        (void)snprintf(to, room, "cooperative-matrix-%ux%ux%u ", matrix->rows, matrix->tokens, matrix->depth);
    }
}

void *ingot_vulkan_matrix_ask(const ingot_vulkan_traits *traits, ingot_vulkan_matrix_request *request, void *next) {
    if (traits->matrix.depth == 0 || traits->matrix.emulated) {
        *request = (ingot_vulkan_matrix_request){0};
        return next;
    }
    *request = (ingot_vulkan_matrix_request){
        .matrix = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR,
                   .pNext = &request->memory_model,
                   .cooperativeMatrix = VK_TRUE},
        .memory_model = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES,
                         .pNext = &request->small,
                         .vulkanMemoryModel = VK_TRUE},
        .small = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES,
                  .pNext = &request->subgroups,
                  .shaderInt8 = VK_TRUE},
        .subgroups = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT,
                      .pNext = next,
                      .subgroupSizeControl = VK_TRUE,
                      .computeFullSubgroups = VK_TRUE},
        .extensions = EXTENSIONS,
        .extension_count = NEEDED,
    };
    return &request->matrix;
}
