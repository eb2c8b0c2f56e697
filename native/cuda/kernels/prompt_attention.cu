/* SPDX-License-Identifier: Apache-2.0 */
/* `attention` of many tokens with int8 keys, on the matrix units: a warp has 16 query rows of one KV head and walks over
 * the context by the state's blocks of 64 positions; largest score and denominator run along (online softmax,
 * Milakov and Gimelshein 2018; tiles as in FlashAttention-2, Dao 2023). Warps share nothing and wait for nobody.
 *
 * Scores are mma.m16n8k32 of int8: a lane's word of a query and its word of a key lie in memory as the fragments want them.
 * Sums are mma.m16n8k8 of tf32: values are small integers, which tf32 holds, and a weight is the sum of two tf32, so that
 * 2^-22 of it is lost. What a lane has of the scores is what it needs of the weights: k of that product is, in this order,
 * positions 0, 2, 4, 6, 1, 3, 5, 7 of eight. Column i of its tile t is d = 4 i + t of 32: a lane loads four d at once.
 * A warp makes 128 d; grid.z has the others, which compute the scores again. */
#include "attention.cuh"

enum {
    PROMPT_ROWS = 16,
    POSITION_TILES = STATE_BLOCK / 8,
    HEAD_PARTS = CUDA_PROMPT_HEAD / 32 /* of 32 d: four column tiles */
};

/* Rows lane / 4 and 8 more of a warp's sixteen. Beyond the last row it is the last one again; that is not stored. */
struct row_pair {
    uint64_t at[2]; /* token * heads + head */
    uint32_t last[2]; /* position */
    float factor[2];
    bool inside[2];
    uint32_t first_seen, last_seen; /* of all sixteen, without the window */
};

DEVICE row_pair rows_of_lane(const cuda_attention_args &args, uint32_t first, uint32_t count) {
    const uint32_t group = args.heads / args.kv_heads;
    row_pair rows;
    UNROLL
    for (int r = 0; r < 2; r++) {
        const uint32_t own = first + LANE / 4 + 8 * (PLANTED(18) ? 0 : r), row = smaller(own, count - 1);
        rows.at[r] = (uint64_t)(row / group) * args.heads + blockIdx.x * group + row % group;
        rows.last[r] = args.pass[0] + row / group;
        rows.factor[r] = args.factors[rows.at[r]];
        rows.inside[r] = own < count;
    }
    rows.first_seen = args.pass[0] + first / group;
    rows.last_seen = args.pass[0] + smaller(first + PROMPT_ROWS - 1, count - 1) / group;
    return rows;
}

/* Of 64 positions: [n][2 * r + i] is row r at position 8 n + 2 * (lane % 4) + i. */
typedef float position_scores[POSITION_TILES][4];

DEVICE void score_positions(const cuda_attention_args &args, const uint8_t *keys, const row_pair &rows,
                            position_scores &scores) {
    const uint32_t words = args.d_padded / 4, column = LANE % 4;
    const uint32_t *first = (const uint32_t *)(args.codes + rows.at[0] * args.d_padded) + column;
    const uint32_t *second = (const uint32_t *)(args.codes + rows.at[1] * args.d_padded) + column;
    const uint32_t *key = (const uint32_t *)keys + column * 16 + LANE / 4;
    int32_t dots[POSITION_TILES][4] = {};
    for (uint32_t i = 0; i < words; i += 8) { /* d is padded to 16: the last step may have half */
        const bool whole = i + 4 < words && !PLANTED(19);
        const uint32_t a[4] = {first[i], second[i], whole ? first[i + 4] : 0, whole ? second[i + 4] : 0};
        UNROLL
        for (int n = 0; n < POSITION_TILES; n++) {
            const uint32_t *own = key + n / 2 * words * 16 + n % 2 * 8 + i * 16;
            const uint32_t b[2] = {own[0], whole ? own[64] : 0};
            mma_signed(dots[n], a, b);
        }
    }
    const uint32_t *scales = (const uint32_t *)(keys + STATE_BLOCK * args.d_padded) + column;
    UNROLL
    for (int n = 0; n < POSITION_TILES; n++) {
        const uint32_t pair = scales[4 * n];
        UNROLL
        for (int e = 0; e < 4; e++) {
            const float scale = half_to_float(e % 2 == 0 ? pair & 0xffffu : pair >> 16);
            scores[n][e] = (float)dots[n][e] * (scale * rows.factor[e / 2]);
        }
    }
}

DEVICE float quad_largest(float value) {
    value = fmaxf(value, shuffle_xor(value, 1));
    return fmaxf(value, shuffle_xor(value, 2));
}

DEVICE float quad_sum(float value) {
    value += shuffle_xor(value, 1);
    return value + shuffle_xor(value, 2);
}

/* Largest score so far, and this lane's share of the denominator. */
struct softmax_state {
    float best[2], total[2];
};

