// SPDX-License-Identifier: Apache-2.0
// Runs one mma on registers that a test has filled: 32 lanes of a[0..3], b[0..1], d[0..3], words.
#include "device.cuh"

struct probe_args {
    const uint32_t *registers;
    uint32_t *out; // (32, 4)
    uint32_t kind; // 0 signed, 1 unsigned, 2 tf32
};

KERNEL(probe_mma, probe_args, 32) {
    const uint32_t *own = args.registers + 10 * threadIdx.x;
    const uint32_t a[4] = {own[0], own[1], own[2], own[3]}, b[2] = {own[4], own[5]};
    if (args.kind == 2) {
        float d[4];
        for (uint32_t i = 0; i < 4; i++) d[i] = bits_to_float(own[6 + i]);
        mma_tf32(d, a, b);
        for (uint32_t i = 0; i < 4; i++) args.out[4 * threadIdx.x + i] = float_to_bits(d[i]);
        return;
    }
    int32_t d[4];
    for (uint32_t i = 0; i < 4; i++) d[i] = (int32_t)own[6 + i];
    if (args.kind == 0) {
        mma_signed(d, a, b);
    } else {
        mma_unsigned(d, a, b);
    }
    for (uint32_t i = 0; i < 4; i++) args.out[4 * threadIdx.x + i] = (uint32_t)d[i];
}

// What the emulation must refuse: lanes that part before a barrier.
struct part_args {
    uint32_t *out;
};
KERNEL(probe_divergence, part_args, 64) {
    if (threadIdx.x < 40) sync_block();
    args.out[0] = 1;
}
