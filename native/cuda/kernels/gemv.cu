/* SPDX-License-Identifier: Apache-2.0 */
/* `linear` of one token: a block of threads streams one tile of weights (gated: gate, then up). A lane reads 16 bytes at
 * a time, which are 4 rows of one unit; the four units of two blocks make a warp's turn, the warps share the row. The
 * units' dot products of a block are added as integers, so that the only rounding is that of the scales. */
#include "linear.cuh"

/* Lanes: bits 0 and 1 choose 4 rows, 2 and 3 a unit, 4 one of two blocks. After the units are added, a lane has the one
 * row that ROW names. */
#define QUAD (LANE & 3u)
#define UNIT (LANE >> 2 & 3u)
#define ROW (4 * QUAD + 2 * (UNIT & 1) + (UNIT >> 1))

template <class F>
struct gemv_turn {
    /* Turns whose loads are under way together, as many as registers allow. */
    static constexpr int AHEAD = F::SCALE == SCALE_NONE || (F::SCALE == SCALE_HALF && F::LOADS == 1 && !F::K8) ? 4 : 2;
    uint4 code[F::LOADS];
    group_meta meta;
    uint2 a;
    float a_scale;
    int32_t a_sum;
};

template <class F>
DEVICE gemv_turn<F> load_turn(const cuda_linear_args &args, const cuda_weight &w, const tile_view &view, uint32_t j) {
    const block_place place = find_block<F>(w, view, smaller(j, view.blocks - 1));
    gemv_turn<F> turn;
    load4<F>(place.codes, UNIT, QUAD, turn.code);
    turn.meta = load_meta<F, 1>(place.meta, ROW);
    turn.a = *(const uint2 *)(args.a + 32 * place.index + 8 * UNIT);
    turn.a_scale = F::SCALE == SCALE_NONE ? 1.0f : args.a_scale[place.index];
    if (j >= view.blocks) turn.a_scale = 0.0f;
    turn.a_sum = args.a_sum[place.index];
    return turn;
}

/* Adds up the four units and leaves to each one of the four rows. */
DEVICE int32_t share_rows(const int32_t (&dot)[4]) {
    const bool first = (UNIT & 1) == 0, second = UNIT < 2;
    const int32_t a = (first ? dot[0] : dot[2]) + shuffle_xor(first ? dot[2] : dot[0], 4);
    const int32_t b = (first ? dot[1] : dot[3]) + shuffle_xor(first ? dot[3] : dot[1], 4);
    return (second ? a : b) + shuffle_xor(second ? b : a, 8);
}

template <class F>
DEVICE float add_turn(const cuda_weight &w, const gemv_turn<F> &turn, float sum) {
    int32_t dot[4];
    UNROLL
    for (int i = 0; i < 4; i++) {
        uint32_t word[F::LOADS], low, high;
        UNROLL
        for (int c = 0; c < F::LOADS; c++) {
            const uint4 v = turn.code[c];
            word[c] = i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
        }
        F::unpack(w, word, UNIT, low, high);
        dot[i] = F::SIGNED ? dot4(dot4(0, low, turn.a.x), high, turn.a.y)
                           : dot4_unsigned(dot4_unsigned(0, low, turn.a.x), high, turn.a.y);
    }
    const row_scale s = scale_of<F>(w, turn.meta, 0);
    return add_group<F>(sum, (float)(share_rows(dot) + s.offset * turn.a_sum), s.scale, turn.a_scale);
}

/* Sums of this warp's share of a tile into sums[16 * warp + row], which is shared. */
template <class F>
DEVICE void gemv_tile(const cuda_linear_args &args, const cuda_weight &w, uint32_t tile, float *sums) {
    const tile_view view = open_tile<F>(w, tile);
    constexpr int AHEAD = gemv_turn<F>::AHEAD;
    const uint32_t half = LANE >> 4, step = 2 * WARPS;
    float sum = 0.0f;
    for (uint32_t first = 2 * WARP; first < view.blocks; first += AHEAD * step) {
        gemv_turn<F> turn[AHEAD];
        UNROLL
        for (int ahead = 0; ahead < AHEAD; ahead++) {
            turn[ahead] = load_turn<F>(args, w, view, first + half + ahead * step);
        }
        UNROLL
        for (int ahead = 0; ahead < AHEAD; ahead++) sum = add_turn<F>(w, turn[ahead], sum);
    }
    sum += shuffle_xor(sum, 16);
    if (LANE < 16) sums[16 * WARP + ROW] = sum;
}

DEVICE float add_warps(const float *sums, uint32_t row) {
    float total = 0.0f;
    for (uint32_t i = 0; i < WARPS; i++) total += sums[16 * i + row];
    return total;
}

enum { TILE_SUMS = 16 * CUDA_MOST_WARPS };

