// SPDX-License-Identifier: Apache-2.0
// The block of a workgroup for many tokens: 4 tiles (64 rows) by 32 tokens, of which a lane ends 4 rows by 4 tokens.
layout(local_size_x = 128) in;

#if FORMAT == T2
#define SUM4 ivec4
#else
#define SUM4 vec4
#endif

shared int finished[32 * 64]; // bits: one row of 64 rows per token

// The address of a group of 4 rows' tile; behind the last tile the last is read, and not stored.
uint tile_of(uint rows) { return W_BASE + min(gl_WorkGroupID.x * 4u + (rows >> 2), TILES - 1u) * TILE_SIZE; }

uint token_of(uint t) { return min(gl_WorkGroupID.y * 32u + t, M - 1u); }

// A lane's sums, times the scales of their rows.
void finish(uint rows, uint tokens, SUM4 total[4]) {
    const vec4 scale = row_scales(tile_of(rows), rows & 3u);
    [[unroll]] for (uint t = 0u; t < 4u; t++) {
#if FORMAT == T2
        const float a_scale = uintBitsToFloat(groups[token_of(tokens * 4u + t) * S_STRIDE].x);
        const vec4 sum = (vec4(total[t]) * a_scale) * scale;
#else
        const vec4 sum = total[t] * scale;
#endif
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            finished[(tokens * 4u + t) * 64u + rows * 4u + i] = floatBitsToInt(sum[i]);
        }
    }
}

void store(uint lane) {
    const bool gated = (FLAGS & FLAG_GATED) != 0u;
    const uint first = TILE_FIRST + gl_WorkGroupID.x * 4u;
    for (uint at = lane; at < 32u * 64u; at += 128u) {
        const uint t = at >> 6, row = at & 63u, token = gl_WorkGroupID.y * 32u + t, tile = row >> 4;
        if (gl_WorkGroupID.x * 4u + tile >= TILES) {
            continue;
        }
        const float sum = intBitsToFloat(finished[at]);
        if (!gated) {
            store_plain(token, first * 16u + row, sum);
        } else if ((tile & 1u) == 0u) {
            store_gated(token, first * 8u + (tile >> 1) * 16u + (row & 15u), sum, intBitsToFloat(finished[at + 16u]));
        }
    }
}
