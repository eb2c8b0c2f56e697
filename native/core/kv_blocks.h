/* SPDX-License-Identifier: Apache-2.0 */
/* The blocks that hold keys and values, shared by a session and its forks (a family).
 *
 * A block is 64 positions of all layers. It belongs to the family's pool and counts its users; a session writes only
 * to a block of which it is the one user. The pool grows when a session joins, so that a session that holds at most its
 * share always finds a free block, and nothing allocates later. All calls but create may come from several threads. */
#ifndef INGOT_KV_BLOCKS_H
#define INGOT_KV_BLOCKS_H

#include <stdatomic.h>
#include <stdint.h>

#include "ingot.h"

typedef struct ingot_kv_block {
    struct ingot_kv_block *next; /* while free */
    _Atomic uint32_t users;
    uint8_t *data;
} ingot_kv_block;

typedef struct ingot_kv_family ingot_kv_family;

/** A family without members. @return INGOT_ERROR_OUT_OF_MEMORY. */
ingot_status ingot_kv_family_create(uint64_t block_bytes, ingot_kv_family **family);
/** A member that will hold at most `share` blocks. @return INGOT_ERROR_OUT_OF_MEMORY; it is no member then. */
ingot_status ingot_kv_family_join(ingot_kv_family *family, uint32_t share);
/** The last to leave frees the family; its blocks must have been given back. */
void ingot_kv_family_leave(ingot_kv_family *family);

/** A free block with one user, NULL if a member holds more than its share. */
ingot_kv_block *ingot_kv_take(ingot_kv_family *family);
/** One more user of a block that the caller uses. */
void ingot_kv_share(ingot_kv_block *block);
void ingot_kv_give_back(ingot_kv_family *family, ingot_kv_block *block);
/** Gives the pages of the free blocks back to the system. @return bytes of them. */
uint64_t ingot_kv_trim(ingot_kv_family *family);
/** Free blocks, for tests. */
uint32_t ingot_kv_free_count(ingot_kv_family *family);

#endif
