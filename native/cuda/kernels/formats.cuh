/* SPDX-License-Identifier: Apache-2.0 */
/* The weight formats: where a block of 32 k lies in a tile (T16, drawn in kernels/linear/linear.h) and how its words
 * become int8.
 *
 * All kernels cut a block into four units of 8 k: unit u is the quads 2u and 2u + 1 of each row, `low` and `high`. Of a
 * block of nibbles it is chunk u. Activations of a unit are 8 bytes in their natural order. In an mma, unit u belongs to
 * the lanes with lane % 4 == u: their k of a fragment is then a permutation of the block's, the same in A and B. */
#ifndef INGOT_CUDA_FORMATS_CUH
#define INGOT_CUDA_FORMATS_CUH

#include "device.cuh"

enum : uint32_t { SCALE_HALF, SCALE_HALF_ZERO, SCALE_SUB, SCALE_SUB_SHIFT, SCALE_NONE };

#define LOW_NIBBLES 0x0f0f0f0fu
#define PAIRS 0x03030303u
#define BITS 0x01010101u
#define TRIPLES 0x07070707u

/* Entries of a codebook for the four codes below 8 in the bytes of `codes`; table is 8 entries. */
DEVICE uint32_t selector_of(uint32_t codes) {
    const uint32_t nibbles = codes | codes >> 4;
    return (nibbles & 0xffu) | (nibbles >> 8 & 0xff00u);
}
DEVICE uint32_t look_up8(const uint32_t *table, uint32_t codes) {
    return pick_bytes(table[0], table[1], selector_of(codes & TRIPLES));
}
/* Bytes of b where the bit `bit` of the codes is set, else of a. */
DEVICE uint32_t choose(uint32_t a, uint32_t b, uint32_t codes, uint32_t bit) {
    const uint32_t set = (codes >> bit & BITS) * 4u;
    return pick_bytes(a, b, 0x3210u + selector_of(set));
}
DEVICE uint32_t look_up32(const uint32_t *table, uint32_t codes) {
    const uint32_t selector = selector_of(codes & TRIPLES);
    const uint32_t low = choose(pick_bytes(table[0], table[1], selector), pick_bytes(table[2], table[3], selector), codes, 3);
    const uint32_t high = choose(pick_bytes(table[4], table[5], selector), pick_bytes(table[6], table[7], selector), codes, 3);
    return choose(low, high, codes, 4);
}
/* Entries for all eight nibbles of a word: of the low ones and of the high ones. */
DEVICE void look_up16(const uint32_t *table, uint32_t word, uint32_t &low, uint32_t &high) {
    const uint32_t index = word & 0x77777777u, upper = (word & 0x88888888u) >> 1 | 0x32103210u;
    const uint32_t first = pick_bytes(pick_bytes(table[0], table[1], index & 0xffffu),
                                      pick_bytes(table[2], table[3], index & 0xffffu),
                                      (upper & 0x4444u) | 0x3210u);
    const uint32_t second = pick_bytes(pick_bytes(table[0], table[1], index >> 16),
                                       pick_bytes(table[2], table[3], index >> 16),
                                       (upper >> 16 & 0x4444u) | 0x3210u);
    low = pick_bytes(first, second, 0x6420u);
    high = pick_bytes(first, second, 0x7531u);
}

/* Of a format: head bytes of a tile, meta bytes of a group, code bytes of a block, chunks that a unit reads, its scales,
 * whether its int8 have a sign; and whether its layout is T16_K8. */
#define FORMAT(head, meta, codes, loads, scale, with_sign)                            \
    static constexpr uint32_t HEAD = head, META = meta, CODES = codes, SCALE = scale; \
    static constexpr int LOADS = loads, SIGNED = with_sign, K8 = 0

