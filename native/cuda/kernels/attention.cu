/* SPDX-License-Identifier: Apache-2.0 */
/* `rope` and `attention` over the state's blocks of 64 positions; that of many tokens over int8 keys is in prompt_attention.cu.
 *
 * prepare_*: one head of one token: rotates it, makes a query int8, or writes a key or a value to the state.
 * attend_*:  rows of queries of one KV head over a part of the context: a thread has one of 128 positions for the scores
 *            and four d for the sums; the largest score and the denominator run along (online softmax).
 * merge:     the parts' results of a row become one. */
#include "attention.cuh"

enum { PREPARE_THREADS = 64 };

/* ---- one head of one token ---- */

DEVICE void load_head(const float *from, uint32_t d, uint32_t d_padded, float *row) {
    for (uint32_t i = threadIdx.x; i < d_padded; i += blockDim.x) row[i] = i < d ? from[i] : 0.0f;
    sync_block();
}

DEVICE void rotate_head(const cuda_attention_args &args, uint32_t position, float *row) {
    const uint32_t half = args.rotary / 2;
    const float *cosines = args.table + (uint64_t)position * args.rotary, *sines = cosines + half;
    for (uint32_t i = threadIdx.x; i < half; i += blockDim.x) {
        const uint32_t first = args.interleaved ? 2 * i : i, second = args.interleaved ? 2 * i + 1 : i + half;
        const float a = row[first], b = row[second], sine = PLANTED(4) ? -sines[i] : sines[i];
        row[first] = a * cosines[i] - b * sine;
        row[second] = b * cosines[i] + a * sine;
    }
    sync_block();
}

/* In place times the Hadamard matrix of order d, without its 1 / sqrt(d). */
DEVICE void turn_head(float *row, uint32_t d) {
    for (uint32_t half = 1; half < d; half *= 2) {
        for (uint32_t i = threadIdx.x; i < d / 2; i += blockDim.x) {
            const uint32_t at = i / half * 2 * half + i % half;
            const float a = row[at], b = row[at + half];
            row[at] = a + b;
            row[at + half] = a - b;
        }
        sync_block();
    }
}

DEVICE float largest_of(const float *row, uint32_t d_padded, float *room) {
    float largest = 0.0f;
    for (uint32_t i = threadIdx.x; i < d_padded; i += blockDim.x) largest = fmaxf(largest, fabsf(row[i]));
    return block_largest(largest, room);
}

DEVICE int32_t limited_code(float value, float limit) {
    const float high = value < limit ? value : limit;
    return round_to_int(high > -limit ? high : -limit);
}

/* The scale of a row of the state, a float16, and what its elements are multiplied with. */
DEVICE float state_inverse(const float *row, uint32_t d_padded, float limit, float *room, uint16_t *scale) {
    const uint16_t half = float_to_half(largest_of(row, d_padded, room) / limit);
    if (threadIdx.x == 0) *scale = half;
    const float step = half_to_float(half);
    return step > 0.0f ? 1.0f / step : 0.0f;
}

template <int KV>
DEVICE void store_query(const cuda_attention_args &args, uint32_t token, uint32_t head, float *row, float *room) {
    if (KV == KV_F16) return;
    float scale = args.scale;
    if (KV == KV_K8V4) { /* the product of two unscaled rotations is d times too large */
        turn_head(row, args.d);
        scale /= (float)args.d;
    }
    const float largest = largest_of(row, args.d_padded, room), inverse = code_factor(largest);
    const uint64_t at = (uint64_t)token * args.heads + head;
    for (uint32_t i = threadIdx.x; i < args.d_padded; i += blockDim.x) {
        args.codes[at * args.d_padded + i] = (int8_t)limited_code(row[i] * inverse, 127.0f);
    }
    if (threadIdx.x == 0) args.factors[at] = code_scale(largest) * scale;
}

