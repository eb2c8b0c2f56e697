/* SPDX-License-Identifier: Apache-2.0 */
/* What a caller may ask about the library itself: ABI, struct sizes, log. */
#include <stdatomic.h>
#include <string.h>

#include "core/error.h"

enum { LOG_BYTES = 16384 };

static struct {
    atomic_flag locked;
    size_t first; /* next byte to drain */
    size_t used;
    char bytes[LOG_BYTES];
} ring = {.locked = ATOMIC_FLAG_INIT};

/* Held for a copy of a few bytes only, so that waiting by spinning is short. */
static void lock_ring(void) {
    while (atomic_flag_test_and_set_explicit(&ring.locked, memory_order_acquire)) {
    }
}

static void unlock_ring(void) { atomic_flag_clear_explicit(&ring.locked, memory_order_release); }

void ingot_log(const char *message) {
    size_t length = strlen(message);
    lock_ring();
    if (length < LOG_BYTES - ring.used) {
        for (size_t i = 0; i <= length; i++) {
            ring.bytes[(ring.first + ring.used + i) % LOG_BYTES] = i < length ? message[i] : '\n';
        }
        ring.used += length + 1;
    }
    unlock_ring();
}

size_t ingot_log_drain(char *buffer, size_t size) {
    if (buffer == NULL) {
        return 0;
    }
    lock_ring();
    size_t count = size < ring.used ? size : ring.used;
    for (size_t i = 0; i < count; i++) {
        buffer[i] = ring.bytes[(ring.first + i) % LOG_BYTES];
    }
    ring.first = (ring.first + count) % LOG_BYTES;
    ring.used -= count;
    unlock_ring();
    return count;
}

uint32_t ingot_abi_version(void) { return INGOT_ABI_VERSION; }

size_t ingot_struct_size(ingot_struct which) {
    switch (which) {
        case INGOT_STRUCT_MODEL_INFO: return sizeof(ingot_model_info);
        case INGOT_STRUCT_TENSOR_INFO: return sizeof(ingot_tensor_info);
        case INGOT_STRUCT_SESSION_CONFIG: return sizeof(ingot_session_config);
        case INGOT_STRUCT_MEMORY_INFO: return sizeof(ingot_memory_info);
        case INGOT_STRUCT_KERNEL_INFO: return sizeof(ingot_kernel_info);
        case INGOT_STRUCT_LINEAR_CALL: return sizeof(ingot_linear_call);
        case INGOT_STRUCT_SAMPLING: return sizeof(ingot_sampling);
        case INGOT_STRUCT_PROFILE_ENTRY: return sizeof(ingot_profile_entry);
        case INGOT_STRUCT_TOPOLOGY_INFO: return sizeof(ingot_topology_info);
        case INGOT_STRUCT_TUNING: return sizeof(ingot_tuning);
        case INGOT_STRUCT_TUNE_CANDIDATE: return sizeof(ingot_tune_candidate);
        case INGOT_STRUCT_OPEN_CONFIG: return sizeof(ingot_open_config);
        case INGOT_STRUCT_DEVICE_INFO: return sizeof(ingot_device_info);
    }
    return 0;
}
