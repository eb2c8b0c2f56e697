#version 450
// SPDX-License-Identifier: Apache-2.0
// activation, add, mul, scale, soft_cap, select_last: a lane has one element; y may be a or b.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#define KIND p[0]
#define WIDTH p[1]
#define A_BASE p[2]
#define A_STRIDE p[3]
#define B_BASE p[4]
#define B_STRIDE p[5]
#define OUT_BASE p[6]
#define OUT_STRIDE p[7]
#define VALUE uintBitsToFloat(p[8])
layout(local_size_x = 128) in;
layout(binding = 1) readonly buffer First { float a[]; };
layout(binding = 4) readonly buffer Second { float b[]; };
layout(binding = 5) writeonly buffer Out { float y[]; };

// cap tanh(x / cap), tanh z = 1 - 2 / (1 + e^2z)
float soft_cap(float x, float cap) { return cap * (1.0 - 2.0 / (1.0 + exact_exp(2.0 * (x / cap)))); }

void main() {
    const uint i = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (i >= WIDTH) {
        return;
    }
    // select_last: the first of the selected rows stands behind those that are not.
    const uint from = KIND == 7u ? row + pass_m - pass_selected : row;
    const float left = a[A_BASE + from * A_STRIDE + i];
    float value = left;
    switch (KIND) {
        case 0u: value = silu(left); break;
        case 1u: value = gelu_tanh(left); break;
        case 2u: value = max(left, 0.0); break;
        case 3u: value = left + b[B_BASE + row * B_STRIDE + i]; break;
        case 4u: value = left * b[B_BASE + row * B_STRIDE + i]; break;
        case 5u: value = VALUE * left; break;
        case 6u: value = soft_cap(left, VALUE); break;
        default: break;
    }
    y[OUT_BASE + row * OUT_STRIDE + i] = value;
}