template <int KV>
DEVICE void store_key(const cuda_attention_args &args, uint32_t slot, uint8_t *keys, float *row, float *room) {
    const uint32_t column = slot % 16;
    if (KV == KV_F16) {
        uint16_t *to = (uint16_t *)keys + slot / 16 * args.d * 16 + column;
        for (uint32_t i = threadIdx.x; i < args.d; i += blockDim.x) to[i * 16] = float_to_half(row[i]);
        return;
    }
    if (KV == KV_K8V4) turn_head(row, args.d);
    uint16_t *scales = (uint16_t *)(keys + STATE_BLOCK * args.d_padded);
    const float inverse = state_inverse(row, args.d_padded, 127.0f, room, scales + slot);
    uint8_t *to = keys + slot / 16 * args.d_padded * 16 + 4 * column;
    for (uint32_t i = threadIdx.x; i < args.d_padded; i += blockDim.x) {
        to[i / 4 * 64 + i % 4] = (uint8_t)limited_code(row[i] * inverse, 127.0f);
    }
}

template <int KV>
DEVICE void store_value(const cuda_attention_args &args, uint32_t slot, uint8_t *values, float *row, float *room) {
    if (KV == KV_F16) {
        uint16_t *to = (uint16_t *)values + slot * args.d_padded;
        for (uint32_t i = threadIdx.x; i < args.d_padded; i += blockDim.x) to[i] = float_to_half(row[i]);
        return;
    }
    const uint32_t bytes = KV == KV_KV8 ? args.d_padded : args.d_padded / 2;
    const float limit = KV == KV_KV8 ? 127.0f : 7.0f;
    uint16_t *scales = (uint16_t *)(values + STATE_BLOCK * bytes);
    const float inverse = state_inverse(row, args.d_padded, limit, room, scales + slot);
    for (uint32_t i = threadIdx.x; i < bytes; i += blockDim.x) {
        uint8_t *to = values + slot * bytes + i;
        if (KV == KV_KV8) {
            *to = (uint8_t)limited_code(row[i] * inverse, limit);
        } else {
            const uint32_t low = i / 8 * 16 + i % 8;
            const int32_t first = limited_code(row[low] * inverse, limit);
            const int32_t second = limited_code(row[low + 8] * inverse, limit);
            *to = (uint8_t)((first + 8) | (second + 8) << 4);
        }
    }
}

DEVICE void copy_head(const float *row, uint32_t d, float *to) {
    for (uint32_t i = threadIdx.x; i < d; i += blockDim.x) to[i] = row[i];
    sync_block();
}

template <int KV>
DEVICE void prepare(const cuda_attention_args &args) {
    SHARED(float, row, CUDA_MOST_HEAD);
    SHARED(float, room, 32);
    const uint32_t token = blockIdx.y, position = args.pass[0] + token, d = args.d;
    uint32_t head = blockIdx.x;
    if (head < args.heads) {
        load_head(args.q + (uint64_t)token * args.q_stride + head * d, d, args.d_padded, row);
        if (args.table != 0) {
            rotate_head(args, position, row);
            copy_head(row, d, args.q_out + (uint64_t)token * args.q_out_stride + head * d);
        }
        if (args.appends) store_query<KV>(args, token, head, row, room);
        return;
    }
    head -= args.heads;
    uint8_t *block = args.state + position / STATE_BLOCK * args.block_bytes + args.state_offset;
    const uint32_t slot = position % STATE_BLOCK;
    if (head < args.kv_heads) {
        load_head(args.k + (uint64_t)token * args.k_stride + head * d, d, args.d_padded, row);
        if (args.table != 0) {
            rotate_head(args, position, row);
            copy_head(row, d, args.k_out + (uint64_t)token * args.k_out_stride + head * d);
        }
        if (args.appends) store_key<KV>(args, slot, block + head * args.head_bytes, row, room);
        return;
    }
    head -= args.kv_heads;
    load_head(args.v + (uint64_t)token * args.v_stride + head * d, d, args.d_padded, row);
    store_value<KV>(args, slot, block + head * args.head_bytes + args.key_bytes, row, room);
}

