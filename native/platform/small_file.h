/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_SMALL_FILE_H
#define INGOT_SMALL_FILE_H

#include <stdbool.h>
#include <stddef.h>

/** Reads a text file of the system below a root, cut at size - 1 bytes. @return whether it could be read. */
bool ingot_small_file_read(const char *root, const char *path, char *text, size_t size);

#endif
