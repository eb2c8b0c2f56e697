/* SPDX-License-Identifier: Apache-2.0 */
/* What all NEON kernels of `linear` share: a walk over the superblocks of a tile, dense or sparse, and the codes of one
 * block as signed bytes. A quarter of a tile is 4 rows, one register of 32-bit lanes; a quad is 4 k of each of them. */
#ifndef INGOT_KERNELS_LINEAR_NEON_H
#define INGOT_KERNELS_LINEAR_NEON_H

#ifndef __ARM_NEON
#error "this file needs NEON"
#endif

#include <arm_neon.h>
#include <stdbool.h>
#include <string.h>

#include "ingot_format.h"
#include "kernels/dispatch.h"
#include "kernels/linear/linear.h"

#define NEON_INLINE static inline __attribute__((always_inline))
/* Loops over registers: the arrays that they index must become registers. */
#define UNROLL _Pragma("GCC unroll 16")
#define NO_UNROLL _Pragma("GCC unroll 1")

enum { ROWS = 16, BLOCK = 32, CHUNK = 64 };

/* A constant in every kernel, so that its branches are decided at compile time. */
typedef enum neon_format { Q8, Q6, C5, Q4, Q4Z, C4, C3, C2, T2, F16 } neon_format;

NEON_INLINE bool has_codebook(neon_format f) { return f == C5 || f == C4 || f == C3 || f == C2; }

NEON_INLINE bool has_head(neon_format f) { return has_codebook(f) || f == Q6 || f == T2; }

/* log2 of the blocks that share a weight scale: 32, 64, 128 k give 0, 1, 2. */
NEON_INLINE uint32_t group_shift(const ingot_linear_args *args, neon_format f) {
    return f == Q4 || f == Q4Z ? args->group / 64 : 0;
}

NEON_INLINE uint32_t superblock_blocks(const ingot_linear_args *args, neon_format f) {
    if (f == F16) return 1;
    if (f == Q8 || f == T2) return 2;
    return (f == Q4 ? 2u : 4u) << group_shift(args, f);
}

NEON_INLINE uint32_t block_bytes(neon_format f) {
    static const uint16_t bytes[] = {512, 384, 320, 256, 256, 256, 192, 128, 128, 1024};
    return bytes[f];
}

/* Scales before the chunks of a superblock of `blocks` blocks. */
NEON_INLINE uint32_t scale_bytes(uint32_t blocks, uint32_t shift, neon_format f) {
    if (f == T2 || f == F16) return 0;
    if (f != Q4Z) return CHUNK;
    const uint32_t groups = (blocks + (1u << shift) - 1) >> shift;
    return (groups * 48 + CHUNK - 1) / CHUNK * CHUNK;
}

/* ---- walk ---- */

typedef struct neon_superblock {
    const uint8_t *scales, *codes;
    uint32_t first, blocks; /* 32 k each */
} neon_superblock;

typedef struct neon_walk {
    const uint8_t *head; /* row scales, if the format has them */
    const uint8_t *at;
    const uint8_t *indices; /* u16 each; NULL: dense */
    uint32_t next, count; /* superblocks */
    uint32_t whole; /* blocks of a superblock that is not the last */
} neon_walk;

/* `run`: blocks that a dense t2 or f16, which have no scales between superblocks, may take as one superblock. */
NEON_INLINE neon_walk walk_tile(const ingot_linear_args *args, uint32_t tile, neon_format f, uint32_t run) {
    const uint32_t blocks = args->k / BLOCK;
    neon_walk walk = {.whole = superblock_blocks(args, f)};
    if (args->tile_offsets == NULL) {
        if (f == T2 || f == F16) walk.whole = run;
        walk.count = (blocks + walk.whole - 1) / walk.whole;
        walk.head = args->weights + tile * args->tile_bytes;
    } else {
        const uint8_t *list = args->weights + args->tile_offsets[tile];
        memcpy(&walk.count, list, sizeof walk.count);
        walk.indices = list + sizeof walk.count;
        walk.head = list + ((size_t)4 + 2 * (size_t)walk.count + CHUNK - 1) / CHUNK * CHUNK;
    }
    walk.at = walk.head + (has_head(f) ? CHUNK : 0);
    return walk;
}

