/* SPDX-License-Identifier: Apache-2.0 */
/* What the targets that change files have in common: checksums are repaired, so that the fuzzer gets past them. */
#ifndef REPAIRED_FILE_H
#define REPAIRED_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/layout.h"
#include "core/sha256.h"
#include "ingot_format.h"

enum { KEPT_CHECKSUM = 0x12345678 }; /* a header with this CRC32C keeps it: the rule must stay reachable */

/* The section table, *count 0 where the file has no room for what its header says. */
static ingot_section_record *sections_of(uint8_t *data, size_t size, uint32_t *count) {
    ingot_header *header = (ingot_header *)(void *)data;
    uint64_t room = size < sizeof *header ? 0 : (size - sizeof *header) / sizeof(ingot_section_record);
    *count = room == 0 ? 0 : header->section_count;
    if (*count > room || *count > INGOT_MAX_SECTIONS) {
        *count = 0;
    }
    return (ingot_section_record *)(void *)(data + sizeof *header);
}

static void repair(uint8_t *data, size_t size) {
    static const uint8_t ZERO[INGOT_SHA256_BYTES];
    uint32_t count;
    ingot_section_record *table = sections_of(data, size, &count);
    for (uint32_t i = 0; i < count; i++) {
        bool kept = memcmp(table[i].sha256, ZERO, sizeof ZERO) == 0;
        bool checked = table[i].kind >= INGOT_SECTION_TENSORS && table[i].kind <= INGOT_SECTION_PLAN;
        if (checked && !kept && ingot_fits(table[i].offset, table[i].size, size)) {
            ingot_sha256(data + table[i].offset, table[i].size, table[i].sha256);
        }
    }
    ingot_header *header = (ingot_header *)(void *)data;
    if (count > 0 && header->crc32c != KEPT_CHECKSUM) {
        header->crc32c = 0;
        header->crc32c = ingot_crc32c(0, data, sizeof *header + count * sizeof *table);
    }
}

#endif
