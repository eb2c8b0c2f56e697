// SPDX-License-Identifier: Apache-2.0
// Runs a block of CUDA threads as coroutines, one after the other, warp by warp.
#include "emulated_threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <vector>

#include "kernel_args.h"

#include "device_emulation.h"

emulated_place emulated;
int emulated_plant;

namespace {

enum { MOST_THREADS = 256, STACK_BYTES = 64 * 1024, SHARED_BYTES = 48 * 1024, WORDS = 6, COPIES = 64 };
enum thread_state { READY, AT_BARRIER, AT_EXCHANGE, DONE };

struct pending_copy {
    void *to;
    const void *from;
    uint32_t bytes, group;
};

struct coroutine {
    void *stack_pointer;
    uint8_t *stack;
    thread_state state;
    uint32_t kind;  // of the exchange that it waits in
    uint32_t turn;  // exchanges so far
    size_t shared;  // bytes that it has asked for
    uint32_t group; // of cp.async that is being filled
    std::vector<pending_copy> copies;
};

coroutine threads[MOST_THREADS];
uint32_t thread_count, running;
uint32_t exchanged[MOST_THREADS / 32][2][WORDS * 32];
alignas(16) uint8_t shared_memory[SHARED_BYTES];
void *scheduler;
const emulated_kernel *kernel;
const void *kernel_args;
char fault[200];
emulated_kernel *kernels;

#if defined(__x86_64__)
extern "C" void emulated_switch(void **from, void *to);
__asm__(
    ".text\n.type emulated_switch,@function\nemulated_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n");

void prepare_stack(coroutine &thread, void (*enter)()) {
    void **top = (void **)(thread.stack + STACK_BYTES);
    *--top = nullptr; // the frame is aligned as after a call
    *--top = (void *)enter;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    thread.stack_pointer = top;
}
#else
ucontext_t contexts[MOST_THREADS + 1];

void emulated_switch(void **from, void *to) {
    static void *places[MOST_THREADS + 1];
    const size_t own = from == &scheduler ? MOST_THREADS : (size_t)running;
    *from = &places[own];
    swapcontext(&contexts[own], &contexts[(void **)to - places]);
}
void prepare_stack(coroutine &thread, void (*enter)()) {
    const size_t index = (size_t)(&thread - threads);
    ucontext_t *context = &contexts[index];
    getcontext(context);
    context->uc_stack.ss_sp = thread.stack;
    context->uc_stack.ss_size = STACK_BYTES;
    makecontext(context, enter, 0);
    static void *first[MOST_THREADS + 1];
    (void)first;
    thread.stack_pointer = nullptr;
}
#endif

void fail(const char *text) {
    if (fault[0] == 0) {
        snprintf(fault, sizeof fault, "%s: %s (block %u %u %u, thread %u)", kernel->name, text, emulated.block.x,
                 emulated.block.y, emulated.block.z, running);
    }
}

void leave(thread_state state) {
    coroutine &own = threads[running];
    const uint32_t index = running;
    own.state = state;
    emulated_switch(&own.stack_pointer, scheduler);
    running = index;
    emulated.thread.x = index;
}

void run_thread() {
    kernel->enter(kernel_args);
    leave(DONE);
    abort();
}

// Lets the warp go on if all its lanes wait for one another.
bool release_warp(uint32_t warp) {
    for (uint32_t i = 32 * warp; i < 32 * warp + 32; i++) {
        if (threads[i].state != AT_EXCHANGE) return false;
        if (threads[i].kind != threads[32 * warp].kind || threads[i].turn != threads[32 * warp].turn) {
            fail("the lanes of a warp meet in different exchanges");
        }
    }
    for (uint32_t i = 32 * warp; i < 32 * warp + 32; i++) threads[i].state = READY;
    return true;
}

void run_warp(uint32_t warp, bool backwards) {
    do {
        for (uint32_t n = 0; n < 32; n++) {
            const uint32_t i = 32 * warp + (backwards ? 31 - n : n);
            if (threads[i].state != READY) continue;
            running = i;
            emulated.thread.x = i;
            emulated_switch(&scheduler, threads[i].stack_pointer);
        }
    } while (release_warp(warp));
}

// Whether all are done; else all must be at the barrier, which opens.
bool all_done() {
    uint32_t done = 0, waiting = 0;
    for (uint32_t i = 0; i < thread_count; i++) {
        done += threads[i].state == DONE;
        waiting += threads[i].state == AT_BARRIER;
    }
    if (done == thread_count) return true;
    if (waiting != thread_count) {
        fail("not all threads reach a barrier or an exchange");
        return true;
    }
    for (uint32_t i = 0; i < thread_count; i++) threads[i].state = READY;
    return false;
}

void run_block(bool backwards) {
    memset(shared_memory, 0xff, sizeof shared_memory);
    for (uint32_t i = 0; i < thread_count; i++) {
        coroutine &thread = threads[i];
        if (thread.stack == nullptr) thread.stack = (uint8_t *)aligned_alloc(64, STACK_BYTES);
        thread.state = READY;
        thread.turn = thread.group = 0;
        thread.shared = 0;
        thread.copies.clear();
        prepare_stack(thread, run_thread);
    }
    do {
        for (uint32_t n = 0; n < thread_count / 32; n++) {
            run_warp(backwards ? thread_count / 32 - 1 - n : n, backwards);
        }
    } while (fault[0] == 0 && !all_done());
}

void perform(coroutine &thread, uint32_t groups) {
    size_t kept = 0;
    for (const pending_copy &copy : thread.copies) {
        if (copy.group < groups) {
            memcpy(copy.to, copy.from, copy.bytes);
        } else {
            thread.copies[kept++] = copy;
        }
    }
    thread.copies.resize(kept);
}

} // namespace

