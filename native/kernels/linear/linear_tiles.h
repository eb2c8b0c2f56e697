/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes of stored tiles, from the same description of the formats that the kernels use. */
#ifndef INGOT_KERNELS_LINEAR_TILES_H
#define INGOT_KERNELS_LINEAR_TILES_H

#include <stdint.h>

/** Bytes of a dense tile of 16 rows over k columns, which are rounded up to whole groups. */
uint64_t ingot_linear_dense_bytes(uint32_t dtype, uint32_t k, uint32_t group);

/** Bytes of the sparse tile that starts here, by its list.
 * @param room bytes that may be read. @return 0 if the list is wrong or does not fit. */
uint64_t ingot_linear_sparse_bytes(uint32_t dtype, uint32_t k, uint32_t group, const uint8_t *tile, uint64_t room);

#endif
