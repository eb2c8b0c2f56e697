/* SPDX-License-Identifier: Apache-2.0 */
/* Messages, log, sizes and digests of the core; prints the line of each expectation that fails. */
#include <stdio.h>
#include <string.h>

#include "core/crc32c.h"
#include "core/error.h"
#include "core/layout.h"
#include "core/sha256.h"
#include "ingot_format.h"

static int failures;

#define EXPECT(condition)                                  \
    do {                                                   \
        if (!(condition)) {                                \
            printf("line %d: %s\n", __LINE__, #condition); \
            failures++;                                    \
        }                                                  \
    } while (0)

static void check_messages(void) {
    char kept[INGOT_ERROR_BYTES], letters[600];
    EXPECT(strcmp(ingot_last_error(), "") == 0 && ingot_last_rule() == 0);
    EXPECT(ingot_fail(INGOT_ERROR_IO, "a %d \x1b[2J\n", 7) == INGOT_ERROR_IO);
    EXPECT(strcmp(ingot_last_error(), "a 7 ?[2J?") == 0);
    ingot_error_copy(kept);
    EXPECT(ingot_fail_rule(INGOT_ERROR_FORMAT, INGOT_RULE_MAGIC, "b") == INGOT_ERROR_FORMAT);
    EXPECT(ingot_last_rule() == INGOT_RULE_MAGIC && strcmp(ingot_last_error(), "b") == 0);
    ingot_error_restore(INGOT_OK, kept);
    EXPECT(strcmp(ingot_last_error(), "b") == 0);
    ingot_error_restore(INGOT_ERROR_IO, kept);
    EXPECT(strcmp(ingot_last_error(), "a 7 ?[2J?") == 0);
    memset(letters, 'x', sizeof letters - 1);
    letters[sizeof letters - 1] = '\0';
    (void)ingot_fail(INGOT_ERROR_IO, "%s", letters);
    EXPECT(strlen(ingot_last_error()) == INGOT_ERROR_BYTES - 1);
}

static void check_names(void) {
    for (int status = -1; status < 100; status++) {
        bool band = status >= 0 && strcmp(ingot_status_name((ingot_status)status), "unknown") != 0;
        bool known = (status >= 0 && status <= 6) || (status >= 20 && status <= 23) || (status >= 40 && status <= 45) ||
                     status == 60 || status == 61 || status == 90;
        EXPECT(band == known);
    }
    EXPECT(ingot_abi_version() == INGOT_ABI_VERSION);
    EXPECT(ingot_struct_size(INGOT_STRUCT_LINEAR_CALL) == sizeof(ingot_linear_call));
    EXPECT(ingot_struct_size((ingot_struct)99) == 0);
}

static void check_log(void) {
    char out[64], many[32768];
    EXPECT(ingot_log_drain(NULL, 8) == 0 && ingot_log_drain(out, sizeof out) == 0);
    for (int turn = 0; turn < 5000; turn++) { /* many times around the ring */
        ingot_log("one");
        ingot_log("two");
        EXPECT(ingot_log_drain(out, 3) == 3 && memcmp(out, "one", 3) == 0);
        EXPECT(ingot_log_drain(out, sizeof out) == 5 && memcmp(out, "\ntwo\n", 5) == 0);
    }
    for (int line = 0; line < 10000; line++) { /* a full log drops whole lines */
        ingot_log("seven78");
    }
    size_t size = ingot_log_drain(many, sizeof many);
    EXPECT(size > 8000 && size <= 16384 && size % 8 == 0 && many[size - 1] == '\n');
    EXPECT(ingot_log_drain(many, sizeof many) == 0);
}

/* Source: FIPS 180-4 examples, RFC 3720 B.4. */
static void check_digests(void) {
    static const uint8_t ABC[32] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                    0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                    0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    uint8_t digest[INGOT_SHA256_BYTES];
    ingot_sha256((const uint8_t *)"abc", 3, digest);
    EXPECT(memcmp(digest, ABC, sizeof digest) == 0);
    EXPECT(ingot_crc32c(0, (const uint8_t *)"123456789", 9) == 0xE3069283u);
    EXPECT(ingot_crc32c(ingot_crc32c(0, (const uint8_t *)"1234", 4), (const uint8_t *)"56789", 5) == 0xE3069283u);
}

/* One line per format, group and k: what the layout says; the caller compares with Python. */
static void print_sizes(void) {
    static const uint32_t FORMATS[][2] = {{INGOT_DTYPE_F16, 0},  {INGOT_DTYPE_Q8, 32},   {INGOT_DTYPE_Q4, 32},
                                          {INGOT_DTYPE_Q4, 64},  {INGOT_DTYPE_Q4, 128},  {INGOT_DTYPE_C4, 32},
                                          {INGOT_DTYPE_Q6, 32},  {INGOT_DTYPE_C5, 32},   {INGOT_DTYPE_Q4Z, 32},
                                          {INGOT_DTYPE_Q4Z, 64}, {INGOT_DTYPE_Q4Z, 128}, {INGOT_DTYPE_C3, 32},
                                          {INGOT_DTYPE_C2, 32},  {INGOT_DTYPE_T2, 0}};
    for (size_t f = 0; f < sizeof FORMATS / sizeof FORMATS[0]; f++) {
        for (uint64_t k = 1; k < 700; k += 7) {
            printf("%u %u %u %llu\n", FORMATS[f][0], FORMATS[f][1], (unsigned)k,
                   (unsigned long long)ingot_packed_bytes(FORMATS[f][0], k + 3, k, FORMATS[f][1]));
        }
    }
    EXPECT(ingot_tile_bytes(INGOT_DTYPE_Q8, 0, 32) == 0 && ingot_tile_bytes(INGOT_DTYPE_Q6, 32, 64) == 0);
    EXPECT(ingot_tile_bytes(INGOT_DTYPE_Q4, 32, 48) == 0 && ingot_tile_bytes(INGOT_DTYPE_C4, UINT64_MAX, 32) == 0);
    EXPECT(ingot_packed_bytes(INGOT_DTYPE_C4, UINT64_MAX, 32, 32) == 0);
}

int main(void) {
    check_messages();
    check_names();
    check_log();
    check_digests();
    print_sizes();
    return failures == 0 ? 0 : 1;
}
