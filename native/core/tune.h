/* SPDX-License-Identifier: Apache-2.0 */
/* What a measurement on the device may choose for a session: none of it changes a bit of the results. */
#ifndef INGOT_TUNE_H
#define INGOT_TUNE_H

#include <stdint.h>

#include "kernels/linear/linear.h"

enum { INGOT_PHASES = 2, INGOT_DTYPE_SLOTS = 32 }; /* phases: decode, prefill */

typedef struct ingot_choices {
    uint32_t grain[INGOT_PHASES]; /* tiles, 0: 1 */
    ingot_linear_fn kernels[INGOT_PHASES][INGOT_DTYPE_SLOTS]; /* NULL: dispatch's */
} ingot_choices;

#endif
