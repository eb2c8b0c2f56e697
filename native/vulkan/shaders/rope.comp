#version 450
// SPDX-License-Identifier: Apache-2.0
// rope: a lane has one pair of one head, or one element that does not rotate; y may be x.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#define HEAD_SIZE p[0]
#define ROTARY_SIZE p[1]
#define INTERLEAVED p[2]
#define HEADS p[3]
#define X_BASE p[4]
#define X_STRIDE p[5]
#define OUT_BASE p[6]
#define OUT_STRIDE p[7]
#define TABLE_BASE p[8]
layout(local_size_x = 64) in;
layout(binding = 1) readonly buffer In { float x[]; };
layout(binding = 4) readonly buffer Table { float table[]; };
layout(binding = 5) writeonly buffer Out { float y[]; };

void main() {
    const uint half_size = ROTARY_SIZE / 2u, units = HEAD_SIZE - half_size, row = gl_WorkGroupID.y;
    const uint head = gl_GlobalInvocationID.x / units, unit = gl_GlobalInvocationID.x % units;
    if (head >= HEADS) {
        return;
    }
    const uint from = X_BASE + row * X_STRIDE + head * HEAD_SIZE, to = OUT_BASE + row * OUT_STRIDE + head * HEAD_SIZE;
    if (unit >= half_size) {
        y[to + unit + half_size] = x[from + unit + half_size];
        return;
    }
    const uint first = INTERLEAVED != 0u ? 2u * unit : unit, second = INTERLEAVED != 0u ? first + 1u : unit + half_size;
    const uint at = TABLE_BASE + (pass_position + row + uint(PLANTED(7u))) * ROTARY_SIZE + unit;
    const float cosine = table[at], sine = table[at + half_size], a = x[from + first], b = x[from + second];
    y[to + first] = a * cosine - b * sine;
    y[to + second] = b * cosine + a * sine;
}
