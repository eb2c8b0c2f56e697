/* SPDX-License-Identifier: Apache-2.0 */
/* What all kernels of `linear` share: which part a block works on, and what becomes of its sums. */
#ifndef INGOT_CUDA_LINEAR_CUH
#define INGOT_CUDA_LINEAR_CUH

#include "formats.cuh"

DEVICE const cuda_linear_part &part_of(const cuda_linear_args &args, uint32_t unit) {
    if (args.part_count > 2 && unit >= args.parts[2].first_unit) return args.parts[2];
    if (args.part_count > 1 && unit >= args.parts[1].first_unit) return args.parts[1];
    return args.parts[0];
}

/* Bias and residual of one sum, then stored. */
DEVICE void store_sum(const cuda_linear_args &args, const cuda_linear_part &part, uint32_t token, uint32_t column,
                      float sum) {
    if (token >= args.m || column >= part.width) return;
    if (part.bias != 0) sum += part.bias[column];
    if (args.residual != 0) sum += args.residual[(uint64_t)token * args.residual_stride + column];
    part.out[(uint64_t)token * part.out_stride + column] = sum;
}
DEVICE float store_gated(const cuda_linear_args &args, const cuda_linear_part &part, uint32_t token, uint32_t column,
                         float gate, float up) {
    const float value = activate(args.epilogue, gate) * up;
    if (token < args.m && column < part.width) part.out[(uint64_t)token * part.out_stride + column] = value;
    return value;
}

/* What is left to multiply a finished sum with. */
template <class F>
DEVICE float finish_sum(const cuda_linear_args &args, const cuda_weight &w, uint32_t tile, uint32_t row, uint32_t token,
                        float sum) {
    if (F::SCALE == SCALE_NONE) {
        const uint64_t first = (uint64_t)smaller(token, args.m - 1) * (args.a_stride / 32);
        sum *= args.a_scale[first];
    }
    if (F::HEAD == 0) return sum;
    return sum * head_scale<F>(open_tile<F>(w, tile).head, row);
}

#endif