struct format_q8 {
    FORMAT(0, 32, 512, 2, SCALE_HALF, 1);
    MEMBER bool reads(uint32_t, uint32_t) { return true; }
    MEMBER uint32_t chunk(uint32_t unit, uint32_t load) { return 2 * unit + load; }
    MEMBER void unpack(const cuda_weight &, const uint32_t *word, uint32_t, uint32_t &low, uint32_t &high) {
        low = word[0];
        high = word[1];
    }
};
struct format_q6 {
    FORMAT(64, 16, 384, 2, SCALE_SUB, 0);
    MEMBER bool reads(uint32_t, uint32_t) { return true; }
    MEMBER uint32_t chunk(uint32_t unit, uint32_t load) { return load == 0 ? unit : 4 + unit / 2; }
    MEMBER void unpack(const cuda_weight &, const uint32_t *word, uint32_t unit, uint32_t &low, uint32_t &high) {
        const uint32_t pairs = word[1] >> 4 * (unit % 2);
        low = (word[0] & LOW_NIBBLES) | (pairs & PAIRS) << 4;
        high = (word[0] >> 4 & LOW_NIBBLES) | (pairs >> (PLANTED(7) ? 0 : 2) & PAIRS) << 4;
    }
};
struct format_c5 {
    FORMAT(64, 16, 320, 2, SCALE_SUB_SHIFT, 1);
    MEMBER bool reads(uint32_t, uint32_t) { return true; }
    MEMBER uint32_t chunk(uint32_t unit, uint32_t load) { return load == 0 ? unit : 4; }
    MEMBER void unpack(const cuda_weight &w, const uint32_t *word, uint32_t unit, uint32_t &low, uint32_t &high) {
        const uint32_t bits = word[1] >> 2 * unit;
        low = look_up32(w.codebook, (word[0] & LOW_NIBBLES) | (PLANTED(8) ? 0 : bits & BITS) << 4);
        high = look_up32(w.codebook, (word[0] >> 4 & LOW_NIBBLES) | (bits >> 1 & BITS) << 4);
    }
};
struct nibbles {
    MEMBER bool reads(uint32_t, uint32_t) { return true; }
    MEMBER uint32_t chunk(uint32_t unit, uint32_t) { return unit; }
    MEMBER void unpack(const cuda_weight &, const uint32_t *word, uint32_t, uint32_t &low, uint32_t &high) {
        low = (PLANTED(1) ? word[0] >> 4 : word[0]) & LOW_NIBBLES;
        high = word[0] >> 4 & LOW_NIBBLES;
    }
};
struct format_q4 : nibbles {
    FORMAT(0, 32, 256, 1, SCALE_HALF, 0);
};
struct format_q4z : nibbles {
    FORMAT(0, 48, 256, 1, SCALE_HALF_ZERO, 0);
};
struct format_c4 : nibbles {
    FORMAT(64, 16, 256, 1, SCALE_SUB_SHIFT, 1);
    MEMBER void unpack(const cuda_weight &w, const uint32_t *word, uint32_t, uint32_t &low, uint32_t &high) {
        look_up16(w.codebook, word[0], low, high);
    }
};
struct format_c3 {
    FORMAT(64, 16, 192, 3, SCALE_SUB_SHIFT, 1);
    MEMBER bool reads(uint32_t unit, uint32_t load) { return load == 0 || unit == 3; }
    MEMBER uint32_t chunk(uint32_t unit, uint32_t load) { return unit == 3 ? load : unit; }
    MEMBER void unpack(const cuda_weight &w, const uint32_t *word, uint32_t unit, uint32_t &low, uint32_t &high) {
        uint32_t first = word[0], second = word[0] >> 3;
        if (unit == 3) {
            first = (word[0] >> 6 & PAIRS) | (word[2] >> 6 & BITS) << 2;
            second = (word[1] >> 6 & PAIRS) | (word[2] >> (PLANTED(9) ? 6 : 7) & BITS) << 2;
        }
        low = look_up8(w.codebook, first);
        high = look_up8(w.codebook, second);
    }
};
struct pairs {
    MEMBER bool reads(uint32_t, uint32_t) { return true; }
    MEMBER uint32_t chunk(uint32_t unit, uint32_t) { return unit / 2; }
    MEMBER void unpack(const cuda_weight &, const uint32_t *word, uint32_t unit, uint32_t &low, uint32_t &high) {
        low = word[0] >> 4 * (unit % 2) & PAIRS;
        high = word[0] >> (4 * (unit % 2) + (PLANTED(10) ? 0 : 2)) & PAIRS;
    }
};
struct format_c2 : pairs {
    FORMAT(64, 16, 128, 1, SCALE_SUB_SHIFT, 1);
    MEMBER void unpack(const cuda_weight &w, const uint32_t *word, uint32_t unit, uint32_t &low, uint32_t &high) {
        pairs::unpack(w, word, unit, low, high);
        low = look_up8(w.codebook, low);
        high = look_up8(w.codebook, high);
    }
};
struct format_t2 : pairs {
    FORMAT(64, 0, 128, 1, SCALE_NONE, 0);
};

