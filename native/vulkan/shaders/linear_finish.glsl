// SPDX-License-Identifier: Apache-2.0
// Operands of linear, and what is done with a finished sum: bias and residual, or gate.
#define A_STRIDE p[9]  // words of a token's int8
#define S_STRIDE p[10] // groups of 32 of a token
#define X_BASE p[11]
#define X_STRIDE p[12]
#define OUT_BASE p[13]
#define OUT_STRIDE p[14]
#define BIAS_BASE p[15]
#define RESIDUAL_BASE p[16]
#define RESIDUAL_STRIDE p[17]
#define M p[19]

#if FORMAT == F16
layout(binding = 1) readonly buffer Floats2 { vec2 x2[]; };
#else
layout(binding = 1) readonly buffer Codes1 { uint a1[]; };
layout(binding = 1) readonly buffer Codes2 { uvec2 a2[]; };
layout(binding = 1) readonly buffer Codes4 { uvec4 a4[]; };
#endif
layout(binding = 2) readonly buffer Groups { uvec2 groups[]; }; // scale as bits, sum of the 32 int8
layout(binding = 3) readonly buffer Bias { float bias[]; };
layout(binding = 4) readonly buffer Residual { float residual[]; };
layout(binding = 5) writeonly buffer Out { float result[]; };

// One term of a sum: the integers of 32 k, then the scales, in the order of linear.h.
float scaled_term(int dots, int offset, float scale, float a_scale, int a_sum) {
    const float whole = float(dots + offset * a_sum);
#if SUB_SCALED
    return (whole * scale) * a_scale;
#else
    return whole * (scale * a_scale);
#endif
}

void store_plain(uint token, uint row, float sum) {
    if (token >= M || row >= WIDTH) {
        return;
    }
    if ((FLAGS & FLAG_BIAS) != 0u) {
        sum += bias[BIAS_BASE + row];
    }
    if ((FLAGS & FLAG_RESIDUAL) != 0u) {
        sum += residual[RESIDUAL_BASE + token * RESIDUAL_STRIDE + row];
    }
    result[OUT_BASE + token * OUT_STRIDE + row] = sum;
}

void store_gated(uint token, uint column, float gate, float up) {
    if (token < M && column < WIDTH) {
        const float acted = (FLAGS & FLAG_SILU) != 0u ? silu(gate) : gelu_tanh(gate);
        result[OUT_BASE + token * OUT_STRIDE + column] = acted * up;
    }
}
