/* SPDX-License-Identifier: Apache-2.0 */
#include "core/linear_feed.h"

#include <string.h>

#include "kernels/dispatch.h"
#include "kernels/prefetch.h"

enum { TOKENS = INGOT_PANEL_TOKENS, COLUMNS = INGOT_FEED_COLUMNS };

/* Kernels that the tuner chose may read rows; and so do those that have no panels for a short end. */
static bool reads_panels_alone(const ingot_session *session, const ingot_step *step, uint32_t m) {
    const uint32_t end = m % TOKENS;
    if (!step->takes_panels || m <= INGOT_DECODE_TOKENS) {
        return false;
    }
    if (!INGOT_PANELS_ALONE && end != 0 && end < INGOT_PANEL_FROM) {
        return false;
    }
    for (uint32_t p = 0; p < step->part_count; p++) {
        const ingot_linear_fn chosen = session->choices.kernels[1][step->parts[p].dtype];
        if (chosen != NULL && chosen != step->parts[p].kernel) {
            return false;
        }
    }
    return true;
}

bool ingot_feed_active(const ingot_session *session, const ingot_step *step, uint32_t m) {
    return step->feeds && !session->tracing && reads_panels_alone(session, step + 1, m);
}

static uint32_t width_of(const ingot_session *session, const ingot_step *step) {
    return session->places[step->outputs[0]].width;
}

/* Of few tokens nothing is fed, so that two panels have at least nine rows; 64 bytes for their alignment. */
bool ingot_feed_fits(uint32_t width) {
    const uint64_t row = (uint64_t)width * sizeof(float);
    return 2 * (uint64_t)ingot_quantized_width(width) / COLUMNS * INGOT_PANEL_BLOCK_BYTES + 64 <=
           (INGOT_DECODE_TOKENS + 1) * row;
}

size_t ingot_feed_panel_bytes(const ingot_session *session, const ingot_step *step) {
    return (size_t)ingot_quantized_width(width_of(session, step)) / COLUMNS * INGOT_PANEL_BLOCK_BYTES;
}

uint8_t *ingot_feed_panels(const ingot_session *session, const ingot_step *step) {
    const ingot_activation_place *place = &session->places[step->outputs[0]];
    const size_t panels = (session->chunk + TOKENS - 1) / TOKENS;
    const uintptr_t end = (uintptr_t)(place->data + (size_t)session->chunk * place->stride);
    return (uint8_t *)((end - panels * ingot_feed_panel_bytes(session, step)) & ~(uintptr_t)63);
}

static uint8_t *panel_of(const ingot_session *session, const ingot_step *step, uint32_t token, uint32_t block) {
    return ingot_feed_panels(session, step) + token / TOKENS * ingot_feed_panel_bytes(session, step) +
           (size_t)block * INGOT_PANEL_BLOCK_BYTES;
}

/* All threads read the last layer's panels: their lines come back while the block is computed. */
static void prefetch_panels(const ingot_session *session, const ingot_step *step, uint32_t m, uint32_t block) {
    for (uint32_t token = 0; token < m; token += TOKENS) {
        const uint8_t *panel = panel_of(session, step, token, block);
        for (uint32_t i = 0; i < INGOT_PANEL_BLOCK_BYTES; i += 64) {
            ingot_prefetch_write(panel + i);
        }
    }
}

void ingot_feed_begin(const ingot_session *session, const ingot_thread_area *area, const ingot_step *step, uint32_t m,
                      uint32_t block) {
    if (m % TOKENS != 0 || width_of(session, step) - block * COLUMNS < COLUMNS) {
        memset(area->fed, 0, (size_t)(m + TOKENS - 1) / TOKENS * TOKENS * COLUMNS * sizeof(float));
    }
    if (INGOT_PREFETCH_OUTPUTS) {
        prefetch_panels(session, step, m, block);
    }
}

void ingot_feed_end(const ingot_session *session, const ingot_thread_area *area, const ingot_step *step, uint32_t m,
                    uint32_t block) {
    const uint32_t width = width_of(session, step), blocks = (width + COLUMNS - 1) / COLUMNS;
    for (uint32_t token = 0; token < m; token += TOKENS) {
        uint8_t *panel = panel_of(session, step, token, block);
        int8_t a[TOKENS * COLUMNS];
        float a_scale[TOKENS];
        int32_t a_sum[TOKENS];
        session->model->rows.quantize(area->fed + (size_t)token * COLUMNS, sizeof a, sizeof a, a, a_scale, a_sum);
        ingot_panel_pack_block(a, a_scale, a_sum, panel);
        if (block + 1 == blocks) {
            memset(panel + INGOT_PANEL_BLOCK_BYTES, 0,
                   (size_t)(ingot_quantized_width(width) / COLUMNS - blocks) * INGOT_PANEL_BLOCK_BYTES);
        }
    }
}
