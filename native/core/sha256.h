/* SPDX-License-Identifier: Apache-2.0 */
#ifndef INGOT_SHA256_H
#define INGOT_SHA256_H

#include <stdint.h>

enum { INGOT_SHA256_BYTES = 32 };

/** SHA-256 of the bytes. Source: FIPS 180-4. */
void ingot_sha256(const uint8_t *data, uint64_t size, uint8_t digest[INGOT_SHA256_BYTES]);

#endif
