/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_CPU_NAME_H
#define INGOT_CPU_NAME_H

#include <stddef.h>

/** What this CPU or board is called, "" if nothing tells. Not from /proc/cpuinfo, which can take milliseconds. */
void ingot_cpu_name(const char *root, char *name, size_t size);

#endif