/* The same in layout T16_K8; what is read of it is put in the order of T16 at once. */
struct format_q8_k8 : format_q8 {
    static constexpr int K8 = 1;
};
struct format_q4_k8 : format_q4 {
    static constexpr int K8 = 1;
};
struct format_c4_k8 : format_c4 {
    static constexpr int K8 = 1;
};

#define INGOT_CUDA_INT8_FORMATS(X) \
    X(q8) X(q6) X(c5) X(q4) X(q4z) X(c4) X(c3) X(c2) X(t2) X(q8_k8) X(q4_k8) X(c4_k8)

/* ---- the words of a unit, by row ---- */

/* From 8 k of one row in two words, low or high nibbles, to the word that T16 has for it. */
DEVICE uint32_t join_nibbles(uint32_t first, uint32_t second, bool high) {
    return high ? (first >> 4 & LOW_NIBBLES) | (second & ~LOW_NIBBLES) : (first & LOW_NIBBLES) | (second & LOW_NIBBLES) << 4;
}

/* Rows 4 * quad to 4 * quad + 3. */
template <class F>
DEVICE void load4(const uint8_t *codes, uint32_t unit, uint32_t quad, uint4 (&code)[F::LOADS]) {
    UNROLL
    for (int i = 0; i < F::LOADS; i++) {
        code[i] = uint4{0, 0, 0, 0};
        if (F::reads(unit, i)) code[i] = stream16(codes + 64 * F::chunk(unit, i) + 16 * quad);
    }
    if (!F::K8) return;
    const uint4 v = code[0], u = code[F::LOADS - 1];
    if (F::LOADS == 2) { /* q8: rows 0 and 1 in the first chunk, 2 and 3 in the second, a row's quads side by side */
        code[0] = uint4{v.x, v.z, u.x, u.z};
        code[F::LOADS - 1] = uint4{v.y, v.w, u.y, u.w};
    } else {
        code[0] = uint4{join_nibbles(v.x, v.y, false), join_nibbles(v.z, v.w, false), join_nibbles(v.x, v.y, true),
                        join_nibbles(v.z, v.w, true)};
    }
}

/* Rows 2 * pair and 2 * pair + 1, from global memory that is read once, or from shared memory. */
template <class F, bool streams>
DEVICE void load2(const uint8_t *codes, uint32_t unit, uint32_t pair, uint2 (&code)[F::LOADS]) {
    if (F::K8) {
        const uint8_t *from = codes + 64 * (F::LOADS == 2 ? 2 * unit + pair % 2 : unit) + 16 * (pair / 2);
        const uint4 v = streams ? stream16(from) : *(const uint4 *)from;
        const bool high = pair % 2 != 0;
        if (F::LOADS == 2) {
            code[0] = uint2{v.x, v.z};
            code[F::LOADS - 1] = uint2{v.y, v.w};
        } else {
            code[0] = uint2{join_nibbles(v.x, v.y, high), join_nibbles(v.z, v.w, high)};
        }
        return;
    }
    UNROLL
    for (int i = 0; i < F::LOADS; i++) {
        const uint8_t *from = codes + 64 * F::chunk(unit, i) + 8 * pair;
        code[i] = uint2{0, 0};
        if (F::reads(unit, i)) code[i] = streams ? stream8(from) : *(const uint2 *)from;
    }
}

