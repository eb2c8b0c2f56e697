#version 450
// SPDX-License-Identifier: Apache-2.0
// rms_norm, and layer_norm where CENTRED. A workgroup has one slice of one row; y may be x.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#define SLICE p[0]
#define EPSILON uintBitsToFloat(p[1])
#define X_BASE p[2]
#define X_STRIDE p[3]
#define OUT_BASE p[4]
#define OUT_STRIDE p[5]
#define WEIGHT_BASE p[6]
#define BIAS_BASE p[7]
layout(local_size_x = 128) in;
layout(binding = 1) readonly buffer In { float x[]; };
layout(binding = 3) readonly buffer Bias { float bias[]; };
layout(binding = 4) readonly buffer Weight { float weight[]; };
layout(binding = 5) writeonly buffer Out { float y[]; };

shared float parts[128];
shared float eights[16];

// The sum of a value of each lane, in every lane.
float total_of(float value) {
    const uint lane = gl_LocalInvocationID.x;
    parts[lane] = value;
    barrier();
    if (lane < 16u) {
        float sum = parts[8u * lane];
        [[unroll]] for (uint i = 1u; i < 8u; i++) {
            sum += parts[8u * lane + i];
        }
        eights[lane] = sum;
    }
    barrier();
    float total = eights[0];
    [[unroll]] for (uint i = 1u; i < 16u; i++) {
        total += eights[i];
    }
    return total;
}

void main() {
    const uint lane = gl_LocalInvocationID.x;
    const uint from = X_BASE + gl_WorkGroupID.y * X_STRIDE + gl_WorkGroupID.x * SLICE;
    const uint to = OUT_BASE + gl_WorkGroupID.y * OUT_STRIDE + gl_WorkGroupID.x * SLICE;
    float mean = 0.0, sum = 0.0;
#if CENTRED
    for (uint i = lane; i < SLICE; i += 128u) {
        sum += x[from + i];
    }
    mean = total_of(sum) / float(SLICE);
    sum = 0.0;
#endif
    for (uint i = lane; i < SLICE; i += 128u) {
        const float value = x[from + i] - mean;
        sum = fma(value, value, sum);
    }
    const float variance = total_of(sum) / float(SLICE) + (PLANTED(6u) ? 0.01 : EPSILON);
    const float inverse = 1.0 / sqrt(variance);
    for (uint i = lane; i < SLICE; i += 128u) {
#if CENTRED
        y[to + i] = (x[from + i] - mean) * inverse * weight[WEIGHT_BASE + i] + bias[BIAS_BASE + i];
#else
        y[to + i] = x[from + i] * inverse * weight[WEIGHT_BASE + i];
#endif
    }
}
