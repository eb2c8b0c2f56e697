#version 450
// SPDX-License-Identifier: Apache-2.0
// attention: softmax(scale q k^T) v. A workgroup has ROWS query rows of one KV head (row = token * QUERY_GROUP + head of
// the group), one split of the positions and 64 words of a value row; a block of 64 positions at a time: first a lane has
// a position, then a word of the values. Splits leave their results to attention_merge.comp.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#include "attention_state.glsl"
layout(local_size_x = 64) in;
layout(binding = 0) readonly buffer State { uint state[]; };
layout(binding = 1) readonly buffer Queries { float q[]; };
layout(binding = 5) writeonly buffer Out { float result[]; };
// (row of all, split): largest score, sum of weights, weighted values.
layout(binding = 7) writeonly buffer Partials { float partials[]; };

#define NOTHING (-3.0e38)
#if FORMAT == 1
#define PER_WORD 2u
#elif FORMAT == 2
#define PER_WORD 4u
#else
#define PER_WORD 8u
#endif

#if FORMAT == 1
shared float queries[ROWS * MOST_D];
#else
shared uint queries[ROWS * MOST_D / 4];
shared float factors[ROWS];
#endif
shared float weights[ROWS * 64];
shared float reduced[ROWS * 64];
shared float eighths[ROWS * 8];
shared float parts[64 * ROWS];

uint rows_of_head() { return M * QUERY_GROUP; }

uint query_at(uint kv_head, uint row) {
    const uint last = min(row, rows_of_head() - 1u);
    return Q_BASE + last / QUERY_GROUP * Q_STRIDE + (kv_head * QUERY_GROUP + last % QUERY_GROUP) * HEAD_SIZE;
}

#if FORMAT == 1
void load_queries(uint kv_head, uint first_row, uint lane) {
    for (uint r = 0u; r < ROWS; r++) {
        for (uint i = lane; i < HEAD_SIZE; i += 64u) {
            queries[r * MOST_D + i] = q[query_at(kv_head, first_row + r) + i];
        }
    }
    barrier();
}
#else
void load_queries(uint kv_head, uint first_row, uint lane) {
    for (uint r = 0u; r < ROWS; r++) {
        for (uint i = lane; i < HEAD_PADDED; i += 64u) {
            turned[i] = i < HEAD_SIZE ? q[query_at(kv_head, first_row + r) + i] : 0.0;
        }
#if FORMAT == 3
        turn(lane);
        const float scale = SCALE / float(HEAD_SIZE);
#else
        const float scale = SCALE;
#endif
        barrier();
        const float most = largest_of(lane);
        const float inverse = most >= 1e-30 ? exact_divide(127.0, most) : 0.0;
        for (uint i = lane; i < HEAD_PADDED / 4u; i += 64u) {
            queries[r * (MOST_D / 4) + i] =
                pack_bytes(ivec4(round_limited(turned[4u * i] * inverse, 127.0),
                                 round_limited(turned[4u * i + 1u] * inverse, 127.0),
                                 round_limited(turned[4u * i + 2u] * inverse, 127.0),
                                 round_limited(turned[4u * i + 3u] * inverse, 127.0)));
        }
        if (lane == 0u) {
            factors[r] = most >= 1e-30 ? exact_divide(most, 127.0) * scale : 0.0;
        }
        barrier();
    }
}
#endif

// Scores of the lane's position for all rows.
void score(uint keys, uint slot, out float scores[ROWS]) {
#if FORMAT == 1
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        scores[r] = 0.0;
    }
    const uint at = keys + ((slot >> 4) * HEAD_SIZE * 16u + (slot & 15u)) / 2u;
    for (uint i = 0u; i < HEAD_SIZE; i++) {
        const uint word = state[at + i * 8u];
        const float key = half_value((slot & 1u) != 0u ? word >> 16 : word & 0xffffu);
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            scores[r] = fma(queries[r * MOST_D + i], key, scores[r]);
        }
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        scores[r] *= SCALE;
    }
