/* SPDX-License-Identifier: Apache-2.0 */
/* linear: quantize the input, share the tiles of all parts, finish each tile while it is in the cache. */
#include <string.h>

#include "core/linear_feed.h"
#include "core/ops.h"
#include "core/pick.h"
#include "kernels/dispatch.h"
#include "kernels/prefetch.h"

/* The input as the kernels read it. */
typedef struct linear_input {
    const int8_t *a;
    const float *a_scale;
    const int32_t *a_sum;
    const float *x;
    const uint8_t *panels;
    size_t a_stride, s_stride, x_stride;
    size_t panel_bytes;
    bool feeds; /* the outputs go to the panels of the next linear */
} linear_input;

/* Where columns [first, end) of the gated rows go. */
typedef struct gated_place {
    float *data;
    size_t stride;
    uint32_t first, end;
} gated_place;

static const float *normalized_row(const ingot_lane *lane, const ingot_step *step, uint32_t row) {
    const ingot_session *session = lane->session;
    const ingot_step *norm = &session->model->steps[step->absorbed_step];
    const ingot_norm_parameters *parameters = norm->parameters;
    session->model->rows.rms_norm(ingot_row(session, norm->inputs[0], row), ingot_constant(session, norm->inputs[1]),
                                  parameters->width, parameters->epsilon, lane->area->row);
    return lane->area->row;
}

/* How the parts in work want their activations: per 32 k, or per token (t2). A linear of both goes over its parts twice
 * with the same buffers. */
static bool wants(const ingot_linear_part *part, bool per_token) {
    return (part->dtype == INGOT_DTYPE_T2) == per_token;
}

static ingot_quantize_fn quantizer(const ingot_lane *lane, bool per_token) {
    return per_token ? ingot_quantize_token : lane->session->model->rows.quantize;
}

static void pad_row(const float *x, uint32_t k, uint32_t k_padded, float *out) {
    memcpy(out, x, k * sizeof(float));
    memset(out + k, 0, (k_padded - k) * sizeof(float));
}

/* One token: every thread prepares the row for itself, which is cheaper than waiting for another. */
static linear_input prepare_single(ingot_lane *lane, const ingot_step *step, bool per_token) {
    const ingot_session *session = lane->session;
    const ingot_thread_area *area = lane->area;
    const uint32_t k = session->places[step->inputs[0]].width;
    ingot_lane_synchronize(lane);
    bool norm_here = step->absorbed_step >= 0 && !session->tracing;
    const float *x = norm_here ? normalized_row(lane, step, 0) : ingot_row(session, step->inputs[0], 0);
    if (per_token || step->quantizes) {
        quantizer(lane, per_token)(x, k, ingot_quantized_width(k), area->a, area->a_scale, area->a_sum);
    }
    if (step->reads_float && k % 32 != 0) {
        float *padded = area->row; /* as wide as any padded row, see program.c; x may be the same row */
        if (x != padded) {
            memcpy(padded, x, k * sizeof(float));
        }
        memset(padded + k, 0, (32 - k % 32) * sizeof(float));
        x = padded;
    }
    return (linear_input){.a = area->a, .a_scale = area->a_scale, .a_sum = area->a_sum, .x = x};
}

static void quantize_row(const ingot_session *session, const float *x, uint32_t k, uint32_t row,
                         ingot_quantize_fn quantize) {
    const size_t wide = session->model->widest_k, groups = row * (wide / 32);
    quantize(x, k, ingot_quantized_width(k), session->a + row * wide, session->a_scale + groups,
             session->a_sum + groups);
}

/* The rows [begin, end) of one panel, which are in the cache. */
static void pack_panel(const ingot_session *session, uint32_t k, uint32_t begin, uint32_t end) {
    const size_t wide = session->model->widest_k, groups = wide / 32;
    const ingot_quantized_rows rows = {
        .a = session->a + begin * wide,
        .a_scale = session->a_scale + begin * groups,
        .a_sum = session->a_sum + begin * groups,
        .a_stride = wide,
        .s_stride = groups,
        .count = end - begin,
    };
    ingot_panel_pack(&rows, ingot_quantized_width(k),
                     session->panels + begin / INGOT_PANEL_TOKENS * session->panel_bytes);
}

static uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Whether the norm before is computed here, row by row. */
static bool norms_rows(const ingot_session *session, const ingot_step *step) {
    return step->absorbed_step >= 0 && session->model->steps[step->absorbed_step].absorbed_always && !session->tracing;
}

