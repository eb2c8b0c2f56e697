/* SPDX-License-Identifier: Apache-2.0 */
/* What the core could do: its clock, and its dot products of int8 with all operands in registers. */
#include <time.h>

#include "ingot.h"
#include "kernel_harness.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { ROUNDS = 200000, TRIES = 7 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 16 additions that wait for one another: one cycle each. */
static void add_chain(void) {
    uint64_t x = 1;
    for (int i = 0; i < ROUNDS; i++) {
        for (int j = 0; j < 16; j++) {
#if defined(__x86_64__)
            __asm__ volatile("add $3, %0" : "+r"(x));
#elif defined(__aarch64__)
            __asm__ volatile("add %0, %0, #3" : "+r"(x));
#else
            __asm__ volatile("" : "+r"(x));
#endif
        }
    }
}

static double best_seconds(void (*run)(void)) {
    double best = 1e9;
    for (int i = 0; i < TRIES; i++) {
        const double start = now();
        run();
        const double seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

double harness_clock(void) { return 16.0 * ROUNDS / best_seconds(add_chain); }

/* Four lines at a time, each asked for 8 KB ahead; vectors of 32 bytes where the compiler has them. */
#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
uint64_t harness_read(const uint8_t *bytes, size_t size) {
    const uint64_t *words = (const uint64_t *)(const void *)bytes;
    uint64_t sum[32] = {0};
    for (size_t i = 0; i + 32 <= size / 8; i += 32) {
        for (uintptr_t line = 0; line < 256; line += 64) {
            __builtin_prefetch((const void *)((uintptr_t)(words + i) + 8192 + line));
        }
        for (size_t j = 0; j < 32; j++) sum[j] ^= words[i + j];
    }
    uint64_t all = 0;
    for (size_t j = 0; j < 32; j++) all ^= sum[j];
    return all;
}

#if defined(__x86_64__)
/* Twelve sums, which hide the latency; the empty statement keeps each product apart from the others. */
#define DOT_LOOP(type, zero, step)                              \
    type sum[12], w = zero, a = zero;                           \
    for (int j = 0; j < 12; j++) sum[j] = zero;                 \
    for (int i = 0; i < ROUNDS; i++) {                          \
        _Pragma("GCC unroll 12") for (int j = 0; j < 12; j++) { \
            __asm__ volatile("" : "+x"(w), "+x"(a));            \
            sum[j] = step;                                      \
        }                                                       \
    }                                                           \
    for (int j = 0; j < 12; j++) __asm__ volatile("" ::"x"(sum[j]))

__attribute__((target("avx512f,avx512vnni"))) static void dot_avx512vnni(void) {
    DOT_LOOP(__m512i, _mm512_setzero_si512(), _mm512_dpbusd_epi32(sum[j], w, a));
}

__attribute__((target("avx2,avxvnni"))) static void dot_avxvnni(void) {
    DOT_LOOP(__m256i, _mm256_setzero_si256(), _mm256_dpbusd_avx_epi32(sum[j], w, a));
}

__attribute__((target("avx2"))) static void dot_avx2(void) {
    DOT_LOOP(__m256i, _mm256_setzero_si256(), _mm256_add_epi16(sum[j], _mm256_maddubs_epi16(w, a)));
}

double harness_dot_peak(uint32_t isa) {
    const double each = 2.0 * 12 * ROUNDS;
    if (isa == INGOT_ISA_AVX512VNNI) return 64 * each / best_seconds(dot_avx512vnni);
    if (isa == INGOT_ISA_AVXVNNI) return 32 * each / best_seconds(dot_avxvnni);
    return isa == INGOT_ISA_AVX2 ? 32 * each / best_seconds(dot_avx2) : 0;
}
#else
double harness_dot_peak(uint32_t isa) {
    (void)isa;
    return 0;
}
#endif
