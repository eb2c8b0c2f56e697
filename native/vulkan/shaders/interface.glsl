// SPDX-License-Identifier: Apache-2.0
// What every shader shares: push constants, the parameters of a pass, and arithmetic that is the same on every driver.
#extension GL_EXT_control_flow_attributes : require
#if DOT
#extension GL_EXT_spirv_intrinsics : require
#endif

// Words by their place, which shaders name by defines; vulkan_record.h fills them in.
layout(push_constant) uniform Push { uint p[32]; };

// Written by the host before each pass.
layout(binding = 6) readonly buffer Pass {
    uint pass_position;
    uint pass_m;
    uint pass_selected;
    uint pass_picks;
    uint pass_tokens[];
};

// Faults for the tests, chosen when a pipeline is made. A build that ships has none.
#ifdef INGOT_PLANT
layout(constant_id = 0) const uint PLANT = 0u;
#define PLANTED(n) (PLANT == n)
#else
#define PLANTED(n) false
#endif

// Four int8 times four int8, exact. SPIR-V by number: this glslang knows no GL_EXT_integer_dot_product.
#if DOT
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6018, 6019], id = 4450)
int packed_dot(int a, int b, spirv_literal int format);
int dot4(uint a, uint b) { return packed_dot(int(a), int(b), 0); }
#else
ivec4 signed_bytes(uint word) { return ivec4(word << 24, word << 16, word << 8, word) >> 24; }
int dot4(uint a, uint b) {
    const ivec4 x = signed_bytes(a) * signed_bytes(b);
    return x.x + x.y + x.z + x.w;
}
#endif

// By integers: drivers may flush subnormal halves, which small scales are.
float half_value(uint bits) {
    const uint magnitude = bits & 0x7fffu;
    float value = uintBitsToFloat((magnitude << 13) + 0x38000000u);
    value = magnitude >= 0x7c00u ? uintBitsToFloat((magnitude << 13) | 0x7f800000u) : value;
    value = magnitude < 0x400u ? float(magnitude) * 5.9604644775390625e-8 : value;
    return (bits & 0x8000u) != 0u ? -value : value;
}

vec2 half_pair(uint word) { return vec2(half_value(word & 0xffffu), half_value(word >> 16)); }

// To nearest even; too large becomes infinity.
uint half_bits(float value) {
    const uint bits = floatBitsToUint(value), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return sign | 0x7e00u;
    }
    if (magnitude >= 0x477ff000u) {
        return sign | 0x7c00u;
    }
    if (magnitude >= 0x38800000u) {
        return sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
    }
    const uint shift = 126u - (magnitude >> 23);
    if (shift > 24u) {
        return sign;
    }
    const uint mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint rest = mantissa & ((1u << shift) - 1u), middle = 1u << (shift - 1u);
    uint result = mantissa >> shift;
    result += uint(rest > middle || (rest == middle && (result & 1u) != 0u));
    return sign | result;
}

// e^x within a unit or two: the exp of Vulkan may be off by many.
float exact_exp(float x) {
    x = clamp(x, -86.0, 88.0);
    const float n = roundEven(x * 1.44269504);
    float r = fma(n, -0.693359375, x);
    r = fma(n, 2.12194440e-4, r);
    float y = 1.0 / 5040.0;
    y = fma(y, r, 1.0 / 720.0);
    y = fma(y, r, 1.0 / 120.0);
    y = fma(y, r, 1.0 / 24.0);
    y = fma(y, r, 1.0 / 6.0);
    y = fma(y, r, 0.5);
    y = fma(y, r, 1.0);
    y = fma(y, r, 1.0);
    return y * uintBitsToFloat(uint(int(n) + 127) << 23);
}

// a / b rounded to nearest even: Vulkan's division may be off by two units, and fma() need not be fused, but where an
// activation lies halfway between two codes the last bit decides. Long division of the mantissas; a >= 0, b > 0.
float exact_divide(float a, float b) {
    const uint bits_a = floatBitsToUint(a), bits_b = floatBitsToUint(b);
    const int exponent_a = int(bits_a >> 23), exponent_b = int(bits_b >> 23);
    uint rest = (bits_a & 0x7fffffu) | 0x800000u;
    const uint divisor = (bits_b & 0x7fffffu) | 0x800000u;
    int exponent = exponent_a - exponent_b + 127;
    if (rest < divisor) {
        rest <<= 1;
        exponent--;
    }
    if (exponent_a == 0 || exponent_b == 0 || exponent_a == 255 || exponent_b == 255 || exponent < 1 ||
        exponent > 253) {
        return a / b;
    }
    uint quotient = 1u; // 1 <= rest / divisor < 2; 24 bits more follow
    rest -= divisor;
    [[unroll]] for (uint i = 0u; i < 3u; i++) {
        const uint digits = (rest << 8) / divisor;
        rest = (rest << 8) - digits * divisor;
        quotient = quotient << 8 | digits;
    }
    const uint mantissa = quotient >> 1;
    const bool up = (quotient & 1u) != 0u && (rest != 0u || (mantissa & 1u) != 0u);
    return uintBitsToFloat((uint(exponent) << 23) + (mantissa + uint(up) - 0x800000u));
}

float silu(float x) { return x / (1.0 + exact_exp(-x)); }

// x / (1 + e^-2z), z = sqrt(2 / pi) (x + 0.044715 x^3)
float gelu_tanh(float x) { return x / (1.0 + exact_exp(-1.59576912 * fma(0.044715, x * x * x, x))); }

// round(value) within +-limit, to nearest even; what is no number becomes the limit.
int round_limited(float value, float limit) {
    const float high = value < limit ? value : limit;
    return int(roundEven(high > -limit ? high : -limit));
}

uint pack_bytes(ivec4 v) {
    const uvec4 u = uvec4(v) & 255u;
    return u.x | u.y << 8 | u.z << 16 | u.w << 24;
}
