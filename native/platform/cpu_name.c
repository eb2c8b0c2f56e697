/* SPDX-License-Identifier: Apache-2.0 */
#include "platform/cpu_name.h"

#include <stdio.h>
#include <string.h>

#include "platform/small_file.h"

#if defined(__x86_64__)
#include <cpuid.h>

static void machine_name(const char *root, char *name, size_t size) {
    unsigned int words[12] = {0};
    (void)root;
    for (unsigned int part = 0; part < 3; part++) {
        unsigned int *into = words + 4 * part;
        if (__get_cpuid(0x80000002u + part, into, into + 1, into + 2, into + 3) == 0) {
            return;
        }
    }
    snprintf(name, size, "%.*s", (int)sizeof words, (const char *)words);
}
#else
/* The board, and the identification of its first core. */
static void machine_name(const char *root, char *name, size_t size) {
    char board[64] = "", core[32] = "";
    (void)ingot_small_file_read(root, "/proc/device-tree/model", board, sizeof board);
    (void)ingot_small_file_read(root, "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1", core, sizeof core);
    snprintf(name, size, "%.40s %.20s", board, core);
}
#endif

void ingot_cpu_name(const char *root, char *name, size_t size) {
    memset(name, 0, size);
    machine_name(root, name, size);
    for (size_t end = strlen(name); end > 0 && (name[end - 1] == ' ' || name[end - 1] == '\n'); end--) {
        name[end - 1] = '\0';
    }
}
