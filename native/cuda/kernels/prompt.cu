/* SPDX-License-Identifier: Apache-2.0 */
/* `linear` of many tokens: a block of threads makes 8 tiles of 16 rows by 64 tokens. Codes and scales of 64 k of its
 * tiles and the activations of its tokens come to shared memory by cp.async while the 64 k before are multiplied; a warp
 * takes two tiles by 32 tokens. Fragments are those of few.cu. */
#include "linear.cuh"

enum {
    STAGES = 2,
    STAGE_BLOCKS = 2,  /* of 32 k */
    TOKEN_BYTES = 96,  /* of a token's 64 k: 24 words apart, no two lanes of a quarter warp meet in a bank */
    COLUMN_TILES = 4,  /* of 8 tokens, of a warp */
    WARP_TOKENS = 8 * COLUMN_TILES
};

template <class F>
struct prompt_stage {
    enum { BLOCK_BYTES = F::CODES + F::META, TILE_BYTES = STAGE_BLOCKS * BLOCK_BYTES };
    uint8_t *codes;    /* (tile, block): meta, then codes */
    uint8_t *tokens;   /* (token, TOKEN_BYTES) */
    float *a_scale;    /* (block, token) */
    int32_t *a_sum;    /* (block, token) */
    uint32_t *present; /* (tile): a bit per block */
};

/* Half i of what is shared. */
template <class F>
DEVICE prompt_stage<F> stage_of(const prompt_stage<F> &all, uint32_t i) {
    return {all.codes + i * CUDA_PROMPT_TILES * prompt_stage<F>::TILE_BYTES,
            all.tokens + i * CUDA_PROMPT_TOKENS * TOKEN_BYTES, all.a_scale + i * STAGE_BLOCKS * CUDA_PROMPT_TOKENS,
            all.a_sum + i * STAGE_BLOCKS * CUDA_PROMPT_TOKENS, all.present + i * CUDA_PROMPT_TILES};
}

/* Where this warp stands in its tile's list of superblocks. */
struct prompt_walk {
    tile_view view;
    uint32_t next;
    bool inside; /* the tile is one of the weight's */
};

/* Whether the tile stores block `index`; then where. Blocks are asked for in ascending order. */
template <class F>
DEVICE bool walk_to(const cuda_weight &w, prompt_walk &walk, uint32_t index, block_place &place) {
    if (!walk.inside || index >= w.blocks) return false;
    const uint32_t super = index >> w.super_shift, inner = index & ((1u << w.super_shift) - 1);
    if (walk.view.list == 0) {
        place = place_in<F>(w, walk.view, super, super, inner);
        return true;
    }
    while (walk.next < walk.view.stored && list_entry(walk.view, walk.next) < super) walk.next++;
    if (walk.next == walk.view.stored || list_entry(walk.view, walk.next) != super) return false;
    place = place_in<F>(w, walk.view, walk.next, super, inner);
    return true;
}

/* Starts the copies of 64 k: warp i those of tile i, all threads those of the tokens. */
template <class F>
DEVICE void fetch(const cuda_linear_args &args, const cuda_weight &w, prompt_walk &walk, uint32_t first_block,
                  uint32_t first_token, const prompt_stage<F> &stage) {
    uint32_t present = 0;
    for (uint32_t b = 0; b < STAGE_BLOCKS; b++) {
        block_place place;
        if (!walk_to<F>(w, walk, first_block + b, place)) continue;
        present |= 1u << b;
        uint8_t *to = stage.codes + (WARP * STAGE_BLOCKS + b) * prompt_stage<F>::BLOCK_BYTES;
        for (uint32_t i = LANE; i < prompt_stage<F>::BLOCK_BYTES / 16; i += 32) {
            const bool meta = i < F::META / 16;
            copy_async16(to + 16 * i, meta ? place.meta + 16 * i : place.codes + 16 * (i - F::META / 16));
        }
    }
    if (LANE == 0) stage.present[WARP] = present;
    const uint32_t token = threadIdx.x / 4, piece = threadIdx.x % 4;
    const uint64_t row = smaller(first_token + token, args.m - 1);
    copy_async16(stage.tokens + token * TOKEN_BYTES + 16 * piece,
                 args.a + row * args.a_stride + 32 * first_block + 16 * piece);
    if (piece < STAGE_BLOCKS) {
        const uint64_t at = row * (args.a_stride / 32) + first_block + piece;
        copy_async4(stage.a_scale + piece * CUDA_PROMPT_TOKENS + token, args.a_scale + at);
        copy_async4(stage.a_sum + piece * CUDA_PROMPT_TOKENS + token, args.a_sum + at);
    }
    copy_commit();
}

