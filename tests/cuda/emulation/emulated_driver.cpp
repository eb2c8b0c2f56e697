// SPDX-License-Identifier: Apache-2.0
// libcuda for tests: the driver API functions that the backend uses, over memory of the host. Each allocation ends at a
// page that cannot be touched. A stream works at once; a graph is its list of launches. What the default stream may still
// have under way when a call returns, fills and copies from pageable memory, happens when somebody waits for it.
//   INGOT_EMULATION_DEVICE    capability (87, 90, 75 ...), 87 if unset     INGOT_EMULATION_VERSION  12060 if unset
//   INGOT_EMULATION_DISCRETE  set: a device with memory of its own         INGOT_EMULATION_COUNT    devices, 1 if unset
//   INGOT_EMULATION_REGISTER  fail: no registration; slow: what is registered reads slowly
//   INGOT_EMULATION_LOG       a file that gets a line per launch, capture and replay
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <vector>

#include "kernel_args.h"

#include "device_emulation.h"
#include "emulated_threads.h"

extern "C" {
#include "cuda_driver.h"
}

#define API extern "C" __attribute__((visibility("default"))) cu_result

namespace {

enum { INVALID = 1, NOT_FOUND = 500, LAUNCH_FAILED = 719, NOT_SUPPORTED = 801 };

struct launch_record {
    const emulated_kernel *function;
    emulated_index grid;
    uint32_t block;
    std::vector<uint8_t> args;
};
struct recorded_graph {
    std::vector<launch_record> launches;
};

std::map<uint64_t, size_t> allocations; // bytes that are mapped, the closed page included
std::map<uint64_t, size_t> registered;
thread_local recorded_graph *capturing;
std::mutex one_at_a_time; // sessions may run on several threads, the emulated device is one
std::vector<std::function<void()>> under_way; // in the default stream
float clock_milliseconds = 1.0f;
char launch_error[256];

int setting(const char *name, int standard) {
    const char *value = getenv(name);
    return value != nullptr && value[0] != 0 ? atoi(value) : standard;
}
bool setting_is(const char *name, const char *wanted) {
    const char *value = getenv(name);
    return value != nullptr && strcmp(value, wanted) == 0;
}
void log_line(const char *what, const char *name) {
    const char *path = getenv("INGOT_EMULATION_LOG");
    FILE *file = path != nullptr ? fopen(path, "a") : nullptr;
    if (file == nullptr) return;
    fprintf(file, "%s %s\n", what, name);
    fclose(file);
}

void later(std::function<void()> work) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    under_way.push_back(std::move(work));
}
void finish_default_stream() {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    for (const auto &work : under_way) work();
    under_way.clear();
}

// Ends at a closed page; starts at a multiple of 256 unless that is not possible, then a little before the end is free.
cu_result allocate(cu_pointer *pointer, size_t bytes) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + 255) / 256 * 256;
    const size_t whole = (used + page - 1) / page * page + page;
    uint8_t *start = (uint8_t *)mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (bytes == 0 || start == MAP_FAILED) return CU_OUT_OF_MEMORY;
    mprotect(start + whole - page, page, PROT_NONE);
    *pointer = (cu_pointer)(start + whole - page - used);
    memset((void *)*pointer, 0xff, used); // what nobody has written is NaN
    allocations[*pointer] = whole;
    return 0;
}

cu_result run(const launch_record &record) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const char *error = emulated_launch(record.function, record.grid, record.block, record.args.data());
    if (error[0] != 0) {
        snprintf(launch_error, sizeof launch_error, "%s", error);
        return LAUNCH_FAILED;
    }
    uint64_t data;
    memcpy(&data, record.args.data(), sizeof data);
    auto after = registered.upper_bound(data);
    const bool mapped = after != registered.begin() && data < (--after)->first + after->second;
    clock_milliseconds += mapped && setting_is("INGOT_EMULATION_REGISTER", "slow") ? 100.0f : 1.0f;
    return 0;
}

} // namespace

extern "C" __attribute__((visibility("default"))) const int ingot_cuda_emulated = 1;