emulated_kernel::emulated_kernel(const char *kernel_name, size_t size, uint32_t most, void (*function)(const void *))
    : name(kernel_name), args_size(size), threads(most), enter(function), next(kernels) {
    kernels = this;
}

const emulated_kernel *emulated_find(const char *name) {
    const emulated_kernel *found = kernels;
    while (found != nullptr && strcmp(found->name, name) != 0) found = found->next;
    return found;
}

const char *emulated_launch(const emulated_kernel *function, emulated_index grid, uint32_t block, const void *args) {
    const char *order = getenv("INGOT_EMULATION_ORDER"), *plant = getenv("INGOT_PLANT");
    kernel = function;
    kernel_args = args;
    fault[0] = 0;
    emulated_plant = plant != nullptr ? atoi(plant) : 0;
    emulated.grid = grid;
    emulated.block_size = {block, 1, 1};
    emulated.thread = {0, 0, 0};
    thread_count = block;
    if (block == 0 || block % 32 != 0 || block > function->threads || grid.y > 65535 || grid.z > 65535 ||
        grid.x == 0 || grid.y == 0 || grid.z == 0) {
        fail("a launch that no device takes");
        return fault;
    }
    for (uint32_t z = 0; z < grid.z; z++) {
        for (uint32_t y = 0; y < grid.y; y++) {
            for (uint32_t x = 0; x < grid.x && fault[0] == 0; x++) {
                emulated.block = {x, y, z};
                run_block(order != nullptr && order[0] == 'b');
            }
        }
    }
    return fault;
}

void emulated_barrier() { leave(AT_BARRIER); }

const uint32_t *emulated_exchange(const uint32_t *words, uint32_t count, uint32_t kind) {
    coroutine &own = threads[running];
    uint32_t *room = exchanged[running / 32][own.turn % 2];
    memcpy(room + count * (running % 32), words, 4 * count);
    own.kind = kind;
    own.turn++;
    leave(AT_EXCHANGE);
    return room;
}

void *emulated_shared(size_t bytes) {
    coroutine &own = threads[running];
    void *found = shared_memory + own.shared;
    own.shared += (bytes + 15) / 16 * 16;
    if (own.shared > SHARED_BYTES) {
        fail("more than 48 KiB of shared memory");
        return shared_memory;
    }
    return found;
}

void emulated_copy(void *to, const void *from, uint32_t bytes) {
    threads[running].copies.push_back({to, from, bytes, threads[running].group});
}
void emulated_commit() { threads[running].group++; }
void emulated_wait(uint32_t left) {
    coroutine &own = threads[running];
    perform(own, own.group > left ? own.group - left : 0);
}

void emulated_check_aligned(const void *pointer, size_t alignment) {
    if ((size_t)pointer % alignment != 0) fail("a misaligned address");
}

// Row and column of an element by lane: the layout that the PTX manual draws for m16n8k32 and m16n8k8.
void emulated_mma_int8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool with_sign) {
    const uint32_t own[WORDS] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const uint32_t *all = emulated_exchange(own, WORDS, with_sign ? 3 : 4);
    const uint32_t lane = running % 32;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        for (uint32_t quad = 0; quad < 8; quad++) { // k = 4 * quad + byte
            const uint32_t *of_a = all + WORDS * (4 * (row % 8) + quad % 4);
            const uint32_t *of_b = all + WORDS * (4 * column + quad % 4);
            d[i] = emulated_dot4(d[i], of_a[row / 8 + 2 * (quad / 4)], of_b[4 + quad / 4], with_sign);
        }
    }
}

void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const uint32_t own[WORDS] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const uint32_t *all = emulated_exchange(own, WORDS, 5);
    const uint32_t lane = running % 32;
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        for (uint32_t k = 0; k < 8; k++) {
            const uint32_t of_a = all[WORDS * (4 * (row % 8) + k % 4) + row / 8 + 2 * (k / 4)];
            const uint32_t of_b = all[WORDS * (4 * column + k % 4) + 4 + k / 4];
            d[i] += bits_to_float(of_a & 0xffffe000u) * bits_to_float(of_b & 0xffffe000u);
        }
    }
}

float half_to_float(uint32_t bits) {
    const uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
    const float sign = bits & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
    return sign * (exponent == 0 ? ldexpf((float)fraction, -24) : ldexpf((float)(fraction | 0x400), (int)exponent - 25));
}

uint16_t float_to_half(float value) {
    const uint16_t sign = signbit(value) ? 0x8000 : 0;
    const float size = fabsf(value);
    if (isnan(value)) return 0x7fff;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent;
    (void)frexpf(size, &exponent); // size in [2^(exponent - 1), 2^exponent)
    const int step = exponent - 11 > -24 ? exponent - 11 : -24;
    const float steps = nearbyintf(ldexpf(size, -step));
    const float rounded = ldexpf(steps, step);
    if (rounded < ldexpf(1.0f, -14)) return (uint16_t)(sign | (uint16_t)ldexpf(rounded, 24));
    const float fraction = frexpf(rounded, &exponent);
    return (uint16_t)(sign | ((uint32_t)(exponent + 14) << 10) | ((uint32_t)(fraction * 2048.0f) & 0x3ff));
}
