/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/auxv.h>
#else
#include <unistd.h>
#endif

static const struct {
    uint32_t isa;
    const char *name;
} levels[] = {
    {INGOT_ISA_REF, "ref"},
    {INGOT_ISA_AVX2, "avx2"},
    {INGOT_ISA_AVXVNNI, "avxvnni"},
    {INGOT_ISA_AVX512VNNI, "avx512vnni"},
    {INGOT_ISA_NEON, "neon"},
    {INGOT_ISA_NEON_DOTPROD, "neon_dotprod"},
    {INGOT_ISA_NEON_I8MM, "neon_i8mm"},
};
enum { LEVEL_COUNT = sizeof levels / sizeof levels[0] };

/* 0 until first asked for: features always have the ref bit. */
static _Atomic uint32_t features_found;
static _Atomic uint32_t mask_in_force;

const char *ingot_isa_name(uint32_t isa) {
    for (size_t i = 0; i < LEVEL_COUNT; i++) {
        if (levels[i].isa == isa) return levels[i].name;
    }
    return NULL;
}

uint32_t ingot_isa_parse(const char *name) {
    for (size_t i = 0; i < LEVEL_COUNT; i++) {
        if (strcmp(levels[i].name, name) == 0) return levels[i].isa;
    }
    return 0;
}

#if defined(__x86_64__)
static uint32_t bit(uint32_t word, unsigned index) { return (word >> index) & 1u; }

/* Register state that the operating system saves: bits 1,2 SSE and AVX, 5..7 AVX-512. */
static uint32_t enabled_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static uint32_t detect(void) {
    uint32_t eax, ebx, ecx, edx, found = INGOT_ISA_REF;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
    const uint32_t base = bit(ecx, 12) & bit(ecx, 27) & bit(ecx, 28) & bit(ecx, 29); /* FMA OSXSAVE AVX F16C */
    if (!base || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
    const uint32_t subleaves = eax, state = enabled_state();
    if ((state & 0x06u) != 0x06u || !bit(ebx, 5)) return found;
    found |= INGOT_ISA_AVX2;
    const uint32_t avx512 = bit(ebx, 16) & bit(ebx, 17) & bit(ebx, 30) & bit(ebx, 31) & bit(ecx, 11);
    if ((state & 0xe6u) == 0xe6u && avx512) found |= INGOT_ISA_AVX512VNNI; /* F DQ BW VL VNNI */
    if (subleaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && bit(eax, 4)) {
        found |= INGOT_ISA_AVXVNNI;
    }
    return found;
}
#elif defined(__aarch64__)
static uint32_t detect(void) {
    uint32_t found = INGOT_ISA_REF | INGOT_ISA_NEON;
#if defined(__linux__)
    const bool dotprod = getauxval(AT_HWCAP) >> 20 & 1u, i8mm = getauxval(AT_HWCAP2) >> 13 & 1u; /* ASIMDDP, I8MM */
    if (dotprod) found |= INGOT_ISA_NEON_DOTPROD;
    if (dotprod && i8mm) found |= INGOT_ISA_NEON_I8MM;
#elif defined(__ARM_FEATURE_DOTPROD)
    found |= INGOT_ISA_NEON_DOTPROD;
#if defined(__ARM_FEATURE_MATMUL_INT8)
    found |= INGOT_ISA_NEON_I8MM;
#endif
#endif
    return found;
}
#else
static uint32_t detect(void) { return INGOT_ISA_REF; }
#endif

uint32_t ingot_cpu_features(void) {
    uint32_t found = atomic_load_explicit(&features_found, memory_order_relaxed);
    if (found == 0) {
        found = detect();
        atomic_store_explicit(&features_found, found, memory_order_relaxed);
    }
    return found;
}

/* Nothing of a set-uid process, whose environment is another user's; secure_getenv, where Android has none either. */
static const char *read_environment(const char *name) {
#if defined(__linux__)
    return getauxval(AT_SECURE) != 0 ? NULL : getenv(name);
#else
    return issetugid() != 0 ? NULL : getenv(name);
#endif
}

/* The level of INGOT_FORCE_ISA; 0 if it is unset, UINT32_MAX if it names none. */
static uint32_t forced_level(const char **name) {
    *name = read_environment("INGOT_FORCE_ISA");
    if (*name == NULL || **name == '\0') return 0;
    const uint32_t level = ingot_isa_parse(*name);
    return level != 0 ? level : UINT32_MAX;
}

ingot_status ingot_cpu_check(void) {
    const char *name;
    const uint32_t level = forced_level(&name);
    if (level == UINT32_MAX) {
        return ingot_fail(INGOT_ERROR_HARDWARE,
                          "INGOT_FORCE_ISA is '%.40s', expected ref, avx2, avxvnni, avx512vnni, neon, neon_dotprod or "
                          "neon_i8mm",
                          name);
    }
    if ((level & ~ingot_cpu_features()) != 0) {
        return ingot_fail(INGOT_ERROR_HARDWARE, "INGOT_FORCE_ISA asks for '%s', which this CPU lacks", name);
    }
    return INGOT_OK;
}

static uint32_t initial_mask(void) {
    const char *name;
    const uint32_t level = forced_level(&name), features = ingot_cpu_features();
    if (level == 0) return features;
    if (level == UINT32_MAX || (level & features) == 0) return INGOT_ISA_REF;
    return features & (level | (level - 1));
}

uint32_t ingot_cpu_mask(void) {
    uint32_t mask = atomic_load(&mask_in_force);
    if (mask != 0) return mask;
    const uint32_t initial = initial_mask();
    /* A mask that another thread set in between stays. */
    return atomic_compare_exchange_strong(&mask_in_force, &mask, initial) ? initial : mask;
}

ingot_status ingot_cpu_set_mask(uint32_t mask) {
    const uint32_t features = ingot_cpu_features(), missing = mask & ~features;
    if (missing != 0) {
        return ingot_fail(INGOT_ERROR_HARDWARE,
                          "instruction set mask 0x%x has levels 0x%x that this CPU lacks (it has 0x%x)", mask, missing,
                          features);
    }
    atomic_store(&mask_in_force, mask | INGOT_ISA_REF);
    return INGOT_OK;
}
