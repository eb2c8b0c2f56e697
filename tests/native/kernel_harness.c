/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_harness [--seed N] [--quick] [--filter PART] [--require isa,isa] [--list]   tests
 * kernel_harness --bench [--megabytes N] [--filter PART]                              speed
 * kernel_harness --self-test                                                          planted faults must be flagged
 * INGOT_FORCE_ISA restricts the levels as in the library. */
#include "kernel_harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ingot.h"
#include "kernels/cpu.h"

static const suite *const suites[] = {&linear_suite, &rows_suite};
enum { SUITES = sizeof suites / sizeof *suites, LEVELS = 7 };

bool harness_wants(const harness *h, const char *kernel) {
    return h->filter == NULL || strstr(kernel, h->filter) != NULL;
}

void harness_report(harness *h, const char *kernel, uint32_t isa, uint32_t cases, const char *failure) {
    h->executed += cases;
    h->failed += failure != NULL;
    if (cases > 0) h->levels |= isa;
    printf("  %-36s %s %u cases%s%s\n", kernel, failure != NULL ? "FAILED" : "OK    ", cases,
           failure != NULL ? ": " : "", failure != NULL ? failure : "");
}

typedef struct options {
    bool bench, self_test, list;
    const char *require;
} options;

static void print_levels(const char *label, uint32_t mask) {
    printf("%s:", label);
    for (uint32_t i = 0; i < LEVELS; i++) {
        if (mask >> i & 1) printf(" %s", ingot_isa_name(1u << i));
    }
    printf("\n");
}

/* Levels of `names` (comma separated) that executed nothing; each is a failure. */
static uint32_t missing_levels(const char *names, uint32_t executed) {
    uint32_t missing = 0;
    while (names != NULL && *names != '\0') {
        char name[32] = {0};
        const size_t length = strcspn(names, ",");
        memcpy(name, names, length < sizeof name ? length : sizeof name - 1);
        const uint32_t isa = ingot_isa_parse(name);
        if (isa == 0 || (isa & executed) == 0) {
            printf("required level '%s' %s\n", name, isa == 0 ? "does not exist" : "was not executed");
            missing++;
        }
        names += length + (names[length] == ',');
    }
    return missing;
}

static int list_kernels(void) {
    ingot_kernel_info info = {.struct_size = sizeof info};
    for (uint32_t i = 0; i < ingot_kernel_count(); i++) {
        if (ingot_kernel_info_get(i, &info) != INGOT_OK) return 1;
        printf("%s%s%s\n", info.name, info.available ? "" : " unavailable", info.selected ? " selected" : "");
    }
    return 0;
}

static int run_checks(harness *h, const char *require) {
    for (uint32_t i = 0; i < SUITES; i++) {
        printf("%s\n", suites[i]->name);
        suites[i]->check(h);
    }
    print_levels("executed", h->levels);
    const uint32_t missing = missing_levels(require, h->levels);
    if (h->executed == 0) printf("no case was executed\n");
    const bool failed = h->failed != 0 || missing != 0 || h->executed == 0;
    printf("%s: %u cases, %u kernels failed\n", failed ? "FAILED" : "passed", h->executed, h->failed);
    return failed;
}

static int run_self_tests(harness *h) {
    uint32_t missed = 0;
    for (uint32_t i = 0; i < SUITES; i++) missed += suites[i]->self_test != NULL ? suites[i]->self_test(h) : 0;
    printf("%s: %u faults judged wrongly\n", missed ? "FAILED" : "passed", missed);
    return missed != 0;
}

static bool parse(int count, char **words, harness *h, options *o) {
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *value = i + 1 < count ? words[i + 1] : NULL;
        if (strcmp(word, "--quick") == 0) {
            h->quick = true;
        } else if (strcmp(word, "--bench") == 0) {
            o->bench = true;
        } else if (strcmp(word, "--self-test") == 0) {
            o->self_test = true;
        } else if (strcmp(word, "--list") == 0) {
            o->list = true;
        } else if (value == NULL) {
            return false;
        } else if (strcmp(word, "--seed") == 0) {
            h->random.state = strtoull(value, NULL, 0), i++;
        } else if (strcmp(word, "--filter") == 0) {
            h->filter = value, i++;
        } else if (strcmp(word, "--require") == 0) {
            o->require = value, i++;
        } else if (strcmp(word, "--megabytes") == 0) {
            h->bench_bytes = 1e6 * strtod(value, NULL), i++;
        } else {
            return false;
        }
    }
    return h->bench_bytes >= 32e6;
}

int main(int count, char **words) {
    harness h = {.random = {(uint64_t)time(NULL)}, .bench_bytes = 256e6};
    options o = {0};
    if (!parse(count, words, &h, &o)) {
        fprintf(stderr,
                "usage: kernel_harness [--seed N] [--quick] [--filter PART] [--require isa,isa] [--list] "
                "[--bench [--megabytes N, at least 32]] [--self-test]\n");
        return 2;
    }
    if (ingot_cpu_check() != INGOT_OK) {
        fprintf(stderr, "INGOT_FORCE_ISA names a level that this CPU lacks\n");
        return 1;
    }
    if (o.list) return list_kernels();
    printf("seed %llu\n", (unsigned long long)h.random.state);
    print_levels("CPU", ingot_cpu_features());
    print_levels("mask", ingot_cpu_mask());
    if (o.self_test) return run_self_tests(&h);
    if (!o.bench) return run_checks(&h, o.require);
    for (uint32_t i = 0; i < SUITES; i++) {
        if (suites[i]->bench != NULL) suites[i]->bench(&h);
    }
    return 0;
}
