/* SPDX-License-Identifier: Apache-2.0 */
/* The few functions and types of the CUDA driver API that the backend uses, declared here so that it builds without
 * NVIDIA's headers; libcuda is found by dlopen. Values are those of the driver's ABI. */
#ifndef INGOT_CUDA_DRIVER_H
#define INGOT_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

#include "ingot.h"

typedef int cu_result; /* 0: success */
typedef int cu_device;
typedef uint64_t cu_pointer; /* of the device */
typedef struct cu_context_record *cu_context;
typedef struct cu_module_record *cu_module;
typedef struct cu_function_record *cu_function;
typedef struct cu_stream_record *cu_stream;
typedef struct cu_event_record *cu_event;
typedef struct cu_graph_record *cu_graph;
typedef struct cu_executable_record *cu_executable;

enum {
    CU_OUT_OF_MEMORY = 2,
    CU_ATTRIBUTE_MULTIPROCESSORS = 16,
    CU_ATTRIBUTE_INTEGRATED = 18,
    CU_ATTRIBUTE_PCI_DEVICE = 34,
    CU_ATTRIBUTE_MAJOR = 75,
    CU_ATTRIBUTE_MINOR = 76,
    CU_ATTRIBUTE_MANAGED_MEMORY = 83,
    CU_ATTRIBUTE_HOST_REGISTER = 99,
    CU_ATTRIBUTE_READ_ONLY_REGISTER = 113,
    CU_REGISTER_DEVICE_MAP = 2,
    CU_REGISTER_READ_ONLY = 8,
    CU_ATTACH_GLOBAL = 1,
    CU_ATTACH_HOST = 2,
    CU_STREAM_NON_BLOCKING = 1,
    CU_CAPTURE_THREAD_LOCAL = 1,
    CU_MEMORY_HOST = 1,
    CU_MEMORY_DEVICE = 2
};

/* CUDA_MEMCPY2D */
typedef struct cu_copy2d {
    size_t source_x, source_y;
    int source_type;
    const void *source_host;
    cu_pointer source_device;
    void *source_array;
    size_t source_pitch;
    size_t to_x, to_y;
    int to_type;
    void *to_host;
    cu_pointer to_device;
    void *to_array;
    size_t to_pitch;
    size_t width, height; /* bytes, rows */
} cu_copy2d;

