/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/layout.h"
#include "core/sha256.h"
#include "core/validate.h"

static const uint8_t MAGIC[8] = INGOT_MAGIC_BYTES;

static uint32_t table_checksum(const ingot_header *header, uint64_t table_size) {
    ingot_header copy = *header;
    copy.crc32c = 0;
    uint32_t value = ingot_crc32c(0, (const uint8_t *)&copy, sizeof copy);
    return ingot_crc32c(value, (const uint8_t *)(header + 1), table_size);
}

static ingot_status check_start(const ingot_header *header, uint64_t size) {
    if (size < sizeof *header) {
        return INGOT_REFUSE(INGOT_RULE_FILE_TOO_SMALL, "file has %" PRIu64 " bytes, expected at least 64", size);
    }
    if (memcmp(header->magic, MAGIC, sizeof MAGIC) != 0) {
        return INGOT_REFUSE(INGOT_RULE_MAGIC, "not an ingot file: the first eight bytes differ");
    }
    if (header->version_major != INGOT_FORMAT_VERSION_MAJOR || header->version_minor != INGOT_FORMAT_VERSION_MINOR) {
        return INGOT_REFUSE(INGOT_RULE_VERSION,
                            "format version %u.%u, this reader takes %d.%d; compress the model again with the "
                            "`ingot compress` of this version",
                            header->version_major, header->version_minor, INGOT_FORMAT_VERSION_MAJOR,
                            INGOT_FORMAT_VERSION_MINOR);
    }
    if (header->file_size != size) {
        return INGOT_REFUSE(INGOT_RULE_FILE_SIZE,
                            "header says %" PRIu64 " bytes, the file has %" PRIu64 ": truncated or appended to",
                            header->file_size, size);
    }
    return INGOT_OK;
}

static ingot_status check_table(const ingot_header *header, uint64_t size) {
    uint64_t table_size = (uint64_t)header->section_count * sizeof(ingot_section_record);
    if (header->section_count < 1 || header->section_count > INGOT_MAX_SECTIONS) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_COUNT, "%" PRIu32 " sections, expected 1 to %d", header->section_count,
                            INGOT_MAX_SECTIONS);
    }
    if (header->table_offset != sizeof *header || sizeof *header + table_size > size) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_TABLE,
                            "section table of %" PRIu32 " records at byte %" PRIu64 " of %" PRIu64 ", expected at 64",
                            header->section_count, header->table_offset, size);
    }
    uint32_t found = table_checksum(header, table_size);
    if (found != header->crc32c) {
        return INGOT_REFUSE(INGOT_RULE_HEADER_CHECKSUM,
                            "CRC32C of header and section table is %08" PRIx32 ", header says %08" PRIx32, found,
                            header->crc32c);
    }
    if (!ingot_all_zero(header->reserved, sizeof header->reserved)) {
        return INGOT_REFUSE(INGOT_RULE_HEADER_RESERVED, "reserved bytes of the header are set");
    }
    if (header->part_index != 0 || header->part_count != 1) {
        return INGOT_REFUSE(INGOT_RULE_PART, "part %" PRIu32 " of %" PRIu32 ", expected part 0 of 1",
                            header->part_index, header->part_count);
    }
    return INGOT_OK;
}

static bool known_kind(uint32_t kind) { return kind >= INGOT_SECTION_TENSORS && kind <= INGOT_SECTION_VECTORS; }

static ingot_status check_section_kind(const ingot_section_record *table, uint32_t index) {
    const ingot_section_record *record = &table[index];
    if (record->flags > 1) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_UNKNOWN, "section %" PRIu32 ": flags %#" PRIx32 ", only bit 0 is known",
                            index, record->flags);
    }
    if (!known_kind(record->kind) && record->flags != 0) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_UNKNOWN,
                            "section %" PRIu32 ": kind %" PRIu32 " is required by the file and unknown to this reader",
                            index, record->kind);
    }
    for (uint32_t i = 0; i < index; i++) {
        if (table[i].kind == record->kind) {
            return INGOT_REFUSE(INGOT_RULE_SECTION_DUPLICATE, "section %" PRIu32 ": a second section of kind %" PRIu32,
                                index, record->kind);
        }
    }
    return INGOT_OK;
}