/* The index of the superblock at `next`. */
NEON_INLINE uint32_t walk_index(const neon_walk *walk) {
    if (walk->indices == NULL) return walk->next;
    uint16_t index;
    memcpy(&index, walk->indices + 2 * (size_t)walk->next, sizeof index);
    return index;
}

/* False at the end. */
NEON_INLINE bool walk_on(neon_walk *walk, const ingot_linear_args *args, neon_format f, neon_superblock *s) {
    if (walk->next == walk->count) return false;
    s->first = walk_index(walk) * walk->whole;
    const uint32_t left = args->k / BLOCK - s->first;
    s->blocks = left < walk->whole ? left : walk->whole;
    s->scales = walk->at;
    s->codes = s->scales + scale_bytes(s->blocks, group_shift(args, f), f);
    walk->at = s->codes + (size_t)s->blocks * block_bytes(f);
    walk->next++;
    return true;
}

NEON_INLINE const uint8_t *block_scales(const ingot_linear_args *args, const neon_superblock *s, uint32_t block,
                                        neon_format f) {
    if (f == Q8) return s->scales + (size_t)32 * block;
    if (f == Q4) return s->scales + (size_t)32 * (block >> group_shift(args, f));
    if (f == Q4Z) return s->scales + (size_t)48 * (block >> group_shift(args, f));
    return s->scales + (size_t)16 * block;
}

/* First row of `tile` for `token` in out. */
NEON_INLINE float *out_rows(const ingot_linear_args *args, uint32_t tile, uint32_t token) {
    return args->out + (size_t)token * args->out_stride + (size_t)ROWS * (tile - args->tile_begin);
}

/* ---- scales ---- */

NEON_INLINE float32x4_t load_halves(const uint8_t *halves) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halves)));
}

/* The 16 zeros of a group of q4z, as int32. */
NEON_INLINE void load_zeros(const uint8_t *zeros, int32x4_t out[4]) {
    const uint8x16_t bytes = vld1q_u8(zeros);
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
    out[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low)));
    out[1] = vreinterpretq_s32_u32(vmovl_high_u16(low));
    out[2] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high)));
    out[3] = vreinterpretq_s32_u32(vmovl_high_u16(high));
}

/* ---- codes ---- */

typedef struct neon_tables {
    int8x16_t first, second;
    uint8x16_t spread[4]; /* byte 4 * i + j to all bytes of lane j */
    uint8x16_t one;
} neon_tables;

/* c2 and t2 look up two codes by one nibble: `first` knows its lower, `second` its upper code. */
NEON_INLINE neon_tables load_tables(const ingot_linear_args *args, neon_format f) {
    static const uint8_t lower[16] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
    static const uint8_t upper[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
    neon_tables t = {.first = vdupq_n_s8(0), .second = vdupq_n_s8(0), .one = vdupq_n_u8(1)};
    UNROLL for (int i = 0; i < 4; i++) { t.spread[i] = vaddq_u8(vld1q_u8(upper), vdupq_n_u8((uint8_t)(4 * i))); }
    __asm__("" : "+w"(t.one)); /* else a test of a bit becomes two instructions */
    if (f == T2) {
        t.first = vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(lower)), vdupq_n_s8(1));
        t.second = vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(upper)), vdupq_n_s8(1));
    } else if (has_codebook(f)) {
        t.first = t.second = vld1q_s8(args->codebook);
    }
    if (f == C5) t.second = vld1q_s8(args->codebook + 16);
    if (f == C3) t.first = vcombine_s8(vget_low_s8(t.first), vget_low_s8(t.first));
    if (f == C2) {
        const int8x16_t entries = t.first;
        t.first = vqtbl1q_s8(entries, vld1q_u8(lower));
        t.second = vqtbl1q_s8(entries, vld1q_u8(upper));
    }
    return t;
}

