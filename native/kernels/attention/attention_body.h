/* SPDX-License-Identifier: Apache-2.0 */
/* Written once over v16; a file of an ISA includes its int8 header, defines ATTENTION_FORMAT, then includes this.
 * Contract: attention.h. A register tile is VECTOR_ROWS query rows by vectors of positions (scores) or of d (sums).
 * The result of a row over some positions is ingot_attention_state() floats: largest score, lanes, sums. */
#include "kernels/attention/attention_state.h"

enum { LANES = 16, SUMS = 32 };

#define NOTHING_SEEN (-3.0e38f)

/* Positions of a block that a row sees: [0, sinks) and [begin, end). */
typedef struct seen {
    uint32_t sinks, begin, end;
} seen;

/* One tile of rows at one block. */
typedef struct attention_tile {
    uint32_t rows;
    const float *q[VECTOR_ROWS];
    const int8_t *codes[VECTOR_ROWS];
    float factor[VECTOR_ROWS]; /* of the scores */
    int32_t code_sum[VECTOR_ROWS];
    seen seen[VECTOR_ROWS];
    float *state[VECTOR_ROWS];
    float *weights; /* (rows, BLOCK): scores, then probabilities */
    /* The block that comes next, to be fetched while this one is read: keys and values of one head are too short for
     * the hardware to notice, and all at once are more than it can wait for. NULL: not wanted. */
    const uint8_t *next_keys, *next_values;
} attention_tile;

/* A slab of rows: what is prepared once for all its blocks. */
typedef struct attention_slab {
    const ingot_attention_args *args;
    uint32_t first_row, rows;
    float *states; /* (rows, state) of the present run */
    size_t stride; /* floats of a state */
    float *weights, *values, *row;
    int8_t *codes;
    float *factors;
    int32_t *code_sums;
} attention_slab;

static inline uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

static inline seen see(const ingot_attention_args *args, uint32_t last, uint32_t start) {
    seen found = {0, 0, last < start ? 0 : smaller(last - start + 1, BLOCK)};
    if (args->window == 0 || last < args->window) {
        return found;
    }
    const uint32_t first = last + 1 - args->window;
    const uint32_t begin = first <= start ? 0 : smaller(first - start, found.end);
    const uint32_t sinks = args->sinks <= start ? 0 : smaller(args->sinks - start, found.end);
    if (sinks < begin) {
        found.sinks = sinks;
        found.begin = begin;
    }
    return found;
}

static inline bool sees_any(seen s) { return s.sinks != 0 || s.begin < s.end; }

static inline uint32_t last_of(const ingot_attention_args *args, uint32_t row) {
    return args->first_last + row / args->group;
}

static inline const float *query_of(const ingot_attention_args *args, uint32_t row) {
    return args->q + row / args->group * args->q_stride + (size_t)(row % args->group) * args->head_size;
}

static inline float *out_of(const ingot_attention_args *args, uint32_t row) {
    return args->out + row / args->group * args->out_stride + (size_t)(row % args->group) * args->head_size;
}

/* Scores of one tile and some vectors of positions. Rows are a constant where this is inlined, so that the sums stay in
 * registers. */
