/* SPDX-License-Identifier: Apache-2.0 */
/* The best logits of a row. A key orders as the candidates do: the larger logit, then the lower id; a logit that is no
 * number or plus infinity stands above all. Keys differ, so the next best is the largest below the last one. */
#include "device.cuh"

enum { PICK_THREADS = 256, OWN_KEYS = CUDA_PICK_SEGMENT / PICK_THREADS };

DEVICE uint64_t key_of(float logit, uint32_t id) {
    uint32_t order = 0xffffffffu;
    if (logit < bits_to_float(0x7f800000u)) {
        const uint32_t bits = float_to_bits(logit + 0.0f); /* -0 and 0 are equal */
        order = bits >> 31 ? ~bits : bits | 0x80000000u;
    }
    return (uint64_t)order << 32 | (0xffffffffu - id);
}

/* To all threads; `room` has a key per warp. */
DEVICE uint64_t block_best(uint64_t key, uint64_t *room) {
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) {
        const uint64_t low = (uint32_t)shuffle_xor((int32_t)key, mask);
        const uint64_t high = (uint32_t)shuffle_xor((int32_t)(key >> 32), mask);
        const uint64_t other = high << 32 | low;
        key = other > key ? other : key;
    }
    if (LANE == 0) room[WARP] = key;
    sync_block();
    uint64_t best = room[0];
    for (uint32_t i = 1; i < WARPS; i++) best = room[i] > best ? room[i] : best;
    sync_block();
    return best;
}

/* The best of a segment; 0 where there are fewer than wanted. */
KERNEL(pick_segment, cuda_pick_args, PICK_THREADS) {
    SHARED(uint64_t, room, 32);
    const uint32_t segment = blockIdx.x, row = blockIdx.y;
    const float *logits = args.logits + (uint64_t)row * args.stride;
    uint64_t own[OWN_KEYS], last = ~(uint64_t)0;
    UNROLL
    for (int i = 0; i < OWN_KEYS; i++) {
        const uint32_t id = segment * CUDA_PICK_SEGMENT + i * PICK_THREADS + threadIdx.x;
        own[i] = id < args.vocabulary ? key_of(logits[id], id) : 0;
    }
    uint64_t *to = args.candidates + ((uint64_t)row * args.segments + segment) * args.count;
    for (uint32_t n = 0; n < args.count; n++) {
        uint64_t best = 0;
        UNROLL
        for (int i = 0; i < OWN_KEYS; i++) best = own[i] < last && own[i] > best ? own[i] : best;
        last = block_best(best, room);
        if (threadIdx.x == 0) to[n] = last;
    }
}

KERNEL(pick_merge, cuda_pick_args, PICK_THREADS) {
    SHARED(uint64_t, room, 32);
    const uint32_t row = blockIdx.x, total = args.segments * args.count;
    const uint64_t *from = args.candidates + (uint64_t)row * total;
    uint64_t last = ~(uint64_t)0;
    for (uint32_t n = 0; n < args.count; n++) {
        uint64_t best = 0;
        for (uint32_t i = threadIdx.x; i < total; i += blockDim.x) best = from[i] < last && from[i] > best ? from[i] : best;
        last = block_best(best, room);
        if (threadIdx.x == 0) args.best[(uint64_t)row * args.count + n] = last;
    }
}