#else
    int dots[ROWS];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        dots[r] = 0;
    }
    const uint at = keys + (slot >> 4) * HEAD_PADDED * 4u + (slot & 15u);
    for (uint i = 0u; i < HEAD_PADDED / 4u; i++) {
        const uint word = state[at + i * 16u];
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            dots[r] += dot4(queries[r * (MOST_D / 4) + i], word);
        }
    }
    const uint pair = state[keys + HEAD_PADDED * 16u + slot / 2u];
    const float key_scale = half_value((slot & 1u) != 0u ? pair >> 16 : pair & 0xffffu);
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        scores[r] = float(dots[r]) * (factors[r] * key_scale);
    }
#endif
}

bool sees(uint last, uint position) {
    const bool inside = WINDOW == 0u || last < WINDOW || position > last - WINDOW || position < SINKS;
    return position + uint(PLANTED(9u)) <= last && inside;
}

// Some row of the workgroup sees a position of this block. Rows' tokens rise.
bool block_seen(uint block, uint first_last, uint last_last) {
    const uint start = block * 64u;
    const bool hidden = WINDOW != 0u && first_last >= WINDOW && start + 63u <= first_last - WINDOW && start >= SINKS;
    return start <= last_last && !hidden;
}

// The scale of a position's values, 1 where they have none.
float value_scale(uint values, uint slot) {
#if FORMAT == 1
    return 1.0;
#else
    const uint pair = state[values + HEAD_PADDED / PER_WORD * 64u + slot / 2u];
    return half_value((slot & 1u) != 0u ? pair >> 16 : pair & 0xffffu);
#endif
}

float value_of(uint word, uint e) {
#if FORMAT == 1
    return half_value((word >> (16u * e)) & 0xffffu);
#elif FORMAT == 2
    return float(int(word << (24u - 8u * e)) >> 24);
#else
    return float(int((word >> (8u * (e & 3u) + 4u * (e >> 2))) & 15u) - 8);
#endif
}

// Where element e of word w of a value row stands.
uint element_of(uint w, uint e) {
#if FORMAT == 3
    return w / 2u * 16u + w % 2u * 4u + (e & 3u) + 8u * (e >> 2);
#else
    return w * PER_WORD + e;
#endif
}

float combined(float a, float b, bool adding) { return adding ? a + b : larger(a, b); }

// The largest of all lanes' values, or their sum, for each row, in every lane: two barriers for all rows.
void combine_lanes(inout float values[ROWS], uint lane, bool adding) {
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        reduced[r * 64u + lane] = values[r];
    }
    barrier();
    if (lane < 8u * ROWS) {
        float value = reduced[8u * lane];
        [[unroll]] for (uint i = 1u; i < 8u; i++) {
            value = combined(value, reduced[8u * lane + i], adding);
        }
        eighths[lane] = value;
    }
    barrier();
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        values[r] = eighths[8u * r];
        [[unroll]] for (uint i = 1u; i < 8u; i++) {
            values[r] = combined(values[r], eighths[8u * r + i], adding);
        }
    }
}

void store(uint kv_head, uint row, uint split, uint element, float value) {
    if (SPLITS == 0u) {
        if (element < HEAD_SIZE) {
            const uint head = kv_head * QUERY_GROUP + row % QUERY_GROUP;
            result[OUT_BASE + row / QUERY_GROUP * OUT_STRIDE + head * HEAD_SIZE + element] = value;
        }
    } else {
        const uint place = (kv_head * rows_of_head() + row) * SPLITS + split;
        partials[place * (HEAD_PADDED + 2u) + 2u + element] = value;
    }
}