API cuInit(unsigned) { return 0; }
API cuDriverGetVersion(int *version) {
    *version = setting("INGOT_EMULATION_VERSION", 12060);
    return 0;
}
API cuGetErrorName(cu_result result, const char **name) {
    *name = result == LAUNCH_FAILED ? "CUDA_ERROR_LAUNCH_FAILED" : result == CU_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return 0;
}
API cuGetErrorString(cu_result result, const char **text) {
    *text = result == LAUNCH_FAILED ? launch_error : "emulated";
    return 0;
}
API cuDeviceGetCount(int *count) {
    *count = setting("INGOT_EMULATION_COUNT", 1);
    return 0;
}
API cuDeviceGet(cu_device *device, int index) {
    *device = index;
    return 0;
}
API cuDeviceGetName(char *name, int room, cu_device) {
    snprintf(name, (size_t)room, "emulated sm_%d", setting("INGOT_EMULATION_DEVICE", 87));
    return 0;
}
API cuDeviceGetAttribute(int *value, int attribute, cu_device) {
    const int capability = setting("INGOT_EMULATION_DEVICE", 87);
    const bool registers = !setting_is("INGOT_EMULATION_REGISTER", "fail");
    switch (attribute) {
        case CU_ATTRIBUTE_MULTIPROCESSORS: *value = 2; break;
        case CU_ATTRIBUTE_INTEGRATED: *value = getenv("INGOT_EMULATION_DISCRETE") == nullptr; break;
        case CU_ATTRIBUTE_MAJOR: *value = capability / 10; break;
        case CU_ATTRIBUTE_MINOR: *value = capability % 10; break;
        case CU_ATTRIBUTE_MANAGED_MEMORY: *value = 1; break;
        case CU_ATTRIBUTE_HOST_REGISTER:
        case CU_ATTRIBUTE_READ_ONLY_REGISTER: *value = registers; break;
        default: *value = 0;
    }
    return 0;
}
API cuDeviceTotalMem_v2(size_t *bytes, cu_device) {
    *bytes = (size_t)8 << 30;
    return 0;
}
API cuDevicePrimaryCtxRetain(cu_context *context, cu_device) {
    *context = (cu_context)&allocations;
    return 0;
}
API cuDevicePrimaryCtxRelease_v2(cu_device) { return 0; }
API cuCtxPushCurrent_v2(cu_context) { return 0; }
API cuCtxPopCurrent_v2(cu_context *) { return 0; }
API cuModuleLoadData(cu_module *module, const void *image) {
    *module = (cu_module)image;
    return 0;
}
API cuModuleUnload(cu_module) { return 0; }
API cuModuleGetFunction(cu_function *function, cu_module, const char *name) {
    *function = (cu_function)emulated_find(name);
    return *function != nullptr ? 0 : NOT_FOUND;
}
API cuMemAlloc_v2(cu_pointer *pointer, size_t bytes) { return allocate(pointer, bytes); }
API cuMemAllocManaged(cu_pointer *pointer, size_t bytes, unsigned) { return allocate(pointer, bytes); }
API cuMemFree_v2(cu_pointer pointer) {
    finish_default_stream();
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const auto found = allocations.find(pointer);
    if (found == allocations.end()) return INVALID;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap((void *)(pointer / page * page), found->second);
    allocations.erase(found);
    return 0;
}
API cuMemsetD8_v2(cu_pointer pointer, unsigned char value, size_t bytes) {
    later([=] { memset((void *)pointer, value, bytes); });
    return 0;
}
API cuMemHostRegister_v2(void *pointer, size_t bytes, unsigned flags) {
    if (setting_is("INGOT_EMULATION_REGISTER", "fail")) return NOT_SUPPORTED;
    if ((flags & CU_REGISTER_READ_ONLY) == 0 || (size_t)pointer % (size_t)sysconf(_SC_PAGESIZE) != 0) return INVALID;
    registered[(uint64_t)pointer] = bytes;
    return 0;
}
API cuMemHostUnregister(void *pointer) { return registered.erase((uint64_t)pointer) == 1 ? 0 : INVALID; }
API cuMemHostGetDevicePointer_v2(cu_pointer *device, void *host, unsigned) {
    *device = (cu_pointer)host;
    return 0;
}
API cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    cu_pointer found;
    const cu_result result = allocate(&found, bytes);
    *pointer = (void *)found;
    return result;
}
API cuMemFreeHost(void *pointer) { return cuMemFree_v2((cu_pointer)pointer); }
API cuMemcpyHtoD_v2(cu_pointer to, const void *from, size_t bytes) {
    const std::vector<uint8_t> staged((const uint8_t *)from, (const uint8_t *)from + bytes);
    later([=] { memcpy((void *)to, staged.data(), bytes); });
    return 0;
}
API cuMemcpyDtoH_v2(void *to, cu_pointer from, size_t bytes) {
    finish_default_stream();
    memcpy(to, (const void *)from, bytes);
    return 0;
}
API cuMemcpyHtoDAsync_v2(cu_pointer to, const void *from, size_t bytes, cu_stream) {
    if (capturing != nullptr) return INVALID;
    memcpy((void *)to, from, bytes);
    return 0;
}
API cuMemcpy2D_v2(const cu_copy2d *copy) {
    const uint8_t *from = copy->source_type == CU_MEMORY_HOST ? (const uint8_t *)copy->source_host
                                                              : (const uint8_t *)copy->source_device;
    uint8_t *to = copy->to_type == CU_MEMORY_HOST ? (uint8_t *)copy->to_host : (uint8_t *)copy->to_device;
    if (copy->to_type == CU_MEMORY_HOST) finish_default_stream();
    for (size_t row = 0; row < copy->height; row++) {
        uint8_t *const place = to + row * copy->to_pitch;
        const uint8_t *const start = from + row * copy->source_pitch;
        if (copy->to_type == CU_MEMORY_HOST) {
            memcpy(place, start, copy->width);
        } else {
            const std::vector<uint8_t> staged(start, start + copy->width);
            later([=] { memcpy(place, staged.data(), staged.size()); });
        }
    }
    return 0;
}
API cuStreamCreate(cu_stream *stream, unsigned) {
    *stream = (cu_stream)&capturing;
    return 0;
}
API cuStreamAttachMemAsync(cu_stream, cu_pointer pointer, size_t, unsigned flags) {
    return allocations.count(pointer) == 1 && flags == CU_ATTACH_GLOBAL ? 0 : INVALID;
}
API cuStreamDestroy_v2(cu_stream) { return 0; }
API cuStreamSynchronize(cu_stream stream) {
    if (stream == nullptr) finish_default_stream();
    return 0;
}
API cuStreamBeginCapture_v2(cu_stream, int) {
    if (capturing != nullptr) return INVALID;
    capturing = new recorded_graph;
    return 0;
}
API cuStreamEndCapture(cu_stream, cu_graph *graph) {
    *graph = (cu_graph)capturing;
    capturing = nullptr;
    log_line("graph", "captured");
    return 0;
}
API cuGraphInstantiateWithFlags(cu_executable *executable, cu_graph graph, unsigned long long) {
    *executable = (cu_executable) new recorded_graph(*(recorded_graph *)graph);
    return 0;
}
API cuGraphLaunch(cu_executable executable, cu_stream) {
    log_line("graph", "launched");
    for (const launch_record &record : ((recorded_graph *)executable)->launches) {
        const cu_result result = run(record);
        if (result != 0) return result;
    }
    return 0;
}
API cuGraphDestroy(cu_graph graph) {
    delete (recorded_graph *)graph;
    return 0;
}
API cuGraphExecDestroy(cu_executable executable) {
    delete (recorded_graph *)executable;
    return 0;
}
API cuLaunchKernel(cu_function function, unsigned x, unsigned y, unsigned z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, cu_stream stream, void **args, void **extra) {
    if (block_y != 1 || block_z != 1 || shared != 0 || extra != nullptr) return INVALID;
    if (stream == nullptr) finish_default_stream();
    const emulated_kernel *kernel = (const emulated_kernel *)function;
    const uint8_t *bytes = (const uint8_t *)args[0];
    launch_record record = {kernel, {x, y, z}, block_x, std::vector<uint8_t>(bytes, bytes + kernel->args_size)};
    log_line(capturing != nullptr ? "capture" : "launch", kernel->name);
    if (capturing != nullptr) {
        capturing->launches.push_back(record);
        return 0;
    }
    return run(record);
}
API cuEventCreate(cu_event *event, unsigned) {
    *event = (cu_event) new float(0.0f);
    return 0;
}
API cuEventRecord(cu_event event, cu_stream) {
    *(float *)event = clock_milliseconds;
    return 0;
}
API cuEventSynchronize(cu_event) { return 0; }
API cuEventElapsedTime(float *milliseconds, cu_event start, cu_event end) {
    *milliseconds = *(float *)end - *(float *)start;
    return 0;
}
API cuEventDestroy_v2(cu_event event) {
    delete (float *)event;
    return 0;
}
