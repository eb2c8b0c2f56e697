/* SPDX-License-Identifier: Apache-2.0 */
/* The opcodes of format.toml that a kernel tells apart; op_rows of the host asserts that they agree. */
#ifndef INGOT_CUDA_OPCODES_H
#define INGOT_CUDA_OPCODES_H

enum {
    INGOT_CUDA_ACTIVATION = 7,
    INGOT_CUDA_ADD = 8,
    INGOT_CUDA_MUL = 9,
    INGOT_CUDA_SCALE = 10,
    INGOT_CUDA_SOFT_CAP = 11,
    INGOT_CUDA_SELECT_LAST = 12
};

#endif