/* X(field, symbol, parameters) */
#define INGOT_CUDA_FUNCTIONS(X)                                                                                        \
    X(init, "cuInit", (unsigned flags))                                                                                \
    X(driver_version, "cuDriverGetVersion", (int *version))                                                            \
    X(error_name, "cuGetErrorName", (cu_result result, const char **name))                                             \
    X(error_string, "cuGetErrorString", (cu_result result, const char **text))                                         \
    X(device_count, "cuDeviceGetCount", (int *count))                                                                  \
    X(device_get, "cuDeviceGet", (cu_device * device, int index))                                                      \
    X(device_name, "cuDeviceGetName", (char *name, int room, cu_device device))                                        \
    X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, cu_device device))                         \
    X(device_memory, "cuDeviceTotalMem_v2", (size_t *bytes, cu_device device))                                         \
    X(context_retain, "cuDevicePrimaryCtxRetain", (cu_context * context, cu_device device))                            \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (cu_device device))                                             \
    X(context_push, "cuCtxPushCurrent_v2", (cu_context context))                                                       \
    X(context_pop, "cuCtxPopCurrent_v2", (cu_context * context))                                                       \
    X(module_load, "cuModuleLoadData", (cu_module * module, const void *image))                                        \
    X(module_unload, "cuModuleUnload", (cu_module module))                                                             \
    X(module_function, "cuModuleGetFunction", (cu_function * function, cu_module module, const char *name))            \
    X(memory_allocate, "cuMemAlloc_v2", (cu_pointer * pointer, size_t bytes))                                          \
    X(memory_managed, "cuMemAllocManaged", (cu_pointer * pointer, size_t bytes, unsigned flags))                       \
    X(memory_free, "cuMemFree_v2", (cu_pointer pointer))                                                               \
    X(memory_set, "cuMemsetD8_v2", (cu_pointer pointer, unsigned char value, size_t bytes))                            \
    X(host_register, "cuMemHostRegister_v2", (void *pointer, size_t bytes, unsigned flags))                            \
    X(host_unregister, "cuMemHostUnregister", (void *pointer))                                                         \
    X(host_pointer, "cuMemHostGetDevicePointer_v2", (cu_pointer * device, void *host, unsigned flags))                 \
    X(host_allocate, "cuMemHostAlloc", (void **pointer, size_t bytes, unsigned flags))                                 \
    X(host_free, "cuMemFreeHost", (void *pointer))                                                                     \
    X(copy_to_device, "cuMemcpyHtoD_v2", (cu_pointer to, const void *from, size_t bytes))                              \
    X(copy_to_host, "cuMemcpyDtoH_v2", (void *to, cu_pointer from, size_t bytes))                                      \
    X(copy_to_device_async, "cuMemcpyHtoDAsync_v2", (cu_pointer to, const void *from, size_t bytes, cu_stream stream)) \
    X(copy2d, "cuMemcpy2D_v2", (const cu_copy2d *copy))                                                                \
    X(stream_create, "cuStreamCreate", (cu_stream * stream, unsigned flags))                                           \
    X(stream_attach, "cuStreamAttachMemAsync", (cu_stream stream, cu_pointer pointer, size_t bytes, unsigned flags))   \
    X(stream_destroy, "cuStreamDestroy_v2", (cu_stream stream))                                                        \
    X(stream_synchronize, "cuStreamSynchronize", (cu_stream stream))                                                   \
    X(capture_begin, "cuStreamBeginCapture_v2", (cu_stream stream, int mode))                                          \
    X(capture_end, "cuStreamEndCapture", (cu_stream stream, cu_graph * graph))                                         \
    X(graph_instantiate, "cuGraphInstantiateWithFlags",                                                                \
      (cu_executable * executable, cu_graph graph, unsigned long long flags))                                          \
    X(graph_launch, "cuGraphLaunch", (cu_executable executable, cu_stream stream))                                     \
    X(graph_destroy, "cuGraphDestroy", (cu_graph graph))                                                               \
    X(executable_destroy, "cuGraphExecDestroy", (cu_executable executable))                                            \
    X(launch, "cuLaunchKernel",                                                                                        \
      (cu_function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,    \
       unsigned block_z, unsigned shared, cu_stream stream, void **args, void **extra))                                \
    X(event_create, "cuEventCreate", (cu_event * event, unsigned flags))                                               \
    X(event_record, "cuEventRecord", (cu_event event, cu_stream stream))                                               \
    X(event_synchronize, "cuEventSynchronize", (cu_event event))                                                       \
    X(event_elapsed, "cuEventElapsedTime", (float *milliseconds, cu_event start, cu_event end))                        \
    X(event_destroy, "cuEventDestroy_v2", (cu_event event))

typedef struct ingot_cuda_driver {
#define FIELD(field, symbol, parameters) cu_result(*field) parameters;
    INGOT_CUDA_FUNCTIONS(FIELD)
#undef FIELD
    int version;   /* 12060 is 12.6 */
    int emulated;  /* a test's driver: the CPU itself */
    int devices;
} ingot_cuda_driver;

/** The driver, opened at the first call; NULL without one, and the message says what was looked for. */
const ingot_cuda_driver *ingot_cuda_driver_open(void);

/** Sets this thread's message and returns status. */
__attribute__((format(printf, 2, 3))) ingot_status ingot_cuda_fail(ingot_status status, const char *format, ...);
const char *ingot_cuda_last_error(void);
/** Waits for the default stream: a copy from pageable memory or a fill may be under way when its call returns, and a
 * session's stream does not wait for it, since a stream that did could not be captured beside other sessions. */
ingot_status ingot_cuda_settle(const ingot_cuda_driver *driver, cu_result result, const char *what);
/** The status of a driver's result, with "what: name, text" as the message where it is an error. */
ingot_status ingot_cuda_check(const ingot_cuda_driver *driver, cu_result result, const char *what);

#endif
