#version 450
// SPDX-License-Identifier: Apache-2.0
// The keys and values of a pass into the state. A workgroup has one KV head and the one or two tokens of a pair of
// positions, which share words: nobody else writes those.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#include "attention_state.glsl"
layout(local_size_x = 64) in;
layout(binding = 0) buffer State { uint state[]; };
layout(binding = 1) readonly buffer Keys { float k[]; };
layout(binding = 4) readonly buffer Values { float v[]; };

// One half of a word of two; the other stays.
void put_half(uint word, uint upper, uint bits) {
    const uint shift = 16u * upper;
    state[word] = (state[word] & ~(0xffffu << shift)) | bits << shift;
}

#if FORMAT == 1
void append(uint keys, uint values, uint slot, uint from_k, uint from_v, uint lane) {
    for (uint i = lane; i < HEAD_SIZE; i += 64u) {
        put_half(keys + ((slot >> 4) * HEAD_SIZE * 16u + i * 16u + (slot & 15u)) / 2u, slot & 1u, half_bits(k[from_k + i]));
    }
    for (uint i = lane; i < HEAD_PADDED / 2u; i += 64u) {
        const uint low = 2u * i < HEAD_SIZE ? half_bits(v[from_v + 2u * i]) : 0u;
        const uint high = 2u * i + 1u < HEAD_SIZE ? half_bits(v[from_v + 2u * i + 1u]) : 0u;
        state[values + slot * (HEAD_PADDED / 2u) + i] = low | high << 16;
    }
}
#else
// The scale of what is in `turned`, as a half, and what codes are made with.
uint scale_of(float limit, uint lane, out float inverse) {
    const uint bits = half_bits(exact_divide(largest_of(lane), limit));
    const float scale = half_value(bits);
    inverse = scale > 0.0 ? exact_divide(1.0, scale) : 0.0;
    return bits;
}

uint four_codes(uint i, float inverse) {
    return pack_bytes(ivec4(round_limited(turned[i] * inverse, 127.0), round_limited(turned[i + 1u] * inverse, 127.0),
                            round_limited(turned[i + 2u] * inverse, 127.0),
                            round_limited(turned[i + 3u] * inverse, 127.0)));
}

uint nibbles(uint i, float inverse) {
    return uint(round_limited(turned[i] * inverse, 7.0) + 8) | uint(round_limited(turned[i + 8u] * inverse, 7.0) + 8) << 4;
}

void append(uint keys, uint values, uint slot, uint from_k, uint from_v, uint lane) {
    float inverse;
    for (uint i = lane; i < HEAD_PADDED; i += 64u) {
        turned[i] = i < HEAD_SIZE ? k[from_k + i] : 0.0;
    }
#if FORMAT == 3
    turn(lane);
#endif
    barrier();
    const uint key_scale = scale_of(127.0, lane, inverse);
    for (uint i = lane; i < HEAD_PADDED / 4u; i += 64u) {
        state[keys + (slot >> 4) * HEAD_PADDED * 4u + i * 16u + (slot & 15u)] = four_codes(4u * i, inverse);
    }
    barrier();
    for (uint i = lane; i < HEAD_PADDED; i += 64u) {
        turned[i] = i < HEAD_SIZE ? v[from_v + i] : 0.0;
    }
    barrier();
#if FORMAT == 2
    const uint row_words = HEAD_PADDED / 4u;
    const uint value_scale = scale_of(127.0, lane, inverse);
    for (uint i = lane; i < row_words; i += 64u) {
        state[values + slot * row_words + i] = four_codes(4u * i, inverse);
    }
#else
    const uint row_words = HEAD_PADDED / 8u;
    const uint value_scale = scale_of(7.0, lane, inverse);
    for (uint i = lane; i < row_words; i += 64u) { // bytes 4i to 4i + 3: byte b % 8 of 16 d is d b and d b + 8
        const uint first = i / 2u * 16u + i % 2u * 4u;
        state[values + slot * row_words + i] = nibbles(first, inverse) | nibbles(first + 1u, inverse) << 8 |
                                               nibbles(first + 2u, inverse) << 16 | nibbles(first + 3u, inverse) << 24;
    }
#endif
    if (lane == 0u) {
        put_half(keys + HEAD_PADDED * 16u + slot / 2u, slot & 1u, key_scale);
        put_half(values + row_words * 64u + slot / 2u, slot & 1u, value_scale);
    }
    barrier();
}
#endif

void main() {
    const uint lane = gl_LocalInvocationID.x, head = gl_WorkGroupID.x;
    const uint pair = pass_position / 2u + gl_WorkGroupID.y;
    for (uint position = 2u * pair; position < 2u * pair + 2u; position++) {
        if (position < pass_position || position >= pass_position + pass_m) {
            continue;
        }
        const uint token = position - pass_position, slot = (position & 63u) ^ uint(PLANTED(8u));
        const uint keys = position / 64u * BLOCK_WORDS + head * HEAD_WORDS;
        append(keys, keys + KEY_WORDS, slot, K_BASE + token * K_STRIDE + head * HEAD_SIZE,
               V_BASE + token * V_STRIDE + head * HEAD_SIZE, lane);
    }
}
