/* SPDX-License-Identifier: Apache-2.0 */
/* Which instruction sets this CPU has and which of them dispatch may use. */
#ifndef INGOT_KERNELS_CPU_H
#define INGOT_KERNELS_CPU_H

#include <stdint.h>

#include "ingot.h"

/** Name of one bit of ingot_isa as in file names and INGOT_FORCE_ISA; NULL for no single known bit. */
const char *ingot_isa_name(uint32_t isa);

/** The bit of a name; 0 if there is no such level. */
uint32_t ingot_isa_parse(const char *name);

/** Whether INGOT_FORCE_ISA could be obeyed.
 * @return INGOT_ERROR_HARDWARE if it names an unknown level or one that this CPU lacks. */
ingot_status ingot_cpu_check(void);

#endif
