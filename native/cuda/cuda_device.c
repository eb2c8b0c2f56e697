/* SPDX-License-Identifier: Apache-2.0 */
/* Devices as the driver shows them, and the code that one of them runs. */
#include <stdio.h>
#include <string.h>

#include "cuda_code.h"
#include "cuda_model.h"

uint32_t ingot_cuda_device_count(void) {
    const ingot_cuda_driver *driver = ingot_cuda_driver_open();
    if (driver == NULL) {
        return 0;
    }
    if (driver->devices <= 0) {
        (void)ingot_cuda_fail(INGOT_ERROR_HARDWARE, "the CUDA driver shows no device");
        return 0;
    }
    return (uint32_t)driver->devices;
}

static int attribute(const ingot_cuda_driver *driver, int which, cu_device device) {
    int value = 0;
    return driver->device_attribute(&value, which, device) == 0 ? value : 0;
}

int ingot_cuda_capability(const ingot_cuda_driver *driver, cu_device device) {
    return 10 * attribute(driver, CU_ATTRIBUTE_MAJOR, device) + attribute(driver, CU_ATTRIBUTE_MINOR, device);
}

bool ingot_cuda_code_for(const ingot_cuda_driver *driver, int capability, bool *ptx) {
    bool cubin = false, text = false;
    for (size_t i = 0; i < ingot_cuda_image_count; i++) {
        const ingot_cuda_image *image = &ingot_cuda_images[i];
        const bool known = driver->version >= image->driver;
        cubin |= known && !image->ptx && image->target == capability;
        text |= known && image->ptx && image->target <= capability;
    }
    *ptx = !cubin;
    return cubin || text;
}

/* "" or why a device is not to be used. */
static void refuse(const ingot_cuda_driver *driver, int capability, char *why, size_t room) {
    bool ptx;
    why[0] = 0;
    if (driver->version < CUDA_LEAST_DRIVER) {
        snprintf(why, room, "the driver is for CUDA %d.%d; 12.0 is needed", driver->version / 1000,
                 driver->version % 1000 / 10);
    } else if (capability < CUDA_LEAST_CAPABILITY) {
        snprintf(why, room, "compute capability %d.%d has no int8 mma.m16n8k32 and no cp.async; 8.0 is needed",
                 capability / 10, capability % 10);
    } else if (!ingot_cuda_code_for(driver, capability, &ptx)) {
        snprintf(why, room, "no code for compute capability %d.%d, and a driver for CUDA %d.%d cannot make it",
                 capability / 10, capability % 10, driver->version / 1000, driver->version % 1000 / 10);
    }
}

ingot_status ingot_cuda_device_info(uint32_t index, ingot_backend_device *info) {
    const ingot_cuda_driver *driver = ingot_cuda_driver_open();
    cu_device device;
    size_t bytes = 0;
    if (driver == NULL) {
        return INGOT_ERROR_HARDWARE;
    }
    if (index >= (uint32_t)driver->devices) {
        return ingot_cuda_fail(INGOT_ERROR_INVALID_ARGUMENT, "device %u, expected one of %d", index, driver->devices);
    }
    ingot_status status = ingot_cuda_check(driver, driver->device_get(&device, (int)index), "the device");
    if (status != INGOT_OK) {
        return status;
    }
    const int capability = ingot_cuda_capability(driver, device);
    const bool integrated = attribute(driver, CU_ATTRIBUTE_INTEGRATED, device) != 0;
    memset(info, 0, sizeof *info);
    (void)driver->device_name(info->name, (int)sizeof info->name, device);
    (void)driver->device_memory(&bytes, device);
    snprintf(info->driver, sizeof info->driver, "CUDA %d.%d", driver->version / 1000, driver->version % 1000 / 10);
    info->kind =
        driver->emulated ? INGOT_BACKEND_SOFTWARE : (integrated ? INGOT_BACKEND_INTEGRATED : INGOT_BACKEND_DISCRETE);
    info->vendor = 0x10de;
    info->id = (uint32_t)attribute(driver, CU_ATTRIBUTE_PCI_DEVICE, device);
    info->driver_version = (uint32_t)driver->version;
    info->memory_bytes = bytes;
    bool ptx = false;
    (void)ingot_cuda_code_for(driver, capability, &ptx);
    snprintf(info->features, sizeof info->features, "sm_%d int8-dot int8-mma %s%s", capability, ptx ? "ptx" : "cubin",
             integrated ? " integrated" : "");
    refuse(driver, capability, info->refused, sizeof info->refused);
    return INGOT_OK;
}