#if ATTENTION_FORMAT == 1
#define SCORE_COLUMNS VECTOR_COLUMNS
static inline
    __attribute__((always_inline)) void score_vectors(const ingot_attention_args *args, const attention_tile *tile,
                                                      const uint8_t *keys, uint32_t vector, uint32_t rows, bool ahead) {
    const uint32_t d = args->head_size;
    const uint16_t *block = (const uint16_t *)(const void *)keys + (size_t)vector * d * 16;
    v16 sum[VECTOR_ROWS][SCORE_COLUMNS];
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
            sum[r][c] = v16_zero();
        }
    }
    for (uint32_t i = 0; i < d; i++) {
        v16 key[SCORE_COLUMNS];
        for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
            key[c] = v16_load_half(block + ((size_t)c * d + i) * 16);
            if (ahead) {
                __builtin_prefetch(tile->next_keys + (((size_t)vector + c) * d + i) * 32);
            }
        }
        for (uint32_t r = 0; r < rows; r++) {
            v16 query = v16_set(tile->q[r][i]);
            for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
                sum[r][c] = v16_fma(query, key[c], sum[r][c]);
            }
        }
    }
    v16 scale = v16_set(args->scale);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
            v16_store(tile->weights + r * BLOCK + 16 * (vector + c), v16_mul(sum[r][c], scale));
        }
    }
}
#else
#define SCORE_COLUMNS DOT_COLUMNS
static inline
    __attribute__((always_inline)) void score_vectors(const ingot_attention_args *args, const attention_tile *tile,
                                                      const uint8_t *keys, uint32_t vector, uint32_t rows, bool ahead) {
    const uint32_t width = args->head_padded;
    const int8_t *block = (const int8_t *)keys + (size_t)vector * width * 16;
    const uint16_t *scales = (const uint16_t *)(const void *)(keys + (size_t)BLOCK * width);
    dot16 sum[VECTOR_ROWS][SCORE_COLUMNS];
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
            sum[r][c] = dot_start(tile->code_sum[r]);
        }
    }
    for (uint32_t i = 0; i < width; i += 4) {
        dot_key key[SCORE_COLUMNS];
        for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
            key[c] = key_load(block + ((size_t)c * width + i) * 16);
            if (ahead) {
                __builtin_prefetch(tile->next_keys + (((size_t)vector + c) * width + i) * 16);
            }
        }
        for (uint32_t r = 0; r < rows; r++) {
            dot_query query = query_load(tile->codes[r] + i);
            for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
                sum[r][c] = dot_add(sum[r][c], key[c], query);
            }
        }
    }
    for (uint32_t c = 0; c < SCORE_COLUMNS; c++) {
        v16 scale = v16_load_half(scales + 16 * (vector + c));
        for (uint32_t r = 0; r < rows; r++) {
            v16 both = v16_mul(scale, v16_set(tile->factor[r]));
            v16_store(tile->weights + r * BLOCK + 16 * (vector + c), v16_mul(dot_float(sum[r][c]), both));
        }
    }
}
#endif

/* Calls `function(..., rows)` with the tile's rows as a constant. */
#if VECTOR_ROWS == 4
#define WITH_CONSTANT_ROWS(rows, call) \
    switch (rows) {                    \
        case 4: call(4); break;        \
        case 3: call(3); break;        \
        case 2: call(2); break;        \
        default: call(1); break;       \
    }
#elif VECTOR_ROWS == 3
#define WITH_CONSTANT_ROWS(rows, call) \
    switch (rows) {                    \
        case 3: call(3); break;        \
        case 2: call(2); break;        \
        default: call(1); break;       \
    }
#elif VECTOR_ROWS == 2
#define WITH_CONSTANT_ROWS(rows, call) \
    if ((rows) == 2) {                 \
        call(2);                       \
    } else {                           \
        call(1);                       \
    }
#else
#define WITH_CONSTANT_ROWS(rows, call) call(1)
#endif

static void score_block(const ingot_attention_args *args, const attention_tile *tile, const uint8_t *keys,
                        uint32_t most) {
    for (uint32_t vector = 0; vector * 16 < most; vector += SCORE_COLUMNS) {
#define SCORE(rows) score_vectors(args, tile, keys, vector, rows, false)
#define SCORE_AHEAD(rows) score_vectors(args, tile, keys, vector, rows, true)
        if (tile->next_keys != NULL) {
            WITH_CONSTANT_ROWS(tile->rows, SCORE_AHEAD);
        } else {
            WITH_CONSTANT_ROWS(tile->rows, SCORE);
        }
#undef SCORE
#undef SCORE_AHEAD
    }
}

/* Whole vectors where it can: a vector is read right after this, and would wait for single floats. */
static inline void fill(float *w, uint32_t begin, uint32_t end, float value) {
    uint32_t i = begin;
    for (; i < end && i % 16 != 0; i++) {
        w[i] = value;
    }
    for (; i + 16 <= end; i += 16) {
        v16_store(w + i, v16_set(value));
    }
    for (; i < end; i++) {
        w[i] = value;
    }
}

static inline void fill_unseen(float *w, seen s, float value) {
    fill(w, s.sinks, s.begin, value);
    fill(w, s.end, BLOCK, value);
}

