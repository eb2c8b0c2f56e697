/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_MODEL_H
#define INGOT_MODEL_H

#include "core/program.h"

/** One more user of the model; ingot_model_close() gives it back. */
void ingot_model_acquire(ingot_model *model);

#endif
