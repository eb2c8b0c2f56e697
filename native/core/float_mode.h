/* SPDX-License-Identifier: Apache-2.0 */
/* The floating-point mode of this thread: a host may have asked for flush-to-zero or another rounding, and the same
 * bits everywhere need the mode that IEEE 754 starts with. */
#ifndef INGOT_FLOAT_MODE_H
#define INGOT_FLOAT_MODE_H

#include <stdint.h>

#if defined(__x86_64__)
static inline uint64_t ingot_float_mode_get(void) { return __builtin_ia32_stmxcsr(); }
static inline void ingot_float_mode_set(uint64_t mode) { __builtin_ia32_ldmxcsr((unsigned int)mode); }
enum { INGOT_FLOAT_MODE_STANDARD = 0x1f80 }; /* all exceptions masked, to nearest, subnormals kept */
#elif defined(__aarch64__)
static inline uint64_t ingot_float_mode_get(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void ingot_float_mode_set(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
enum { INGOT_FLOAT_MODE_STANDARD = 0 };
#else
static inline uint64_t ingot_float_mode_get(void) { return 0; }
static inline void ingot_float_mode_set(uint64_t mode) { (void)mode; }
enum { INGOT_FLOAT_MODE_STANDARD = 0 };
#endif

#endif
