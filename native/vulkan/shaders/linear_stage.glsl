// SPDX-License-Identifier: Apache-2.0
// Two blocks of 32 k of the block of linear_block.glsl, unpacked into shared memory. Who includes this keeps the int8
// where its arithmetic wants them, by keep_quads and keep_codes.
#define STAGES ((BLOCKS + 1u) >> 1)

// Of each block of 32 k: of 16 groups of 4 rows, of 32 tokens. Scales as bits.
shared ivec4 scales[2 * 16];
shared ivec4 offsets[2 * 16];
shared int input_scales[2 * 32];
shared int input_sums[2 * 32];

// Quads 2c and 2c + 1 of a block, of 4 rows.
void keep_quads(uint block, uint c, uint rows, uvec4 low, uvec4 high);
// Quads 4 part to 4 part + 3 of a block, of a token.
void keep_codes(uint block, uint part, uint token, uvec4 codes);

// A lane unpacks two quads of 4 rows, and 4 quads of a token.
void load_stage(uint stage, uint lane) {
    const uint rows = lane & 15u, c = (lane >> 4) & 3u, half_stage = lane >> 6;
    const uint block = min(2u * stage + half_stage, BLOCKS - 1u);
    const Place place = locate(tile_of(rows), block, block >> SHIFT);
    uvec4 low, high;
    read_quads(place, rows & 3u, c, low, high);
    keep_quads(half_stage, c, rows, low, high);
    if (c == 0u) {
        vec4 scale;
        ivec4 offset;
        read_scales(place, rows & 3u, scale, offset);
        scales[half_stage * 16u + rows] = floatBitsToInt(scale);
        offsets[half_stage * 16u + rows] = offset;
    }
    const uint token = lane >> 2, which = (lane >> 1) & 1u, part = lane & 1u;
    const uint source = min(2u * stage + which, BLOCKS - 1u), from = token_of(token);
    keep_codes(which, part, token, a4[(from * A_STRIDE + source * 8u + part * 4u) >> 2]);
    if (part == 0u) {
        const uvec2 group = groups[from * S_STRIDE + source];
        input_scales[which * 32u + (token ^ uint(PLANTED(12u)))] = int(group.x);
        input_sums[which * 32u + token] = int(group.y);
    }
}
