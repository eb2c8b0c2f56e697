/* SPDX-License-Identifier: Apache-2.0 */
/* ingot_kernel_run: one linear kernel by index, for tests. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/error.h"
#include "core/layout.h"
#include "ingot.h"
#include "ingot_format.h"
#include "kernels/cpu.h"
#include "kernels/dispatch.h"
#include "kernels/row_kernels.h"

enum { ALIGNMENT = 64, MOST_K = 1 << 24, MOST_TOKENS = 4096, MOST_TILES = 1 << 20 };

static bool valid_group(uint32_t dtype, uint32_t group) {
    if (dtype == INGOT_DTYPE_F16) return group == 0;
    if (dtype == INGOT_DTYPE_Q4 || dtype == INGOT_DTYPE_Q4Z) return group == 32 || group == 64 || group == 128;
    return group == 32;
}

static bool valid_layout(uint32_t dtype, uint32_t layout) {
    if (layout == 0 || layout == INGOT_LAYOUT_T16) return true;
    return layout == INGOT_LAYOUT_T16_K8 &&
           (dtype == INGOT_DTYPE_Q8 || dtype == INGOT_DTYPE_Q4 || dtype == INGOT_DTYPE_C4);
}

static ingot_status check_shape(const ingot_linear_call *call) {
    if (call->k == 0 || call->k % 32 != 0 || call->k > MOST_K) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: k is %u, expected a multiple of 32 up to %d",
                          call->k, MOST_K);
    }
    if (!valid_group(call->dtype, call->group)) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "kernel run: group is %u, expected 0 (f16), 32, 64, 128 (q4, q4z) or 32", call->group);
    }
    if (call->m == 0 || call->m > MOST_TOKENS) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: m is %u, expected 1 to %d", call->m, MOST_TOKENS);
    }
    if (call->tile_begin >= call->tile_end || call->tile_end > MOST_TILES) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: tiles %u to %u, expected a range within 0 to %d",
                          call->tile_begin, call->tile_end, MOST_TILES);
    }
    if (!valid_layout(call->dtype, call->layout)) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: layout is %u, expected %d, for q8, q4, c4 also %d",
                          call->layout, INGOT_LAYOUT_T16, INGOT_LAYOUT_T16_K8);
    }
    if (call->delta < -127 || call->delta > 127) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: delta is %d, expected -127 to 127", call->delta);
    }
    return INGOT_OK;
}

/* As a file has it: t2 has no groups, kernels are told 32. */
static uint32_t stored_group(const ingot_linear_call *call) { return call->dtype == INGOT_DTYPE_T2 ? 0 : call->group; }

static ingot_status check_tiles(const ingot_linear_call *call) {
    for (uint32_t t = call->tile_begin; t < call->tile_end; t++) {
        const uint64_t begin = call->tile_offsets[t], end = call->tile_offsets[t + 1];
        const bool within = begin % ALIGNMENT == 0 && begin <= end && end <= call->weights_size;
        if (!within || !ingot_sparse_walk(call->dtype, INGOT_TILE_ROWS, call->k, stored_group(call),
                                          call->weights + begin, end - begin, NULL)) {
            return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                              "kernel run: sparse tile %u at %llu to %llu does not hold what its list says", t,
                              (unsigned long long)begin, (unsigned long long)end);
        }
    }
    return INGOT_OK;
}

static ingot_status check_memory(const ingot_linear_call *call, uint64_t tile_bytes) {
    if (call->weights == NULL || call->x == NULL || call->out == NULL) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: weights, x or out is NULL");
    }
    if ((uintptr_t)call->weights % ALIGNMENT != 0) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: weights are not aligned to %d bytes", ALIGNMENT);
    }
    if (call->tile_offsets != NULL) return check_tiles(call);
    if (call->weights_size < tile_bytes * call->tile_end) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "kernel run: weights have %llu bytes, %u tiles of %llu need %llu",
                          (unsigned long long)call->weights_size, call->tile_end, (unsigned long long)tile_bytes,
                          (unsigned long long)(tile_bytes * call->tile_end));
    }
    return INGOT_OK;
}

/* Zeroed, aligned; size rounded up to the alignment. NULL without memory. */
static void *allocate(size_t size) {
    const size_t rounded = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, rounded);
    if (memory != NULL) memset(memory, 0, rounded);
    return memory;
}

typedef struct buffers {
    int8_t *a;
    float *a_scale;
    int32_t *a_sum;
    float *x;
    float *out;
    uint8_t *panels;
} buffers;

static void release(buffers *b) {
    free(b->a);
    free(b->a_scale);
    free(b->a_sum);
    free(b->x);
    free(b->out);
    free(b->panels);
}

