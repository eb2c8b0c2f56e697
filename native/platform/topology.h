/* SPDX-License-Identifier: Apache-2.0 */
/* The CPUs that this process may use, the fastest first, and how many threads they are good for.
 *
 * Read from sysfs and cgroupfs below a root that a test can replace. Nothing here fails: what is not there is taken as
 * one class of equal cores without a quota. */
#ifndef INGOT_TOPOLOGY_H
#define INGOT_TOPOLOGY_H

#include <stdbool.h>
#include <stdint.h>

enum { INGOT_TOPOLOGY_CPUS = 256 };

typedef struct ingot_topology_cpu {
    uint32_t id;
    uint32_t core;     /* the lowest CPU id of its physical core */
    uint32_t capacity; /* of 1024, relative to the fastest */
    bool big;          /* of the class or classes that threads are meant for */
    bool sibling;      /* another CPU of the same core stands before it in the list */
} ingot_topology_cpu;

typedef struct ingot_topology {
    uint32_t count; /* CPUs in the mask: big first, then by capacity, siblings last within a class */
    uint32_t classes;
    uint32_t big_cores; /* physical ones in the mask */
    double quota;       /* CPUs that the cgroups allow, 0 without a limit */
    uint32_t threads;   /* default: big cores, not more than the quota rounded up */
    ingot_topology_cpu cpus[INGOT_TOPOLOGY_CPUS];
} ingot_topology;

/** @param root folder that stands for "/".
 *  @param mask bit c % 64 of word c / 64 is CPU c; NULL for the affinity mask of this process.
 *  @param words of the mask. */
void ingot_topology_read(const char *root, const uint64_t *mask, uint32_t words, ingot_topology *topology);
/** CPUs that workers of a run of `threads` may use; false where any CPU of the mask will do.
 *  @param set bits as in the mask. */
bool ingot_topology_placement(const ingot_topology *topology, uint32_t threads, uint64_t set[INGOT_TOPOLOGY_CPUS / 64]);

#endif
