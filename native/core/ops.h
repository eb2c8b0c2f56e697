/* SPDX-License-Identifier: Apache-2.0 */
/* The ops. Every thread calls them for every instruction; rows of the output are never zero here. */
#ifndef INGOT_OPS_H
#define INGOT_OPS_H

#include "core/lane.h"

void ingot_op_linear(ingot_lane *lane, const ingot_step *step);
void ingot_op_attention(ingot_lane *lane, const ingot_step *step);
void ingot_op_embed(ingot_lane *lane, const ingot_step *step);
void ingot_op_rms_norm(ingot_lane *lane, const ingot_step *step);
void ingot_op_layer_norm(ingot_lane *lane, const ingot_step *step);
void ingot_op_rope(ingot_lane *lane, const ingot_step *step);
/** Rotates the pair (x[i], x[j]) of every head and copies the rest of it. Shapes: x, y (width). */
void ingot_rope_heads(const ingot_rope_parameters *parameters, const float *table, const float *x, uint32_t width,
                      float *y);
/** A row's cosines and sines, by its position. */
const float *ingot_rope_table(const ingot_session *session, const ingot_step *step, uint32_t row);
void ingot_op_elementwise(ingot_lane *lane, const ingot_step *step);
void ingot_op_select_last(ingot_lane *lane, const ingot_step *step);

#endif
