/* SPDX-License-Identifier: Apache-2.0 */
#include "core/sample.h"

#include <math.h>
#include <string.h>

#include "core/error.h"

void ingot_sample_philox(uint32_t counter[4], const uint32_t key[2]) {
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t left = (uint64_t)0xD2511F53u * counter[0], right = (uint64_t)0xCD9E8D57u * counter[2];
        uint32_t next[4] = {(uint32_t)(right >> 32) ^ counter[1] ^ k0, (uint32_t)right,
                            (uint32_t)(left >> 32) ^ counter[3] ^ k1, (uint32_t)left};
        memcpy(counter, next, sizeof next);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

double ingot_sample_uniform(uint64_t seed, uint64_t position) {
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t block[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    ingot_sample_philox(block, key);
    return (double)(((uint64_t)block[0] << 32 | block[1]) >> 11) * 0x1p-53;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* e^x for x in [-86, 0], 0 below. No fused multiply-adds, so that NumPy can follow step by step; masks
 * instead of branches, so that compilers make vectors of it. */
static float weight_of(float x) {
    const float magic = 12582912.0f;           /* 1.5 * 2^23: adding it rounds to an integer in the low bits */
    const int32_t most = (int32_t)0x42AC0000; /* the bits of 86 */
    int32_t size = (int32_t)(bits_of(x) & 0x7FFFFFFFu);
    uint32_t beyond = 0u - (uint32_t)(size > most); /* all bits, or none */
    float clamped = -float_of(((uint32_t)most & beyond) | ((uint32_t)size & ~beyond));
    float shifted = clamped * 1.44269504f + magic;
    float n = shifted - magic;
    float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    float y = 1.0f / 5040.0f;
    y = y * r + 1.0f / 720.0f;
    y = y * r + 1.0f / 120.0f;
    y = y * r + 1.0f / 24.0f;
    y = y * r + 1.0f / 6.0f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    uint32_t bits = bits_of(y) + (bits_of(shifted) << 23);
    return float_of(bits & ~beyond);
}

static ingot_status refuse(const char *field, double value, const char *expected) {
    return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "%s is %g, expected %s", field, value, expected);
}

ingot_status ingot_sample_check(const ingot_sampling *config) {
    if (config == NULL || config->struct_size != sizeof *config) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "sampling->struct_size must be %zu", sizeof *config);
    }
    if (!(config->temperature >= 0.0 && config->temperature <= 100.0)) {
        return refuse("temperature", config->temperature, "0 to 100");
    }
    if (!(config->top_p > 0.0 && config->top_p <= 1.0)) {
        return refuse("top_p", config->top_p, "more than 0 and at most 1 (off)");
    }
    if (!(config->min_p >= 0.0 && config->min_p <= 1.0)) {
        return refuse("min_p", config->min_p, "0 (off) to 1");
    }
    if (!(config->repetition_penalty >= 0.01 && config->repetition_penalty <= 100.0)) {
        return refuse("repetition_penalty", config->repetition_penalty, "0.01 to 100, 1 is off");
    }
    return INGOT_OK;
}

static void penalize(ingot_sampler *sampler, const int32_t *ids, uint32_t count, float penalty) {
    for (uint32_t index = 0; index < count; index++) {
        uint32_t id = (uint32_t)ids[index];
        if (id >= sampler->count || (sampler->seen[id / 64] >> id % 64 & 1) != 0) {
            continue;
        }
        sampler->seen[id / 64] |= (uint64_t)1 << id % 64;
        float value = sampler->values[id];
        sampler->values[id] = value > 0.0f ? value / penalty : value * penalty;
    }
}

void ingot_sample_load(ingot_sampler *sampler, const float *logits, uint32_t count, float penalty,
                       const ingot_history *history) {
    sampler->count = count;
    memcpy(sampler->values, logits, count * sizeof *logits);
    for (uint32_t id = 0; id < count; id++) {
        sampler->ids[id] = (int32_t)id;
    }
    if (penalty != 1.0f) {
        memset(sampler->seen, 0, (count + 63) / 64 * sizeof *sampler->seen);
        penalize(sampler, history->first, history->first_count, penalty);
        penalize(sampler, history->second, history->second_count, penalty);
    }
}

/* Heaps over the candidates: a parent never stands before its children in the order. */
typedef bool (*before_fn)(const ingot_sampler *sampler, uint32_t a, uint32_t b);

static bool better(const ingot_sampler *sampler, uint32_t a, uint32_t b) {
    float x = sampler->values[a], y = sampler->values[b];
    return x > y || (x == y && sampler->ids[a] < sampler->ids[b]);
}

static bool worse(const ingot_sampler *sampler, uint32_t a, uint32_t b) { return better(sampler, b, a); }

static bool lower(const ingot_sampler *sampler, uint32_t a, uint32_t b) { return sampler->ids[a] < sampler->ids[b]; }

static void swap(ingot_sampler *sampler, uint32_t a, uint32_t b) {
    float value = sampler->values[a];
    int32_t id = sampler->ids[a];
    sampler->values[a] = sampler->values[b];
    sampler->ids[a] = sampler->ids[b];
    sampler->values[b] = value;
    sampler->ids[b] = id;
}

