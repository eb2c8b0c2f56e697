/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing a token. ingot/sampling.py says the same in NumPy and gives the same bits.
 *
 * The order is fixed: penalty, temperature, top-k, top-p, min-p, draw. Candidates are pairs (value, id) in two arrays;
 * the value is first a logit, then a weight e^((logit - largest) / temperature), never normalized: each filter compares
 * with the sum or the largest of what the one before it left. */
#ifndef INGOT_SAMPLE_H
#define INGOT_SAMPLE_H

#include <stdbool.h>
#include <stdint.h>

#include "ingot.h"

/* Scratch of one session, reserved when it is opened. */
typedef struct ingot_sampler {
    float *values;  /* (vocabulary) */
    int32_t *ids;   /* (vocabulary) */
    uint64_t *seen; /* a bit per id */
    uint32_t count; /* candidates now */
} ingot_sampler;

/** The random number of a (seed, position), uniform in [0, 1): 53 bits of one Philox4x32-10 block.
 * Key: the seed's low and high word. Counter: the position's low and high word, 0, 0. Of the block's words x0, x1 the
 * upper 53 bits of x0 * 2^32 + x1, times 2^-53.
 * Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3. */
double ingot_sample_uniform(uint64_t seed, uint64_t position);
/** Philox4x32-10: turns counter into one block of random words. */
void ingot_sample_philox(uint32_t counter[4], const uint32_t key[2]);

/** @return INGOT_ERROR_INVALID_ARGUMENT naming the field that is outside its range. */
ingot_status ingot_sample_check(const ingot_sampling *config);

/** The tokens that a penalty applies to, in two parts. */
typedef struct ingot_history {
    const int32_t *first, *second;
    uint32_t first_count, second_count;
} ingot_history;

/** Makes all ids candidates: copies logits (count), then penalizes what the history holds. */
void ingot_sample_load(ingot_sampler *sampler, const float *logits, uint32_t count, float penalty,
                       const ingot_history *history);
/** Chooses among the candidates, whose ids rise; where only the best of them are there, they are those of top-k.
 * @return INGOT_ERROR_INTERNAL if no finite logit is the largest. */
ingot_status ingot_sample_choose(ingot_sampler *sampler, const ingot_sampling *config, uint64_t position,
                                 int32_t *token);
/** Sorts the candidates by id. */
void ingot_sample_sort(ingot_sampler *sampler);

#endif
