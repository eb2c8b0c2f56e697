/* SPDX-License-Identifier: Apache-2.0 */
/* A qemu plugin that counts executed instructions: all, SDOT and SMMLA. One guest thread only.
 * Debian ships no header, so the part of the plugin interface (version 1) that we use is declared here.
 * Argument: out=FILE, written at exit as "total sdot smmla", then "address instructions executions" of each block. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 = 0 };

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*call)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int op, void *counter, uint64_t add);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, int op, void *counter, uint64_t add);
void qemu_plugin_register_atexit_cb(plugin_id id, void (*call)(plugin_id, void *), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);

/* A translated block; one that is translated again gets another. */
typedef struct block_count {
    uint64_t address, instructions, executions;
    struct block_count *next;
} block_count;

static uint64_t total, sdot, smmla;
static block_count *blocks;
static char out_path[4096];

static int is_sdot(uint32_t word) {
    const int vector = (word & 0xbfe0fc00u) == 0x0e809400u;
    const int by_element = (word & 0xbfc0f400u) == 0x0f80e000u;
    return vector || by_element;
}

static int is_smmla(uint32_t word) { return (word & 0xffe0fc00u) == 0x4e80a400u; }

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    const size_t count = qemu_plugin_tb_n_insns(block);
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &total, count);
    block_count *record = calloc(1, sizeof *record);
    if (record != NULL) {
        *record = (block_count){qemu_plugin_tb_vaddr(block), count, 0, blocks};
        blocks = record;
        qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &record->executions, 1);
    }
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
        if (is_sdot(word)) qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &sdot, 1);
        if (is_smmla(word)) qemu_plugin_register_vcpu_insn_exec_inline(insn, ADD_U64, &smmla, 1);
    }
}

static void finished(plugin_id id, void *data) {
    (void)id;
    (void)data;
    FILE *file = fopen(out_path, "w");
    if (file == NULL) return;
    fprintf(file, "%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", total, sdot, smmla);
    for (const block_count *b = blocks; b != NULL; b = b->next) {
        if (b->executions > 0) {
            fprintf(file, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", b->address, b->instructions, b->executions);
        }
    }
    fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    if (argc < 1 || strncmp(argv[0], "out=", 4) != 0 || strlen(argv[0]) >= sizeof out_path) return -1;
    strcpy(out_path, argv[0] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