/* Whether the step before has made this one's panels. */
static bool is_fed(const ingot_session *session, const ingot_step *step, uint32_t m) {
    const ingot_step *before = step - 1;
    return step != session->model->steps && before->feeds && ingot_feed_active(session, before, m);
}

/* What has to be done for each row of several tokens. */
typedef struct row_work {
    bool quantizes, packs, pads, per_token;
} row_work;

static void prepare_rows(ingot_lane *lane, const ingot_step *step, const row_work *work, uint32_t begin, uint32_t end) {
    ingot_session *session = lane->session;
    const uint32_t k = session->places[step->inputs[0]].width, padded = session->model->padded_float_k;
    for (uint32_t row = begin; row < end; row++) {
        const float *x =
            norms_rows(session, step) ? normalized_row(lane, step, row) : ingot_row(session, step->inputs[0], row);
        if (work->quantizes) {
            quantize_row(session, x, k, row, quantizer(lane, work->per_token));
        }
        if (work->pads) {
            pad_row(x, k, padded, session->padded + (size_t)row * padded);
        }
    }
    if (work->packs) {
        pack_panel(session, k, begin, end);
    }
}

static void share_rows(ingot_lane *lane, const ingot_step *step, const row_work *work, uint32_t m) {
    const uint32_t run = work->packs ? INGOT_PANEL_TOKENS : 1;
    uint32_t first, last;
    ingot_lane_share(lane);
    while (ingot_lane_take(lane, (m + run - 1) / run, 1, &first, &last)) {
        for (uint32_t begin = first * run; begin < smaller(last * run, m); begin += run) {
            prepare_rows(lane, step, work, begin, smaller(begin + run, m));
        }
    }
}

/* Several tokens: the rows are shared out, panel by panel. */
static linear_input prepare_many(ingot_lane *lane, const ingot_step *step, uint32_t m, bool per_token) {
    const ingot_session *session = lane->session;
    const ingot_model *model = session->model;
    const ingot_activation_place *x = &session->places[step->inputs[0]];
    const bool fed = is_fed(session, step, m);
    row_work work = {.pads = step->reads_float && x->width % 32 != 0, .per_token = per_token};
    work.quantizes = !fed && (per_token || step->quantizes);
    work.packs = work.quantizes && step->reads_panels && m >= INGOT_PANEL_FROM;
    if (work.quantizes || work.pads) {
        share_rows(lane, step, &work, m);
    }
    const uint8_t *panels = work.packs ? session->panels : NULL;
    return (linear_input){
        .a = session->a,
        .a_scale = session->a_scale,
        .a_sum = session->a_sum,
        .x = work.pads ? session->padded : x->data,
        .panels = fed ? ingot_feed_panels(session, step - 1) : panels,
        .panel_bytes = fed ? ingot_feed_panel_bytes(session, step - 1) : session->panel_bytes,
        .a_stride = model->widest_k,
        .s_stride = model->widest_k / 32,
        .x_stride = work.pads ? model->padded_float_k : x->stride,
    };
}

/* Four floats anywhere, which every compiler keeps in one register. */
typedef float four_floats __attribute__((vector_size(16), aligned(4), may_alias));

static inline four_floats load_four(const float *from) { return *(const four_floats *)(const void *)from; }

/* `to` may be `add` or `from`. */
static void finish_row(const float *from, const float *bias, const float *add, uint32_t count, float *to) {
    uint32_t i = 0;
    for (; i + 4 <= count; i += 4) {
        four_floats values = load_four(from + i);
        if (bias != NULL) {
            values += load_four(bias + i);
        }
        if (add != NULL) {
            values += load_four(add + i);
        }
        *(four_floats *)(void *)(to + i) = values;
    }
    for (; i < count; i++) {
        const float biased = bias != NULL ? from[i] + bias[i] : from[i];
        to[i] = add != NULL ? biased + add[i] : biased;
    }
}

