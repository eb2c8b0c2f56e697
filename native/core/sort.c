/* SPDX-License-Identifier: Apache-2.0 */
#include "core/sort.h"

/* Moves the id at `root` down until no child is larger. */
static void sink(uint32_t *ids, uint64_t root, uint64_t count, ingot_less_fn less, const void *context) {
    for (uint64_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && less(context, ids[child], ids[child + 1])) {
            child++;
        }
        if (!less(context, ids[root], ids[child])) {
            return;
        }
        uint32_t id = ids[root];
        ids[root] = ids[child];
        ids[child] = id;
        root = child;
    }
}

void ingot_sort(uint32_t *ids, uint32_t count, ingot_less_fn less, const void *context) {
    for (uint64_t root = count / 2; root > 0; root--) {
        sink(ids, root - 1, count, less, context);
    }
    for (uint64_t end = count; end > 1; end--) {
        uint32_t largest = ids[0];
        ids[0] = ids[end - 1];
        ids[end - 1] = largest;
        sink(ids, 0, end - 1, less, context);
    }
}
