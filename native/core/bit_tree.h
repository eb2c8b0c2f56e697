/* SPDX-License-Identifier: Apache-2.0 */
/* A set of numbers below 2^24 that finds the nearest member on either side in four steps. */
#ifndef INGOT_BIT_TREE_H
#define INGOT_BIT_TREE_H

#include <stdbool.h>
#include <stdint.h>

enum { INGOT_BIT_TREE_LEVELS = 4 };
#define INGOT_BIT_TREE_NONE UINT32_MAX

/* Bit i of a level says that word i of the level below has a bit set. */
typedef struct ingot_bit_tree {
    uint64_t *words; /* of all levels; owned */
    uint64_t *levels[INGOT_BIT_TREE_LEVELS];
    uint32_t sizes[INGOT_BIT_TREE_LEVELS]; /* words */
} ingot_bit_tree;

/** An empty set of numbers below count. @return false without memory. */
bool ingot_bit_tree_create(ingot_bit_tree *tree, uint32_t count);
void ingot_bit_tree_destroy(ingot_bit_tree *tree);
void ingot_bit_tree_clear(ingot_bit_tree *tree);
bool ingot_bit_tree_has(const ingot_bit_tree *tree, uint32_t number);
void ingot_bit_tree_add(ingot_bit_tree *tree, uint32_t number);
void ingot_bit_tree_remove(ingot_bit_tree *tree, uint32_t number);
/** Nearest member above or below number, INGOT_BIT_TREE_NONE if there is none. */
uint32_t ingot_bit_tree_above(const ingot_bit_tree *tree, uint32_t number);
uint32_t ingot_bit_tree_below(const ingot_bit_tree *tree, uint32_t number);

#endif