KERNEL(prepare_f16, cuda_attention_args, PREPARE_THREADS) { prepare<KV_F16>(args); }
KERNEL(prepare_kv8, cuda_attention_args, PREPARE_THREADS) { prepare<KV_KV8>(args); }
KERNEL(prepare_k8v4, cuda_attention_args, PREPARE_THREADS) { prepare<KV_K8V4>(args); }

/* ---- rows of one KV head ---- */

/* Scores of all rows at one position. */
template <int KV, int ROWS>
DEVICE void score(const cuda_attention_args &args, const uint8_t *keys, uint32_t slot, const uint32_t *queries,
                  const float *factors, float (&scores)[ROWS]) {
    if (KV == KV_F16) {
        const uint16_t *key = (const uint16_t *)keys + slot / 16 * args.d * 16 + slot % 16;
        UNROLL
        for (int r = 0; r < ROWS; r++) scores[r] = 0.0f;
        _Pragma("unroll 4") for (uint32_t i = 0; i < args.d; i++) {
            const float k = half_to_float(key[i * 16]);
            UNROLL
            for (int r = 0; r < ROWS; r++) scores[r] = fmaf(bits_to_float(queries[r * CUDA_MOST_HEAD + i]), k, scores[r]);
        }
        UNROLL
        for (int r = 0; r < ROWS; r++) scores[r] *= args.scale;
        return;
    }
    const uint32_t words = args.d_padded / 4;
    const uint32_t *key = (const uint32_t *)(keys + slot / 16 * args.d_padded * 16) + slot % 16;
    int32_t dot[ROWS] = {};
    for (uint32_t i = 0; i < words; i += 4) { /* d is padded to 16 */
        uint32_t k[4];
        UNROLL
        for (int c = 0; c < 4; c++) k[c] = key[(i + c) * 16];
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            const uint4 q = *(const uint4 *)(queries + r * (CUDA_MOST_HEAD / 4) + i);
            dot[r] = dot4(dot4(dot4(dot4(dot[r], k[0], q.x), k[1], q.y), k[2], q.z), k[3], q.w);
        }
    }
    const float scale = half_to_float(*(const uint16_t *)(keys + STATE_BLOCK * args.d_padded + 2 * slot));
    UNROLL
    for (int r = 0; r < ROWS; r++) scores[r] = (float)dot[r] * (scale * factors[r]);
}

/* What a block of threads knows about its rows. */
template <int ROWS>
struct query_rows {
    uint32_t first, count; /* of the KV head's m * group rows */
    uint32_t group;
    uint32_t last[ROWS]; /* position */
};

template <int ROWS>
DEVICE query_rows<ROWS> rows_of(const cuda_attention_args &args) {
    query_rows<ROWS> rows;
    rows.group = args.heads / args.kv_heads;
    rows.first = blockIdx.y * ROWS;
    rows.count = smaller(ROWS, args.m * rows.group - rows.first);
    UNROLL
    for (int r = 0; r < ROWS; r++) rows.last[r] = args.pass[0] + (rows.first + smaller(r, rows.count - 1)) / rows.group;
    return rows;
}

/* (token * heads + head) of a row. */
template <int ROWS>
DEVICE uint64_t head_row(const cuda_attention_args &args, const query_rows<ROWS> &rows, uint32_t r) {
    const uint32_t row = rows.first + r;
    return (uint64_t)(row / rows.group) * args.heads + blockIdx.x * rows.group + row % rows.group;
}

