#version 450
// SPDX-License-Identifier: Apache-2.0
// The best logits of each slice of a row. A workgroup has a slice of 2048; the host chooses among what they leave.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#define VOCABULARY p[0]
#define X_BASE p[1]
#define X_STRIDE p[2]
#define MOST_PICKS p[3]
#define SLICE 2048u
layout(local_size_x = 128) in;
layout(binding = 1) readonly buffer Logits { float x[]; };
layout(binding = 5) writeonly buffer Picks { uvec2 picks[]; }; // logit as bits, id

shared uint keys[SLICE];
shared uvec2 best[128];

// Rises with the logit; what is no number or infinite is above all; 0 is nothing.
uint key_of(float value) {
    const uint bits = floatBitsToUint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u || bits == 0x7f800000u) {
        return 0xffffffffu;
    }
    if (value == 0.0) {
        return 0x80000000u;
    }
    return max((bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u, 1u);
}

bool better(uvec2 a, uvec2 b) { return a.x > b.x || (a.x == b.x && a.y < b.y); }

void main() {
    const uint lane = gl_LocalInvocationID.x, first = gl_WorkGroupID.x * SLICE, row = gl_WorkGroupID.y;
    for (uint i = lane; i < SLICE; i += 128u) {
        keys[i] = first + i < VOCABULARY ? key_of(x[X_BASE + row * X_STRIDE + first + i]) : 0u;
    }
    barrier();
    if (pass_picks == 0u) {
        return;
    }
    const uint count = min(pass_picks, MOST_PICKS) - uint(PLANTED(10u));
    for (uint rank = 0u; rank < count; rank++) {
        uvec2 mine = uvec2(0u, 0xffffffffu);
        for (uint i = lane; i < SLICE; i += 128u) {
            if (better(uvec2(keys[i], i), mine)) {
                mine = uvec2(keys[i], i);
            }
        }
        best[lane] = mine;
        barrier();
        for (uint step = 64u; step > 0u; step >>= 1) {
            if (lane < step && better(best[lane + step], best[lane])) {
                best[lane] = best[lane + step];
            }
            barrier();
        }
        if (lane == 0u) {
            const uvec2 found = best[0];
            const bool there = found.x != 0u;
            const uint at = (row * gl_NumWorkGroups.x + gl_WorkGroupID.x) * MOST_PICKS + rank;
            picks[at] = uvec2(there ? floatBitsToUint(x[X_BASE + row * X_STRIDE + first + found.y]) : 0u,
                              there ? first + found.y : 0xffffffffu);
            if (there) {
                keys[found.y] = 0u;
            }
        }
        barrier();
    }
}
