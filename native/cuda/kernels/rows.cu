/* SPDX-License-Identifier: Apache-2.0 */
/* The ops that treat each row by itself: embed, norms with the quantization behind them, elementwise. */
#include "formats.cuh"
#include "ingot_opcodes.h"

enum { ROW_THREADS = 256 };

/* ---- norms and quantization: a block has one slice of one row ---- */

struct norm_factors {
    float mean, inverse;
};

DEVICE float squares_of(const float *x, uint32_t width, float mean, float *room) {
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) sum = fmaf(x[i] - mean, x[i] - mean, sum);
    return block_sum(sum, room);
}

DEVICE norm_factors factors_of(const cuda_norm_args &args, const float *x, float *room) {
    norm_factors found = {0.0f, 1.0f};
    if (args.kind == CUDA_NORM_NONE) return found;
    if (args.kind == CUDA_NORM_LAYER) {
        float sum = 0.0f;
        for (uint32_t i = threadIdx.x; i < args.width; i += blockDim.x) sum += x[i];
        found.mean = block_sum(sum, room) / (float)args.width;
    }
    const float squares = squares_of(x, args.width, found.mean, room);
    found.inverse = 1.0f / sqrtf(squares / (float)args.width + args.epsilon);
    return found;
}

DEVICE float normal_of(const cuda_norm_args &args, const float *x, norm_factors factors, uint32_t i) {
    if (i >= args.width) return 0.0f;
    if (args.kind == CUDA_NORM_NONE) return x[i];
    const float value = (x[i] - factors.mean) * factors.inverse * args.weight[i];
    return args.kind == CUDA_NORM_LAYER ? value + args.bias[i] : value;
}

KERNEL(normalize, cuda_norm_args, ROW_THREADS) {
    SHARED(float, room, 32);
    const uint32_t slice = blockIdx.x, row = blockIdx.y;
    const float *x = args.x + (uint64_t)row * args.x_stride + slice * args.width;
    float *y = args.y != 0 ? args.y + (uint64_t)row * args.y_stride + slice * args.width : 0;
    const norm_factors factors = factors_of(args, x, room);
    const bool codes = args.a != 0 || args.token_a != 0;
    const uint32_t end = codes ? args.padded : (args.width + 31) / 32 * 32;
    float row_largest = 0.0f;
    if (args.token_a != 0) {
        for (uint32_t i = threadIdx.x; i < args.width; i += blockDim.x) {
            row_largest = fmaxf(row_largest, fabsf(normal_of(args, x, factors, i)));
        }
        row_largest = block_largest(row_largest, room);
    }
    for (uint32_t i = threadIdx.x; i < end; i += blockDim.x) {
        const float value = normal_of(args, x, factors, i);
        if (args.a != 0) {
            const float largest = warp_largest(fmaxf(fabsf(value), 0.0f));
            store_codes({args.a, args.a_scale, args.a_sum, args.a_stride, 0}, value, largest, i, row);
        }
        if (args.token_a != 0) {
            store_codes({args.token_a, args.token_scale, args.token_sum, args.a_stride, 0}, value, row_largest, i, row);
        }
        if (y != 0 && i < args.width) y[i] = value;
    }
}

/* ---- embed: a block has one token, a thread 8 k ---- */

/* Where the row's block of 32 k is stored, if it is. */
template <class F>
DEVICE bool find_stored(const cuda_weight &w, const tile_view &view, uint32_t index, block_place &place) {
    const uint32_t super = index >> w.super_shift, inner = index & ((1u << w.super_shift) - 1);
    uint32_t stored = super;
    if (view.list != 0) {
        for (stored = 0; stored < view.stored && list_entry(view, stored) < super;) stored++;
        if (stored == view.stored || list_entry(view, stored) != super) return false;
    }
    place = place_in<F>(w, view, stored, super, inner);
    return true;
}

