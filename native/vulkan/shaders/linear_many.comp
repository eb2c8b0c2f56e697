#version 450
// SPDX-License-Identifier: Apache-2.0
// linear for many tokens: a workgroup has 4 tiles (64 rows) by 32 tokens, a lane 4 rows by 4 tokens of them. Two blocks
// of 32 k at a time are unpacked into shared memory, where each weight serves 32 tokens and each activation 64 rows.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#include "format.glsl"
#include "linear_finish.glsl"
#include "linear_block.glsl"
#if FORMAT != F16
#include "linear_stage.glsl"
#endif

// One row of 16 groups of 4 rows per quad (f16: per k); one of 32 tokens likewise.
#if FORMAT == F16
shared vec4 weights[16 * 16];
shared float inputs[16 * 32];
#else
shared uvec4 weights[2 * 8 * 16];
shared uint inputs[2 * 8 * 32];
#endif

#if FORMAT == F16
#define STAGES (2u * BLOCKS)
// 16 k: a lane unpacks one chunk of 4 rows, and 4 k of a token.
void load_stage(uint stage, uint lane) {
    const uint rows = lane & 15u, c = lane >> 4;
    const Place place = locate(tile_of(rows), stage >> 1, stage >> 1);
    const uvec4 word = w4[place.codes + 4u * ((stage & 1u) * 8u + c) + (rows & 3u)];
    const vec2 row0 = half_pair(word.x), row1 = half_pair(word.y), row2 = half_pair(word.z), row3 = half_pair(word.w);
    weights[2u * c * 16u + rows] = vec4(row0.x, row1.x, row2.x, row3.x);
    weights[(2u * c + 1u) * 16u + rows] = vec4(row0.y, row1.y, row2.y, row3.y);
    const uint token = lane >> 2, part = lane & 3u, k = stage * 16u + part * 4u;
    const uint at = (X_BASE + token_of(token) * X_STRIDE + k) >> 1;
    const vec2 first = x2[at], second = x2[at + 1u];
    inputs[(part * 4u) * 32u + token] = k < K ? first.x : 0.0;
    inputs[(part * 4u + 1u) * 32u + token] = k + 1u < K ? first.y : 0.0;
    inputs[(part * 4u + 2u) * 32u + token] = k + 2u < K ? second.x : 0.0;
    inputs[(part * 4u + 3u) * 32u + token] = k + 3u < K ? second.y : 0.0;
}

void add_stage(uint stage, uint rows, uint tokens, inout SUM4 total[4]) {
    for (uint k = 0u; k < 16u; k++) {
        const vec4 weight = weights[k * 16u + rows];
        [[unroll]] for (uint t = 0u; t < 4u; t++) {
            total[t] = fma(weight, vec4(inputs[k * 32u + tokens * 4u + t]), total[t]);
        }
    }
}
#else
void keep_quads(uint block, uint c, uint rows, uvec4 low, uvec4 high) {
    weights[(block * 8u + 2u * c) * 16u + rows] = low;
    weights[(block * 8u + 2u * c + 1u) * 16u + rows] = high;
}

void keep_codes(uint block, uint part, uint token, uvec4 codes) {
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        inputs[(block * 8u + part * 4u + i) * 32u + token] = codes[i];
    }
}

void add_stage(uint stage, uint rows, uint tokens, inout SUM4 total[4]) {
    const uint here = min(2u, BLOCKS - 2u * stage);
    for (uint b = 0u; b < here; b++) {
        ivec4 dots[4];
        [[unroll]] for (uint t = 0u; t < 4u; t++) {
            dots[t] = ivec4(0);
        }
        [[unroll]] for (uint q = 0u; q < 8u; q++) {
            const uvec4 weight = weights[(b * 8u + q) * 16u + rows];
            [[unroll]] for (uint t = 0u; t < 4u; t++) {
                const uint a = inputs[(b * 8u + q) * 32u + tokens * 4u + t];
                dots[t] += ivec4(dot4(weight.x, a), dot4(weight.y, a), dot4(weight.z, a), dot4(weight.w, a));
            }
        }
        const vec4 scale = intBitsToFloat(scales[b * 16u + rows]);
        const ivec4 offset = offsets[b * 16u + rows];
        [[unroll]] for (uint t = 0u; t < 4u; t++) {
            const float a_scale = intBitsToFloat(input_scales[b * 32u + tokens * 4u + t]);
            const int a_sum = input_sums[b * 32u + tokens * 4u + t];
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
}
#endif

void main() {
    const uint lane = gl_LocalInvocationID.x, rows = lane & 15u, tokens = lane >> 4;
    SUM4 total[4];
    [[unroll]] for (uint t = 0u; t < 4u; t++) {
        total[t] = SUM4(0);
    }
    fill_book(lane);
    for (uint stage = 0u; stage < STAGES - uint(PLANTED(3u)); stage++) {
        barrier();
        load_stage(stage, lane);
        barrier();
        add_stage(stage, rows, tokens, total);
    }
    finish(rows, tokens, total);
    barrier();
    store(lane);
}