/* One row. */
template <class F>
DEVICE void load1(const uint8_t *codes, uint32_t unit, uint32_t row, uint32_t (&word)[F::LOADS]) {
    uint2 code[F::LOADS];
    load2<F, false>(codes, unit, row / 2, code);
    UNROLL
    for (int i = 0; i < F::LOADS; i++) word[i] = row % 2 ? code[i].y : code[i].x;
}

/* ---- scales: of a few neighbouring rows of a group ---- */

struct group_meta {
    uint32_t first, second; /* four halves, or four bytes in `first` */
    uint32_t zeros;
};

/* One to four bytes of a place that is aligned to as many. */
template <int count>
DEVICE uint32_t load_bytes(const uint8_t *from) {
    if (count == 1) return *from;
    return count == 2 ? *(const uint16_t *)from : *(const uint32_t *)from;
}

/* Of rows [row, row + count), count 1, 2 or 4, a multiple of it. */
template <class F, int count>
DEVICE group_meta load_meta(const uint8_t *meta, uint32_t row) {
    group_meta found = {0, 0, 0};
    if (F::SCALE == SCALE_HALF || F::SCALE == SCALE_HALF_ZERO) {
        found.first = load_bytes<count == 1 ? 2 : 4>(meta + 2 * row);
        if (count == 4) found.second = load_bytes<4>(meta + 2 * row + 4);
    } else if (F::SCALE != SCALE_NONE) {
        found.first = load_bytes<count>(meta + row);
    }
    if (F::SCALE == SCALE_HALF_ZERO) found.zeros = load_bytes<count>(meta + 32 + (PLANTED(12) ? 0 : row));
    return found;
}

/* A weight is (int8 + offset) * scale, and of some formats a row's scale. Sub-scales are whole numbers. */
struct row_scale {
    float scale;
    int32_t offset;
};

template <class F>
DEVICE row_scale scale_of(const cuda_weight &w, const group_meta &meta, uint32_t i) {
    row_scale found = {1.0f, -1}; /* t2 */
    if (F::SCALE == SCALE_HALF || F::SCALE == SCALE_HALF_ZERO) {
        found.scale = half_to_float((i < 2 ? meta.first : meta.second) >> 16 * (i % 2) & 0xffffu);
        found.offset = F::SCALE == SCALE_HALF_ZERO ? -(int32_t)(meta.zeros >> 8 * i & 0xffu) : F::SIGNED ? 0 : -8;
    } else if (F::SCALE == SCALE_SUB) {
        found.scale = (float)(int8_t)(meta.first >> 8 * i & 0xffu);
        found.offset = -32;
    } else if (F::SCALE == SCALE_SUB_SHIFT) {
        const int32_t byte = (int8_t)(meta.first >> 8 * i & 0xffu);
        found.scale = (float)(byte >> 1);
        found.offset = PLANTED(11) ? 0 : (byte & 1) * w.delta;
    }
    return found;
}

/* What a group of 32 k adds: whole numbers times scales are rounded once, as on the CPU. */
template <class F>
DEVICE float add_group(float sum, float dot, float scale, float a_scale) {
    if (F::SCALE == SCALE_HALF || F::SCALE == SCALE_HALF_ZERO) return fmaf(dot, scale * a_scale, sum);
    return fmaf(dot * scale, a_scale, sum);
}

/* Sums of an mma as floats without a conversion: they start at the bits of 1.5 * 2^23, so that their bits are those of a
 * float 1.5 * 2^23 above; all are below 2^22 (255 * 127 * 32 and less). */