/* The fragments and scales of one tile's block. */
struct tile_operand {
    uint32_t a[4];
    row_scale row[2];
};

template <class F>
DEVICE tile_operand read_tile(const cuda_weight &w, const uint8_t *block) {
    const uint32_t g = LANE >> 2, unit = LANE & 3;
    uint2 code[F::LOADS];
    uint32_t word[2][F::LOADS];
    load2<F, false>(block + F::META, unit, g, code);
    UNROLL
    for (int i = 0; i < F::LOADS; i++) {
        word[0][i] = code[i].x;
        word[1][i] = code[i].y;
    }
    tile_operand operand;
    F::unpack(w, word[0], unit, operand.a[0], operand.a[2]);
    F::unpack(w, word[1], unit, operand.a[1], operand.a[3]);
    const group_meta meta = load_meta<F, 2>(block, 2 * g);
    operand.row[0] = scale_of<F>(w, meta, 0);
    operand.row[1] = scale_of<F>(w, meta, 1);
    return operand;
}

template <class F>
DEVICE void multiply_tile(const tile_operand &operand, const uint32_t (&b)[2], const float (&a_scale)[2],
                          const int32_t (&a_sum)[2], float (&sum)[4]) {
    int32_t d[4];
    UNROLL
    for (int i = 0; i < 4; i++) d[i] = SUM_START + operand.row[i / 2].offset * a_sum[i % 2];
    if (F::SIGNED) {
        mma_signed(d, operand.a, b);
    } else {
        mma_unsigned(d, operand.a, b);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        sum[i] = add_group<F>(sum[i], sum_of(d[i]), operand.row[i / 2].scale,
                              F::SCALE == SCALE_NONE ? 1.0f : a_scale[i % 2]);
    }
}

/* One block of 32 k of the two tiles of this warp with its 32 tokens. */
template <class F>
DEVICE void multiply_block(const cuda_weight &w, const prompt_stage<F> &stage, uint32_t b, int columns,
                           float (&sum)[2][COLUMN_TILES][4]) {
    const uint32_t pair = WARP % 4, first = WARP / 4 * WARP_TOKENS, g = LANE >> 2, unit = LANE & 3;
    const uint32_t present[2] = {stage.present[2 * pair] >> b & 1u, stage.present[2 * pair + 1] >> b & 1u};
    if (present[0] + present[1] == 0) return;
    tile_operand operand[2];
    UNROLL
    for (int p = 0; p < 2; p++) {
        const uint8_t *block = stage.codes + ((2 * pair + p) * STAGE_BLOCKS + b) * prompt_stage<F>::BLOCK_BYTES;
        if (present[p]) operand[p] = read_tile<F>(w, block);
    }
    UNROLL
    for (int n = 0; n < COLUMN_TILES; n++) {
        if (n >= columns) break;
        const uint2 words = *(const uint2 *)(stage.tokens + (first + 8 * n + g) * TOKEN_BYTES + 32 * b + 8 * unit);
        const uint32_t bytes[2] = {words.x, words.y};
        const uint32_t at = b * CUDA_PROMPT_TOKENS + first + 8 * n + 2 * unit;
        const float a_scale[2] = {stage.a_scale[at], stage.a_scale[at + 1]};
        const int32_t a_sum[2] = {stage.a_sum[at], stage.a_sum[at + 1]};
        UNROLL
        for (int p = 0; p < 2; p++) {
            if (present[p]) multiply_tile<F>(operand[p], bytes, a_scale, a_sum, sum[p][n]);
        }
    }
}

