/* SPDX-License-Identifier: Apache-2.0 */
/* The side of the emulation that a driver sees. */
#ifndef INGOT_EMULATED_THREADS_H
#define INGOT_EMULATED_THREADS_H

#include <stdint.h>

struct emulated_kernel;
struct emulated_index;

const emulated_kernel *emulated_find(const char *name);
/* Runs a grid; returns "" or what went wrong. INGOT_EMULATION_ORDER=backwards runs the threads of a block from the last
 * to the first; INGOT_PLANT names a planted fault. */
const char *emulated_launch(const emulated_kernel *function, emulated_index grid, uint32_t block, const void *args);

#endif
