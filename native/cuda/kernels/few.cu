/* SPDX-License-Identifier: Apache-2.0 */
/* `linear` of 2 to 8 tokens, and of more with weights in f16: a tile of 16 rows is the A of an mma, the tokens are its 8 columns, so that the weights are
 * read once for all of them. A lane's rows are 2g and 2g + 1 (g = lane / 4), which lie side by side in a chunk: rows g and
 * g + 8 of the fragment. The warps share the row and add up in shared memory. */
#include "linear.cuh"

enum { FEW_AHEAD = 4 };

template <class F>
struct few_turn {
    uint2 code[F::LOADS];
    group_meta meta;
    uint2 b;
    float a_scale[2];
    int32_t a_sum[2];
};

/* Tokens beyond the last are the last once more; nothing of them is stored. */
template <class F>
DEVICE few_turn<F> load_few(const cuda_linear_args &args, const cuda_weight &w, const tile_view &view, uint32_t j,
                            uint32_t first_token) {
    const uint32_t g = LANE >> 2, unit = LANE & 3, groups = args.a_stride / 32;
    const block_place place = find_block<F>(w, view, smaller(j, view.blocks - 1));
    few_turn<F> turn;
    load2<F, true>(place.codes, unit, g, turn.code);
    turn.meta = load_meta<F, 2>(place.meta, 2 * g);
    const uint64_t token = smaller(first_token + g, args.m - 1);
    turn.b = *(const uint2 *)(args.a + token * args.a_stride + 32 * place.index + 8 * unit);
    UNROLL
    for (int i = 0; i < 2; i++) {
        const uint64_t at = (uint64_t)smaller(first_token + 2 * unit + i, args.m - 1) * groups + place.index;
        turn.a_scale[i] = F::SCALE == SCALE_NONE ? 1.0f : args.a_scale[at];
        if (j >= view.blocks) turn.a_scale[i] = 0.0f;
        turn.a_sum[i] = args.a_sum[at];
    }
    return turn;
}

template <class F>
DEVICE void multiply(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    if (F::SIGNED) {
        mma_signed(d, a, b);
    } else {
        mma_unsigned(d, a, b);
    }
}

template <class F>
DEVICE void add_few(const cuda_weight &w, const few_turn<F> &turn, float (&sum)[4]) {
    const uint32_t unit = LANE & 3;
    uint32_t word[2][F::LOADS], a[4];
    UNROLL
    for (int i = 0; i < F::LOADS; i++) {
        word[0][i] = turn.code[i].x;
        word[1][i] = turn.code[i].y;
    }
    F::unpack(w, word[0], unit, a[0], a[2]);
    F::unpack(w, word[1], unit, a[1], a[3]);
    const uint32_t b[2] = {turn.b.x, turn.b.y};
    const row_scale s[2] = {scale_of<F>(w, turn.meta, 0), scale_of<F>(w, turn.meta, PLANTED(2) ? 0 : 1)};
    int32_t d[4];
    UNROLL
    for (int i = 0; i < 4; i++) d[i] = SUM_START + s[i / 2].offset * turn.a_sum[i % 2];
    multiply<F>(d, a, b);
    UNROLL
    for (int i = 0; i < 4; i++) sum[i] = add_group<F>(sum[i], sum_of(d[i]), s[i / 2].scale, turn.a_scale[i % 2]);
}

/* Sums of this warp into sums[(16 * place + row) * 8 + token]. */
DEVICE void keep_sums(const float (&sum)[4], float *sums, uint32_t place) {
    const uint32_t g = LANE >> 2, column = 2 * (LANE & 3);
    UNROLL
    for (int i = 0; i < 4; i++) sums[(16 * place + 2 * g + i / 2) * CUDA_FEW_TOKENS + column + i % 2] = sum[i];
}

template <class F>
DEVICE void few_tile(const cuda_linear_args &args, const cuda_weight &w, uint32_t tile, uint32_t first_token,
                     float *sums) {
    const tile_view view = open_tile<F>(w, tile);
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t first = WARP; first < view.blocks; first += FEW_AHEAD * WARPS) {
        few_turn<F> turn[FEW_AHEAD];
        UNROLL
        for (int ahead = 0; ahead < FEW_AHEAD; ahead++) {
            turn[ahead] = load_few<F>(args, w, view, first + ahead * WARPS, first_token);
        }
        UNROLL
        for (int ahead = 0; ahead < FEW_AHEAD; ahead++) add_few<F>(w, turn[ahead], sum);
    }
    keep_sums(sum, sums, WARP);
}

enum { FEW_SUMS = 16 * CUDA_FEW_TOKENS };

/* Of one place, `step` from warp to warp. */
DEVICE float add_warps(const float *sums, uint32_t step) {
    float total = 0.0f;
    for (uint32_t i = 0; i < WARPS; i++) total += sums[i * step];
    return total;
}