template <class F>
DEVICE void store_prompt(const cuda_linear_args &args, const cuda_linear_part &part, uint32_t tile,
                         uint32_t first_token, const float (&sum)[2][COLUMN_TILES][4]) {
    const uint32_t g = LANE >> 2, t = LANE & 3;
    const cuda_weight &w = part.weight;
    UNROLL
    for (int n = 0; n < COLUMN_TILES; n++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            const uint32_t row = 2 * g + i / 2, token = first_token + 8 * n + 2 * t + i % 2;
            if (tile >= w.tiles || token >= args.m) continue;
            const float first = finish_sum<F>(args, w, tile, row, token, sum[0][n][i]);
            if (args.epilogue != 0) {
                const float up = finish_sum<F>(args, w, tile + 1, row, token, sum[1][n][i]);
                store_gated(args, part, token, 8 * tile + row, first, up);
                continue;
            }
            store_sum(args, part, token, 16 * tile + row + (PLANTED(17) ? 1 : 0), first);
            if (tile + 1 >= w.tiles) continue;
            store_sum(args, part, token, 16 * tile + 16 + row,
                      finish_sum<F>(args, w, tile + 1, row, token, sum[1][n][i]));
        }
    }
}

template <class F>
DEVICE void prompt(const cuda_linear_args &args) {
    SHARED(uint8_t, codes, STAGES * CUDA_PROMPT_TILES * prompt_stage<F>::TILE_BYTES);
    SHARED(uint8_t, tokens, STAGES * CUDA_PROMPT_TOKENS * TOKEN_BYTES);
    SHARED(float, a_scale, STAGES * STAGE_BLOCKS * CUDA_PROMPT_TOKENS);
    SHARED(int32_t, a_sum, STAGES * STAGE_BLOCKS * CUDA_PROMPT_TOKENS);
    SHARED(uint32_t, present, STAGES * CUDA_PROMPT_TILES);
    const prompt_stage<F> stages = {codes, tokens, a_scale, a_sum, present};
    const cuda_linear_part &part = part_of(args, blockIdx.x);
    const cuda_weight &w = part.weight;
    const uint32_t first_tile = (blockIdx.x - part.first_unit) * CUDA_PROMPT_TILES;
    const uint32_t first_token = blockIdx.y * CUDA_PROMPT_TOKENS;
    const uint32_t warp_token = first_token + WARP / 4 * WARP_TOKENS;
    const uint32_t left = warp_token < args.m ? args.m - warp_token : 0;
    const int columns = (int)smaller((left + 7) / 8, COLUMN_TILES);
    prompt_walk walk = {{0, 0, 0, 0, 0}, 0, first_tile + WARP < w.tiles};
    if (walk.inside) walk.view = open_tile<F>(w, first_tile + WARP);
    float sum[2][COLUMN_TILES][4] = {};
    fetch<F>(args, w, walk, 0, first_token, stage_of(stages, 0));
    for (uint32_t block = 0, turn = 0; block < w.blocks; block += STAGE_BLOCKS, turn ^= 1) {
        if (block + STAGE_BLOCKS < w.blocks) {
            fetch<F>(args, w, walk, block + STAGE_BLOCKS, first_token, stage_of(stages, turn ^ 1));
        } else {
            copy_commit(); /* an empty group, so that the one before is always the last but one */
        }
        if (PLANTED(3)) {
            copy_wait<2>();
        } else {
            copy_wait<1>();
        }
        sync_block();
        const prompt_stage<F> stage = stage_of(stages, turn);
        for (uint32_t b = 0; b < STAGE_BLOCKS; b++) multiply_block<F>(w, stage, b, columns, sum);
        sync_block();
    }
    store_prompt<F>(args, part, first_tile + 2 * (WARP % 4), warp_token, sum);
}

#define PROMPT(name) \
    KERNEL(prompt_##name, cuda_linear_args, 32 * CUDA_MOST_WARPS) { prompt<format_##name>(args); }
INGOT_CUDA_INT8_FORMATS(PROMPT)