/* A unit, or where the next linear's int8 rows are made here two of them, since 32 k have one scale. */
template <class F>
DEVICE void gemv(const cuda_linear_args &args) {
    SHARED(float, sums, 4 * TILE_SUMS); /* (unit, gate or up, warp, row) */
    const uint32_t together = args.next.a != 0 ? 2 : 1;
    const cuda_linear_part &part = part_of(args, blockIdx.x * together);
    const uint32_t unit = blockIdx.x * together - part.first_unit;
    const bool gated = args.epilogue != 0;
    for (uint32_t u = 0; u < together; u++) {
        const uint32_t tile = gated ? 2 * (unit + u) : unit + u;
        gemv_tile<F>(args, part.weight, tile, sums + 2 * u * TILE_SUMS);
        if (gated) gemv_tile<F>(args, part.weight, tile + 1, sums + (2 * u + 1) * TILE_SUMS);
    }
    sync_block();
    if (threadIdx.x >= 16 * together) return;
    const uint32_t row = threadIdx.x % 16, own = unit + threadIdx.x / 16, tile = gated ? 2 * own : own;
    const float *own_sums = sums + 2 * (own - unit) * TILE_SUMS;
    const float sum = finish_sum<F>(args, part.weight, tile, row, 0, add_warps(own_sums, row));
    if (!gated) {
        store_sum(args, part, 0, 16 * own + row, sum);
        return;
    }
    const float up = finish_sum<F>(args, part.weight, tile + 1, row, 0, add_warps(own_sums + TILE_SUMS, row));
    const float value = store_gated(args, part, 0, 16 * own + row, sum, up);
    if (args.next.a == 0) return;
    const float largest = warp_largest(PLANTED(6) && LANE > 15 ? 0.0f : fabsf(value));
    store_codes(args.next, value, largest, 16 * own + row, 0);
}

#define GEMV(name) \
    RESIDENT_KERNEL(gemv_##name, cuda_linear_args, 32 * CUDA_MOST_WARPS, 4) { gemv<format_##name>(args); }
INGOT_CUDA_INT8_FORMATS(GEMV)

/* ---- f16: float activations; a lane's unit is four chunks, 8 k of 4 rows ---- */

struct format_f16 {
    FORMAT(0, 0, 1024, 4, SCALE_NONE, 0);
};

/* x[k] to x[k + 7]; what lies beyond the row counts as 0. */
DEVICE void load_floats(const float *x, uint32_t k, uint32_t end, float (&to)[8]) {
    UNROLL
    for (int i = 0; i < 8; i++) to[i] = k + i < end ? x[k + i] : 0.0f;
}

DEVICE void gemv_tile_f16(const cuda_linear_args &args, const cuda_weight &w, uint32_t tile, float *sums) {
    const tile_view view = open_tile<format_f16>(w, tile);
    const uint32_t half = LANE >> 4, quad = LANE & 3, unit = LANE >> 2 & 3;
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (uint32_t j = 2 * WARP + half; j < view.blocks + half; j += 2 * WARPS) {
        if (j >= view.blocks) break;
        const block_place place = find_block<format_f16>(w, view, j);
        uint4 code[4];
        UNROLL
        for (int i = 0; i < 4; i++) code[i] = stream16(place.codes + 64 * (4 * unit + i) + 16 * quad);
        float x[8];
        load_floats(args.x, 32 * place.index + 8 * unit, w.k, x);
        UNROLL
        for (int i = 0; i < 4; i++) {
            const uint32_t word[4] = {code[i].x, code[i].y, code[i].z, code[i].w};
            UNROLL
            for (int r = 0; r < 4; r++) {
                sum[r] = fmaf(half_to_float(word[r] & 0xffffu), x[2 * i], sum[r]);
                sum[r] = fmaf(half_to_float(word[r] >> 16), x[2 * i + 1], sum[r]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        sum[i] += shuffle_xor(sum[i], 4);
        sum[i] += shuffle_xor(sum[i], 8);
        sum[i] += shuffle_xor(sum[i], 16);
        if (LANE < 4) sums[16 * WARP + 4 * LANE + i] = sum[i];
    }
}

KERNEL(gemv_f16, cuda_linear_args, 32 * CUDA_MOST_WARPS) {
    SHARED(float, sums, 2 * 16 * CUDA_MOST_WARPS);
    const cuda_linear_part &part = part_of(args, blockIdx.x);
    const uint32_t unit = blockIdx.x - part.first_unit, row = threadIdx.x;
    const bool gated = args.epilogue != 0;
    const uint32_t tile = gated ? 2 * unit : unit;
    gemv_tile_f16(args, part.weight, tile, sums);
    if (gated) gemv_tile_f16(args, part.weight, tile + 1, sums + 16 * CUDA_MOST_WARPS);
    sync_block();
    if (row >= 16) return;
    if (gated) {
        const float up = add_warps(sums + 16 * CUDA_MOST_WARPS, row);
        store_gated(args, part, 0, 16 * unit + row, add_warps(sums, row), up);
    } else {
        store_sum(args, part, 0, 16 * unit + row, add_warps(sums, row));
    }
}