static inline void decay_state(float *state, v16 decay, uint32_t width) {
    for (uint32_t i = LANES; i < SUMS + width; i += 16) {
        v16_store(state + i, v16_mul(v16_load(state + i), decay));
    }
}

/* Turns the scores of row r into weights e^(s - largest), times the values' scales, and rescales what was summed. */
static void soften_row(const ingot_attention_args *args, const attention_tile *tile, uint32_t r,
                       const uint8_t *values) {
    float *w = tile->weights + r * BLOCK, *state = tile->state[r];
    const seen s = tile->seen[r];
    fill_unseen(w, s, w[s.sinks != 0 ? 0 : s.begin]);
    v16 best = v16_load(w);
    for (uint32_t c = 16; c < BLOCK; c += 16) {
        best = v16_max(best, v16_load(w + c));
    }
    const float block_largest = v16_largest(best);
    const float largest = block_largest > state[0] ? block_largest : state[0];
    const v16 offset = v16_set(largest);
    if (largest != state[0]) { /* else the decay is 1, and changes nothing; nor does it while there are no sums */
        if (state[0] != NOTHING_SEEN) {
            decay_state(state, v16_exp(v16_sub(v16_set(state[0]), offset)), args->head_padded);
        }
        state[0] = largest;
    }
    for (uint32_t c = 0; c < BLOCK; c += 16) {
        v16_store(w + c, v16_exp(v16_sub(v16_load(w + c), offset)));
    }
    fill_unseen(w, s, 0.0f);
    v16 lanes = v16_load(state + LANES);
    for (uint32_t c = 0; c < BLOCK; c += 16) {
        v16 weight = v16_load(w + c);
        lanes = v16_add(lanes, weight);
        if (!HALVES) {
            v16_store(w + c, v16_mul(weight, v16_load_half(value_scales(values, args->head_padded) + c)));
        }
    }
    v16_store(state + LANES, lanes);
}

/* Sums of positions [begin, end) into some columns; the values lie in the state or, unpacked, in `floats`. */
static inline __attribute__((always_inline)) void sum_vectors(const attention_tile *tile, const uint8_t *values,
                                                              const float *floats, uint32_t width, uint32_t column,
                                                              uint32_t columns, uint32_t begin, uint32_t end,
                                                              uint32_t rows, bool ahead) {
    v16 sum[VECTOR_ROWS][VECTOR_COLUMNS];
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < columns; c++) {
            sum[r][c] = v16_load(tile->state[r] + SUMS + column + 16 * c);
        }
    }
    for (uint32_t p = begin; p < end; p++) {
        v16 value[VECTOR_COLUMNS];
        const size_t place = (size_t)p * width + column;
        for (uint32_t c = 0; c < columns; c++) {
            value[c] = floats != NULL ? v16_load(floats + place + 16 * c) : load_values(values, place + 16 * c);
        }
        if (ahead) {
            __builtin_prefetch(tile->next_values + value_bytes(place));
        }
        for (uint32_t r = 0; r < rows; r++) {
            v16 weight = v16_set(tile->weights[r * BLOCK + p]);
            for (uint32_t c = 0; c < columns; c++) {
                sum[r][c] = v16_fma(weight, value[c], sum[r][c]);
            }
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < columns; c++) {
            v16_store(tile->state[r] + SUMS + column + 16 * c, sum[r][c]);
        }
    }
}

/* Positions that all rows of the tile see. */
static inline void sum_columns(const attention_tile *tile, const uint8_t *values, const float *floats, uint32_t width,
                               uint32_t begin, uint32_t end, uint32_t column, uint32_t columns, bool ahead) {
#define SUM(rows) sum_vectors(tile, values, floats, width, column, columns, begin, end, rows, ahead)
    WITH_CONSTANT_ROWS(tile->rows, SUM);
#undef SUM
}