/* Accumulators of `count` columns from column0: bias, residual; then stored, or of the head the best ones kept. */
static void finish_plain(const ingot_lane *lane, const ingot_step *step, const ingot_linear_part *part,
                         float *accumulators, size_t stride, uint32_t m, uint32_t column0, uint32_t count) {
    const ingot_session *session = lane->session;
    bool picks = session->pick_count != 0 && part->output == session->model->file.step_output;
    bool residual = (step->flags & INGOT_LINEAR_FLAG_RESIDUAL) != 0;
    uint32_t place = 1 + step->part_count + (part->bias != NULL ? step->part_count : 0);
    uint32_t residual_tensor = residual ? step->inputs[place] : 0;
    const ingot_activation_place *out = &session->places[part->output], *added = &session->places[residual_tensor];
    const float *bias = part->bias != NULL ? part->bias + column0 : NULL;
    for (uint32_t row = 0; row < m; row++) {
        float *from = accumulators + row * stride, *to = picks ? from : out->data + row * (size_t)out->stride + column0;
        const float *add = residual ? added->data + row * (size_t)added->stride + column0 : NULL;
        finish_row(from, bias, add, count, to);
        if (picks) {
            ingot_pick_take(session, lane->area, row, to, column0, count);
        }
    }
}

/* Pairs of tiles: gate, up. */
static void finish_gated(const ingot_session *session, const ingot_step *step, const float *accumulators, size_t stride,
                         uint32_t m, uint32_t tile_begin, uint32_t tile_end, const gated_place *place) {
    ingot_activation_kind kind =
        step->epilogue == INGOT_EPILOGUE_SILU_GATE ? INGOT_ACTIVATION_KIND_SILU : INGOT_ACTIVATION_KIND_GELU_TANH;
    const ingot_gate_fn act = session->model->rows.gate;
    for (uint32_t row = 0; row < m; row++) {
        const float *gate = accumulators + row * stride;
        for (uint32_t tile = tile_begin; tile < tile_end; tile += 2, gate += 2 * INGOT_TILE_ROWS) {
            const uint32_t column = tile / 2 * INGOT_TILE_ROWS;
            float *const to = place->data + row * place->stride + (column - place->first);
            if (place->end - column >= INGOT_TILE_ROWS) {
                act(kind, gate, gate + INGOT_TILE_ROWS, to);
                continue;
            }
            float result[INGOT_TILE_ROWS];
            act(kind, gate, gate + INGOT_TILE_ROWS, result);
            memcpy(to, result, (place->end - column) * sizeof(float));
        }
    }
}

/* Rows lie far apart: their lines come while the kernel computes. */
static void prefetch_outputs(const ingot_session *session, const ingot_linear_part *part, uint32_t m, uint32_t column,
                             uint32_t columns) {
    const ingot_activation_place *out = &session->places[part->output];
    const float *to = out->data + column;
    for (uint32_t row = 0; row < m; row++, to += out->stride) {
        for (uint32_t i = 0; i < columns; i += INGOT_TILE_ROWS) {
            ingot_prefetch_write(to + i);
        }
    }
}

static gated_place place_gated(const ingot_lane *lane, const ingot_linear_part *part, bool feeds, uint32_t tile) {
    const ingot_activation_place *out = &lane->session->places[part->output];
    const uint32_t first = tile / INGOT_FEED_TILES * INGOT_FEED_COLUMNS;
    return feeds ? (gated_place){lane->area->fed, INGOT_FEED_COLUMNS, first, out->width}
                 : (gated_place){out->data, out->stride, 0, out->width};
}

static void run_tiles(const ingot_lane *lane, const ingot_step *step, const ingot_linear_part *part,
                      const linear_input *input, uint32_t m, uint32_t tile_begin, uint32_t tile_end) {
    const ingot_session *session = lane->session;
    const size_t stride = (size_t)(tile_end - tile_begin) * INGOT_TILE_ROWS;
    ingot_linear_args args = {
        .weights = part->weights,
        .tile_bytes = part->tile_bytes,
        .tile_offsets = part->tile_offsets,
        .layout = part->layout,
        .k = part->k,
        .group = part->group,
        .tile_begin = tile_begin,
        .tile_end = tile_end,
        .codebook = part->codebook,
        .delta = part->delta,
        .m = m,
        .a = input->a,
        .a_scale = input->a_scale,
        .a_sum = input->a_sum,
        .x = input->x,
        .panels = input->panels,
        .panel_bytes = input->panel_bytes,
        .a_stride = input->a_stride,
        .s_stride = input->s_stride,
        .x_stride = input->x_stride,
        .out = lane->area->tile,
        .out_stride = stride,
    };
    if (INGOT_PREFETCH_OUTPUTS && input->panels != NULL && !input->feeds) {
        const uint32_t unit = step->epilogue != INGOT_EPILOGUE_NONE ? 2 : 1;
        prefetch_outputs(session, part, m, tile_begin / unit * INGOT_TILE_ROWS, (uint32_t)stride / unit);
    }
    const ingot_linear_fn chosen = session->choices.kernels[m > INGOT_DECODE_TOKENS][part->dtype];
    (chosen != NULL ? chosen : part->kernel)(&args);
    if (step->epilogue != INGOT_EPILOGUE_NONE) {
        const gated_place place = place_gated(lane, part, input->feeds, tile_begin);
        finish_gated(session, step, args.out, stride, m, tile_begin, tile_end, &place);
        return;
    }
    uint32_t column = tile_begin * INGOT_TILE_ROWS;
    uint32_t count = part->n - column < stride ? part->n - column : (uint32_t)stride;
    finish_plain(lane, step, part, args.out, stride, m, column, count);
}