/* Scores become weights times the values' scales; `decay` is what older sums are multiplied with. */
template <int KV>
DEVICE void weigh(const cuda_attention_args &args, const uint8_t *values, uint32_t start, const row_pair &rows,
                  softmax_state &state, position_scores &scores, float (&decay)[2]) {
    const uint32_t first = 2 * (LANE % 4);
    UNROLL
    for (int r = 0; r < 2; r++) {
        float most = NOTHING_SEEN;
        UNROLL
        for (int n = 0; n < POSITION_TILES; n++) {
            UNROLL
            for (int i = 0; i < 2; i++) {
                if (sees(args, rows.last[r], start + 8 * n + first + i)) most = fmaxf(most, scores[n][2 * r + i]);
            }
        }
        most = fmaxf(state.best[r], quad_largest(most));
        decay[r] = expf(state.best[r] - most);
        state.best[r] = most;
        state.total[r] *= decay[r];
        UNROLL
        for (int n = 0; n < POSITION_TILES; n++) {
            UNROLL
            for (int i = 0; i < 2; i++) {
                const bool seen = sees(args, rows.last[r], start + 8 * n + first + i);
                const float weight = seen ? expf(scores[n][2 * r + i] - most) : 0.0f;
                state.total[r] += weight;
                scores[n][2 * r + i] = seen ? weight * value_scale<KV>(args, values, 8 * n + first + i) : 0.0f;
            }
        }
    }
}

/* [4 * part + t][2 * r + i] is row r at d = 32 * part + 4 * (2 * (lane % 4) + i) + t of the warp's. */
typedef float head_sums[4 * HEAD_PARTS][4];

template <int KV>
DEVICE void add_values(const cuda_attention_args &args, const uint8_t *values, const position_scores &weights,
                       head_sums &sums) {
    const uint32_t column = LANE % 4, words = args.d_padded / 4, first_word = blockIdx.z * (CUDA_PROMPT_HEAD / 4);
    UNROLL
    for (int n = 0; n < POSITION_TILES; n++) {
        uint32_t high[4], low[4];
        UNROLL
        for (int e = 0; e < 4; e++) { /* rows, then positions: scores have them the other way */
            const float weight = weights[n][e % 2 * 2 + e / 2];
            high[e] = to_tf32(weight);
            low[e] = to_tf32(weight - bits_to_float(high[e]));
        }
        UNROLL
        for (int part = 0; part < HEAD_PARTS; part++) {
            const uint32_t word = first_word + 8 * part + LANE / 4;
            if (first_word + 8 * part >= words) continue;
            float v[2][4] = {};
            UNROLL
            for (int i = 0; i < 2; i++) {
                if (word < words) load_values<KV>(args, values, 8 * n + 2 * column + i, word, v[i]);
            }
            UNROLL
            for (int t = 0; t < 4; t++) {
                const uint32_t b[2] = {float_to_bits(v[0][t]), float_to_bits(v[1][t])};
                mma_tf32(sums[4 * part + t], high, b);
                if (!PLANTED(20)) mma_tf32(sums[4 * part + t], low, b);
            }
        }
    }
}

DEVICE void store_sums(const cuda_attention_args &args, const row_pair &rows, const softmax_state &state,
                       const head_sums &sums) {
    UNROLL
    for (int r = 0; r < 2; r++) {
        const float total = quad_sum(state.total[r]);
        if (!rows.inside[r]) continue;
        const uint64_t token = rows.at[r] / args.heads, head = rows.at[r] % args.heads;
        float *out = args.out + token * args.out_stride + head * args.d;
        UNROLL
        for (int tile = 0; tile < 4 * HEAD_PARTS; tile++) {
            UNROLL
            for (int i = 0; i < 2; i++) {
                const uint32_t within = tile / 4 * 32 + 4 * (2 * (LANE % 4) + i) + tile % 4;
                const uint32_t d = blockIdx.z * CUDA_PROMPT_HEAD + within;
                if (d < args.d) out[d] = sums[tile][2 * r + i] / total;
            }
        }
    }
}

template <int KV>
DEVICE void attend_prompt(const cuda_attention_args &args) {
    const uint32_t count = args.m * (args.heads / args.kv_heads);
    const uint32_t first = (blockIdx.y * WARPS + WARP) * PROMPT_ROWS;
    if (first >= count) return;
    const row_pair rows = rows_of_lane(args, first, count);
    const uint8_t *head = args.state + args.state_offset + blockIdx.x * args.head_bytes;
    softmax_state state = {{NOTHING_SEEN, NOTHING_SEEN}, {0.0f, 0.0f}};
    head_sums sums = {};
    for (uint32_t start = 0; start <= rows.last_seen; start += STATE_BLOCK) {
        const bool behind = args.window != 0 && start + STATE_BLOCK + args.window <= rows.first_seen + 1;
        if (behind && start >= args.sinks) continue; /* no row sees any of it */
        const uint8_t *keys = head + start / STATE_BLOCK * args.block_bytes, *values = keys + args.key_bytes;
        position_scores scores;
        float decay[2];
        score_positions(args, keys, rows, scores);
        weigh<KV>(args, values, start, rows, state, scores, decay);
        UNROLL
        for (int tile = 0; tile < 4 * HEAD_PARTS; tile++) {
            UNROLL
            for (int e = 0; e < 4; e++) sums[tile][e] *= decay[e / 2];
        }
        add_values<KV>(args, values, scores, sums);
    }
    store_sums(args, rows, state, sums);
}

KERNEL(attend_prompt_kv8, cuda_attention_args, CUDA_PROMPT_THREADS) { attend_prompt<KV_KV8>(args); }
KERNEL(attend_prompt_k8v4, cuda_attention_args, CUDA_PROMPT_THREADS) { attend_prompt<KV_K8V4>(args); }