/* Rows beyond the last are zero. */
template <int KV, int ROWS>
DEVICE void load_queries(const cuda_attention_args &args, const query_rows<ROWS> &rows, uint32_t *queries,
                         float *factors) {
    for (uint32_t r = 0; r < ROWS; r++) {
        const bool inside = r < rows.count;
        const uint64_t at = head_row(args, rows, inside ? r : 0);
        if (KV == KV_F16) {
            const float *q = args.table != 0 ? args.q_out : args.q;
            const uint64_t stride = args.table != 0 ? args.q_out_stride : args.q_stride;
            q += at / args.heads * stride + at % args.heads * args.d;
            for (uint32_t i = threadIdx.x; i < args.d; i += blockDim.x) {
                queries[r * CUDA_MOST_HEAD + i] = inside ? float_to_bits(q[i]) : 0;
            }
            continue;
        }
        const uint32_t *codes = (const uint32_t *)(args.codes + at * args.d_padded);
        for (uint32_t i = threadIdx.x; i < args.d_padded / 4; i += blockDim.x) {
            queries[r * (CUDA_MOST_HEAD / 4) + i] = inside ? codes[i] : 0;
        }
        if (threadIdx.x == 0) factors[r] = inside ? args.factors[at] : 0.0f;
    }
    sync_block();
}

/* Sums of a row over a part of the context, or its output where there is one part alone. */
template <int ROWS>
DEVICE void store_row(const cuda_attention_args &args, const query_rows<ROWS> &rows, uint32_t r, float best,
                      float total, const float *gathered, uint32_t groups) {
    const uint64_t at = head_row(args, rows, r);
    float *partial = args.partials + (blockIdx.z * (uint64_t)args.m * args.heads + at) * (CUDA_PARTIAL + args.d_padded);
    float *out = args.out + at / args.heads * args.out_stride + at % args.heads * args.d;
    for (uint32_t i = threadIdx.x; i < args.d; i += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t g = 0; g < groups; g++) sum += gathered[(g * ROWS + r) * args.d_padded + i];
        if (args.splits == 1) {
            out[i] = sum / total;
        } else {
            partial[CUDA_PARTIAL + i] = sum;
        }
    }
    if (args.splits > 1 && threadIdx.x == 0) {
        partial[0] = best;
        partial[1] = total;
    }
}

