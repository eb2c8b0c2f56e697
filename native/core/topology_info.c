/* SPDX-License-Identifier: Apache-2.0 */
/* What the public header tells of the CPUs. */
#include <stdio.h>
#include <string.h>

#include "core/error.h"
#include "platform/cpu_name.h"
#include "platform/topology.h"

ingot_status ingot_topology_get(const char *root, const uint64_t *mask, uint32_t mask_words,
                                ingot_topology_info *info) {
    if (root == NULL || info == NULL || info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "ingot_topology_get: info->struct_size must be %zu, root a path", sizeof *info);
    }
    ingot_topology topology;
    ingot_topology_read(root, mask, mask_words, &topology);
    *info = (ingot_topology_info){
        .struct_size = sizeof *info,
        .cpu_count = topology.count,
        .class_count = topology.classes,
        .big_cores = topology.big_cores,
        .threads = topology.threads,
        .quota = topology.quota,
    };
    for (uint32_t index = 0; index < topology.count; index++) {
        const ingot_topology_cpu *cpu = &topology.cpus[index];
        info->cpus[index] = (ingot_topology_place){cpu->id, cpu->core, cpu->capacity, cpu->big};
    }
    ingot_cpu_name(root, info->name, sizeof info->name);
    return INGOT_OK;
}
