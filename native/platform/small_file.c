/* SPDX-License-Identifier: Apache-2.0 */
#include "platform/small_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

bool ingot_small_file_read(const char *root, const char *path, char *text, size_t size) {
    char whole[1024];
    int length = snprintf(whole, sizeof whole, "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof whole) {
        return false;
    }
    int descriptor = open(whole, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return false;
    }
    ssize_t got = read(descriptor, text, size - 1);
    close(descriptor);
    text[got > 0 ? got : 0] = '\0';
    return got > 0;
}
