#version 450
// SPDX-License-Identifier: Apache-2.0
// linear for one to TOKENS tokens, of which there may be several groups. A workgroup has a tile, or a gate and its up; a lane 4 rows and every 16th block of
// 32 k, so that 4 lanes read a chunk of 64 bytes. Sums of the 16 lanes of a row meet once, in shared memory.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#include "format.glsl"
#include "linear_finish.glsl"
#define OFFSETS_BASE p[29]
#define SUPERBLOCKS p[30]
layout(local_size_x = 64) in;
layout(binding = 7) readonly buffer Offsets { uint offsets[]; }; // sparse: of each tile of the tensor, and of the end

#if FORMAT == T2
#define SUM4 ivec4
#define SUM int
#else
#define SUM4 vec4
#define SUM float
#endif

uint first_token() { return gl_WorkGroupID.y * TOKENS; }

shared SUM4 parts[TOKENS * 64];
shared float sums[2 * TOKENS * 16];

#if FORMAT == F16
void add_block(Place place, uint block, uint quarter, inout SUM4 total[TOKENS]) {
    [[unroll]] for (uint c = 0u; c < 16u; c++) {
        const uvec4 word = w4[place.codes + 4u * c + quarter];
        const vec2 row0 = half_pair(word.x), row1 = half_pair(word.y), row2 = half_pair(word.z),
                   row3 = half_pair(word.w);
        const vec4 even = vec4(row0.x, row1.x, row2.x, row3.x), odd = vec4(row0.y, row1.y, row2.y, row3.y);
        const uint k = block * 32u + 2u * c;
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            // Behind k lies what is not ours.
            const vec2 x = x2[(X_BASE + min(first_token() + t, M - 1u) * X_STRIDE + k) >> 1];
            total[t] = fma(even, vec4(k < K ? x.x : 0.0), total[t]);
            total[t] = fma(odd, vec4(k + 1u < K ? x.y : 0.0), total[t]);
        }
    }
}
#else
void add_block(Place place, uint block, uint quarter, inout SUM4 total[TOKENS]) {
    vec4 scale;
    ivec4 offset;
    read_scales(place, quarter, scale, offset);
    ivec4 dots[TOKENS];
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        dots[t] = ivec4(0);
    }
    [[unroll]] for (uint c = 0u; c < 4u; c++) {
        uvec4 low, high;
        read_quads(place, quarter, c, low, high);
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            const uvec2 a = a2[((first_token() + t) * A_STRIDE + block * 8u + 2u * c) >> 1];
            dots[t] += ivec4(dot4(low.x, a.x) + dot4(high.x, a.y), dot4(low.y, a.x) + dot4(high.y, a.y),
                             dot4(low.z, a.x) + dot4(high.z, a.y), dot4(low.w, a.x) + dot4(high.w, a.y));
        }
    }
    [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
        const uvec2 group = groups[(first_token() + t) * S_STRIDE + block];
        const float a_scale = uintBitsToFloat(group.x);
        const int a_sum = int(group.y);
#if FORMAT == T2
        total[t] += dots[t] + offset * a_sum;
#else
        total[t] += vec4(scaled_term(dots[t].x, offset.x, scale.x, a_scale, a_sum),
                         scaled_term(dots[t].y, offset.y, scale.y, a_scale, a_sum),
                         scaled_term(dots[t].z, offset.z, scale.z, a_scale, a_sum),
                         scaled_term(dots[t].w, offset.w, scale.w, a_scale, a_sum));
#endif
    }
}
#endif

// A tile that starts with a list of the superblocks that it stores; returns where its head is. What the list says is
// held to the tile's borders: the file may have changed since it was checked.
uint add_stored(uint number, uint share, uint quarter, inout SUM4 total[TOKENS]) {
    const uint at = OFFSETS_BASE + TILE_FIRST;
    const uint list = W_BASE + offsets[at + number] - offsets[at], end = W_BASE + offsets[at + number + 1u] - offsets[at];
    const uint count = min(w1[4u * list], SUPERBLOCKS);
    const uint tile = list + (4u + 2u * count + 63u) / 64u * 4u;
    for (uint i = share; i < count << SHIFT; i += 16u) {
        const uint stored = i >> SHIFT, half_word = 2u + stored;
        const uint superblock = (w1[4u * list + (half_word >> 1)] >> (16u * (half_word & 1u))) & 0xffffu;
        const uint block = (superblock << SHIFT) + (i & ((1u << SHIFT) - 1u));
        const Place place = locate(tile, block, stored);
        if (block < BLOCKS && place.codes + BLOCK_SIZE <= end) {
            add_block(place, block, quarter, total);
        }
    }
    return tile;
}

// Adds up what the 16 lanes of each row have, and multiplies with the row's scale.
void gather(uint tile, uint side, uint lane) {
    for (uint at = lane; at < 16u * TOKENS; at += 64u) {
        const uint token = at >> 4, row = at & 15u;
        SUM total = SUM(0);
        for (uint i = 0u; i < 16u; i++) {
            total += parts[token * 64u + 4u * i + (row >> 2)][row & 3u];
        }
        const float scale = row_scales(tile, row >> 2)[row & 3u];
#if FORMAT == T2
        const float a_scale = uintBitsToFloat(groups[(first_token() + token) * S_STRIDE].x);
        sums[side * 16u * TOKENS + at] = (float(total) * a_scale) * scale;
#else
        sums[side * 16u * TOKENS + at] = total * scale;
#endif
    }
}

void main() {
    const uint lane = gl_LocalInvocationID.x, quarter = lane & 3u;
    const bool gated = (FLAGS & FLAG_GATED) != 0u;
    const uint sides = gated ? 2u : 1u, first = gl_WorkGroupID.x * sides;
    fill_book(lane);
    barrier();
    for (uint side = 0u; side < sides; side++) {
        uint tile = W_BASE + (first + side) * TILE_SIZE;
        SUM4 total[TOKENS];
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            total[t] = SUM4(0);
        }
        if ((FLAGS & FLAG_SPARSE) != 0u) {
            tile = add_stored(first + side, lane >> 2, quarter, total);
        } else {
            for (uint block = lane >> 2; block < BLOCKS - uint(PLANTED(2u)); block += 16u) {
                add_block(locate(tile, block, block >> SHIFT), block, quarter, total);
            }
        }
        [[unroll]] for (uint t = 0u; t < TOKENS; t++) {
            parts[t * 64u + lane] = total[t];
        }
        barrier();
        gather(tile, side, lane);
        barrier();
    }
    for (uint at = lane; at < 16u * TOKENS; at += 64u) {
        const uint token = at >> 4, row = at & 15u;
        if (gated) {
            store_gated(first_token() + token, (TILE_FIRST + first) * 8u + row, sums[at], sums[16u * TOKENS + at]);
        } else {
            store_plain(first_token() + token, (TILE_FIRST + first) * 16u + row, sums[at]);
        }
    }
}