static void sift(ingot_sampler *sampler, uint32_t root, uint32_t count, before_fn before) {
    for (uint32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        child += child + 1 < count && before(sampler, child, child + 1);
        if (!before(sampler, root, child)) {
            return;
        }
        swap(sampler, root, child);
        root = child;
    }
}

static void heapify(ingot_sampler *sampler, uint32_t count, before_fn before) {
    for (uint32_t root = count / 2; root-- > 0;) {
        sift(sampler, root, count, before);
    }
}

/* The k best; among equals the lower id stays. */
static void keep_best(ingot_sampler *sampler, uint32_t k) {
    heapify(sampler, k, better); /* the worst of the kept is the root */
    for (uint32_t index = k; index < sampler->count; index++) {
        if (better(sampler, index, 0)) {
            swap(sampler, index, 0);
            sift(sampler, 0, k, better);
        }
    }
    sampler->count = k;
}

void ingot_sample_sort(ingot_sampler *sampler) {
    heapify(sampler, sampler->count, lower);
    for (uint32_t left = sampler->count; left > 1; left--) {
        swap(sampler, 0, left - 1);
        sift(sampler, 0, left - 1, lower);
    }
}

/* The first of the largest. */
static ingot_status find_largest(const ingot_sampler *sampler, uint32_t *largest) {
    uint32_t best = 0;
    for (uint32_t index = 1; index < sampler->count; index++) {
        if (sampler->values[index] > sampler->values[best] || isnan(sampler->values[index])) {
            best = index;
            if (isnan(sampler->values[best])) {
                break;
            }
        }
    }
    if (sampler->count == 0 || !isfinite(sampler->values[best])) {
        return ingot_fail(INGOT_ERROR_INTERNAL, "the model gave the logit %g for token %d: try 'ingot verify'",
                          sampler->count == 0 ? 0.0 : (double)sampler->values[best],
                          sampler->count == 0 ? 0 : sampler->ids[best]);
    }
    *largest = best;
    return INGOT_OK;
}

static double sum_values(const ingot_sampler *sampler) {
    double sum = 0.0;
    for (uint32_t index = 0; index < sampler->count; index++) {
        sum += (double)sampler->values[index];
    }
    return sum;
}

/* Keeps candidates of at least this weight, in their order. */
static void keep_from(ingot_sampler *sampler, double least) {
    uint32_t kept = 0;
    for (uint32_t index = 0; index < sampler->count; index++) {
        if ((double)sampler->values[index] >= least) {
            sampler->values[kept] = sampler->values[index];
            sampler->ids[kept++] = sampler->ids[index];
        }
    }
    sampler->count = kept;
}

/* The fewest most likely whose sum reaches the share, best first.
 * Source: Holtzman et al. 2020 (arXiv:1904.09751), section 3.1. */
static void keep_top_p(ingot_sampler *sampler, double top_p) {
    double total = sum_values(sampler), sum = 0.0;
    /* All below (1 - p) / count of the sum together weigh less than 1 - p: they need no sorting. */
    keep_from(sampler, (1.0 - top_p) / (double)sampler->count * total);
    uint32_t left = sampler->count;
    heapify(sampler, left, worse);
    while (left > 0 && sum < top_p * total) {
        swap(sampler, 0, --left);
        sum += (double)sampler->values[left];
        sift(sampler, 0, left, worse);
    }
    /* The kept stand at the end, the best last. */
    uint32_t kept = sampler->count - left;
    for (uint32_t index = 0; index < kept && index < sampler->count - 1 - index; index++) {
        swap(sampler, index, sampler->count - 1 - index);
    }
    sampler->count = kept;
}

static int32_t draw(const ingot_sampler *sampler, double uniform) {
    double target = uniform * sum_values(sampler), sum = 0.0;
    for (uint32_t index = 0; index < sampler->count; index++) {
        sum += (double)sampler->values[index];
        if (sum > target) {
            return sampler->ids[index];
        }
    }
    return sampler->ids[sampler->count - 1];
}

ingot_status ingot_sample_choose(ingot_sampler *sampler, const ingot_sampling *config, uint64_t position,
                                 int32_t *token) {
    uint32_t best = 0;
    ingot_status status = find_largest(sampler, &best);
    if (status != INGOT_OK || config->temperature == 0.0) {
        *token = status == INGOT_OK ? sampler->ids[best] : 0;
        return status;
    }
    const float largest = sampler->values[best];
    const float temperature = (float)(config->temperature > 1e-6 ? config->temperature : 1e-6);
    if (config->top_k > 0 && config->top_k < sampler->count) {
        keep_best(sampler, config->top_k);
        ingot_sample_sort(sampler);
    }
    for (uint32_t index = 0; index < sampler->count; index++) {
        sampler->values[index] = weight_of((sampler->values[index] - largest) / temperature);
    }
    if (config->top_p < 1.0) {
        keep_top_p(sampler, config->top_p);
    }
    if (config->min_p > 0.0) {
        keep_from(sampler, config->min_p); /* the largest weight is e^0, which is 1 */
    }
    *token = draw(sampler, ingot_sample_uniform(config->seed, position));
    return INGOT_OK;
}
