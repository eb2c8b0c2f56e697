/* SPDX-License-Identifier: Apache-2.0 */
/* Checks the files named on stdin, one per line; prints "rule status message" for each. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/file.h"

int main(void) {
    char path[4096];
    while (fgets(path, sizeof path, stdin) != NULL) {
        path[strcspn(path, "\n")] = '\0';
        ingot_file file;
        ingot_status status = ingot_file_open(path, 0, &file);
        uint32_t rule = status == INGOT_OK ? 0 : ingot_last_rule();
        printf("%" PRIu32 " %d %s\n", rule, (int)status, status == INGOT_OK ? "" : ingot_last_error());
        fflush(stdout); /* the caller waits for the answer */
        if (status == INGOT_OK) {
            ingot_file_close(&file);
            ingot_file_close(&file); /* closed is closed */
        }
    }
    return 0;
}
