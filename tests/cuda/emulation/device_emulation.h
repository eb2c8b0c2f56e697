/* SPDX-License-Identifier: Apache-2.0 */
/* device.cuh for the host: every CUDA thread is a coroutine, barriers and exchanges of a warp yield, cp.async happens at
 * the wait. What a GPU would let pass is an error here: a barrier that not all threads reach, lanes that meet in different
 * exchanges, misaligned vectors; shared memory starts as NaN. */
#ifndef INGOT_DEVICE_EMULATION_H
#define INGOT_DEVICE_EMULATION_H

#include <math.h>
#include <stddef.h>
#include <string.h>

struct uint2 {
    uint32_t x, y;
};
struct uint4 {
    uint32_t x, y, z, w;
};
struct emulated_index {
    uint32_t x, y, z;
};

/* The thread that runs, and its block. */
struct emulated_place {
    emulated_index thread, block, block_size, grid;
};
extern emulated_place emulated;
extern int emulated_plant;

void emulated_barrier();
/* Gives `count` words to the other lanes of the warp; returns where all lanes' words lie until the next exchange. */
const uint32_t *emulated_exchange(const uint32_t *words, uint32_t count, uint32_t kind);
void *emulated_shared(size_t bytes);
void emulated_copy(void *to, const void *from, uint32_t bytes);
void emulated_commit();
void emulated_wait(uint32_t left);
void emulated_check_aligned(const void *pointer, size_t alignment);

struct emulated_kernel {
    emulated_kernel(const char *name, size_t args_size, uint32_t threads, void (*enter)(const void *));
    const char *name;
    size_t args_size;
    uint32_t threads;
    void (*enter)(const void *);
    emulated_kernel *next;
};

#define DEVICE static inline
#define MEMBER static inline
#define SHARED(type, name, count) type *name = (type *)emulated_shared(sizeof(type) * (count))
#define UNROLL
#define PLANTED(fault) (emulated_plant == (fault))
#define RESIDENT_KERNEL(name, args_type, threads, blocks) KERNEL(name, args_type, threads)
#define KERNEL(name, args_type, threads)                                                        \
    static void name##_body(const args_type &args);                                             \
    static void name##_enter(const void *args) { name##_body(*(const args_type *)args); }       \
    static const emulated_kernel name##_entry(#name, sizeof(args_type), threads, name##_enter); \
    static void name##_body(const args_type &args)

#define threadIdx emulated.thread
#define blockIdx emulated.block
#define blockDim emulated.block_size
#define gridDim emulated.grid

template <class T>
static inline T emulated_load(const void *from) {
    T value;
    emulated_check_aligned(from, sizeof(T));
    memcpy(&value, from, sizeof value);
    return value;
}
DEVICE uint4 stream16(const void *from) { return emulated_load<uint4>(from); }
DEVICE uint2 stream8(const void *from) { return emulated_load<uint2>(from); }
DEVICE void sync_block() { emulated_barrier(); }

DEVICE int32_t shuffle_xor(int32_t value, int mask) {
    const uint32_t word = (uint32_t)value;
    return (int32_t)emulated_exchange(&word, 1, 1)[(threadIdx.x & 31) ^ (uint32_t)mask];
}
DEVICE float shuffle_xor(float value, int mask) {
    uint32_t word;
    memcpy(&word, &value, 4);
    const uint32_t other = emulated_exchange(&word, 1, 2)[(threadIdx.x & 31) ^ (uint32_t)mask];
    memcpy(&value, &other, 4);
    return value;
}

static inline int32_t emulated_byte(uint32_t word, uint32_t i, bool with_sign) {
    const uint32_t byte = word >> 8 * i & 0xff;
    return with_sign ? (int32_t)(int8_t)byte : (int32_t)byte;
}
static inline int32_t emulated_dot4(int32_t sum, uint32_t a, uint32_t b, bool with_sign) {
    for (uint32_t i = 0; i < 4; i++) sum += emulated_byte(a, i, with_sign) * emulated_byte(b, i, true);
    return sum;
}
DEVICE int32_t dot4(int32_t sum, uint32_t a, uint32_t b) { return emulated_dot4(sum, a, b, true); }
DEVICE int32_t dot4_unsigned(int32_t sum, uint32_t a, uint32_t b) { return emulated_dot4(sum, a, b, false); }
/* prmt with all of its selector: bit 3 of a nibble repeats the byte's sign. */
DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t both = (uint64_t)b << 32 | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t nibble = selector >> 4 * i & 15;
        uint32_t byte = (uint32_t)(both >> 8 * (nibble & 7)) & 0xff;
        if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}
DEVICE float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
DEVICE uint32_t float_to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
float half_to_float(uint32_t bits);
uint16_t float_to_half(float value);
DEVICE int32_t round_to_int(float value) { return (int32_t)nearbyintf(value); }
/* To the nearest of 10 bits of fraction, ties away from zero. */
DEVICE uint32_t to_tf32(float value) { return (float_to_bits(value) + 0x1000u) & 0xffffe000u; }

/* The products of an mma by the fragments' documented places; `words` are all lanes' a[0..3], b[0..1]. */
void emulated_mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool with_sign);
DEVICE void mma_signed(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma_int8(d, a, b, true);
}
DEVICE void mma_unsigned(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma_int8(d, a, b, false);
}
void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

DEVICE void copy_async16(void *to, const void *from) {
    emulated_check_aligned(to, 16);
    emulated_check_aligned(from, 16);
    emulated_copy(to, from, 16);
}
DEVICE void copy_async4(void *to, const void *from) {
    emulated_check_aligned(from, 4);
    emulated_copy(to, from, 4);
}
DEVICE void copy_commit() { emulated_commit(); }
template <int left>
DEVICE void copy_wait() {
    emulated_wait(left);
}

#endif