template <class F>
DEVICE void embed_unit(const cuda_weight &w, const tile_view &view, uint32_t row, uint32_t k, float *out) {
    block_place place;
    const uint32_t unit = k / 8 % 4, count = smaller(8, w.k - k);
    if (!find_stored<F>(w, view, k / 32, place)) {
        for (uint32_t i = 0; i < count; i++) out[k + i] = 0.0f;
        return;
    }
    uint32_t word[F::LOADS], both[2];
    load1<F>(place.codes, unit, row, word);
    F::unpack(w, word, unit, both[0], both[1]);
    const row_scale s = scale_of<F>(w, load_meta<F, 1>(place.meta, row), 0);
    const float head = head_scale<F>(view.head, row);
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t byte = both[i / 4] >> 8 * (i % 4) & 0xffu;
        const int32_t value = (F::SIGNED ? (int32_t)(int8_t)byte : (int32_t)byte) + s.offset;
        out[k + i] = (float)value * s.scale * head;
    }
}

template <class F>
DEVICE void embed(const cuda_embed_args &args) {
    const uint32_t token = args.pass[1 + blockIdx.x];
    const tile_view view = open_tile<F>(args.weight, token / 16);
    float *out = args.out + (uint64_t)blockIdx.x * args.out_stride;
    for (uint32_t k = 8 * threadIdx.x; k < args.weight.k; k += 8 * blockDim.x) {
        embed_unit<F>(args.weight, view, token % 16, k, out);
    }
}

#define EMBED(name) \
    KERNEL(embed_##name, cuda_embed_args, ROW_THREADS) { embed<format_##name>(args); }
INGOT_CUDA_INT8_FORMATS(EMBED)

struct format_f16 {
    FORMAT(0, 0, 1024, 1, SCALE_NONE, 0);
};

KERNEL(embed_f16, cuda_embed_args, ROW_THREADS) {
    const uint32_t token = args.pass[1 + blockIdx.x], row = token % 16;
    const tile_view view = open_tile<format_f16>(args.weight, token / 16);
    float *out = args.out + (uint64_t)blockIdx.x * args.out_stride;
    for (uint32_t k = threadIdx.x; k < args.weight.k; k += blockDim.x) {
        block_place place;
        const bool stored = find_stored<format_f16>(args.weight, view, k / 32, place);
        const uint8_t *at = place.codes + 64 * (k % 32 / 2) + 4 * row + 2 * (k % 2);
        out[k] = stored ? half_to_float(*(const uint16_t *)at) : 0.0f;
    }
}

KERNEL(embed_f32, cuda_embed_args, ROW_THREADS) {
    const uint32_t token = args.pass[1 + blockIdx.x];
    const float *from = (const float *)args.weight.data + (uint64_t)token * args.weight.k;
    float *out = args.out + (uint64_t)blockIdx.x * args.out_stride;
    for (uint32_t k = threadIdx.x; k < args.weight.k; k += blockDim.x) out[k] = from[k];
}

/* ---- elementwise ---- */

DEVICE float element(const cuda_element_args &args, float a, float b) {
    switch (args.opcode) {
        case INGOT_CUDA_ACTIVATION: return activate(args.kind, a);
        case INGOT_CUDA_ADD: return a + b;
        case INGOT_CUDA_MUL: return a * b;
        case INGOT_CUDA_SCALE: return args.value * a;
        case INGOT_CUDA_SOFT_CAP: return args.value * tanhf(a / args.value);
        default: return a; /* select_last */
    }
}

KERNEL(elements, cuda_element_args, ROW_THREADS) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const uint64_t row = blockIdx.y;
    if (i >= args.width) return;
    const float b = args.b != 0 ? args.b[row * args.b_stride + i] : 0.0f;
    args.out[row * args.out_stride + i] = element(args, args.a[row * args.a_stride + i], b);
}

/* How fast 16-byte pieces come; `out` keeps the loads from being dropped. */
KERNEL(read_rate, cuda_rate_args, ROW_THREADS) {
    uint32_t sum = 0;
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < args.pieces; i += step) {
        const uint4 v = stream16(args.data + 16 * i);
        sum ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 0x1b0a57edu) *args.out = sum;
}
