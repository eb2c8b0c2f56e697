// SPDX-License-Identifier: Apache-2.0
// A weight format: where a block of 32 k of a tile lies, its scales, its codes. Drawn in kernels/linear/linear.h.
// A lane takes 4 of the 16 rows, which are one uvec4 of a chunk. Addresses are in uvec4 from the start of binding 0.
#define F16 2
#define Q8 16
#define Q6 17
#define C5 18
#define Q4 19
#define Q4Z 20
#define C4 21
#define C3 22
#define C2 23
#define T2 24
#define BOOK (FORMAT == C5 || FORMAT == C4 || FORMAT == C3 || FORMAT == C2)
#define SUB_SCALED (BOOK || FORMAT == Q6)

#define W_BASE p[0]
#define TILE_SIZE p[1]
#define TILE_FIRST p[2]
#define TILES p[3]
#define WIDTH p[4]
#define K p[5]
#define BLOCKS p[6]
#define GROUP_SHIFT p[7]
#define GROUPS p[8]
#define DELTA int(p[20])
#define BOOK_WORD(i) p[21 + (i)]

#define FLAG_BIAS 1u
#define FLAG_RESIDUAL 2u
#define FLAG_SILU 4u
#define FLAG_GELU 8u
#define FLAG_GATED 12u
#define FLAG_K8 16u
#define FLAG_SPARSE 32u

layout(constant_id = 1) const uint FLAGS = 0u;

layout(binding = 0) readonly buffer Words4 { uvec4 w4[]; };
layout(binding = 0) readonly buffer Words1 { uint w1[]; };

#if BOOK
shared uint book[32];
// Every invocation of the workgroup calls this, and then barrier().
void fill_book(uint lane) {
    if (lane < 8u) {
        uint word = BOOK_WORD(0);
        [[unroll]] for (uint i = 1u; i < 8u; i++) {
            word = lane == i ? BOOK_WORD(i) : word;
        }
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            book[4u * lane + i] = (word >> (8u * i)) & 255u;
        }
    }
}
uint look_up(uint codes) {
    return book[codes & 31u] | book[(codes >> 8) & 31u] << 8 | book[(codes >> 16) & 31u] << 16 |
           book[(codes >> 24) & 31u] << 24;
}
uvec4 looked_up(uvec4 codes) {
    return uvec4(look_up(codes.x), look_up(codes.y), look_up(codes.z), look_up(codes.w));
}
#else
void fill_book(uint lane) {}
#endif

struct Place {
    uint meta;  // of the superblock
    uint codes; // of the block
    uint group; // of the superblock, whose scales count
};

// A superblock is 2^SHIFT blocks; where a tile stores all of them, block b is in the stored superblock b >> SHIFT.
#if FORMAT == F16
#define BLOCK_SIZE 64u
#define SHIFT 0u
Place locate(uint tile, uint block, uint stored) { return Place(0u, tile + stored * 64u, 0u); }
#elif FORMAT == T2
#define BLOCK_SIZE 8u
#define SHIFT 1u
Place locate(uint tile, uint block, uint stored) { return Place(0u, tile + 4u + stored * 16u + (block & 1u) * 8u, 0u); }
#elif FORMAT == Q8
#define BLOCK_SIZE 32u
#define SHIFT 1u
Place locate(uint tile, uint block, uint stored) {
    const uint meta = tile + stored * 68u, group = block & 1u;
    return Place(meta, meta + 4u + group * 32u, group);
}
#elif FORMAT == Q4
#define BLOCK_SIZE 16u
#define SHIFT (GROUP_SHIFT + 1u)
Place locate(uint tile, uint block, uint stored) { // a superblock is 2 groups of 2^GROUP_SHIFT blocks
    const uint inside = block & ((1u << SHIFT) - 1u), meta = tile + stored * (4u + (16u << SHIFT));
    return Place(meta, meta + 4u + inside * 16u, inside >> GROUP_SHIFT);
}
#elif FORMAT == Q4Z
#define BLOCK_SIZE 16u
#define SHIFT (GROUP_SHIFT + 2u)
Place locate(uint tile, uint block, uint stored) { // 4 groups; the scales of a short last superblock take less room
    const uint inside = block & ((1u << SHIFT) - 1u), meta = tile + stored * (12u + (16u << SHIFT));
    const uint here = (min(4u, GROUPS - 4u * (block >> SHIFT)) * 3u + 3u) & ~3u;
    return Place(meta, meta + here + inside * 16u, inside >> GROUP_SHIFT);
}
#else
#define SHIFT 2u
#if FORMAT == Q6
#define BLOCK_SIZE 24u
#elif FORMAT == C5
#define BLOCK_SIZE 20u
#elif FORMAT == C4
#define BLOCK_SIZE 16u
#elif FORMAT == C3
#define BLOCK_SIZE 12u
#else
#define BLOCK_SIZE 8u
#endif
Place locate(uint tile, uint block, uint stored) {
    const uint meta = tile + 4u + stored * (4u + 4u * BLOCK_SIZE), group = block & 3u;
    return Place(meta, meta + 4u + group * BLOCK_SIZE, group);
}
#endif

