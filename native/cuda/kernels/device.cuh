/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels use of a GPU, each instruction once: here for a CUDA compiler, in device_emulation.h for the host. */
#ifndef INGOT_CUDA_DEVICE_CUH
#define INGOT_CUDA_DEVICE_CUH

#include "kernel_args.h"

#ifdef INGOT_EMULATED
#include "device_emulation.h"
#else

#define DEVICE static __device__ __forceinline__
#define MEMBER static __device__ __forceinline__
#define SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define UNROLL _Pragma("unroll")
#define PLANTED(fault) 0
#define KERNEL(name, args_type, threads) RESIDENT_KERNEL(name, args_type, threads, 1)
/* So that `blocks` of them fit a multiprocessor at once: bounds the registers. */
#define RESIDENT_KERNEL(name, args_type, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ args_type args)

/* Weights are read once: they must not push out the activations. */
DEVICE uint4 stream16(const void *from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}
DEVICE uint2 stream8(const void *from) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(from));
    return v;
}
DEVICE void sync_block() { __syncthreads(); }
DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE int32_t shuffle_xor(int32_t value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEVICE int32_t dot4(int32_t sum, uint32_t a, uint32_t b) {
    asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}
DEVICE int32_t dot4_unsigned(int32_t sum, uint32_t a, uint32_t b) {
    asm("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(sum) : "r"(a), "r"(b));
    return sum;
}
/* Byte i of the result is byte (selector >> 4i & 7) of b:a; the selector's nibbles must be below 8. */
DEVICE uint32_t pick_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    uint32_t result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
    return result;
}
DEVICE float half_to_float(uint32_t bits) {
    float value;
    asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(value) : "r"(bits));
    return value;
}
DEVICE uint16_t float_to_half(float value) {
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
DEVICE float bits_to_float(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t float_to_bits(float value) { return __float_as_uint(value); }
DEVICE int32_t round_to_int(float value) { return __float2int_rn(value); }
DEVICE uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}
/* D = A B + D. Rows of A and D: lane / 4 and 8 more; columns of B and D: lane / 4, 2 * (lane % 4) and 1 more. The k of
 * a[0], a[1], b[0]: 4 * (lane % 4) + byte; of a[2], a[3], b[1]: 16 more. */
DEVICE void mma_signed(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void mma_unsigned(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* The same with 8 k of tf32: of a[0], a[1], b[0] it is lane % 4, of the others 4 more. */
DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE uint32_t shared_address(const void *pointer) { return (uint32_t)__cvta_generic_to_shared(pointer); }
DEVICE void copy_async16(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
DEVICE void copy_async4(void *to, const void *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most `left` of this thread's groups are under way. */
template <int left>
DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}
#endif

#define LANE (threadIdx.x & 31u)
#define WARP (threadIdx.x >> 5)
#define WARPS (blockDim.x >> 5)

DEVICE uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
DEVICE uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Of all lanes, to all lanes. A NaN is no candidate for the largest. */
DEVICE float warp_largest(float value) {
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value = fmaxf(value, shuffle_xor(value, mask));
    return value;
}
DEVICE float warp_sum(float value) {
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
    return value;
}
DEVICE int32_t warp_sum(int32_t value) {
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
    return value;
}

/* Of all threads, to all threads; `room` is shared, a float per warp. */
DEVICE float block_sum(float value, float *room) {
    value = warp_sum(value);
    if (LANE == 0) room[WARP] = value;
    sync_block();
    float total = 0.0f;
    for (uint32_t i = 0; i < WARPS; i++) total += room[i];
    sync_block();
    return total;
}
DEVICE float block_largest(float value, float *room) {
    value = warp_largest(value);
    if (LANE == 0) room[WARP] = value;
    sync_block();
    float best = room[0];
    for (uint32_t i = 1; i < WARPS; i++) best = fmaxf(best, room[i]);
    sync_block();
    return best;
}

/* Functions of quantize.h: the code of x, within 127; a NaN becomes 127. */
DEVICE int32_t int8_code(float x, float inverse) {
    const float value = x * inverse, high = value < 127.0f ? value : 127.0f;
    return round_to_int(high > -127.0f ? high : -127.0f);
}
DEVICE float code_factor(float largest) { return largest >= 1e-30f ? 127.0f / largest : 0.0f; }
DEVICE float code_scale(float largest) { return largest >= 1e-30f ? largest / 127.0f : 0.0f; }

/* Element i of row `row`, one of the 32 k of a warp's lanes, with their largest magnitude given. */
DEVICE void store_codes(const cuda_codes &to, float value, float largest, uint32_t i, uint32_t row) {
    const int32_t code = int8_code(value, code_factor(largest));
    const int32_t sum = warp_sum(code);
    const uint64_t first = (uint64_t)row * to.a_stride;
    to.a[first + i] = (int8_t)code;
    if (LANE == 0) {
        to.a_scale[first / 32 + i / 32] = code_scale(largest);
        to.a_sum[first / 32 + i / 32] = sum;
    }
}

/* Activation functions, by ingot_activation_kind; of the gates by ingot_epilogue, which has the same first two. */
DEVICE float activate(uint32_t kind, float x) {
    if (kind == 1) return x / (1.0f + expf(-x));
    if (kind == 2) { /* 0.5 x (1 + tanh u) = x / (1 + e^-2u) */
        const float inner = 0.7978845608028654f * (x + 0.044715f * x * x * x);
        return x / (1.0f + expf(-2.0f * inner));
    }
    return x > 0.0f ? x : 0.0f;
}

#endif