static void sum_common(const attention_tile *tile, const uint8_t *values, const float *floats, uint32_t width,
                       uint32_t begin, uint32_t end) {
    uint32_t column = 0;
    for (; column + 16 * VECTOR_COLUMNS <= width; column += 16 * VECTOR_COLUMNS) {
        if (floats != NULL) {
            sum_columns(tile, NULL, floats, width, begin, end, column, VECTOR_COLUMNS, false);
        } else if (tile->next_values != NULL) {
            sum_columns(tile, values, NULL, width, begin, end, column, VECTOR_COLUMNS, true);
        } else {
            sum_columns(tile, values, NULL, width, begin, end, column, VECTOR_COLUMNS, false);
        }
    }
    for (; column < width; column += 16) {
        sum_columns(tile, values, floats, width, begin, end, column, 1, false);
    }
}

/* Positions of one row. */
static void sum_alone(const attention_tile *tile, uint32_t r, const uint8_t *values, const float *floats,
                      uint32_t width, uint32_t begin, uint32_t end) {
    attention_tile one = {.rows = 1, .weights = tile->weights + r * BLOCK};
    one.state[0] = tile->state[r];
    for (uint32_t column = 0; begin < end && column < width; column += 16) {
        sum_vectors(&one, values, floats, width, column, 1, begin, end, 1, false);
    }
}

/* A weight of 0 is not enough for what a row does not see: 0 times infinity is not 0. So the tile sums what all its rows
 * see, between what only some of them do. */
static void sum_block(const attention_tile *tile, const uint8_t *values, const float *floats, uint32_t width) {
    uint32_t begin = 0, end = BLOCK;
    for (uint32_t r = 0; r < tile->rows; r++) {
        begin = tile->seen[r].begin > begin ? tile->seen[r].begin : begin;
        end = smaller(tile->seen[r].end, end);
    }
    end = end < begin ? begin : end;
    for (uint32_t r = 0; r < tile->rows; r++) {
        sum_alone(tile, r, values, floats, width, 0, tile->seen[r].sinks);
        sum_alone(tile, r, values, floats, width, tile->seen[r].begin, smaller(begin, tile->seen[r].end));
    }
    if (begin < end) {
        sum_common(tile, values, floats, width, begin, end);
    }
    for (uint32_t r = 0; r < tile->rows; r++) {
        const uint32_t first = tile->seen[r].begin > end ? tile->seen[r].begin : end;
        sum_alone(tile, r, values, floats, width, first, tile->seen[r].end);
    }
}

/* Of the next block: what the loops over codes do not reach. */
static inline void prefetch_scales(const attention_tile *tile, uint32_t width) {
    if (HALVES || tile->next_keys == NULL) {
        return;
    }
    for (uint32_t i = 0; i < BLOCK * sizeof(uint16_t); i += 64) {
        __builtin_prefetch(tile->next_keys + (size_t)BLOCK * width + i);
        __builtin_prefetch((const uint8_t *)value_scales(tile->next_values, width) + i);
    }
}

static void attend_tile(const attention_slab *slab, uint32_t first, uint32_t start, const uint8_t *next,
                        const float *floats) {
    const ingot_attention_args *args = slab->args;
    const uint8_t *block = args->blocks[start / BLOCK], *keys = block + args->keys, *values = block + args->values;
    attention_tile tile = {.rows = smaller(slab->rows - first, VECTOR_ROWS), .weights = slab->weights};
    if (next != NULL) {
        tile.next_keys = next + args->keys;
        tile.next_values = next + args->values;
    }
    uint32_t most = 0;
    for (uint32_t r = 0; r < tile.rows; r++) {
        const uint32_t row = slab->first_row + first + r;
        tile.q[r] = query_of(args, row);
        tile.codes[r] = slab->codes + (size_t)(first + r) * args->head_padded;
        tile.factor[r] = slab->factors[first + r];
        tile.code_sum[r] = slab->code_sums[first + r];
        tile.state[r] = slab->states + (first + r) * slab->stride;
        tile.seen[r] = see(args, last_of(args, row), start);
        most = tile.seen[r].end > most ? tile.seen[r].end : most;
    }
    prefetch_scales(&tile, args->head_padded);
    score_block(args, &tile, keys, most);
    for (uint32_t r = 0; r < tile.rows; r++) {
        if (sees_any(tile.seen[r])) {
            soften_row(args, &tile, r, values);
        }
    }
    sum_block(&tile, values, floats, args->head_padded);
}
