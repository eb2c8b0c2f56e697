#version 450
// SPDX-License-Identifier: Apache-2.0
// The splits of a query row become its result. A workgroup has a row of a KV head.
#extension GL_GOOGLE_include_directive : require
#define FORMAT 1
#include "interface.glsl"
#include "attention_state.glsl"
layout(local_size_x = 64) in;
layout(binding = 5) writeonly buffer Out { float result[]; };
layout(binding = 7) readonly buffer Partials { float partials[]; };

void main() {
    const uint lane = gl_LocalInvocationID.x, rows = M * QUERY_GROUP;
    const uint kv_head = gl_WorkGroupID.x / rows, row = gl_WorkGroupID.x % rows;
    const uint first = gl_WorkGroupID.x * SPLITS, width = HEAD_PADDED + 2u;
    const uint splits = min(SPLITS, (pass_position + M - 1u) / (64u * SPLIT_BLOCKS) + 1u - uint(PLANTED(11u)));
    float most = -3.0e38, total = 0.0;
    for (uint i = 0u; i < splits; i++) {
        most = larger(partials[(first + i) * width], most);
    }
    for (uint i = 0u; i < splits; i++) {
        total += partials[(first + i) * width + 1u] * exact_exp(partials[(first + i) * width] - most);
    }
    for (uint element = lane; element < HEAD_SIZE; element += 64u) {
        float sum = 0.0;
        for (uint i = 0u; i < splits; i++) {
            const float weight = partials[(first + i) * width] > -3.0e38 ? exact_exp(partials[(first + i) * width] - most) : 0.0;
            sum = fma(partials[(first + i) * width + 2u + element], weight, sum);
        }
        const uint head = kv_head * QUERY_GROUP + row % QUERY_GROUP;
        result[OUT_BASE + row / QUERY_GROUP * OUT_STRIDE + head * HEAD_SIZE + element] = sum / total;
    }
}
