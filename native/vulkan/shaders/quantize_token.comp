#version 450
// SPDX-License-Identifier: Apache-2.0
// Activations to int8 with one scale per token, for t2. A workgroup has a token.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#define K p[0]
#define X_BASE p[1]
#define X_STRIDE p[2]
#define A_STRIDE p[3]
#define S_STRIDE p[4]
layout(local_size_x = 64) in;
layout(binding = 1) readonly buffer In { float x[]; };
layout(binding = 2) writeonly buffer Groups { uvec2 groups[]; };
layout(binding = 5) writeonly buffer Codes { uint a[]; };

shared float largest[64];

float at(uint token, uint k) { return k < K ? x[X_BASE + token * X_STRIDE + k] : 0.0; }

float larger(float a, float b) { return a > b ? a : b; }

void main() {
    const uint lane = gl_LocalInvocationID.x, token = gl_WorkGroupID.y;
    float most = 0.0;
    for (uint k = lane; k < K; k += 64u) {
        most = larger(abs(at(token, k)), most);
    }
    largest[lane] = most;
    barrier();
    for (uint i = 0u; i < 64u; i++) {
        most = larger(largest[i], most);
    }
    const float inverse = most >= 1e-30 ? exact_divide(127.0, most) : 0.0;
    const float scale = most >= 1e-30 ? exact_divide(most, 127.0) : 0.0;
    for (uint group = lane; group < A_STRIDE / 8u; group += 64u) {
        int sum = 0;
        for (uint word = 8u * group; word < 8u * group + 8u; word++) {
            const ivec4 codes = ivec4(round_limited(at(token, 4u * word) * inverse, 127.0),
                                      round_limited(at(token, 4u * word + 1u) * inverse, 127.0),
                                      round_limited(at(token, 4u * word + 2u) * inverse, 127.0),
                                      round_limited(at(token, 4u * word + 3u) * inverse, 127.0));
            a[token * A_STRIDE + word] = pack_bytes(codes);
            sum += codes.x + codes.y + codes.z + codes.w;
        }
        groups[token * S_STRIDE + group] = uvec2(floatBitsToUint(scale), uint(sum));
    }
}
