/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_SORT_H
#define INGOT_SORT_H

#include <stdbool.h>
#include <stdint.h>

typedef bool (*ingot_less_fn)(const void *context, uint32_t a, uint32_t b);

/** Sorts ids in place. Heap sort: no recursion, no memory, n log n for any input. */
void ingot_sort(uint32_t *ids, uint32_t count, ingot_less_fn less, const void *context);

#endif
