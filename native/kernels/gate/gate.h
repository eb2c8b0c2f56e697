/* SPDX-License-Identifier: Apache-2.0 */
/* Kernel contract of `gate`: y[i] = act(gate[i]) * up[i] for 16 elements, act by `kind`:
 *   silu x / (1 + e^-x); gelu_tanh in its rearranged form (vector.h); relu max(x, 0).
 * With up == NULL: y[i] = act(gate[i]). Shapes: gate, up, y 16 f32; y may be gate or up.
 * Exact: the same bits on every ISA. Thread-safe.
 * Source: Shazeer 2020 (arXiv:2002.05202); Hendrycks and Gimpel 2016 (arXiv:1606.08415). */
#ifndef INGOT_KERNELS_GATE_H
#define INGOT_KERNELS_GATE_H

#include <stdint.h>

#include "ingot_format.h"

typedef void (*ingot_gate_fn)(ingot_activation_kind kind, const float *gate, const float *up, float *y);

#endif
