/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernels take: each has one of these structs as its only parameter. Read by the host's C, by the compilers
 * of the kernels and by their emulation, so nothing but plain types. Pointers are the device's. */
#ifndef INGOT_CUDA_KERNEL_ARGS_H
#define INGOT_CUDA_KERNEL_ARGS_H

#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

enum {
    CUDA_PARTS = 3,          /* weights of a linear */
    CUDA_FEW_TOKENS = 8,     /* tokens of one mma column tile: more of them are a prompt */
    CUDA_PROMPT_TILES = 8,   /* tiles of 16 rows of a block of the prompt kernel */
    CUDA_PROMPT_TOKENS = 64, /* its tokens */
    CUDA_F16_COLUMNS = 4,    /* column tiles of a prompt with weights in f16 */
    CUDA_MOST_WARPS = 8,     /* of a block */
    CUDA_MOST_HEAD = 512,    /* d of an attention */
    CUDA_SPAN = 128,         /* positions that a block of an attention takes at once: its threads */
    CUDA_MOST_ROWS = 8,      /* query rows of a block of an attention */
    CUDA_MOST_SPLITS = 64,   /* parts of the context */
    CUDA_PROMPT_HEAD = 128,  /* d that a warp of an attention of many tokens makes */
    CUDA_PROMPT_ROWS = 64,   /* query rows of a block of it: 16 of each warp */
    CUDA_PROMPT_THREADS = 128,
    CUDA_PARTIAL = 2,        /* floats of a split's result before its sums: largest score, denominator */
    CUDA_MOST_PICKS = 64,
    CUDA_PICK_SEGMENT = 2048 /* logits that one block looks at */
};

/* A packed weight. A superblock has 1 << super_shift blocks of 32 k, a group of one scale 1 << group_shift of them. */
typedef struct cuda_weight {
    const uint8_t *data;          /* tile 0 */
    const uint64_t *tile_offsets; /* sparse: bytes to each tile; else NULL */
    uint64_t tile_bytes;          /* dense */
    uint32_t n, k;
    uint32_t tiles;
    uint32_t blocks; /* of 32 k in a row, padded to the group */
    uint32_t group_shift;
    uint32_t super_shift;
    uint32_t super_bytes; /* of a whole superblock */
    int32_t delta;
    uint32_t codebook[8]; /* 32 int8 */
} cuda_weight;

/* Where rows of int8 go, with a scale and a sum per 32 k; a is NULL: not wanted. */
typedef struct cuda_codes {
    int8_t *a;
    float *a_scale;
    int32_t *a_sum;
    uint32_t a_stride; /* int8 elements */
    uint32_t reserved;
} cuda_codes;

typedef struct cuda_linear_part {
    cuda_weight weight;
    const float *bias; /* NULL: none */
    float *out;
    uint32_t out_stride; /* floats, as all strides here */
    uint32_t width;      /* columns of out */
    uint32_t first_unit; /* of the launch: a unit is a tile, or gate and up together */
    uint32_t units;
} cuda_linear_part;

/* All parts have the kernel's format. */
typedef struct cuda_linear_args {
    cuda_linear_part parts[CUDA_PARTS];
    uint32_t part_count;
    uint32_t m;
    uint32_t epilogue; /* enum ingot_epilogue */
    uint32_t a_stride; /* int8 elements; a_scale and a_sum have a 32nd of them */
    const int8_t *a;
    const float *a_scale;
    const int32_t *a_sum;
    const float *x; /* f16 only */
    uint32_t x_stride;
    uint32_t residual_stride;
    const float *residual; /* NULL: none */
    cuda_codes next;       /* gated, of one token, a multiple of 128 columns: what the linear behind reads */
} cuda_linear_args;

enum { CUDA_NORM_NONE, CUDA_NORM_RMS, CUDA_NORM_LAYER };

/* Normalizes rows, quantizes them, or both in one go. */
typedef struct cuda_norm_args {
    const float *x;
    const float *weight; /* of the norm */
    const float *bias;
    float *y; /* NULL: not wanted */
    int8_t *a; /* NULL: not wanted; with scales per 32 k */
    float *a_scale;
    int32_t *a_sum;
    int8_t *token_a; /* the same with one scale per row (t2) */
    float *token_scale;
    int32_t *token_sum;
    uint32_t kind;  /* CUDA_NORM_ */
    uint32_t width; /* of a slice: what is quantized has one slice in a row */
    uint32_t slices;
    uint32_t x_stride, y_stride;
    uint32_t a_stride; /* int8 elements */
    uint32_t padded;   /* elements of a row that are quantized: width rounded up to 128 */
    float epsilon;
} cuda_norm_args;

typedef struct cuda_embed_args {
    cuda_weight weight; /* data alone where the table is f32 */
    const uint32_t *pass; /* the position, then the tokens */
    float *out;
    uint32_t out_stride;
} cuda_embed_args;

/* out[i][j] of a (kind), of a and b (add, mul), or of a and value (scale, soft_cap). */
typedef struct cuda_element_args {
    const float *a;
    const float *b;
    float *out;
    uint32_t a_stride, b_stride, out_stride;
    uint32_t rows, width;
    uint32_t opcode; /* enum ingot_opcode */
    uint32_t kind;   /* enum ingot_activation_kind */
    float value;
} cuda_element_args;

/* One attention, and the rope before it where there is one. */
typedef struct cuda_attention_args {
    const uint32_t *pass; /* the position first */
    const float *q, *k, *v;
    const float *table;    /* of the rope; NULL: none */
    float *q_out, *k_out;  /* rotated; written where there is a rope */
    uint8_t *state;
    uint64_t block_bytes;  /* of 64 positions */
    uint64_t state_offset; /* of the first head in a block */
    uint64_t key_bytes, head_bytes;
    int8_t *codes;   /* (m, heads, d_padded): queries as int8 */
    float *factors;  /* (m, heads) */
    float *partials; /* (splits, m * heads, CUDA_PARTIAL + d_padded) */
    float *out;
    uint32_t q_stride, k_stride, v_stride, q_out_stride, k_out_stride, out_stride;
    uint32_t m, heads, kv_heads;
    uint32_t d, d_padded;
    uint32_t rotary, interleaved;
    uint32_t appends; /* 0: a rope alone */
    uint32_t window, sinks;
    uint32_t splits;
    float scale;
    cuda_codes next; /* merge alone, d a multiple of 32: what the linear behind reads */
} cuda_attention_args;

/* The best logits of rows of (rows, vocabulary): first of segments, then of those. A key is a logit above its id. */
typedef struct cuda_pick_args {
    const float *logits;
    uint64_t *candidates; /* (rows, segments, count) */
    uint64_t *best;       /* (rows, count) */
    uint32_t stride;
    uint32_t vocabulary;
    uint32_t segments;
    uint32_t count;
} cuda_pick_args;

/* Reads memory as fast as it comes, to compare where it lies. */
typedef struct cuda_rate_args {
    const uint8_t *data;
    uint32_t *out;
    uint64_t pieces; /* of 16 bytes */
} cuda_rate_args;

#endif
