/* SPDX-License-Identifier: Apache-2.0 */
#include "platform/cgroup.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "platform/small_file.h"

enum { PATH_BYTES = 512, TEXT_BYTES = 4096 };

static double lesser(double a, double b) { return a > 0.0 && (b <= 0.0 || a < b) ? a : b; }

/* "max 100000" or "150000 100000". */
static double quota_of_v2(const char *root, const char *group) {
    char path[PATH_BYTES + 32], text[64];
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    if (!ingot_small_file_read(root, path, text, sizeof text) || strncmp(text, "max", 3) == 0) {
        return 0.0;
    }
    char *rest = NULL;
    double quota = strtod(text, &rest), period = strtod(rest, NULL);
    return quota > 0.0 && period > 0.0 ? quota / period : 0.0;
}

static double quota_of_v1(const char *root, const char *mount, const char *group) {
    char path[PATH_BYTES + 64], quota[64], period[64];
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/cpu.cfs_quota_us", mount, group);
    if (!ingot_small_file_read(root, path, quota, sizeof quota)) {
        return 0.0;
    }
    snprintf(path, sizeof path, "/sys/fs/cgroup/%s%s/cpu.cfs_period_us", mount, group);
    if (!ingot_small_file_read(root, path, period, sizeof period)) {
        return 0.0;
    }
    double most = strtod(quota, NULL), of = strtod(period, NULL);
    return most > 0.0 && of > 0.0 ? most / of : 0.0;
}

/* A limit anywhere above holds as well. In a container the path may be the host's: then only the root is there. */
static double quota_of_group(const char *root, bool v2, char *group) {
    double quota = 0.0;
    for (;;) {
        if (v2) {
            quota = lesser(quota_of_v2(root, group), quota);
        } else {
            quota = lesser(quota_of_v1(root, "cpu", group), quota);
            quota = lesser(quota_of_v1(root, "cpu,cpuacct", group), quota);
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return quota;
        }
        *slash = '\0';
    }
}

static bool names_cpu(const char *controllers, size_t length) {
    const char *end = controllers + length;
    for (const char *word = controllers; word < end;) {
        const char *comma = memchr(word, ',', (size_t)(end - word));
        size_t size = (size_t)((comma != NULL ? comma : end) - word);
        if (size == 3 && memcmp(word, "cpu", 3) == 0) {
            return true;
        }
        word += size + 1;
    }
    return false;
}

/* A line of /proc/self/cgroup: "0::/path" (version 2) or "4:cpu,cpuacct:/path". */
static double quota_of_line(const char *root, const char *line, size_t length) {
    const char *first = memchr(line, ':', length);
    const char *second = first != NULL ? memchr(first + 1, ':', length - (size_t)(first + 1 - line)) : NULL;
    if (second == NULL) {
        return 0.0;
    }
    const bool v2 = second == first + 1;
    if (!v2 && !names_cpu(first + 1, (size_t)(second - first - 1))) {
        return 0.0;
    }
    char group[PATH_BYTES];
    size_t size = length - (size_t)(second + 1 - line);
    if (size >= sizeof group) {
        return 0.0;
    }
    memcpy(group, second + 1, size);
    group[size] = '\0';
    return quota_of_group(root, v2, group);
}

double ingot_cgroup_quota(const char *root) {
    char text[TEXT_BYTES];
    if (!ingot_small_file_read(root, "/proc/self/cgroup", text, sizeof text)) {
        return 0.0;
    }
    double quota = 0.0;
    for (const char *line = text; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        quota = lesser(quota_of_line(root, line, length), quota);
        line += length + (line[length] == '\n' ? 1 : 0);
    }
    return quota;
}
