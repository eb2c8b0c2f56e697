/* SPDX-License-Identifier: Apache-2.0 */
/* The backend's table. */
#include "cuda_model.h"

const ingot_backend *ingot_backend_get(void) {
    static const ingot_backend backend = {.abi = INGOT_BACKEND_ABI,
                                          .struct_size = sizeof backend,
                                          .name = "cuda",
                                          .last_error = ingot_cuda_last_error,
                                          .device_count = ingot_cuda_device_count,
                                          .device_info = ingot_cuda_device_info,
                                          .model_open = ingot_cuda_model_open,
                                          .model_close = ingot_cuda_model_close,
                                          .session_open = ingot_cuda_session_open,
                                          .session_close = ingot_cuda_session_close,
                                          .run = ingot_cuda_run,
                                          .write = ingot_cuda_write,
                                          .read = ingot_cuda_read,
                                          .picks = ingot_cuda_picks,
                                          .state_write = ingot_cuda_state_write,
                                          .state_read = ingot_cuda_state_read,
                                          .memory = ingot_cuda_memory};
    return &backend;
}