/* NULL members where memory was refused. */
static buffers allocate_buffers(size_t m, size_t k, size_t s_stride, size_t width) {
    return (buffers){allocate(m * k),
                     allocate(m * s_stride * sizeof(float)),
                     allocate(m * s_stride * sizeof(int32_t)),
                     allocate(m * k * sizeof(float)),
                     allocate(m * width * sizeof(float)),
                     allocate((m + INGOT_PANEL_TOKENS - 1) / INGOT_PANEL_TOKENS * s_stride * INGOT_PANEL_BLOCK_BYTES)};
}

static void pack_panels(const buffers *b, size_t m, size_t k, size_t s_stride) {
    for (size_t i = 0; i < m; i += INGOT_PANEL_TOKENS) {
        const ingot_quantized_rows rows = {
            .a = b->a + i * k,
            .a_scale = b->a_scale + i * s_stride,
            .a_sum = b->a_sum + i * s_stride,
            .a_stride = k,
            .s_stride = s_stride,
            .count = (uint32_t)(m - i < INGOT_PANEL_TOKENS ? m - i : INGOT_PANEL_TOKENS),
        };
        ingot_panel_pack(&rows, (uint32_t)k, b->panels + i / INGOT_PANEL_TOKENS * s_stride * INGOT_PANEL_BLOCK_BYTES);
    }
}

static ingot_status run(const ingot_kernel *kernel, const ingot_linear_call *call, uint64_t tile_bytes) {
    const size_t m = call->m, width = (size_t)16 * (call->tile_end - call->tile_begin);
    const size_t k = ((size_t)call->k + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, s_stride = k / 32;
    buffers b = allocate_buffers(m, k, s_stride, width);
    if (b.a == NULL || b.a_scale == NULL || b.a_sum == NULL || b.x == NULL || b.out == NULL || b.panels == NULL) {
        release(&b);
        return ingot_fail(INGOT_ERROR_OUT_OF_MEMORY, "kernel run: no memory for %zu tokens of %zu", m, k);
    }
    for (size_t i = 0; i < m; i++) {
        const float *x = call->x + i * call->k;
        memcpy(b.x + i * k, x, call->k * sizeof(float));
        const ingot_quantize_fn quantize =
            call->dtype == INGOT_DTYPE_T2 ? ingot_quantize_token : ingot_quantize_f32_a8__ref;
        quantize(x, call->k, call->k, b.a + i * k, b.a_scale + i * s_stride, b.a_sum + i * s_stride);
    }
    pack_panels(&b, m, k, s_stride);
    const ingot_linear_args args = {
        .weights = call->weights,
        .tile_bytes = (size_t)tile_bytes,
        .tile_offsets = call->tile_offsets,
        .layout = call->layout != 0 ? call->layout : INGOT_LAYOUT_T16,
        .k = call->k,
        .group = call->group,
        .tile_begin = call->tile_begin,
        .tile_end = call->tile_end,
        .codebook = call->codebook,
        .delta = call->delta,
        .m = call->m,
        .a = b.a,
        .a_scale = b.a_scale,
        .a_sum = b.a_sum,
        .x = b.x,
        .panels = m >= INGOT_PANEL_FROM ? b.panels : NULL,
        .panel_bytes = s_stride * INGOT_PANEL_BLOCK_BYTES,
        .a_stride = k,
        .s_stride = s_stride,
        .x_stride = k,
        .out = b.out,
        .out_stride = width,
    };
    ((ingot_linear_fn)kernel->run)(&args);
    memcpy(call->out, b.out, m * width * sizeof(float));
    release(&b);
    return INGOT_OK;
}

ingot_status ingot_kernel_run(uint32_t index, const ingot_linear_call *call) {
    const ingot_kernel *kernel = ingot_kernel_at(index);
    if (kernel == NULL || call == NULL || call->struct_size != sizeof *call) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT,
                          "kernel run: kernel %u of %u, struct_size %u, expected one that exists and %zu", index,
                          ingot_kernel_count(), call == NULL ? 0 : call->struct_size, sizeof *call);
    }
    if (kernel->op != INGOT_KERNEL_OP_linear || call->dtype != kernel->dtype) {
        return ingot_fail(INGOT_ERROR_INVALID_ARGUMENT, "kernel run: dtype is %u, '%s' takes %u", call->dtype,
                          kernel->name, kernel->dtype);
    }
    if ((kernel->isa & ingot_cpu_mask()) == 0) {
        return ingot_fail(INGOT_ERROR_HARDWARE, "kernel run: '%s' is not available, the mask is 0x%x", kernel->name,
                          ingot_cpu_mask());
    }
    const ingot_status shape = check_shape(call);
    if (shape != INGOT_OK) return shape;
    const uint64_t tile_bytes = ingot_tile_bytes(call->dtype, call->k, stored_group(call));
    const ingot_status memory = check_memory(call, tile_bytes);
    return memory != INGOT_OK ? memory : run(kernel, call, tile_bytes);
}