template <int KV, int ROWS>
DEVICE void attend(const cuda_attention_args &args) {
    SHARED(uint32_t, queries, ROWS * (KV == KV_F16 ? CUDA_MOST_HEAD : CUDA_MOST_HEAD / 4));
    SHARED(float, factors, ROWS);
    SHARED(float, weights, ROWS * CUDA_SPAN);
    SHARED(float, largest, ROWS * CUDA_SPAN / 32);
    SHARED(float, gathered, ROWS * 4 * CUDA_SPAN);
    const query_rows<ROWS> rows = rows_of<ROWS>(args);
    load_queries<KV, ROWS>(args, rows, queries, factors);
    const uint32_t spans = (args.pass[0] + args.m + CUDA_SPAN - 1) / CUDA_SPAN;
    const uint32_t share = (spans + args.splits - 1) / args.splits * CUDA_SPAN;
    const uint32_t end = smaller((blockIdx.z + 1) * share, rows.last[ROWS - 1] + 1);
    const uint8_t *head = args.state + args.state_offset + blockIdx.x * args.head_bytes;
    const uint32_t words = args.d_padded / 4, groups = CUDA_SPAN / words;
    const uint32_t word = threadIdx.x % words, own_group = threadIdx.x / words;
    float best[ROWS], total[ROWS], sum[ROWS][4] = {};
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        best[r] = NOTHING_SEEN;
        total[r] = 0.0f;
    }
    for (uint32_t start = blockIdx.z * share; start < end; start += CUDA_SPAN) {
        const bool behind = args.window != 0 && start + CUDA_SPAN + args.window <= rows.last[0] + 1;
        if (behind && start >= args.sinks) continue; /* no row sees any of it */
        const uint32_t position = smaller(start + threadIdx.x, end - 1), slot = position % STATE_BLOCK;
        const uint8_t *keys = head + position / STATE_BLOCK * args.block_bytes;
        float scores[ROWS];
        score<KV, ROWS>(args, keys, slot, queries, factors, scores);
        bool seen[ROWS];
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            seen[r] = sees(args, rows.last[r], start + threadIdx.x);
            const float most = warp_largest(seen[r] ? scores[r] : NOTHING_SEEN);
            if (LANE == 0) largest[r * (CUDA_SPAN / 32) + WARP] = most;
        }
        sync_block();
        const float scale = value_scale<KV>(args, keys + args.key_bytes, slot);
        UNROLL
        for (int r = 0; r < ROWS; r++) {
            float most = best[r];
            UNROLL
            for (int i = 0; i < CUDA_SPAN / 32; i++) most = fmaxf(most, largest[r * (CUDA_SPAN / 32) + i]);
            const float decay = expf(best[r] - most), weight = seen[r] ? expf(scores[r] - most) : 0.0f;
            best[r] = most;
            total[r] = total[r] * decay + weight;
            weights[r * CUDA_SPAN + threadIdx.x] = seen[r] ? weight * scale : 0.0f;
            UNROLL
            for (int i = 0; i < 4; i++) sum[r][i] *= decay;
        }
        sync_block();
        const uint32_t count = smaller(CUDA_SPAN, end - start);
        for (uint32_t i = own_group; own_group < groups && i < count; i += groups) {
            float v[4];
            const uint32_t at = start + i;
            load_values<KV>(args, head + at / STATE_BLOCK * args.block_bytes + args.key_bytes, at % STATE_BLOCK, word, v);
            UNROLL
            for (int r = 0; r < ROWS; r++) {
                const float weight = weights[r * CUDA_SPAN + i];
                if (KV == KV_F16 && weight == 0.0f) continue; /* what is not seen may be infinite */
                UNROLL
                for (int c = 0; c < 4; c++) sum[r][c] = fmaf(weight, v[c], sum[r][c]);
            }
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        UNROLL
        for (int c = 0; c < 4; c++) {
            if (own_group < groups) gathered[(own_group * ROWS + r) * args.d_padded + 4 * word + c] = sum[r][c];
        }
    }
    UNROLL
    for (int r = 0; r < ROWS; r++) {
        const float all = block_sum(total[r], largest);
        if ((uint32_t)r < rows.count) store_row<ROWS>(args, rows, r, best[r], all, gathered, groups);
    }
}

#define ATTEND(kv, format, rows) \
    KERNEL(attend_##kv##_##rows, cuda_attention_args, CUDA_SPAN) { attend<format, rows>(args); }
#define ATTEND_ROWS(kv, format) \
    ATTEND(kv, format, 1) ATTEND(kv, format, 2) ATTEND(kv, format, 4) ATTEND(kv, format, 8)
ATTEND_ROWS(f16, KV_F16)
ATTEND_ROWS(kv8, KV_KV8)
ATTEND_ROWS(k8v4, KV_K8V4)

KERNEL(merge, cuda_attention_args, PREPARE_THREADS) {
    const uint32_t head = blockIdx.x, token = blockIdx.y;
    const uint64_t step = (uint64_t)args.m * args.heads * (CUDA_PARTIAL + args.d_padded);
    const float *first = args.partials + ((uint64_t)token * args.heads + head) * (CUDA_PARTIAL + args.d_padded);
    float best = NOTHING_SEEN, total = 0.0f;
    for (uint32_t i = 0; i < args.splits; i++) best = fmaxf(best, first[i * step]);
    for (uint32_t i = 0; i < args.splits; i++) total += first[i * step + 1] * expf(first[i * step] - best);
    float *out = args.out + (uint64_t)token * args.out_stride + head * args.d;
    for (uint32_t c = threadIdx.x; c < args.d; c += blockDim.x) {
        float sum = 0.0f;
        for (uint32_t i = 0; i < args.splits; i++) {
            sum += first[i * step + CUDA_PARTIAL + c] * expf(first[i * step] - best);
        }
        out[c] = sum / total;
        if (args.next.a != 0) {
            store_codes(args.next, sum / total, warp_largest(fabsf(sum / total)), head * args.d + c, token);
        }
    }
}
