/* SPDX-License-Identifier: Apache-2.0 */
/* How fast the mapped weights can be read: the ceiling that decoding is measured against. */
#include "core/error.h"
#include "core/session.h"
#include "platform/platform.h"

enum { BLOCK_BYTES = 1 << 16, PREFETCH_BYTES = 8192, PATTERNS = 3 };

typedef struct stream_job {
    ingot_session *session;
    uint32_t pattern;
    uint64_t sums[INGOT_MAX_THREADS * 8];
} stream_job;

static uint64_t read_plain(const uint64_t *words, size_t count) {
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= count; i += 8) {
        for (size_t lane = 0; lane < 8; lane++) {
            sum[lane] += words[i + lane];
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static uint64_t read_ahead(const uint64_t *words, size_t count, int temporal) {
    uint64_t sum[8] = {0};
    for (size_t i = 0; i + 8 <= count; i += 8) {
        const char *ahead = (const char *)(words + i) + PREFETCH_BYTES;
        if (temporal != 0) {
            __builtin_prefetch(ahead, 0, 3);
        } else {
            __builtin_prefetch(ahead, 0, 0);
        }
        for (size_t lane = 0; lane < 8; lane++) {
            sum[lane] += words[i + lane];
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

static void stream_run(void *argument, uint32_t thread) {
    stream_job *job = argument;
    const ingot_file *file = &job->session->model->file;
    const uint32_t blocks = (uint32_t)(file->weights_size / BLOCK_BYTES);
    uint32_t begin, end;
    while (ingot_pool_take(job->session->pool, blocks, 1, &begin, &end)) {
        const uint64_t *words = (const uint64_t *)(const void *)(file->weights + (size_t)begin * BLOCK_BYTES);
        size_t count = (size_t)(end - begin) * BLOCK_BYTES / sizeof *words;
        uint64_t sum = job->pattern == 0 ? read_plain(words, count) : read_ahead(words, count, job->pattern == 1);
        job->sums[thread * 8] += sum; /* kept so that the reads are not optimized away */
    }
}

ingot_status ingot_session_stream(ingot_session *session, uint32_t pattern, double *gigabytes_per_second) {
    if (pattern >= PATTERNS || gigabytes_per_second == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "stream pattern %u: 0 plain, 1 prefetched, 2 non-temporal",
                          pattern);
    }
    ingot_status status = ingot_session_enter(session);
    if (status != INGOT_OK) {
        return status;
    }
    uint64_t bytes = session->model->file.weights_size / BLOCK_BYTES * BLOCK_BYTES;
    if (bytes == 0) {
        status = ingot_fail(INGOT_ERROR_WRONG_STATE, "the weights are smaller than one block of %d bytes", BLOCK_BYTES);
    } else {
        stream_job job = {.session = session, .pattern = pattern};
        double start = ingot_platform_seconds();
        ingot_pool_run(session->pool, session->threads, stream_run, &job);
        *gigabytes_per_second = (double)bytes / (ingot_platform_seconds() - start) * 1e-9;
        status = ingot_file_intact(&session->model->file);
    }
    ingot_session_leave(session);
    return status;
}