static uint32_t count_units(const ingot_linear_part *part, uint32_t unit) { return (part->tiles + unit - 1) / unit; }

/* Blocks of 32 gated columns, each handed on as soon as it is whole. */
static void run_blocks(const ingot_lane *lane, const ingot_step *step, const ingot_linear_part *part,
                       const linear_input *input, uint32_t m, uint32_t begin, uint32_t end) {
    const ingot_session *session = lane->session;
    const uint32_t room = session->tile_floats / (INGOT_TILE_ROWS * m);
    const uint32_t most = smaller(room - room % 2, INGOT_FEED_TILES);
    for (uint32_t block = begin; block < end; block++) {
        const uint32_t stop = smaller((block + 1) * INGOT_FEED_TILES, part->tiles);
        ingot_feed_begin(session, lane->area, step, m, block);
        for (uint32_t tile = block * INGOT_FEED_TILES; tile < stop; tile += most) {
            run_tiles(lane, step, part, input, m, tile, smaller(tile + most, stop));
        }
        ingot_feed_end(session, lane->area, step, m, block);
    }
}

/* Items of the parts in work are numbered through; a run of them is cut at the parts' borders and at what the tile buffer holds. */
static void run_items(const ingot_lane *lane, const ingot_step *step, const linear_input *input, uint32_t m,
                      uint32_t unit, bool per_token, uint32_t begin, uint32_t end) {
    uint32_t most = lane->session->tile_floats / (INGOT_TILE_ROWS * m);
    most -= most % unit;
    for (uint32_t p = 0; p < step->part_count && begin < end; p++) {
        const ingot_linear_part *part = &step->parts[p];
        if (!wants(part, per_token)) {
            continue;
        }
        uint32_t units = count_units(part, unit);
        uint32_t stop = end < units ? end : units;
        if (input->feeds) {
            run_blocks(lane, step, part, input, m, begin, stop);
            return; /* a gated linear has one part */
        }
        for (uint32_t tile = begin * unit; tile < stop * unit; tile += most) {
            uint32_t tile_end = stop * unit - tile < most ? stop * unit : tile + most;
            run_tiles(lane, step, part, input, m, tile, tile_end);
        }
        begin = begin > units ? begin - units : 0;
        end = end > units ? end - units : 0;
    }
}

static void run_parts(ingot_lane *lane, const ingot_step *step, uint32_t m, bool per_token) {
    const bool feeds = ingot_feed_active(lane->session, step, m);
    const uint32_t unit = feeds ? INGOT_FEED_TILES : step->epilogue != INGOT_EPILOGUE_NONE ? 2 : 1;
    uint32_t items = 0, begin, end;
    for (uint32_t p = 0; p < step->part_count; p++) {
        items += wants(&step->parts[p], per_token) ? count_units(&step->parts[p], unit) : 0;
    }
    linear_input input = m == 1 ? prepare_single(lane, step, per_token) : prepare_many(lane, step, m, per_token);
    input.feeds = feeds;
    /* Kernels of panels take two tiles at a time. */
    const uint32_t least = input.panels != NULL && unit == 1 ? 2 : 1, asked = ingot_lane_grain(lane, m);
    const uint32_t grain = asked > least ? asked : least;
    ingot_lane_share(lane);
    while (ingot_lane_take(lane, items, grain, &begin, &end)) {
        run_items(lane, step, &input, m, unit, per_token, begin, end);
    }
}

void ingot_op_linear(ingot_lane *lane, const ingot_step *step) {
    const uint32_t m = ingot_row_count(lane->session, step->inputs[0]);
    if (step->quantizes || step->reads_float) {
        run_parts(lane, step, m, false);
    }
    if (step->quantizes_tokens) {
        run_parts(lane, step, m, true);
    }
}