static ingot_status check_section_place(const ingot_section_record *record, uint32_t index, uint64_t end,
                                        uint64_t file_size) {
    uint64_t least = record->kind == INGOT_SECTION_WEIGHTS ? INGOT_WEIGHTS_ALIGNMENT : INGOT_SECTION_ALIGNMENT;
    uint64_t alignment = record->alignment, offset = record->offset;
    if (alignment < least || alignment > INGOT_WEIGHTS_ALIGNMENT || (alignment & (alignment - 1)) != 0 ||
        offset % alignment != 0) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_ALIGNMENT,
                            "section %" PRIu32 ": alignment %" PRIu64 " at offset %" PRIu64
                            ", expected a power of two from %" PRIu64 " to %d that divides the offset",
                            index, alignment, offset, least, INGOT_WEIGHTS_ALIGNMENT);
    }
    if (!ingot_fits(offset, record->size, file_size)) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_RANGE,
                            "section %" PRIu32 ": %" PRIu64 " bytes at %" PRIu64 " of a file of %" PRIu64, index,
                            record->size, offset, file_size);
    }
    if (offset < end) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_OVERLAP,
                            "section %" PRIu32 ": starts at %" PRIu64 ", before byte %" PRIu64, index, offset, end);
    }
    if (offset - end >= alignment) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_GAP,
                            "section %" PRIu32 ": starts at %" PRIu64 " and leaves a gap after byte %" PRIu64, index,
                            offset, end);
    }
    return INGOT_OK;
}

static ingot_status check_sections(ingot_validation *v, const ingot_section_record *table, uint32_t count) {
    uint64_t end = sizeof(ingot_header) + (uint64_t)count * sizeof *table;
    for (uint32_t i = 0; i < count; i++) {
        ingot_status status = check_section_kind(table, i);
        if (status == INGOT_OK) {
            status = check_section_place(&table[i], i, end, v->file.size);
        }
        if (status != INGOT_OK) {
            return status;
        }
        end = table[i].offset + table[i].size;
        if (known_kind(table[i].kind)) {
            v->sections[table[i].kind] = &table[i];
        }
    }
    if (end != v->file.size) {
        return INGOT_REFUSE(INGOT_RULE_SECTION_GAP, "%" PRIu64 " bytes follow the last section", v->file.size - end);
    }
    for (uint32_t kind = INGOT_SECTION_TENSORS; kind <= INGOT_SECTION_WEIGHTS; kind++) {
        if (v->sections[kind] == NULL) {
            return INGOT_REFUSE(INGOT_RULE_SECTION_MISSING, "no section of kind %" PRIu32, kind);
        }
    }
    return INGOT_OK;
}

static ingot_status check_digests(const ingot_validation *v) {
    for (uint32_t kind = INGOT_SECTION_TENSORS; kind <= INGOT_SECTION_PLAN; kind++) {
        uint8_t digest[INGOT_SHA256_BYTES];
        ingot_sha256(ingot_section_bytes(v, kind), v->sections[kind]->size, digest);
        if (memcmp(digest, v->sections[kind]->sha256, sizeof digest) != 0) {
            return INGOT_REFUSE(
                INGOT_RULE_SECTION_DIGEST,
                "section of kind %" PRIu32 ": its SHA-256 differs from the table's: the file is damaged", kind);
        }
    }
    return INGOT_OK;
}

ingot_status ingot_validate_header(ingot_validation *v) {
    const ingot_header *header = (const void *)v->file.data;
    ingot_status status = check_start(header, v->file.size);
    if (status == INGOT_OK) {
        status = check_table(header, v->file.size);
    }
    if (status == INGOT_OK) {
        status = check_sections(v, (const void *)(header + 1), header->section_count);
    }
    if (status != INGOT_OK) {
        return status;
    }
    const ingot_section_record *weights = v->sections[INGOT_SECTION_WEIGHTS];
    v->file.weights = v->file.data + weights->offset;
    v->file.weights_offset = weights->offset;
    v->file.weights_size = weights->size;
    return check_digests(v);
}