/* ---- code ---- */

static const char *const format_names[CUDA_FORMATS + 1] = {"q8", "q6", "c5",    "q4",    "q4z",   "c4",  "c3",
                                                           "c2", "t2", "q8_k8", "q4_k8", "c4_k8", "f16", "f32"};

static ingot_status load_modules(cuda_model *model) {
    const ingot_cuda_driver *driver = model->driver;
    const int capability = ingot_cuda_capability(driver, model->device);
    bool ptx;
    if (!ingot_cuda_code_for(driver, capability, &ptx)) {
        return ingot_cuda_fail(INGOT_ERROR_HARDWARE, "no code for compute capability %d", capability);
    }
    for (size_t i = 0; i < ingot_cuda_image_count && model->module_count < CUDA_MOST_MODULES; i++) {
        const ingot_cuda_image *image = &ingot_cuda_images[i];
        if (image->ptx != (int)ptx || (!ptx && image->target != capability)) {
            continue;
        }
        ingot_status status = ingot_cuda_check(
            driver, driver->module_load(&model->modules[model->module_count], image->code), image->source);
        if (status != INGOT_OK) {
            return status;
        }
        model->module_count++;
    }
    return INGOT_OK;
}

static ingot_status find(const cuda_model *model, const char *name, cu_function *function) {
    for (uint32_t i = 0; i < model->module_count; i++) {
        if (model->driver->module_function(function, model->modules[i], name) == 0) {
            return INGOT_OK;
        }
    }
    return ingot_cuda_fail(INGOT_ERROR_INTERNAL, "the backend's code has no kernel %s", name);
}

/* <stem>_<format> for formats [0, count). */
static ingot_status find_formats(const cuda_model *model, const char *stem, uint32_t count, cu_function *functions) {
    char name[64];
    for (uint32_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s_%s", stem, format_names[i]);
        ingot_status status = find(model, name, &functions[i]);
        if (status != INGOT_OK) {
            return status;
        }
    }
    return INGOT_OK;
}

static ingot_status find_attention(cuda_model *model) {
    static const char *const states[3] = {"f16", "kv8", "k8v4"};
    char name[64];
    for (uint32_t kv = 0; kv < 3; kv++) {
        snprintf(name, sizeof name, "prepare_%s", states[kv]);
        ingot_status status = find(model, name, &model->kernels.prepare[kv]);
        for (uint32_t i = 0; i < CUDA_ROW_COUNTS && status == INGOT_OK; i++) {
            snprintf(name, sizeof name, "attend_%s_%u", states[kv], 1u << i);
            status = find(model, name, &model->kernels.attend[kv][i]);
        }
        if (kv > 0 && status == INGOT_OK) {
            snprintf(name, sizeof name, "attend_prompt_%s", states[kv]);
            status = find(model, name, &model->kernels.attend_prompt[kv]);
        }
        if (status != INGOT_OK) {
            return status;
        }
    }
    return INGOT_OK;
}

ingot_status ingot_cuda_load_kernels(cuda_model *model) {
    cuda_kernels *kernels = &model->kernels;
    ingot_status status = load_modules(model);
    if (status == INGOT_OK) status = find_formats(model, "gemv", CUDA_FORMATS, kernels->gemv);
    if (status == INGOT_OK) status = find_formats(model, "few", CUDA_FORMATS, kernels->few);
    if (status == INGOT_OK) status = find_formats(model, "prompt", CUDA_FORMATS, kernels->prompt);
    if (status == INGOT_OK) status = find_formats(model, "embed", CUDA_FORMATS + 1, kernels->embed);
    if (status == INGOT_OK) status = find_attention(model);
    if (status == INGOT_OK) status = find(model, "normalize", &kernels->normalize);
    if (status == INGOT_OK) status = find(model, "elements", &kernels->elements);
    if (status == INGOT_OK) status = find(model, "read_rate", &kernels->read_rate);
    if (status == INGOT_OK) status = find(model, "merge", &kernels->merge);
    if (status == INGOT_OK) status = find(model, "pick_segment", &kernels->pick_segment);
    if (status == INGOT_OK) status = find(model, "pick_merge", &kernels->pick_merge);
    return status;
}
