/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernel_harness.h"

enum { CANARY = 0xa5 };

uint64_t rng_next(rng *r) { /* splitmix64, Steele et al. 2014 */
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint32_t rng_below(rng *r, uint32_t bound) { return (uint32_t)(rng_next(r) % bound); }

float rng_uniform(rng *r, float low, float high) {
    return low + (high - low) * ((float)(rng_next(r) >> 40) * 0x1p-24f);
}

guarded guarded_create(size_t size, size_t alignment, bool at_end) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inner = (size + page - 1) / page * page;
    guarded g = {.mapped = inner + 2 * page, .size = size};
    g.mapping = mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.mapping == MAP_FAILED) {
        fprintf(stderr, "no memory for %zu bytes\n", g.mapped);
        exit(2);
    }
    memset(g.mapping + page, CANARY, inner);
    mprotect(g.mapping, page, PROT_NONE);
    mprotect(g.mapping + page + inner, page, PROT_NONE);
    g.data = g.mapping + page + (at_end ? (inner - size) / alignment * alignment : 0);
    return g;
}

void guarded_read_only(const guarded *g) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    mprotect(g->mapping + page, g->mapped - 2 * page, PROT_READ);
}

bool guarded_intact(const guarded *g) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const uint8_t *end = g->mapping + g->mapped - page;
    for (const uint8_t *p = g->mapping + page; p < end; p++) {
        if (p == g->data) p += g->size;
        if (p < end && *p != CANARY) return false;
    }
    return true;
}

void guarded_destroy(guarded *g) {
    munmap(g->mapping, g->mapped);
    *g = (guarded){0};
}

static sigjmp_buf escape;

static void on_fault(int number) { siglongjmp(escape, number); }

const char *guarded_call(void (*function)(const void *), const void *argument) {
    static const int caught[] = {SIGSEGV, SIGBUS, SIGILL};
    struct sigaction old[3], action = {.sa_handler = on_fault};
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < 3; i++) sigaction(caught[i], &action, &old[i]);
    const int number = sigsetjmp(escape, 1);
    if (number == 0) function(argument);
    for (int i = 0; i < 3; i++) sigaction(caught[i], &old[i], NULL);
    if (number == 0) return NULL;
    return number == SIGILL ? "illegal instruction" : "access outside of its memory, or a write to an input";
}
