/* SPDX-License-Identifier: Apache-2.0 */
/* Single rows of a stored tensor as float32: `embed`, and readers from outside. */
#ifndef INGOT_DEQUANTIZE_H
#define INGOT_DEQUANTIZE_H

#include <stdint.h>

#include "ingot_format.h"

/** Writes row `row` (k floats) of a weight (layout T16) or constant (plain f32) to out.
 * @param data first byte of the tensor; the record has been validated, row is below shape[0]. */
void ingot_row_dequantize(const ingot_tensor_record *record, const uint8_t *data, uint64_t row, float *out);

#endif