void main() {
    const uint lane = gl_LocalInvocationID.x, split = gl_WorkGroupID.y;
    const uint row_groups = (rows_of_head() + ROWS - 1u) / ROWS;
    const uint kv_head = gl_WorkGroupID.x / row_groups, first_row = gl_WorkGroupID.x % row_groups * ROWS;
    const uint row_words = HEAD_PADDED / PER_WORD, first_word = gl_WorkGroupID.z * 64u;
    const uint words = min(64u, row_words - first_word), sharers = 64u / words; // lanes that share a word
    const uint share = lane / words, w = first_word + lane % words;
    const uint last_row = min(first_row + ROWS, rows_of_head()) - 1u;
    const uint first_last = pass_position + first_row / QUERY_GROUP, last_last = pass_position + last_row / QUERY_GROUP;

    load_queries(kv_head, first_row, lane);
    float most[ROWS], total[ROWS], sums[ROWS][PER_WORD];
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        most[r] = NOTHING;
        total[r] = 0.0;
        [[unroll]] for (uint e = 0u; e < PER_WORD; e++) {
            sums[r][e] = 0.0;
        }
    }
    const uint begin = SPLITS == 0u ? 0u : split * SPLIT_BLOCKS;
    const uint end = min(last_last / 64u + 1u, SPLITS == 0u ? 0xffffffffu : begin + SPLIT_BLOCKS);
    for (uint block = begin; block < end; block++) {
        if (!block_seen(block, first_last, last_last)) {
            continue;
        }
        const uint keys = block * BLOCK_WORDS + kv_head * HEAD_WORDS, values = keys + KEY_WORDS;
        float scores[ROWS], here[ROWS];
        bool seen[ROWS];
        score(keys, lane, scores);
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            seen[r] = sees(pass_position + min(first_row + r, last_row) / QUERY_GROUP, block * 64u + lane);
            here[r] = seen[r] ? scores[r] : NOTHING;
        }
        combine_lanes(here, lane, false);
        const float factor = value_scale(values, lane);
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            const float before = most[r];
            most[r] = larger(here[r], before);
            const float weight = seen[r] ? exact_exp(scores[r] - most[r]) : 0.0;
            const float correction = before > NOTHING ? exact_exp(before - most[r]) : 0.0;
            total[r] = total[r] * correction + weight; // of this lane's positions
            weights[r * 64u + lane] = seen[r] ? weight * factor : 0.0;
            [[unroll]] for (uint e = 0u; e < PER_WORD; e++) {
                sums[r][e] *= correction;
            }
        }
        barrier();
        if (share < sharers) {
            for (uint slot = share; slot < 64u; slot += sharers) {
                if (block * 64u + slot > last_last) {
                    break; // behind the last position is what nobody wrote
                }
                const uint word = state[values + slot * row_words + w];
                [[unroll]] for (uint e = 0u; e < PER_WORD; e++) {
                    const float value = value_of(word, e);
                    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
                        sums[r][e] = fma(weights[r * 64u + slot], value, sums[r][e]);
                    }
                }
            }
        }
    }
    combine_lanes(total, lane, true);
    [[unroll]] for (uint e = 0u; e < PER_WORD; e++) {
        barrier();
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            parts[r * 64u + lane] = sums[r][e];
        }
        barrier();
        [[unroll]] for (uint r = 0u; r < ROWS; r++) {
            if (lane < words && first_row + r <= last_row) {
                float sum = 0.0;
                for (uint i = 0u; i < sharers; i++) {
                    sum += parts[r * 64u + i * words + lane];
                }
                store(kv_head, first_row + r, split, element_of(w, e), SPLITS == 0u ? sum / total[r] : sum);
            }
        }
    }
    [[unroll]] for (uint r = 0u; r < ROWS; r++) {
        if (SPLITS != 0u && lane == 0u && gl_WorkGroupID.z == 0u && first_row + r <= last_row) {
            const uint place = (kv_head * rows_of_head() + first_row + r) * SPLITS + split;
            partials[place * (HEAD_PADDED + 2u)] = most[r];
            partials[place * (HEAD_PADDED + 2u) + 1u] = total[r];
        }
    }
}
