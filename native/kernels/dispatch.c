/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/dispatch.h"

#include <stddef.h>
#include <string.h>

#include "core/error.h"
#include "ingot.h"
#include "ingot_format.h"
#include "kernels/cpu.h"

static const ingot_kernel kernels[] = {
#define X(symbol, op, dtype, isa, stem) \
    {#stem, INGOT_KERNEL_OP_##op, INGOT_DTYPE_##dtype, INGOT_ISA_##isa, (void (*)(void))symbol},
#include "kernels/kernels.def"
#undef X
};
enum { KERNEL_COUNT = sizeof kernels / sizeof kernels[0] };

uint32_t ingot_kernel_count(void) { return KERNEL_COUNT; }

const ingot_kernel *ingot_kernel_at(uint32_t index) { return index < KERNEL_COUNT ? &kernels[index] : NULL; }

const ingot_kernel *ingot_kernel_select(ingot_kernel_op op, uint32_t dtype, uint32_t mask) {
    mask &= ingot_cpu_mask();
    for (uint32_t i = 0; i < KERNEL_COUNT; i++) {
        if (kernels[i].op == op && kernels[i].dtype == dtype && (kernels[i].isa & mask) != 0) return &kernels[i];
    }
    return NULL;
}

ingot_linear_fn ingot_linear_select(uint32_t dtype, uint32_t mask, uint32_t *isa) {
    const ingot_kernel *kernel = ingot_kernel_select(INGOT_KERNEL_OP_linear, dtype, mask);
    if (kernel == NULL) return NULL;
    if (isa != NULL) *isa = kernel->isa;
    return (ingot_linear_fn)kernel->run;
}

ingot_status ingot_kernel_info_get(uint32_t index, ingot_kernel_info *info) {
    const ingot_kernel *kernel = ingot_kernel_at(index);
    if (info == NULL) return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel info: info is NULL");
    if (info->struct_size != sizeof *info) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel info: struct_size is %u, expected %zu",
                          info->struct_size, sizeof *info);
    }
    if (kernel == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel %u does not exist, there are %u", index,
                          (uint32_t)KERNEL_COUNT);
    }
    info->isa = kernel->isa;
    info->available = (kernel->isa & ingot_cpu_mask()) != 0;
    info->selected = kernel == ingot_kernel_select(kernel->op, kernel->dtype, UINT32_MAX);
    memset(info->name, 0, sizeof info->name);
    memcpy(info->name, kernel->name, strlen(kernel->name));
    return INGOT_OK;
}
