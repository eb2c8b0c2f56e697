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
void ingot_op_elementwise(ingot_lane *lane, const ingot_step *step);
void ingot_op_select_last(ingot_lane *lane, const ingot_step *step);

#endif
