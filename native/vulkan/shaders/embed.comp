#version 450
// SPDX-License-Identifier: Apache-2.0
// embed: rows of a table, dequantized. A lane has 8 k of one token; a piece of the table leaves the rows of others alone.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#include "format.glsl"
#define OUT_BASE p[13]
#define OUT_STRIDE p[14]
layout(local_size_x = 64) in;
layout(binding = 5) writeonly buffer Out { float result[]; };

void store(uint token, uint k, float value) {
    if (k < K) {
        result[OUT_BASE + token * OUT_STRIDE + k] = value;
    }
}

void main() {
    const uint token = gl_WorkGroupID.y, item = gl_GlobalInvocationID.x, block = item >> 2, c = item & 3u;
    fill_book(gl_LocalInvocationID.x);
    barrier();
    const uint row = pass_tokens[token] + uint(PLANTED(4u)), tile_at = row >> 4;
    if (block >= BLOCKS || tile_at < TILE_FIRST || tile_at >= TILE_FIRST + TILES) {
        return;
    }
    const uint tile = W_BASE + (tile_at - TILE_FIRST) * TILE_SIZE, quarter = (row >> 2) & 3u, r = row & 3u;
    const Place place = locate(tile, block, block >> SHIFT);
#if FORMAT == F16
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        const vec2 pair = half_pair(w4[place.codes + 4u * (4u * c + i) + quarter][r]);
        store(token, block * 32u + 8u * c + 2u * i, pair.x);
        store(token, block * 32u + 8u * c + 2u * i + 1u, pair.y);
    }
#else
    vec4 scale;
    ivec4 offset;
    uvec4 low, high;
    read_scales(place, quarter, scale, offset);
    read_quads(place, quarter, c, low, high);
    const float row_scale = row_scales(tile, quarter)[r];
    [[unroll]] for (uint i = 0u; i < 8u; i++) {
        const uint word = i < 4u ? low[r] : high[r];
        const int code = int(word << (24u - 8u * (i & 3u))) >> 24;
        store(token, block * 32u + 8u * c + i, float(code + offset[r]) * scale[r] * row_scale);
    }
#endif
}
