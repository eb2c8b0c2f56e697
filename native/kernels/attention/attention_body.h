/* SPDX-License-Identifier: Apache-2.0 */
/* Written once over v16; a file of an ISA includes its vector header, then this. Contract: attention.h.
 * A register tile is VECTOR_ROWS query rows by VECTOR_COLUMNS vectors of positions (scores) or of d (sums). */
#include <string.h>

#include "kernels/attention/attention.h"
#include "kernels/vector/vector.h"

enum { BLOCK = INGOT_ATTENTION_BLOCK };

/* One tile of rows while it walks over the blocks. */
typedef struct attention_tile {
    uint32_t rows;
    const float *q[VECTOR_ROWS];
    uint32_t last[VECTOR_ROWS];
    float *weights; /* (rows, BLOCK): scores, then probabilities */
    float *sums;    /* (rows, head_padded) */
    float *lanes;   /* (rows, 16): the denominator's lanes */
    float largest[VECTOR_ROWS];
} attention_tile;

static inline void score_vectors(const ingot_attention_args *args, attention_tile *tile, const uint16_t *keys,
                                 uint32_t first_vector, uint32_t rows) {
    const uint32_t d = args->head_size;
    const uint16_t *block = keys + (size_t)first_vector * d * 16;
    v16 sum[VECTOR_ROWS][VECTOR_COLUMNS];
    for (uint32_t r = 0; r < VECTOR_ROWS; r++) {
        for (uint32_t c = 0; c < VECTOR_COLUMNS; c++) {
            sum[r][c] = v16_zero();
        }
    }
    for (uint32_t i = 0; i < d; i++) {
        v16 key[VECTOR_COLUMNS];
        for (uint32_t c = 0; c < VECTOR_COLUMNS; c++) {
            key[c] = v16_load_half(block + ((size_t)c * d + i) * 16);
        }
        for (uint32_t r = 0; r < rows; r++) {
            v16 query = v16_set(tile->q[r][i]);
            for (uint32_t c = 0; c < VECTOR_COLUMNS; c++) {
                sum[r][c] = v16_fma(query, key[c], sum[r][c]);
            }
        }
    }
    v16 scale = v16_set(args->scale);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < VECTOR_COLUMNS; c++) {
            v16_store(tile->weights + r * BLOCK + 16 * (first_vector + c), v16_mul(sum[r][c], scale));
        }
    }
}

/* Positions of this block that row r sees, 0 to BLOCK. */
static inline uint32_t visible(const attention_tile *tile, uint32_t r, uint32_t start) {
    if (tile->last[r] < start) {
        return 0;
    }
    uint32_t count = tile->last[r] - start + 1;
    return count < BLOCK ? count : BLOCK;
}

/* Turns the scores of row r into weights e^(s - largest) and rescales what was summed before. */
static inline void soften_row(const ingot_attention_args *args, attention_tile *tile, uint32_t r, uint32_t count) {
    float *w = tile->weights + r * BLOCK;
    for (uint32_t i = count; i < BLOCK; i++) {
        w[i] = w[0];
    }
    v16 best = v16_load(w);
    for (uint32_t c = 16; c < BLOCK; c += 16) {
        best = v16_max(best, v16_load(w + c));
    }
    float block_largest = v16_largest(best);
    float largest = block_largest > tile->largest[r] ? block_largest : tile->largest[r];
    v16 offset = v16_set(largest);
    v16 decay = v16_exp(v16_sub(v16_set(tile->largest[r]), offset));
    tile->largest[r] = largest;
    for (uint32_t c = 0; c < BLOCK; c += 16) {
        v16_store(w + c, v16_exp(v16_sub(v16_load(w + c), offset)));
    }
    for (uint32_t i = count; i < BLOCK; i++) {
        w[i] = 0.0f;
    }
    v16 lanes = v16_mul(v16_load(tile->lanes + 16 * r), decay);
    for (uint32_t c = 0; c < BLOCK; c += 16) {
        lanes = v16_add(lanes, v16_load(w + c));
    }
    v16_store(tile->lanes + 16 * r, lanes);
    for (uint32_t i = 0; i < args->head_padded; i += 16) {
        float *sums = tile->sums + r * args->head_padded + i;
        v16_store(sums, v16_mul(v16_load(sums), decay));
    }
}

static inline void sum_vectors(const ingot_attention_args *args, attention_tile *tile, const uint16_t *values,
                               uint32_t column, uint32_t columns, uint32_t rows, uint32_t count) {
    const uint32_t width = args->head_padded;
    v16 sum[VECTOR_ROWS][VECTOR_COLUMNS];
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < columns; c++) {
            sum[r][c] = v16_load(tile->sums + r * width + column + 16 * c);
        }
    }
    for (uint32_t p = 0; p < count; p++) {
        v16 value[VECTOR_COLUMNS];
        for (uint32_t c = 0; c < columns; c++) {
            value[c] = v16_load_half(values + (size_t)p * width + column + 16 * c);
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
            v16_store(tile->sums + r * width + column + 16 * c, sum[r][c]);
        }
    }
}