/* All ones in the lanes of the rows whose shift bit is set. */
NEON_INLINE void load_shifts(const uint8_t *scales, const neon_tables *t, int32x4_t out[4]) {
    const uint8x16_t set = vtstq_u8(vld1q_u8(scales), t->one);
    UNROLL for (int i = 0; i < 4; i++) { out[i] = vreinterpretq_s32_u8(vqtbl1q_u8(set, t->spread[i])); }
}

/* The 16 sub-scales without their shift bits, which q6 does not have. */
NEON_INLINE void load_sub_scales(const uint8_t *scales, neon_format f, int32x4_t out[4]) {
    int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(scales));
    if (f != Q6) bytes = vshrq_n_s8(bytes, 1);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
    out[0] = vmovl_s16(vget_low_s16(low));
    out[1] = vmovl_high_s16(low);
    out[2] = vmovl_s16(vget_low_s16(high));
    out[3] = vmovl_high_s16(high);
}

/* f16 scales or sub-scales of 16 rows; of q6, whose codes are times 4, a quarter of them. */
NEON_INLINE void load_scales(const uint8_t *scales, neon_format f, float32x4_t out[4]) {
    int32x4_t whole[4];
    if (has_codebook(f) || f == Q6) load_sub_scales(scales, f, whole);
    UNROLL for (int i = 0; i < 4; i++) {
        out[i] = f == Q6           ? vcvtq_n_f32_s32(whole[i], 2)
                 : has_codebook(f) ? vcvtq_f32_s32(whole[i])
                                   : load_halves(scales + 8 * i);
    }
}

/* Chunks that several steps of a quarter need. */
typedef struct neon_planes {
    uint8x16_t p[3];
} neon_planes;

NEON_INLINE uint8x16_t low_nibble(uint8x16_t v) { return vandq_u8(v, vdupq_n_u8(15)); }

NEON_INLINE int8x16_t look_up(int8x16_t table, uint8x16_t index) { return vqtbl1q_s8(table, index); }

NEON_INLINE int8x16_t look_up_32(const neon_tables *t, uint8x16_t index) {
    return vqtbl2q_s8((int8x16x2_t){{t->first, t->second}}, index);
}

/* q6 as 4 * (code - 32): the pair with its top bit flipped in bits 7 and 6, the nibble below. */
NEON_INLINE void load_q6(const uint8_t *at, int step, neon_planes *planes, int8x16_t *low, int8x16_t *high) {
    const uint8x16_t chunk = vld1q_u8(at + CHUNK * step), upper = vandq_u8(chunk, vdupq_n_u8(0xf0));
    if (step % 2 == 0) {
        const uint8x16_t pairs = veorq_u8(vld1q_u8(at + CHUNK * (4 + step / 2)), vdupq_n_u8(0xaa));
        planes->p[0] = pairs;
        *low = vreinterpretq_s8_u8(vsliq_n_u8(vshlq_n_u8(chunk, 2), pairs, 6));
        *high = vreinterpretq_s8_u8(vsriq_n_u8(vshlq_n_u8(pairs, 4), upper, 2));
    } else {
        const uint8x16_t pairs = planes->p[0];
        *low = vreinterpretq_s8_u8(vsriq_n_u8(vshlq_n_u8(pairs, 2), vshlq_n_u8(chunk, 4), 2));
        *high = vreinterpretq_s8_u8(vsriq_n_u8(pairs, upper, 2));
    }
}

/* Bit q of `bits` as 0x10. */
NEON_INLINE uint8x16_t fifth_bit(uint8x16_t bits, int q) {
    const uint8x16_t at[8] = {vshlq_n_u8(bits, 4), vshlq_n_u8(bits, 3), vshlq_n_u8(bits, 2), vshlq_n_u8(bits, 1), bits,
                              vshrq_n_u8(bits, 1), vshrq_n_u8(bits, 2), vshrq_n_u8(bits, 3)};
    return vandq_u8(at[q], vdupq_n_u8(16));
}

