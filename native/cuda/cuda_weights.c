/* SPDX-License-Identifier: Apache-2.0 */
/* The weights section on the device. Where the GPU shares the CPU's memory the file's own pages are registered, so that
 * the weights exist once; where that fails, or the GPU reads such pages slower than its own, they are read in chunks into
 * unified memory and the page cache gives up what was read. A GPU with memory of its own gets them in chunks. */
#define _GNU_SOURCE /* madvise */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda_model.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

enum { CHUNK = 4 << 20, SAMPLE = 32 << 20, RATE_THREADS = 256 };

static ingot_status register_pages(cuda_model *model) {
    const ingot_cuda_driver *driver = model->driver;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)model->program->weights;
    const uintptr_t first = start / page * page;
    const size_t bytes = ingot_cuda_padded(start + model->program->weights_size - first, page);
    ingot_status status = ingot_cuda_check(
        driver, driver->host_register((void *)first, bytes, CU_REGISTER_DEVICE_MAP | CU_REGISTER_READ_ONLY),
        "registering the file's pages");
    if (status != INGOT_OK) {
        return status;
    }
    model->registered = (void *)first;
    status = ingot_cuda_check(driver, driver->host_pointer(&model->weights, model->registered, 0),
                              "the device's view of the file's pages");
    model->weights += start - first;
    model->weights_kind = CUDA_WEIGHTS_IMPORTED;
    return status;
}

static void release_pages(cuda_model *model) {
    if (model->registered != NULL) {
        (void)model->driver->host_unregister(model->registered);
    }
    model->registered = NULL;
    model->weights = 0;
    model->weights_kind = CUDA_WEIGHTS_NONE;
}

/* Milliseconds that the device needs to read memory, the second time. */
static ingot_status time_reading(const cuda_model *model, cu_pointer data, uint64_t bytes, cu_pointer out,
                                 float *took) {
    const ingot_cuda_driver *driver = model->driver;
    cuda_rate_args args = {ingot_cuda_at(data), ingot_cuda_at(out), bytes / 16};
    void *arguments[1] = {&args};
    const uint32_t blocks = 4 * model->multiprocessors;
    cu_event start = NULL, end = NULL;
    cu_result result = driver->event_create(&start, 0);
    if (result == 0) result = driver->event_create(&end, 0);
    for (uint32_t turn = 0; turn < 2 && result == 0; turn++) {
        result = driver->event_record(start, NULL);
        if (result == 0) {
            result =
                driver->launch(model->kernels.read_rate, blocks, 1, 1, RATE_THREADS, 1, 1, 0, NULL, arguments, NULL);
        }
        if (result == 0) result = driver->event_record(end, NULL);
        if (result == 0) result = driver->event_synchronize(end);
        if (result == 0) result = driver->event_elapsed(took, start, end);
    }
    if (start != NULL) (void)driver->event_destroy(start);
    if (end != NULL) (void)driver->event_destroy(end);
    return ingot_cuda_check(driver, result, "measuring how fast the device reads");
}

/* Whether the registered pages are read at nine tenths of the speed of unified memory or better. */
static bool reads_well(const cuda_model *model) {
    const uint64_t size = model->program->weights_size, bytes = size < SAMPLE ? size / 16 * 16 : SAMPLE;
    cu_pointer own = 0;
    float imported = 0.0f, unified = 0.0f;
    if (bytes == 0 || model->driver->memory_managed(&own, bytes + 16, CU_ATTACH_GLOBAL) != 0) {
        return true; /* there is no room for anything else either */
    }
    bool fine = model->driver->memory_set(own, 0, bytes + 16) == 0;
    fine = fine && time_reading(model, model->weights, bytes, own + bytes, &imported) == INGOT_OK;
    fine = fine && time_reading(model, own, bytes, own + bytes, &unified) == INGOT_OK;
    (void)model->driver->memory_free(own);
    return fine && 0.9f * imported <= unified;
}

/* The bytes of [place, place + bytes) of the section into host memory. */
static bool read_section(const ingot_backend_program *program, uint64_t place, size_t bytes, uint8_t *to) {
    for (size_t done = 0; done < bytes;) {
        const off_t at = (off_t)(program->weights_offset + place + done);
        const ssize_t count = pread(program->descriptor, to + done, bytes - done, at);
        if (count <= 0) {
            return false;
        }
        done += (size_t)count;
    }
    return true;
}