/* Positions from `first` on that row r sees and another row of its tile does not. */
static inline void sum_rest(const ingot_attention_args *args, attention_tile *tile, const uint16_t *values, uint32_t r,
                            uint32_t first, uint32_t count) {
    const uint32_t width = args->head_padded;
    for (uint32_t column = 0; column < width && first < count; column += 16) {
        float *place = tile->sums + r * width + column;
        v16 sum = v16_load(place);
        for (uint32_t p = first; p < count; p++) {
            v16 weight = v16_set(tile->weights[r * BLOCK + p]);
            sum = v16_fma(weight, v16_load_half(values + (size_t)p * width + column), sum);
        }
        v16_store(place, sum);
    }
}

/* The full tile has constant bounds, so that its accumulators stay in registers. */
static inline void sum_block(const ingot_attention_args *args, attention_tile *tile, const uint16_t *values,
                             uint32_t count) {
    uint32_t column = 0;
    if (tile->rows == VECTOR_ROWS) {
        for (; column + 16 * VECTOR_COLUMNS <= args->head_padded; column += 16 * VECTOR_COLUMNS) {
            sum_vectors(args, tile, values, column, VECTOR_COLUMNS, VECTOR_ROWS, count);
        }
    }
    for (; column < args->head_padded; column += 16) {
        sum_vectors(args, tile, values, column, 1, tile->rows, count);
    }
}

static void attend_block(const ingot_attention_args *args, attention_tile *tile, uint32_t start) {
    const uint16_t *keys = args->keys + (size_t)start * args->head_size;
    const uint16_t *values = args->values + (size_t)start * args->head_padded;
    uint32_t most = 0, least = BLOCK;
    for (uint32_t r = 0; r < tile->rows; r++) {
        uint32_t count = visible(tile, r, start);
        most = count > most ? count : most;
        least = count < least ? count : least;
    }
    for (uint32_t vector = 0; vector * 16 < most; vector += VECTOR_COLUMNS) {
        if (tile->rows == VECTOR_ROWS) {
            score_vectors(args, tile, keys, vector, VECTOR_ROWS);
        } else {
            score_vectors(args, tile, keys, vector, tile->rows);
        }
    }
    for (uint32_t r = 0; r < tile->rows; r++) {
        uint32_t count = visible(tile, r, start);
        if (count != 0) {
            soften_row(args, tile, r, count);
        }
    }
    /* A weight of 0 is not enough for what a row does not see: 0 times infinity is not 0. */
    sum_block(args, tile, values, least);
    for (uint32_t r = 0; r < tile->rows; r++) {
        sum_rest(args, tile, values, r, least, visible(tile, r, start));
    }
}

static void finish_row(const ingot_attention_args *args, const attention_tile *tile, uint32_t r, float *out) {
    float total = v16_tree_sum(v16_load(tile->lanes + 16 * r));
    const float *sums = tile->sums + r * args->head_padded;
    for (uint32_t i = 0; i < args->head_size; i++) {
        out[i] = sums[i] / total;
    }
}

static void attend_tile(const ingot_attention_args *args, uint32_t first_row, uint32_t rows) {
    attention_tile tile = {.rows = rows, .weights = args->scratch};
    tile.sums = tile.weights + VECTOR_ROWS * BLOCK;
    tile.lanes = tile.sums + (size_t)VECTOR_ROWS * args->head_padded;
    uint32_t end = 0;
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t token = (first_row + r) / args->group;
        tile.q[r] = args->q + token * args->q_stride + (size_t)((first_row + r) % args->group) * args->head_size;
        tile.last[r] = args->first_last + token;
        tile.largest[r] = -3.0e38f;
        end = tile.last[r] > end ? tile.last[r] : end;
    }
    memset(tile.sums, 0, (size_t)VECTOR_ROWS * (args->head_padded + 16) * sizeof(float));
    for (uint32_t start = 0; start <= end; start += BLOCK) {
        attend_block(args, &tile, start);
    }
    for (uint32_t r = 0; r < rows; r++) {
        uint32_t token = (first_row + r) / args->group;
        size_t place = token * args->out_stride + (size_t)((first_row + r) % args->group) * args->head_size;
        finish_row(args, &tile, r, args->out + place);
    }
}

static void attend(const ingot_attention_args *args) {
    for (uint32_t row = 0; row < args->rows; row += VECTOR_ROWS) {
        uint32_t rows = args->rows - row < VECTOR_ROWS ? args->rows - row : VECTOR_ROWS;
        attend_tile(args, row, rows);
    }
}