NEON_INLINE void load_c5(const uint8_t *at, int step, const neon_tables *t, neon_planes *planes, int8x16_t *low,
                         int8x16_t *high) {
    if (step == 0) planes->p[0] = vld1q_u8(at + CHUNK * 4);
    const uint8x16_t chunk = vld1q_u8(at + CHUNK * step);
    *low = look_up_32(t, vorrq_u8(low_nibble(chunk), fifth_bit(planes->p[0], 2 * step)));
    *high = look_up_32(t, vsriq_n_u8(fifth_bit(planes->p[0], 2 * step + 1), chunk, 4));
}

/* A fourth bit that is not v6's is in its index: the table repeats itself. */
NEON_INLINE void load_c3(const uint8_t *at, int step, int8x16_t table, neon_planes *planes, int8x16_t *low,
                         int8x16_t *high) {
    const uint8x16_t seven = vdupq_n_u8(7);
    if (step < 3) {
        const uint8x16_t chunk = planes->p[step] = vld1q_u8(at + CHUNK * step);
        *low = look_up(table, vandq_u8(chunk, seven));
        *high = look_up(table, vandq_u8(vshrq_n_u8(chunk, 3), seven));
    } else {
        const uint8x16_t top = vshrq_n_u8(planes->p[2], 6);
        *low = look_up(table, vsliq_n_u8(vshrq_n_u8(planes->p[0], 6), top, 2));
        *high = look_up(table, vsliq_n_u8(vshrq_n_u8(planes->p[1], 6), vshrq_n_u8(planes->p[2], 7), 2));
    }
}

NEON_INLINE bool nibbles_only(neon_format f) { return f == Q4 || f == Q4Z || f == C4; }

NEON_INLINE void unpack_nibbles(uint8x16_t chunk, neon_format f, const neon_tables *t, int8x16_t *low,
                                int8x16_t *high) {
    const uint8x16_t even = low_nibble(chunk), odd = vshrq_n_u8(chunk, 4);
    *low = f == C4 ? look_up(t->first, even) : vreinterpretq_s8_u8(even);
    *high = f == C4 ? look_up(t->first, odd) : vreinterpretq_s8_u8(odd);
}

/* Signed weights of a quarter, 8 k from 8 * step on; q4 and q4z without their zero, q6 times 4. In layout T16 quad
 * 2 * step in low and the next in high; in T16_K8 8 k of two rows in low, of the other two in high. */
NEON_INLINE void load_step(const uint8_t *codes, int step, int quarter, neon_format f, const neon_tables *t,
                           neon_planes *planes, int8x16_t *low, int8x16_t *high) {
    const uint8_t *at = codes + 16 * quarter;
    if (f == Q6) {
        load_q6(at, step, planes, low, high);
    } else if (f == C5) {
        load_c5(at, step, t, planes, low, high);
    } else if (f == C3) {
        load_c3(at, step, t->first, planes, low, high);
    } else if (f == Q8) {
        *low = vreinterpretq_s8_u8(vld1q_u8(at + CHUNK * 2 * step));
        *high = vreinterpretq_s8_u8(vld1q_u8(at + CHUNK * (2 * step + 1)));
    } else if (f == C2 || f == T2) {
        if (step % 2 == 0) planes->p[0] = vld1q_u8(at + CHUNK * (step / 2));
        const uint8x16_t index = step % 2 == 0 ? low_nibble(planes->p[0]) : vshrq_n_u8(planes->p[0], 4);
        *low = look_up(t->first, index);
        *high = look_up(t->second, index);
    } else {
        unpack_nibbles(vld1q_u8(at + CHUNK * step), f, t, low, high);
    }
}

/* Keeps loads that stand together together, so that the compiler makes pairs of them. */
#define LOADS_END __asm__ volatile("" ::: "memory")

