/* SPDX-License-Identifier: Apache-2.0 */
/* Sections of an open file by name. */
#include <string.h>

#include "core/error.h"
#include "core/model.h"
#include "core/sha256.h"

static const char *const NAMES[] = {
    [INGOT_SECTION_TENSORS] = "tensors",     [INGOT_SECTION_PROGRAM] = "program",
    [INGOT_SECTION_REQUIRED] = "required",   [INGOT_SECTION_PLAN] = "plan",
    [INGOT_SECTION_TOKENIZER] = "tokenizer", [INGOT_SECTION_CHAT] = "chat",
    [INGOT_SECTION_META] = "meta",           [INGOT_SECTION_CERTIFICATE] = "certificate",
    [INGOT_SECTION_VECTORS] = "vectors",     [INGOT_SECTION_PREFIX] = "prefix",
    [INGOT_SECTION_SIGNATURE] = "signature",
};

static uint32_t kind_of(const char *name) {
    for (uint32_t kind = 0; kind < sizeof NAMES / sizeof *NAMES; kind++) {
        if (NAMES[kind] != NULL && strcmp(NAMES[kind], name) == 0) {
            return kind;
        }
    }
    return 0;
}

static const ingot_section_record *find(const ingot_file *file, uint32_t kind) {
    const ingot_header *header = (const ingot_header *)(const void *)file->data;
    const ingot_section_record *table = (const ingot_section_record *)(const void *)(file->data + header->table_offset);
    for (uint32_t index = 0; index < header->section_count; index++) {
        if (table[index].kind == kind) {
            return &table[index];
        }
    }
    return NULL;
}

ingot_status ingot_model_digest(const ingot_model *model, uint8_t digest[INGOT_SHA256_BYTES]) {
    if (model == NULL || digest == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "ingot_model_digest: model and digest must not be NULL");
    }
    const ingot_header *header = (const ingot_header *)(const void *)model->file.data;
    ingot_sha256(model->file.data + header->table_offset, header->section_count * sizeof(ingot_section_record), digest);
    return INGOT_OK;
}

ingot_status ingot_model_section(const ingot_model *model, const char *name, const uint8_t **data, uint64_t *size) {
    uint32_t kind = name == NULL ? 0 : kind_of(name);
    if (model == NULL || data == NULL || size == NULL || kind == 0) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "no section is called '%s'", name == NULL ? "" : name);
    }
    const ingot_section_record *record = find(&model->file, kind);
    if (record != NULL) {
        uint8_t digest[INGOT_SHA256_BYTES];
        ingot_sha256(model->file.data + record->offset, record->size, digest);
        if (ingot_file_intact(&model->file) != INGOT_OK) {
            return INGOT_ERROR_FILE_LOST;
        }
        if (memcmp(digest, record->sha256, sizeof digest) != 0) {
            return ingot_fail_rule(INGOT_ERROR_CHECKSUM, INGOT_RULE_SECTION_DIGEST,
                                   "the digest of section %s is wrong: the file is damaged, copy it again", name);
        }
    }
    *data = record == NULL ? NULL : model->file.data + record->offset;
    *size = record == NULL ? 0 : record->size;
    return INGOT_OK;
}
