/* SPDX-License-Identifier: Apache-2.0 */
#include "platform/topology.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform/cgroup.h"
#include "platform/platform.h"
#include "platform/small_file.h"

enum { MASK_WORDS = INGOT_TOPOLOGY_CPUS / 64, FULL = 1024 };

/* A core of at least this share of the fastest takes part by default: a middle core of a phone does, a little one does
 * not, because everybody would wait for it. */
static const double BIG_SHARE = 0.6;

static bool has(const uint64_t *mask, uint32_t words, uint32_t cpu) {
    return cpu / 64 < words && (mask[cpu / 64] >> cpu % 64 & 1) != 0;
}

static uint64_t read_cpu_number(const char *root, uint32_t cpu, const char *file) {
    char path[96], text[32];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/%s", cpu, file);
    return ingot_small_file_read(root, path, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
}

/* "0-3,8" as bits. */
static void read_list(const char *text, uint64_t *bits) {
    while (*text >= '0' && *text <= '9') {
        char *rest = NULL;
        unsigned long first = strtoul(text, &rest, 10), last = first;
        if (*rest == '-') {
            last = strtoul(rest + 1, &rest, 10);
        }
        for (unsigned long cpu = first; cpu <= last && cpu < INGOT_TOPOLOGY_CPUS; cpu++) {
            bits[cpu / 64] |= UINT64_C(1) << cpu % 64;
        }
        text = *rest == ',' ? rest + 1 : rest;
    }
}

static uint32_t first_sibling(const char *root, uint32_t cpu) {
    char path[96], text[128];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
    if (!ingot_small_file_read(root, path, text, sizeof text)) {
        return cpu;
    }
    unsigned long first = strtoul(text, NULL, 10);
    return first <= cpu ? (uint32_t)first : cpu;
}

/* Capacity where the kernel tells it, else the highest clock; both only matter relative to the fastest. */
static void read_capacities(const char *root, ingot_topology *topology) {
    uint64_t values[INGOT_TOPOLOGY_CPUS], most = 0, least = UINT64_MAX;
    static const char *const SOURCES[] = {"cpu_capacity", "cpufreq/cpuinfo_max_freq"};
    for (uint32_t source = 0; source < 2 && (most == 0 || most == least); source++) {
        most = 0;
        least = UINT64_MAX;
        for (uint32_t index = 0; index < topology->count; index++) {
            values[index] = read_cpu_number(root, topology->cpus[index].id, SOURCES[source]);
            most = values[index] > most ? values[index] : most;
            least = values[index] < least ? values[index] : least;
        }
    }
    for (uint32_t index = 0; index < topology->count; index++) {
        bool known = most != 0 && values[index] != 0 && values[index] <= UINT32_MAX;
        topology->cpus[index].capacity = known ? (uint32_t)(values[index] * FULL / most) : FULL;
    }
}

static void mark_big(const char *root, ingot_topology *topology) {
    uint64_t atoms[MASK_WORDS] = {0}, cores[MASK_WORDS] = {0};
    char text[128];
    /* Hybrid x86: the clocks of its efficient cores look better than they are. */
    bool hybrid = ingot_small_file_read(root, "/sys/devices/cpu_atom/cpus", text, sizeof text);
    if (hybrid) {
        read_list(text, atoms);
    }
    hybrid = hybrid && ingot_small_file_read(root, "/sys/devices/cpu_core/cpus", text, sizeof text);
    if (hybrid) {
        read_list(text, cores);
    }
    bool any = false;
    for (uint32_t index = 0; index < topology->count; index++) {
        ingot_topology_cpu *cpu = &topology->cpus[index];
        bool efficient = hybrid && has(atoms, MASK_WORDS, cpu->id);
        cpu->big = !efficient && cpu->capacity >= (uint32_t)(BIG_SHARE * FULL);
        any |= cpu->big;
    }
    for (uint32_t index = 0; index < topology->count && !any; index++) {
        topology->cpus[index].big = true; /* the mask leaves efficient cores only */
    }
}

static int by_speed(const void *left, const void *right) {
    const ingot_topology_cpu *a = left, *b = right;
    if (a->big != b->big) {
        return a->big ? -1 : 1;
    }
    if (a->sibling != b->sibling && a->big) {
        return a->sibling ? 1 : -1;
    }
    if (a->capacity != b->capacity) {
        return a->capacity > b->capacity ? -1 : 1;
    }
    return a->id < b->id ? -1 : 1;
}

static void mark_siblings(const char *root, ingot_topology *topology) {
    for (uint32_t index = 0; index < topology->count; index++) {
        ingot_topology_cpu *cpu = &topology->cpus[index];
        cpu->core = first_sibling(root, cpu->id);
        for (uint32_t before = 0; before < index; before++) {
            cpu->sibling |= topology->cpus[before].core == cpu->core;
        }
    }
}

static void count_classes(ingot_topology *topology) {
    for (uint32_t index = 0; index < topology->count; index++) {
        bool fresh = true;
        for (uint32_t before = 0; before < index; before++) {
            fresh = fresh && topology->cpus[before].capacity != topology->cpus[index].capacity;
        }
        topology->classes += fresh ? 1 : 0;
        topology->big_cores += topology->cpus[index].big && !topology->cpus[index].sibling ? 1 : 0;
    }
}

static uint32_t default_threads(const ingot_topology *topology) {
    uint32_t threads = topology->big_cores > 0 ? topology->big_cores : 1;
    if (topology->quota > 0.0 && topology->quota < (double)threads) {
        uint32_t whole = (uint32_t)topology->quota;
        threads = (double)whole < topology->quota ? whole + 1 : whole;
    }
    return threads > 0 ? threads : 1;
}

void ingot_topology_read(const char *root, const uint64_t *mask, uint32_t words, ingot_topology *topology) {
    uint64_t own[MASK_WORDS] = {0};
    if (mask == NULL) {
        ingot_platform_affinity(own, MASK_WORDS);
        mask = own;
        words = MASK_WORDS;
    }
    memset(topology, 0, sizeof *topology);
    for (uint32_t cpu = 0; cpu < INGOT_TOPOLOGY_CPUS; cpu++) {
        if (has(mask, words, cpu)) {
            topology->cpus[topology->count++].id = cpu;
        }
    }
    read_capacities(root, topology);
    mark_siblings(root, topology);
    mark_big(root, topology);
    qsort(topology->cpus, topology->count, sizeof *topology->cpus, by_speed);
    count_classes(topology);
    topology->quota = ingot_cgroup_quota(root);
    topology->threads = default_threads(topology);
}

bool ingot_topology_placement(const ingot_topology *topology, uint32_t threads, uint64_t set[MASK_WORDS]) {
    memset(set, 0, MASK_WORDS * sizeof *set);
    if (topology->classes < 2 || threads >= topology->count || threads == 0) {
        return false;
    }
    /* All CPUs of the classes that the first `threads` of the list belong to: the system may still move a worker away
     * from a competitor, only not to a smaller core. */
    uint32_t least = topology->cpus[threads - 1].capacity;
    for (uint32_t index = 0; index < topology->count; index++) {
        const ingot_topology_cpu *cpu = &topology->cpus[index];
        if (cpu->capacity >= least && cpu->big >= topology->cpus[threads - 1].big) {
            set[cpu->id / 64] |= UINT64_C(1) << cpu->id % 64;
        }
    }
    return true;
}