/* load_step of all quarters. */
NEON_INLINE void load_steps(const uint8_t *codes, int step, neon_format f, const neon_tables *t, neon_planes planes[4],
                            int8x16_t low[4], int8x16_t high[4]) {
    if (nibbles_only(f)) {
        uint8x16_t chunk[4];
        UNROLL for (int i = 0; i < 4; i++) { chunk[i] = vld1q_u8(codes + CHUNK * step + 16 * i); }
        if (f != C4) LOADS_END;
        UNROLL for (int i = 0; i < 4; i++) { unpack_nibbles(chunk[i], f, t, &low[i], &high[i]); }
    } else {
        UNROLL for (int i = 0; i < 4; i++) { load_step(codes, step, i, f, t, &planes[i], &low[i], &high[i]); }
    }
}

/* ---- sums ---- */

/* Where the result is a float and nothing else, sums of products start at the bits of 1.5 * 2^23: the lane is then that
 * float plus the sum, which stays below 2^21, and a subtraction converts it; scvtf has half the throughput. */
enum { BITS_OF_MAGIC = 0x4b400000 };

NEON_INLINE int32_t first_sum(neon_format f) { return has_codebook(f) || f == Q6 || f == T2 ? 0 : BITS_OF_MAGIC; }

NEON_INLINE float32x4_t to_float(int32x4_t dot) {
    return vsubq_f32(vreinterpretq_f32_s32(dot), vdupq_n_f32(12582912.0f));
}

/* What a block adds to the rows of a quarter; `dot` is a whole number below 2^24, so that the product with a sub-scale is
 * that of the integers rounded once. */
NEON_INLINE float32x4_t add_block(float32x4_t acc, float32x4_t dot, float32x4_t scale, float a_scale, neon_format f) {
    if (has_codebook(f) || f == Q6) return vfmaq_n_f32(acc, vmulq_f32(dot, scale), a_scale);
    return vfmaq_f32(acc, dot, vmulq_n_f32(scale, a_scale));
}

/* The same where the sub-scales serve one token and are not worth a conversion. */
NEON_INLINE float32x4_t add_whole(float32x4_t acc, int32x4_t dot, int32x4_t scale, float a_scale, neon_format f) {
    const int32x4_t product = vmulq_s32(dot, scale);
    return vfmaq_n_f32(acc, f == Q6 ? vcvtq_n_f32_s32(product, 2) : vcvtq_f32_s32(product), a_scale);
}

/* Sums of a block of 16 rows times one token; `magic`: they started at first_sum. */
NEON_INLINE void add_scaled(const uint8_t *scales, const int32x4_t dot[4], float a_scale, neon_format f, bool magic,
                            float32x4_t acc[4]) {
    int32x4_t whole[4];
    float32x4_t scale[4];
    if (has_codebook(f) || f == Q6) {
        load_sub_scales(scales, f, whole);
        UNROLL for (int i = 0; i < 4; i++) { acc[i] = add_whole(acc[i], dot[i], whole[i], a_scale, f); }
    } else {
        load_scales(scales, f, scale);
        UNROLL for (int i = 0; i < 4; i++) {
            const float32x4_t sum = magic ? to_float(dot[i]) : vcvtq_f32_s32(dot[i]);
            acc[i] = add_block(acc[i], sum, scale[i], a_scale, f);
        }
    }
}

/* Row scales, and the output. t2: acc holds the int32 sums of the whole row. */
NEON_INLINE float32x4_t finish_rows(float32x4_t acc, const uint8_t *head, int quarter, float a_scale, neon_format f) {
    if (f == T2) {
        float scales[4];
        memcpy(scales, head + 16 * quarter, sizeof scales);
        const float32x4_t total = vcvtq_f32_s32(vreinterpretq_s32_f32(acc));
        return vmulq_f32(vmulq_n_f32(total, a_scale), vld1q_f32(scales));
    }
    return has_head(f) ? vmulq_f32(acc, load_halves(head + 8 * quarter)) : acc;
}

#endif
