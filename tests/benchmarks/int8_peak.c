/* SPDX-License-Identifier: Apache-2.0 */
/* The int8 dot peak: vpdpbusd on registers only, in THREADS threads at once. Prints GOPS, two operations per product.
 *
 *     cc -O2 -pthread tests/benchmarks/int8_peak.c -o int8_peak && ./int8_peak THREADS */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if !defined(__x86_64__)
#error "written for x86-64 with AVX-512 VNNI"
#endif

enum { ROUNDS = 400000, CHAINS = 12, OPERATIONS = 128, MOST_THREADS = 64, TRIES = 5 };

static void multiply(void) {
    for (int i = 0; i < ROUNDS; i++) {
        __asm__ volatile(
            "vpdpbusd %%zmm30, %%zmm31, %%zmm0\n vpdpbusd %%zmm30, %%zmm31, %%zmm1\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm2\n vpdpbusd %%zmm30, %%zmm31, %%zmm3\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm4\n vpdpbusd %%zmm30, %%zmm31, %%zmm5\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm6\n vpdpbusd %%zmm30, %%zmm31, %%zmm7\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm8\n vpdpbusd %%zmm30, %%zmm31, %%zmm9\n"
            "vpdpbusd %%zmm30, %%zmm31, %%zmm10\n vpdpbusd %%zmm30, %%zmm31, %%zmm11\n" ::
                : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11");
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best of a few tries: other load on the machine only ever takes away. */
static void *measure(void *gops) {
    for (int i = 0; i < TRIES; i++) {
        const double start = now();
        multiply();
        const double rate = 1e-9 * ROUNDS * CHAINS * OPERATIONS / (now() - start);
        *(double *)gops = rate > *(double *)gops ? rate : *(double *)gops;
    }
    return NULL;
}

int main(int count, char **words) {
    const int threads = count == 2 ? atoi(words[1]) : 0;
    if (threads < 1 || threads > MOST_THREADS || !__builtin_cpu_supports("avx512vnni")) {
        fprintf(stderr, "usage: int8_peak THREADS (1 to %d), on a CPU with AVX-512 VNNI\n", MOST_THREADS);
        return 2;
    }
    pthread_t handles[MOST_THREADS];
    double gops[MOST_THREADS] = {0}, total = 0;
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&handles[i], NULL, measure, &gops[i]) != 0) return 1;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
        total += gops[i];
    }
    printf("%.1f\n", total);
    return 0;
}
