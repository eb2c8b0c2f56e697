/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/vector/vector_ref.h"

#include "kernels/attention/attention_body.h"
#include "kernels/row_kernels.h"

void ingot_attention_f16_f32__ref(const ingot_attention_args *args) { attend(args); }
