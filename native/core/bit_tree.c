/* SPDX-License-Identifier: Apache-2.0 */
#include "core/bit_tree.h"

#include <stdlib.h>
#include <string.h>

static uint32_t lowest(uint64_t word) { return (uint32_t)__builtin_ctzll(word); }

static uint32_t highest(uint64_t word) { return 63 - (uint32_t)__builtin_clzll(word); }

bool ingot_bit_tree_create(ingot_bit_tree *tree, uint32_t count) {
    uint32_t total = 0;
    for (int level = 0; level < INGOT_BIT_TREE_LEVELS; level++) {
        count = (count + 63) / 64;
        tree->sizes[level] = count;
        total += count;
    }
    tree->words = calloc(total == 0 ? 1 : total, sizeof *tree->words);
    if (tree->words == NULL) {
        return false;
    }
    tree->levels[0] = tree->words;
    for (int level = 1; level < INGOT_BIT_TREE_LEVELS; level++) {
        tree->levels[level] = tree->levels[level - 1] + tree->sizes[level - 1];
    }
    return true;
}

void ingot_bit_tree_destroy(ingot_bit_tree *tree) {
    free(tree->words);
    tree->words = NULL;
}

void ingot_bit_tree_clear(ingot_bit_tree *tree) {
    for (int level = 0; level < INGOT_BIT_TREE_LEVELS; level++) {
        memset(tree->levels[level], 0, tree->sizes[level] * sizeof *tree->words);
    }
}

bool ingot_bit_tree_has(const ingot_bit_tree *tree, uint32_t number) {
    return (tree->levels[0][number / 64] >> (number % 64) & 1) != 0;
}

void ingot_bit_tree_add(ingot_bit_tree *tree, uint32_t number) {
    for (int level = 0; level < INGOT_BIT_TREE_LEVELS; level++) {
        tree->levels[level][number / 64] |= (uint64_t)1 << (number % 64);
        number /= 64;
    }
}

void ingot_bit_tree_remove(ingot_bit_tree *tree, uint32_t number) {
    for (int level = 0; level < INGOT_BIT_TREE_LEVELS; level++) {
        uint64_t *word = &tree->levels[level][number / 64];
        *word &= ~((uint64_t)1 << (number % 64));
        if (*word != 0) {
            return;
        }
        number /= 64;
    }
}

uint32_t ingot_bit_tree_above(const ingot_bit_tree *tree, uint32_t number) {
    for (int level = 0; level < INGOT_BIT_TREE_LEVELS; level++) {
        uint32_t bit = number % 64;
        number /= 64;
        /* Two shifts: one by 64 would be undefined. */
        uint64_t rest = tree->levels[level][number] >> bit >> 1 << bit << 1;
        if (rest == 0) {
            continue;
        }
        number = number * 64 + lowest(rest);
        while (level > 0) {
            level--;
            number = number * 64 + lowest(tree->levels[level][number]);
        }
        return number;
    }
    return INGOT_BIT_TREE_NONE;
}

uint32_t ingot_bit_tree_below(const ingot_bit_tree *tree, uint32_t number) {
    for (int level = 0; level < INGOT_BIT_TREE_LEVELS; level++) {
        uint32_t bit = number % 64;
        number /= 64;
        uint64_t rest = tree->levels[level][number] & (((uint64_t)1 << bit) - 1);
        if (rest == 0) {
            continue;
        }
        number = number * 64 + highest(rest);
        while (level > 0) {
            level--;
            number = number * 64 + highest(tree->levels[level][number]);
        }
        return number;
    }
    return INGOT_BIT_TREE_NONE;
}
