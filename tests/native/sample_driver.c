/* SPDX-License-Identifier: Apache-2.0 */
/* Choosing tokens without a model: the random numbers, and the head's epilogue against a plain search.
 *
 *   sample_driver [--plant tie|surplus|nan]
 *
 * One line per check, exit 1 on the first that fails. --plant breaks what one check compares with, to show that it can
 * fail. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/pick.h"

enum { VOCABULARY = 1000, WIDTH = 1008, THREADS = 3, TILE = 16 };

static const char *planted = "";
static ingot_plan_header plan = {.vocabulary = VOCABULARY};
static ingot_model model;
static ingot_session session;
static ingot_pick picks[THREADS][INGOT_PICK_ROWS * INGOT_PICK_MOST];
static uint32_t picked[THREADS][INGOT_PICK_ROWS];
static float values[VOCABULARY];
static int32_t ids[VOCABULARY];
static uint64_t seen[(VOCABULARY + 63) / 64];

static int fail(const char *check, const char *why) {
    printf("FAIL %s: %s\n", check, why);
    return 1;
}

static bool plants(const char *what) { return strcmp(planted, what) == 0; }

/* Known answers of the paper's own library, Random123 (kat_vectors, philox4x32, 10 rounds). */
static int check_philox(void) {
    const uint32_t known[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
         0x24126ea1},
    };
    for (int index = 0; index < 3; index++) {
        uint32_t counter[4];
        memcpy(counter, known[index], sizeof counter);
        ingot_sample_philox(counter, known[index] + 4);
        if (memcmp(counter, known[index] + 6, sizeof counter) != 0) {
            return fail("philox", "a known answer differs");
        }
    }
    printf("ok   philox gives the published known answers\n");
    return 0;
}

static void open_session(void) {
    model.file.plan = &plan;
    session.model = &model;
    session.threads = THREADS;
    session.sampler = (ingot_sampler){values, ids, seen, 0};
    for (uint32_t thread = 0; thread < THREADS; thread++) {
        session.areas[thread].picks = picks[thread];
        session.areas[thread].picked = picked[thread];
    }
}

/* Gives the tiles to the threads in a changing order, as a counter that threads share does. */
static void spread(const float *logits, uint32_t row, uint32_t k) {
    ingot_pick_begin(&session, k);
    for (uint32_t first = 0; first < WIDTH; first += TILE) {
        const ingot_thread_area *area = &session.areas[(uint32_t)rand() % THREADS];
        ingot_pick_take(&session, area, row, logits + first, first, TILE);
    }
    ingot_pick_collect(&session, row);
}

/* The k best by k searches; among equals the lower id. */
static void search(const float *logits, uint32_t k, bool *chosen) {
    memset(chosen, 0, VOCABULARY * sizeof *chosen);
    for (uint32_t turn = 0; turn < k; turn++) {
        int best = -1;
        for (int id = 0; id < VOCABULARY; id++) {
            bool better = best < 0 || logits[id] > logits[best] || (plants("tie") && logits[id] >= logits[best]);
            best = !chosen[id] && better ? id : best;
        }
        chosen[best] = true;
    }
}

static int check_best(uint32_t k) {
    float logits[WIDTH];
    bool chosen[VOCABULARY];
    for (int round = 0; round < 50; round++) {
        for (int id = 0; id < WIDTH; id++) {
            logits[id] = (float)(rand() % 60) - 30.0f; /* many are equal */
            logits[id] = id >= VOCABULARY ? 99.0f : logits[id];
        }
        logits[rand() % VOCABULARY] = -INFINITY;
        uint32_t row = (uint32_t)rand() % INGOT_PICK_ROWS;
        spread(logits, row, k);
        search(logits, k, chosen);
        for (uint32_t index = 0; index < k; index++) {
            bool rises = index == 0 || ids[index] > ids[index - 1];
            if (session.sampler.count != k || !rises || ids[index] >= VOCABULARY || !chosen[ids[index]] ||
                values[index] != logits[ids[index]]) {
                return fail("the best of all threads", "not those of a plain search");
            }
        }
    }
    printf("ok   the %u best of all threads\n", k);
    return 0;
}

static int check_not_finite(uint32_t k) {
    const ingot_sampling config = {sizeof config, k, 1.0, 1.0, 0.0, 1.0, 7};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int kind = 0; kind < 3; kind++) {
        float logits[WIDTH];
        for (int id = 0; id < WIDTH; id++) {
            logits[id] = kind == 2 ? -INFINITY : (float)(rand() % 9);
        }
        logits[rand() % VOCABULARY] = plants("nan") ? 1.0f : bad[kind];
        spread(logits, 0, k);
        int32_t token = -1;
        if (ingot_sample_choose(&session.sampler, &config, 3, &token) != INGOT_ERROR_INTERNAL) {
            return fail("logits that are no numbers", "taken");
        }
    }
    printf("ok   logits that are no numbers are an error, %u best\n", k);
    return 0;
}

int main(int count, char **arguments) {
    planted = count > 2 && strcmp(arguments[1], "--plant") == 0 ? arguments[2] : "";
    srand(1);
    plan.vocabulary = plants("surplus") ? WIDTH : VOCABULARY;
    open_session();
    int failed = check_philox();
    for (uint32_t k = 1; k <= INGOT_PICK_MOST && !failed; k = k < 4 ? k + 1 : 4 * k) {
        failed = check_best(k);
        failed = failed || check_not_finite(k);
    }
    return failed;
}
