#version 450
// SPDX-License-Identifier: Apache-2.0
// Activations to int8 with one scale per 32 k, kernels/quantize/quantize.h. 8 lanes have a group, 4 k each.
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
shared int sums[64];

float at(uint token, uint k) { return k < K ? x[X_BASE + token * X_STRIDE + k] : 0.0; }

// A NaN is no candidate.
float larger(float a, float b) { return a > b ? a : b; }

void main() {
    const uint lane = gl_LocalInvocationID.x, word = gl_GlobalInvocationID.x, token = gl_WorkGroupID.y;
    const vec4 v = vec4(at(token, 4u * word), at(token, 4u * word + 1u), at(token, 4u * word + 2u),
                        at(token, 4u * word + 3u));
    largest[lane] = larger(abs(v.w), larger(abs(v.z), larger(abs(v.y), larger(abs(v.x), 0.0))));
    barrier();
    float most = 0.0;
    for (uint i = 0u; i < 8u; i++) {
        most = larger(largest[(lane & ~7u) + i], most);
    }
    const float inverse = most >= 1e-30 ? exact_divide(127.0, most) : 0.0;
    const ivec4 codes = PLANTED(5u) ? ivec4(v * inverse)
                                    : ivec4(round_limited(v.x * inverse, 127.0), round_limited(v.y * inverse, 127.0),
                                            round_limited(v.z * inverse, 127.0), round_limited(v.w * inverse, 127.0));
    sums[lane] = codes.x + codes.y + codes.z + codes.w;
    barrier();
    if (word < A_STRIDE) {
        a[token * A_STRIDE + word] = pack_bytes(codes);
        if ((lane & 7u) == 0u) {
            int sum = 0;
            for (uint i = 0u; i < 8u; i++) {
                sum += sums[lane + i];
            }
            const float scale = most >= 1e-30 ? exact_divide(most, 127.0) : 0.0;
            groups[token * S_STRIDE + (word >> 3)] = uvec2(floatBitsToUint(scale), uint(sum));
        }
    }
}
