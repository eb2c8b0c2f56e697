/* SPDX-License-Identifier: Apache-2.0 */
/* A line for writing, taken away from other cores at once. */
#ifndef INGOT_KERNELS_PREFETCH_H
#define INGOT_KERNELS_PREFETCH_H

/* For x86-64 compilers make a prefetch for reading of the builtin unless told of prefetchw, which every such CPU takes,
 * the oldest as no operation. */
static inline void ingot_prefetch_write(const void *line) {
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

#endif