/* Gives pages of the file back: out of this process first, since the cache keeps what somebody maps. */
static void drop_pages(const ingot_backend_program *program, uint64_t place, size_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = (uintptr_t)program->weights + place;
    const uintptr_t first = start / page * page;
    (void)madvise((void *)first, start + bytes - first, MADV_PAGEOUT);
    (void)posix_fadvise(program->descriptor, (off_t)(program->weights_offset + place), (off_t)bytes,
                        POSIX_FADV_DONTNEED);
}

/* Into unified memory, which the host writes in place. It is the host's until it is filled: where host and device cannot
 * use such memory at once, another model's kernels may be running meanwhile. */
static ingot_status read_in_chunks(cuda_model *model, const ingot_backend_options *options) {
    const ingot_backend_program *program = model->program;
    ingot_status status = ingot_cuda_check(
        model->driver, model->driver->memory_managed(&model->weights, program->weights_size, CU_ATTACH_HOST),
        "unified memory for the weights");
    if (status != INGOT_OK) {
        return status;
    }
    model->weights_kind = CUDA_WEIGHTS_MANAGED;
    for (uint64_t place = 0; place < program->weights_size; place += CHUNK) {
        const uint64_t left = program->weights_size - place;
        const size_t bytes = left < CHUNK ? (size_t)left : (size_t)CHUNK;
        if (!read_section(program, place, bytes, (uint8_t *)ingot_cuda_at(model->weights + place))) {
            return ingot_cuda_fail(INGOT_ERROR_IO, "reading the weights at byte %llu",
                                   (unsigned long long)(program->weights_offset + place));
        }
        drop_pages(program, place, bytes);
        ingot_backend_progress(options, place + bytes, program->weights_size);
    }
    return ingot_cuda_settle(model->driver, model->driver->stream_attach(NULL, model->weights, 0, CU_ATTACH_GLOBAL),
                             "giving the weights to the device");
}

static ingot_status upload(cuda_model *model, const ingot_backend_options *options) {
    const ingot_backend_program *program = model->program;
    ingot_status status =
        ingot_cuda_check(model->driver, model->driver->memory_allocate(&model->weights, program->weights_size),
                         "device memory for the weights");
    if (status != INGOT_OK) {
        return status;
    }
    model->weights_kind = CUDA_WEIGHTS_UPLOADED;
    for (uint64_t place = 0; place < program->weights_size && status == INGOT_OK; place += CHUNK) {
        const uint64_t left = program->weights_size - place;
        const size_t bytes = left < CHUNK ? (size_t)left : (size_t)CHUNK;
        status = ingot_cuda_settle(
            model->driver, model->driver->copy_to_device(model->weights + place, program->weights + place, bytes),
            "uploading the weights");
        ingot_backend_progress(options, place + bytes, program->weights_size);
    }
    return status;
}

ingot_status ingot_cuda_weights_place(cuda_model *model, const ingot_backend_options *options) {
    const uint64_t limit = options->memory_limit;
    const ingot_backend_program *program = model->program;
    if (program->weights_size == 0) {
        return INGOT_OK;
    }
    if (model->integrated) {
        if (register_pages(model) == INGOT_OK && (program->descriptor < 0 || reads_well(model))) {
            return INGOT_OK;
        }
        release_pages(model);
    }
    if (limit != 0 && program->weights_size > limit) { /* of copies; the file's own pages take nothing more */
        return ingot_cuda_fail(INGOT_ERROR_MEMORY_LIMIT, "the weights take %llu bytes of the device, the limit is %llu",
                               (unsigned long long)program->weights_size, (unsigned long long)limit);
    }
    if (!model->integrated) {
        return upload(model, options);
    }
    return program->descriptor < 0 ? upload(model, options) : read_in_chunks(model, options);
}

void ingot_cuda_weights_release(cuda_model *model) {
    if (model->weights_kind == CUDA_WEIGHTS_IMPORTED) {
        release_pages(model);
    } else if (model->weights_kind != CUDA_WEIGHTS_NONE) {
        (void)model->driver->memory_free(model->weights);
    }
    model->weights_kind = CUDA_WEIGHTS_NONE;
}
