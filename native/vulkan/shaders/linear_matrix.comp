#version 450
// SPDX-License-Identifier: Apache-2.0
// linear for many tokens by matrices of a subgroup: the blocks, stages and terms of linear_many.comp in the same order, so
// that a device's sums have the same bits. Where in a matrix an element lies is the driver's business: scales become
// matrices too, whose rows (or columns) are all the same. Floats are kept as bits, so that a device needs int8 matrices
// and no others.
#extension GL_GOOGLE_include_directive : require
#include "interface.glsl"
#include "format.glsl"
#include "linear_finish.glsl"
#include "linear_block.glsl"
#include "linear_stage.glsl"

// The device's shape, and the lanes of its subgroups; vulkan_matrix.c sees to it that whole numbers come out.
layout(constant_id = 2) const uint ROWS = 16u;
layout(constant_id = 3) const uint TOKENS = 16u;
layout(constant_id = 4) const uint DEPTH = 32u;
layout(constant_id = 5) const uint LANES = 32u;
// Matrices of a subgroup: FROM_ROWS by FROM_TOKENS, of ACROSS beside each other in the block.
const uint ACROSS = 32u / TOKENS;
const uint MATRICES = 64u / ROWS * ACROSS * LANES / 128u;
const uint FROM_TOKENS = MATRICES < ACROSS ? MATRICES : ACROSS;
const uint FROM_ROWS = MATRICES / FROM_TOKENS;

// Two blocks of 32 int8 of a row or a token, and 16 bytes, so that 8 neighbours lie in different banks. A uvec2 is the
// least depth. Matrices are loaded from multiples of 16 bytes, as they must: every shared array is as long as some.
#define STRIDE 10u
shared uvec2 weights[64 * STRIDE];
shared uvec2 inputs[32 * STRIDE];
#include "matrix.glsl"

void keep_quads(uint block, uint c, uint rows, uvec4 low, uvec4 high) {
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        weights[(rows * 4u + i) * STRIDE + block * 4u + c] = uvec2(low[i], high[i]);
    }
}

void keep_codes(uint block, uint part, uint token, uvec4 codes) {
    inputs[token * STRIDE + block * 4u + part * 2u] = codes.xy;
    inputs[token * STRIDE + block * 4u + part * 2u + 1u] = codes.zw;
}

// The integers of a block of 32 k: ROWS rows from `row` on by FROM_TOKENS matrices of tokens from `token` on.
void multiply(uint block, uint row, uint token, out SUMS dots[FROM_TOKENS]) {
    [[unroll]] for (uint t = 0u; t < FROM_TOKENS; t++) {
        dots[t] = all_of(0);
    }
    [[unroll]] for (uint k = 0u; k < 32u - uint(PLANTED(13u)) * DEPTH; k += DEPTH) {
        const LEFT a = left(row * STRIDE + block * 4u + k / 8u);
        [[unroll]] for (uint t = 0u; t < FROM_TOKENS; t++) {
            const RIGHT b = right((token + t * TOKENS) * STRIDE + block * 4u + k / 8u);
            dots[t] = multiply_add(a, b, dots[t]);
        }
    }
}

// One term of every sum of a matrix.
void add_terms(uint block, uint row, uint token, SUMS dots, inout SUMS total) {
    SUMS scale, offset, a_scale, a_sum;
#if FORMAT != T2
    LOAD_OF_ROWS(scale, scales, (block ^ uint(PLANTED(14u))) * 16u + row / 4u);
    LOAD_OF_TOKENS(a_scale, input_scales, block * 32u + token);
#endif
#ifndef FIXED_OFFSET
    LOAD_OF_ROWS(offset, offsets, block * 16u + row / 4u);
#else
    offset = all_of(FIXED_OFFSET);
#endif
#if FORMAT != Q8
    LOAD_OF_TOKENS(a_sum, input_sums, block * 32u + token);
#else
    a_sum = all_of(0);
#endif
    for (uint i = 0u; i < dots.length(); i++) {
#if FORMAT == T2
        total[i] += dots[i] + offset[i] * a_sum[i];
#else
        total[i] = floatBitsToInt(intBitsToFloat(total[i]) + scaled_term(dots[i], offset[i], intBitsToFloat(scale[i]),
                                                                         intBitsToFloat(a_scale[i]), a_sum[i]));
#endif
    }
}

void add_stage(uint stage, uint first_row, uint first_token, inout SUMS total[MATRICES]) {
    const uint here = min(2u, BLOCKS - 2u * stage);
    for (uint block = 0u; block < here; block++) {
        [[unroll]] for (uint r = 0u; r < FROM_ROWS; r++) {
            const uint row = first_row + r * ROWS;
            SUMS dots[FROM_TOKENS];
            multiply(block, row, first_token, dots);
            [[unroll]] for (uint t = 0u; t < FROM_TOKENS; t++) {
                add_terms(block, row, first_token + t * TOKENS, dots[t], total[r * FROM_TOKENS + t]);
            }
        }
    }
}

// What a lane of linear_many.comp has in registers.
void gather(uint rows, uint tokens, out SUM4 total[4]) {
    [[unroll]] for (uint t = 0u; t < 4u; t++) {
        const uint at = (tokens * 4u + t) * 64u + rows * 4u;
        const ivec4 bits = ivec4(finished[at], finished[at + 1u], finished[at + 2u], finished[at + 3u]);
#if FORMAT == T2
        total[t] = bits;
#else
        total[t] = intBitsToFloat(bits);
#endif
    }
}

void main() {
    const uint lane = gl_LocalInvocationID.x, first = SUBGROUP * MATRICES;
    const uint first_row = first / ACROSS * ROWS, first_token = first % ACROSS * TOKENS;
    SUMS total[MATRICES];
    [[unroll]] for (uint i = 0u; i < MATRICES; i++) {
        total[i] = all_of(0);
    }
    fill_book(lane);
    for (uint stage = 0u; stage < STAGES - uint(PLANTED(3u)); stage++) {
        barrier();
        load_stage(stage, lane);
        barrier();
        add_stage(stage, first_row, first_token, total);
    }
    [[unroll]] for (uint i = 0u; i < MATRICES; i++) {
        const uint row = first_row + i / FROM_TOKENS * ROWS, token = first_token + i % FROM_TOKENS * TOKENS;
        STORE(total[i], finished, token * 64u + row);
    }
    barrier();
    SUM4 mine[4];
    gather(lane & 15u, lane >> 4, mine);
    finish(lane & 15u, lane >> 4, mine);
    barrier();
    store(lane);
}