#define SUM_START 0x4b400000
DEVICE float sum_of(int32_t started) { return bits_to_float((uint32_t)started) - 12582912.0f; }

/* The row's scale where the format has one, else 1. */
template <class F>
DEVICE float head_scale(const uint8_t *head, uint32_t row) {
    if (F::HEAD == 0) return 1.0f;
    if (F::SCALE == SCALE_NONE) return *(const float *)(head + 4 * row);
    return half_to_float(*(const uint16_t *)(head + 2 * row));
}

/* ---- the way to a block ---- */

struct tile_view {
    const uint8_t *head;
    const uint8_t *first; /* superblock */
    const uint8_t *list;  /* sparse: u16 indices of the superblocks that are stored */
    uint32_t stored;      /* superblocks */
    uint32_t blocks;      /* stored */
};

DEVICE uint32_t list_entry(const tile_view &view, uint32_t i) { return *(const uint16_t *)(view.list + 2 * i); }

template <class F>
DEVICE tile_view open_tile(const cuda_weight &w, uint32_t tile) {
    tile_view view;
    const uint32_t supers = (w.blocks + (1u << w.super_shift) - 1) >> w.super_shift;
    view.blocks = PLANTED(13) ? w.blocks >> w.super_shift << w.super_shift : w.blocks;
    view.stored = supers;
    view.list = 0;
    view.head = w.data + tile * w.tile_bytes;
    if (w.tile_offsets != 0) {
        const uint8_t *start = w.data + w.tile_offsets[tile];
        /* The file may change under us: what it says then is held to the tile, give or take a superblock. */
        const uint64_t most = (w.tile_offsets[tile + 1] - w.tile_offsets[tile]) / w.super_bytes + 1;
        view.stored = smaller(smaller(*(const uint32_t *)start, supers), (uint32_t)most);
        view.list = start + 4;
        view.head = start + (4 + 2 * view.stored + 63) / 64 * 64;
        view.blocks = view.stored << w.super_shift;
        if (view.stored != 0 && list_entry(view, view.stored - 1) == supers - 1) {
            view.blocks -= (supers << w.super_shift) - w.blocks;
        }
    }
    view.first = view.head + F::HEAD;
    return view;
}

struct block_place {
    const uint8_t *meta, *codes;
    uint32_t index; /* of 32 k in the row */
};

/* Block `inner` of superblock `index`, which is stored as the `stored`-th. */
template <class F>
DEVICE block_place place_in(const cuda_weight &w, const tile_view &view, uint32_t stored, uint32_t index,
                            uint32_t inner) {
    const uint8_t *start = view.first + (uint64_t)stored * w.super_bytes;
    block_place place;
    place.index = (index << w.super_shift) + inner;
    place.meta = start + (PLANTED(14) ? 0 : inner >> w.group_shift) * F::META;
    uint32_t before = F::META == 0 ? 0 : 64;
    if (F::META == 48) { /* two groups or four of them need another chunk */
        const uint32_t most = 1u << (w.super_shift - w.group_shift);
        const uint32_t groups = smaller(most, (w.blocks >> w.group_shift) - index * most);
        before = (groups * 48 + 63) / 64 * 64;
    }
    place.codes = start + before + inner * F::CODES;
    return place;
}

/* The j-th block that a tile stores. */
template <class F>
DEVICE block_place find_block(const cuda_weight &w, const tile_view &view, uint32_t j) {
    const uint32_t stored = j >> w.super_shift, inner = j & ((1u << w.super_shift) - 1);
    const uint32_t last = ((w.blocks + (1u << w.super_shift) - 1) >> w.super_shift) - 1;
    const bool listed = view.list != 0 && !PLANTED(15);
    block_place place = place_in<F>(w, view, stored, listed ? smaller(list_entry(view, stored), last) : stored, inner);
    place.index = smaller(place.index, w.blocks - 1);
    return place;
}

#endif