// What is added to every code, where it is the same for all.
#if FORMAT == Q6
#define FIXED_OFFSET (-32)
#elif FORMAT == Q4
#define FIXED_OFFSET (-8)
#elif FORMAT == T2
#define FIXED_OFFSET (-1)
#elif FORMAT == Q8
#define FIXED_OFFSET 0
#endif

// A weight of the block is (code + offset) * scale, and where there are row scales times that of its row.
void read_scales(Place place, uint quarter, out vec4 scale, out ivec4 offset) {
#if SUB_SCALED
    const uint word = w1[place.meta * 4u + place.group * 4u + quarter];
    const ivec4 bytes = ivec4(word << 24, word << 16, word << 8, word) >> 24;
#if FORMAT == Q6
    scale = vec4(bytes);
    offset = ivec4(FIXED_OFFSET);
#else
    scale = vec4(bytes >> 1);
    offset = (bytes & 1) * DELTA;
#endif
#elif FORMAT == T2
    scale = vec4(1.0);
    offset = ivec4(FIXED_OFFSET);
#elif FORMAT != F16
#if FORMAT == Q4Z
    const uint at = place.meta * 4u + place.group * 12u;
    const uint zeros = w1[at + 8u + quarter];
    offset = -ivec4(zeros & 255u, (zeros >> 8) & 255u, (zeros >> 16) & 255u, zeros >> 24);
#else
    const uint at = place.meta * 4u + place.group * 8u;
    offset = ivec4(FIXED_OFFSET);
#endif
    const uint place_of_rows = at + 2u * (PLANTED(1u) ? quarter ^ 1u : quarter);
    scale = vec4(half_pair(w1[place_of_rows]), half_pair(w1[place_of_rows + 1u]));
#endif
}

// What a row's sum is multiplied with at the end.
vec4 row_scales(uint tile, uint quarter) {
#if SUB_SCALED
    return vec4(half_pair(w1[tile * 4u + 2u * quarter]), half_pair(w1[tile * 4u + 2u * quarter + 1u]));
#elif FORMAT == T2
    return uintBitsToFloat(w4[tile + quarter]);
#else
    return vec4(1.0);
#endif
}

// The quads 2c and 2c + 1 of a block, c 0..3: 4 int8 of each of the 4 rows.
void read_quads(Place place, uint quarter, uint c, out uvec4 low, out uvec4 high) {
#if FORMAT == Q8
    low = w4[place.codes + 8u * c + quarter];
    high = w4[place.codes + 8u * c + 4u + quarter];
    if ((FLAGS & FLAG_K8) != 0u) {
        const uvec4 first = low, second = high;
        low = uvec4(first.xz, second.xz);
        high = uvec4(first.yw, second.yw);
    }
#elif FORMAT == C3
    const uvec4 last = w4[place.codes + 8u + quarter];
    if (c == 3u) {
        low = (w4[place.codes + quarter] >> 6) & 0x03030303u | ((last >> 6) & 0x01010101u) << 2;
        high = (w4[place.codes + 4u + quarter] >> 6) & 0x03030303u | ((last >> 7) & 0x01010101u) << 2;
    } else {
        const uvec4 word = c == 2u ? last : w4[place.codes + 4u * c + quarter];
        low = word & 0x07070707u;
        high = (word >> 3) & 0x07070707u;
    }
#elif FORMAT == C2 || FORMAT == T2
    const uvec4 word = w4[place.codes + 4u * (c >> 1) + quarter] >> (4u * (c & 1u));
    low = word & 0x03030303u;
    high = (word >> 2) & 0x03030303u;
#elif FORMAT != F16
    uvec4 word = w4[place.codes + 4u * c + quarter];
    if ((FLAGS & FLAG_K8) != 0u) {
        low = uvec4(word.xz, word.xz >> 4) & 0x0f0f0f0fu;
        high = uvec4(word.yw, word.yw >> 4) & 0x0f0f0f0fu;
    } else {
        low = word & 0x0f0f0f0fu;
        high = (word >> 4) & 0x0f0f0f0fu;
    }
#if FORMAT == Q6
    word = w4[place.codes + 16u + 4u * (c >> 1) + quarter] >> (4u * (c & 1u));
    low |= (word & 0x03030303u) << 4;
    high |= ((word >> 2) & 0x03030303u) << 4;
#elif FORMAT == C5
    word = w4[place.codes + 16u + quarter] >> (2u * c);
    low |= (word & 0x01010101u) << 4;
    high |= ((word >> 1) & 0x01010101u) << 4;
#endif
#endif
#if BOOK
    low = looked_up(low);
    high = looked_up(high);
#endif
}
