/* SPDX-License-Identifier: Apache-2.0 */
/* The state's blocks of 64 positions as attention reads them (drawn in kernels/attention/attention.h). */
#ifndef INGOT_CUDA_ATTENTION_CUH
#define INGOT_CUDA_ATTENTION_CUH

#include "device.cuh"

enum { KV_F16 = 1, KV_KV8 = 2, KV_K8V4 = 3, STATE_BLOCK = 64 };

#define NOTHING_SEEN (-3.0e38f)

/* Of the 4 d from 4 * word on, of one position. */
template <int KV>
DEVICE void load_values(const cuda_attention_args &args, const uint8_t *values, uint32_t slot, uint32_t word,
                        float (&v)[4]) {
    if (KV == KV_F16) {
        const uint2 pair = *(const uint2 *)(values + (slot * args.d_padded + 4 * word) * 2);
        v[0] = half_to_float(pair.x & 0xffffu);
        v[1] = half_to_float(pair.x >> 16);
        v[2] = half_to_float(pair.y & 0xffffu);
        v[3] = half_to_float(pair.y >> 16);
        return;
    }
    uint32_t bytes;
    float zero;
    if (KV == KV_KV8) {
        bytes = *(const uint32_t *)(values + slot * args.d_padded + 4 * word) ^ 0x80808080u;
        zero = 8388608.0f + 128.0f;
    } else {
        bytes = *(const uint32_t *)(values + slot * args.d_padded / 2 + word / 4 * 8 + word % 2 * 4);
        bytes = (word % 4 < 2 ? bytes : bytes >> 4) & 0x0f0f0f0fu;
        zero = 8388608.0f + 8.0f;
    }
    UNROLL
    for (int i = 0; i < 4; i++) v[i] = bits_to_float(pick_bytes(bytes, 0x4b000000u, 0x7440u + i)) - zero;
}

template <int KV>
DEVICE float value_scale(const cuda_attention_args &args, const uint8_t *values, uint32_t slot) {
    if (KV == KV_F16) return 1.0f;
    const uint32_t bytes = KV == KV_KV8 ? args.d_padded : args.d_padded / 2;
    return half_to_float(*(const uint16_t *)(values + STATE_BLOCK * bytes + 2 * slot));
}

DEVICE bool sees(const cuda_attention_args &args, uint32_t last, uint32_t position) {
    const uint32_t window = PLANTED(5) ? args.window + 1 : args.window;
    return position <= last && (args.window == 0 || position + window > last || position < args.sinks);
}

#endif
