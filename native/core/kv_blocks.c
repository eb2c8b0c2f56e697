/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kv_blocks.h"

#include <stdlib.h>

#include "core/error.h"
#include "platform/platform.h"

/* One allocation of the pool: this, then the descriptors, then the blocks. */
typedef struct area {
    struct area *next;
    uint64_t size;
} area;

struct ingot_kv_family {
    atomic_flag locked;
    uint32_t members; /* below here: under the lock */
    uint32_t total;
    ingot_kv_block *free;
    area *areas;
    uint64_t block_bytes;
};

enum { LINE = 64 };

/* Held for a few pointers only, so that waiting by spinning is short. */
static void lock(ingot_kv_family *family) {
    while (atomic_flag_test_and_set_explicit(&family->locked, memory_order_acquire)) {
        ingot_platform_yield();
    }
}

static void unlock(ingot_kv_family *family) { atomic_flag_clear_explicit(&family->locked, memory_order_release); }

ingot_status ingot_kv_family_create(uint64_t block_bytes, ingot_kv_family **family) {
    ingot_kv_family *created = calloc(1, sizeof *created);
    if (created == NULL) {
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "no memory for a pool of keys and values");
    }
    atomic_flag_clear(&created->locked);
    created->block_bytes = (block_bytes + LINE - 1) / LINE * LINE;
    *family = created;
    return INGOT_OK;
}

static uint64_t round_line(uint64_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

/* Adds blocks to the pool; the lock is held. */
static ingot_status grow(ingot_kv_family *family, uint32_t blocks) {
    const uint64_t head = round_line(sizeof(area)), list = round_line(blocks * sizeof(ingot_kv_block));
    const uint64_t size = head + list + blocks * family->block_bytes;
    void *memory = NULL;
    ingot_status status = ingot_platform_allocate(size, &memory);
    if (status != INGOT_OK) {
        return status;
    }
    area *added = memory;
    *added = (area){family->areas, size};
    family->areas = added;
    ingot_kv_block *descriptors = (ingot_kv_block *)(void *)((uint8_t *)memory + head);
    uint8_t *data = (uint8_t *)memory + head + list;
    for (uint32_t i = blocks; i-- > 0;) { /* the first is taken first: the others' pages stay untouched */
        descriptors[i].data = data + i * family->block_bytes;
        descriptors[i].next = family->free;
        family->free = &descriptors[i];
    }
    family->total += blocks;
    return INGOT_OK;
}

ingot_status ingot_kv_family_join(ingot_kv_family *family, uint32_t share) {
    lock(family);
    /* One more for each fork: while it copies a block, the old one may have lost its other users. */
    const uint32_t wanted = (family->members + 1) * share + family->members;
    ingot_status status = wanted > family->total ? grow(family, wanted - family->total) : INGOT_OK;
    family->members += status == INGOT_OK;
    unlock(family);
    return status;
}

void ingot_kv_family_leave(ingot_kv_family *family) {
    lock(family);
    const uint32_t members = family->members > 0 ? --family->members : 0;
    unlock(family);
    if (members != 0) {
        return;
    }
    for (area *next, *each = family->areas; each != NULL; each = next) {
        next = each->next;
        ingot_platform_release(each, each->size);
    }
    free(family);
}

ingot_kv_block *ingot_kv_take(ingot_kv_family *family) {
    lock(family);
    ingot_kv_block *block = family->free;
    if (block != NULL) {
        family->free = block->next;
    }
    unlock(family);
    if (block != NULL) {
        atomic_store(&block->users, 1);
    }
    return block;
}

void ingot_kv_share(ingot_kv_block *block) { atomic_fetch_add(&block->users, 1); }

void ingot_kv_give_back(ingot_kv_family *family, ingot_kv_block *block) {
    if (atomic_fetch_sub(&block->users, 1) != 1) {
        return;
    }
    lock(family);
    block->next = family->free;
    family->free = block;
    unlock(family);
}

uint64_t ingot_kv_trim(ingot_kv_family *family) {
    uint64_t bytes = 0;
    lock(family); /* a member that takes a block meanwhile yields until we are done */
    for (const ingot_kv_block *block = family->free; block != NULL; block = block->next) {
        bytes += ingot_platform_forget(block->data, family->block_bytes);
    }
    unlock(family);
    return bytes;
}

uint32_t ingot_kv_free_count(ingot_kv_family *family) {
    uint32_t count = 0;
    lock(family);
    for (const ingot_kv_block *block = family->free; block != NULL; block = block->next) {
        count++;
    }
    unlock(family);
    return count;
}