template <class F>
DEVICE void few(const cuda_linear_args &args) {
    SHARED(float, sums, 2 * FEW_SUMS * CUDA_MOST_WARPS);
    const cuda_linear_part &part = part_of(args, blockIdx.x);
    const cuda_weight &w = part.weight;
    const uint32_t unit = blockIdx.x - part.first_unit, first_token = blockIdx.y * CUDA_FEW_TOKENS;
    const bool gated = args.epilogue != 0;
    const uint32_t tile = gated ? 2 * unit : unit;
    float *ups = sums + FEW_SUMS * CUDA_MOST_WARPS;
    few_tile<F>(args, w, tile, first_token, sums);
    if (gated) few_tile<F>(args, w, tile + 1, first_token, ups);
    sync_block();
    for (uint32_t i = threadIdx.x; i < FEW_SUMS; i += blockDim.x) {
        const uint32_t row = i % 16, token = i / 16, at = first_token + token, place = row * CUDA_FEW_TOKENS + token;
        const float sum = finish_sum<F>(args, w, tile, row, at, add_warps(sums + place, FEW_SUMS));
        if (PLANTED(16) && token % 8 == 6) continue;
        if (gated) {
            const float up = finish_sum<F>(args, w, tile + 1, row, at, add_warps(ups + place, FEW_SUMS));
            store_gated(args, part, at, 16 * unit + row, sum, up);
        } else {
            store_sum(args, part, at, 16 * unit + row, sum);
        }
    }
}

#define FEW(name) \
    KERNEL(few_##name, cuda_linear_args, 32 * CUDA_MOST_WARPS) { few<format_##name>(args); }
INGOT_CUDA_INT8_FORMATS(FEW)

/* ---- f16: by tf32, which holds a float16 exactly; a float is the sum of two tf32 but for 2^-22 of it ---- */

struct format_f16 {
    FORMAT(0, 0, 1024, 1, SCALE_NONE, 0);
};

/* x[k], as a tf32 and what is left of it. */
struct split_float {
    uint32_t high, rest;
};
DEVICE split_float split(float value) {
    const uint32_t high = to_tf32(value);
    return {high, to_tf32(value - bits_to_float(high))};
}

/* One tile with COLUMNS times 8 tokens: a prompt takes four, so that its weights are read less often. Sums of this warp
 * into sums[((COLUMNS * warp + column) * 16 + row) * 8 + token]. */
template <int COLUMNS>
DEVICE void few_tile_f16(const cuda_linear_args &args, const cuda_weight &w, uint32_t tile, uint32_t first_token,
                         float *sums) {
    const tile_view view = open_tile<format_f16>(w, tile);
    const uint32_t g = LANE >> 2, t = LANE & 3;
    float sum[COLUMNS][4] = {}, low[COLUMNS][4] = {};
    for (uint32_t j = WARP; j < view.blocks; j += WARPS) {
        const block_place place = find_block<format_f16>(w, view, j);
        uint2 code[4];
        UNROLL
        for (int i = 0; i < 4; i++) code[i] = stream8(place.codes + 64 * (4 * i + t) + 8 * g);
        UNROLL
        for (int i = 0; i < 4; i++) { /* 8 k: chunk 4i + t has 2t and 2t + 1 of them */
            const uint32_t a[4] = {float_to_bits(half_to_float(code[i].x & 0xffffu)),
                                   float_to_bits(half_to_float(code[i].y & 0xffffu)),
                                   float_to_bits(half_to_float(code[i].x >> 16)),
                                   float_to_bits(half_to_float(code[i].y >> 16))};
            const uint32_t k = 32 * place.index + 8 * i + 2 * t;
            UNROLL
            for (int n = 0; n < COLUMNS; n++) {
                const float *x = args.x + (uint64_t)smaller(first_token + 8 * n + g, args.m - 1) * args.x_stride;
                const split_float first = split(k < w.k ? x[k] : 0.0f), second = split(k + 1 < w.k ? x[k + 1] : 0.0f);
                const uint32_t b[2] = {first.high, second.high}, rest[2] = {first.rest, second.rest};
                mma_tf32(sum[n], a, b);
                mma_tf32(low[n], a, rest);
            }
        }
    }
    UNROLL
    for (int n = 0; n < COLUMNS; n++) {
        UNROLL
        for (int i = 0; i < 4; i++) sum[n][i] += low[n][i];
        keep_sums(sum[n], sums, COLUMNS * WARP + n);
    }
}

template <int COLUMNS>
DEVICE void few_f16_tokens(const cuda_linear_args &args) {
    SHARED(float, sums, 2 * COLUMNS *FEW_SUMS *CUDA_MOST_WARPS);
    const cuda_linear_part &part = part_of(args, blockIdx.x);
    const uint32_t unit = blockIdx.x - part.first_unit, first_token = blockIdx.y * COLUMNS * CUDA_FEW_TOKENS;
    const bool gated = args.epilogue != 0;
    const uint32_t tile = gated ? 2 * unit : unit;
    float *ups = sums + COLUMNS * FEW_SUMS * CUDA_MOST_WARPS;
    few_tile_f16<COLUMNS>(args, part.weight, tile, first_token, sums);
    if (gated) few_tile_f16<COLUMNS>(args, part.weight, tile + 1, first_token, ups);
    sync_block();
    for (uint32_t i = threadIdx.x; i < COLUMNS * FEW_SUMS; i += blockDim.x) {
        const uint32_t row = i % 16, token = i / 16, at = first_token + token;
        const uint32_t place = token / 8 * FEW_SUMS + row * CUDA_FEW_TOKENS + token % 8;
        const float sum = add_warps(sums + place, COLUMNS * FEW_SUMS);
        if (gated) {
            store_gated(args, part, at, 16 * unit + row, sum, add_warps(ups + place, COLUMNS * FEW_SUMS));
        } else {
            store_sum(args, part, at, 16 * unit + row, sum);
        }
    }
}

KERNEL(few_f16, cuda_linear_args, 32 * CUDA_MOST_WARPS) { few_f16_tokens<1>(args); }
KERNEL(prompt_f16, cuda_linear_args, 32 * CUDA_MOST_WARPS) { few_f16_tokens<CUDA_F16_COLUMNS>(args); }
