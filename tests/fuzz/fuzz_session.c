/* SPDX-License-Identifier: Apache-2.0 */
/* libFuzzer target of the session API: an input is a sequence of calls on two models and four sessions in any order.
 *
 * What must hold: every refusal has a message of its own; nothing fails as INTERNAL; a call that is refused leaves the
 * position; and whatever was fed, forked, cut, saved, restored or guessed on the way, a session's logits are to the bit
 * those of a new session with one thread that is fed the same tokens. INGOT_FUZZ_FOLDER holds session_0.ingot (all
 * positions seen) and session_1.ingot (a window with sinks). */
#include <stdbool.h>
#include <stdio.h>

#include "core/crc32c.h"
#include "watched_memory.h"

enum { MODELS = 2, SLOTS = 4, MOST_TOKENS = 704, MOST_CALLS = 96, CALL_TOKENS = 80, MOST_WIDTH = 256, BLOCK = 64 };

typedef struct slot {
    ingot_session *session;
    uint32_t model, format, rows;
    bool known; /* the tokens are what the session holds */
    bool digested;
    uint32_t count;
    uint32_t digest; /* of the last token's logits */
    int32_t tokens[MOST_TOKENS];
} slot;

typedef struct input {
    const uint8_t *data;
    size_t size;
} input;

static char paths[MODELS][4096];
static ingot_model *references[MODELS]; /* open for as long as the process */
static ingot_model *models[MODELS];
static slot slots[SLOTS];
static const char MARKER[] = "nothing failed yet";

int LLVMFuzzerInitialize(int *argument_count, char ***arguments);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t byte(input *in) {
    if (in->size == 0) {
        return 0;
    }
    in->size--;
    return *in->data++;
}

static void stop(const char *what) {
    (void)fprintf(stderr, "%s; last message: %s\n", what, ingot_last_error());
    abort();
}

/* Before a call whose failure must leave a message of its own. */
static void mark(void) { (void)ingot_fail(INGOT_OK, "%s", MARKER); }

static bool took(ingot_status status) {
    const char *message = ingot_last_error();
    if (status != INGOT_OK && (message[0] == '\0' || strcmp(message, MARKER) == 0)) {
        stop("a failure without a message");
    }
    if (status == INGOT_ERROR_INTERNAL) {
        stop("an internal error");
    }
    return status == INGOT_OK;
}

int LLVMFuzzerInitialize(int *argument_count, char ***arguments) {
    (void)argument_count;
    (void)arguments;
    const char *folder = getenv("INGOT_FUZZ_FOLDER");
    for (uint32_t index = 0; index < MODELS; index++) {
        (void)snprintf(paths[index], sizeof paths[index], "%s/session_%u.ingot", folder == NULL ? "." : folder, index);
        if (ingot_model_open(paths[index], &references[index]) != INGOT_OK) {
            (void)fprintf(stderr, "INGOT_FUZZ_FOLDER: %s\n", ingot_last_error());
            exit(1);
        }
    }
    return 0;
}

static uint32_t width_of(uint32_t model) {
    ingot_model_info info = {.struct_size = sizeof info};
    (void)ingot_model_info_get(references[model], &info);
    return info.logits_width;
}

static uint32_t digest_of(const ingot_session *session, uint32_t model, uint32_t row) {
    const float *logits = ingot_session_logits(session, row);
    if (logits == NULL) {
        stop("logits that were kept are not there");
    }
    return ingot_crc32c(0, (const uint8_t *)logits, width_of(model) * sizeof(float));
}

/* A new session is fed the same tokens; its logits must be the same. */
static void replay(const slot *self, uint32_t chunk) {
    if (self->session == NULL || !self->known || !self->digested || self->count == 0) {
        return;
    }
    const ingot_session_config config = {
        .struct_size = sizeof config, .threads = 1, .chunk = chunk, .kv_format = self->format};
    ingot_session *fresh = NULL;
    if (ingot_session_create(references[self->model], &config, &fresh) != INGOT_OK ||
        ingot_session_eval(fresh, self->tokens, self->count, 1) != INGOT_OK) {
        stop("a new session cannot be fed what another one took");
    }
    if (digest_of(fresh, self->model, 0) != self->digest) {
        stop("the logits are not those of a new session");
    }
    ingot_session_destroy(fresh);
}

static void create(input *in, slot *self) {
    const uint32_t model = byte(in) % MODELS, small = byte(in);
    const uint32_t context = small % 4 == 0 ? 0 : 16 * byte(in);
    const uint32_t chunk = small / 4 % 4 == 0 ? 0 : 1 + byte(in) % 18;
    const uint32_t logits_rows = byte(in) % 5, kv_format = byte(in) % 5;
    const ingot_session_config config = {
        .struct_size = sizeof config - (small == 255),
        .context = context,
        .chunk = chunk,
        .logits_rows = logits_rows,
        .threads = small % 8 == 7 ? 2 : 1, /* threads that wait for each other cost most of the time */
        .prefill_threads = small % 8 >= 6 ? 2 : 1,
        .kv_format = kv_format,
        .memory_limit = small % 16 == 1 ? 4096 * byte(in) : 0,
    };
    ingot_session *session = NULL;
    mark();
    if (took(ingot_session_create(models[model], &config, &session))) {
        const uint32_t rows = config.logits_rows == 0 ? 1 : config.logits_rows;
        *self = (slot){.session = session, .model = model, .rows = rows, .known = true};
        self->format = ingot_session_kv_format(session);
    }
}

static void destroy(slot *self) {
    ingot_session_destroy(self->session);
    self->session = NULL;
}

/* Takes over what the session holds after a call that was given tokens[0, count) to feed. */
static void follow(slot *self, const int32_t *tokens, uint32_t count, ingot_status status) {
    const uint32_t position = ingot_session_position(self->session), before = self->count;
    const bool partly = status == INGOT_OK || status == INGOT_ERROR_CANCELLED;
    if (position < before || position > before + (partly ? count : 0) || position > MOST_TOKENS) {
        stop("the position is not what was fed");
    }
    if (position > before) {
        memcpy(self->tokens + before, tokens, (position - before) * sizeof *tokens);
    }
    self->count = position;
}

static uint32_t read_tokens(input *in, int32_t tokens[CALL_TOKENS], uint32_t count) {
    const uint32_t seed = byte(in);
    for (uint32_t i = 0; i < count; i++) {
        tokens[i] = (int32_t)((seed * 31 + i * (1 + seed % 7)) % 50);
    }
    tokens[0] = (int32_t)(byte(in) % 52) - 1; /* sometimes none of the model's */
    return count;
}

static void eval(input *in, slot *self, uint32_t count) {
    int32_t tokens[CALL_TOKENS];
    const uint32_t wanted = byte(in) % (self->rows + 2);
    read_tokens(in, tokens, count);
    mark();
    const ingot_status status = ingot_session_eval(self->session, tokens, count, wanted);
    if (self->session == NULL) {
        (void)took(status);
        return;
    }
    follow(self, tokens, count, status);
    if (took(status) && wanted > 0) {
        self->digest = digest_of(self->session, self->model, wanted - 1);
    }
    self->digested = status == INGOT_OK && wanted > 0;
}

static ingot_sampling read_sampling(input *in) {
    const uint32_t kind = byte(in);
    return (ingot_sampling){
        .struct_size = sizeof(ingot_sampling),
        .top_k = kind % 4 * 13,
        .temperature = kind / 4 % 4 * 0.4,
        .top_p = kind / 16 % 3 * 0.5,
        .min_p = kind / 48 % 2 * 0.1,
        .repetition_penalty = kind / 96 % 2 == 0 ? 1.0 : 1.2,
        .seed = kind,
    };
}

static void step(input *in, slot *self) {
    int32_t tokens[CALL_TOKENS], chosen[CALL_TOKENS];
    const uint32_t count = read_tokens(in, tokens, 1 + byte(in) % 8), drafted = byte(in) % 4;
    const ingot_sampling config = read_sampling(in);
    uint32_t chosen_count = 0;
    mark();
    const ingot_status status = ingot_session_step(self->session, tokens, count, drafted, &config, self->tokens,
                                                   self->count, chosen, &chosen_count);
    if (self->session == NULL) {
        (void)took(status);
        return;
    }
    const uint32_t before = self->count;
    follow(self, tokens, count, status);
    if (took(status) && (chosen_count == 0 || chosen_count > drafted + 1 ||
                         self->count != before + count - drafted + chosen_count - 1)) {
        stop("a step does not hold the tokens that it says");
    }
    self->digested = false;
}

static void sample(input *in, slot *self) {
    const ingot_sampling config = read_sampling(in);
    const int32_t history[4] = {-1, 0, 49, INT32_MAX};
    int32_t token = -1;
    mark();
    const uint32_t row = byte(in) % 4;
    if (took(ingot_session_sample(self->session, row, &config, history, 4, byte(in), &token)) &&
        (token < 0 || token >= 50)) {
        stop("a token that the model does not have");
    }
}

static void fork_slot(input *in, slot *self, slot *other) {
    ingot_session *child = NULL;
    const uint32_t position = byte(in) % 8 == 0 ? 2 * byte(in) : self->count;
    mark();
    if (other->session == NULL && other != self && took(ingot_session_fork(self->session, position, &child))) {
        *other = *self;
        other->session = child;
        other->count = position;
        other->digested = false;
    }
}

static void cut(input *in, slot *self) {
    const uint32_t back = byte(in);
    const uint32_t position = back == 255 ? 0 : back == 254 ? self->count + 1 : self->count - back % (self->count + 1);
    mark();
    if (took(ingot_session_truncate(self->session, position))) {
        self->digested = false;
        self->count = position;
        self->known = self->known || position == 0;
    }
}

/* Copies the blocks of one session into a new one, as a file would carry them. */
static void restore(input *in, slot *self, slot *other) {
    const uint64_t size = ingot_session_block_bytes(self->session);
    const uint32_t position = byte(in) % 4 == 0 ? byte(in) : self->count;
    uint8_t *bytes = malloc(size + 1);
    bool fits = bytes != NULL && self->session != NULL && other->session != NULL && other != self &&
                other->model == self->model && other->format == self->format && other->count == 0;
    for (uint32_t block = 0; fits && block * BLOCK < position; block++) {
        mark();
        if (took(ingot_session_block_read(self->session, block, bytes, size))) {
            mark();
            fits = took(ingot_session_block_write(other->session, block, bytes, size));
        }
    }
    mark();
    if (fits && took(ingot_session_resume(other->session, position))) {
        other->known = self->known && position <= self->count;
        memcpy(other->tokens, self->tokens, sizeof self->tokens);
        other->count = position;
        other->digested = false;
    }
    free(bytes);
}

/* Bytes that no session gave, in any block. */
static void write_noise(input *in, slot *self) {
    const uint64_t size = ingot_session_block_bytes(self->session);
    const uint32_t block = byte(in) % 8, wrong = byte(in) % 16 == 0;
    uint8_t *bytes = malloc(size + 1);
    if (bytes != NULL) {
        memset(bytes, (int)byte(in), size + 1);
        mark();
        (void)took(ingot_session_block_write(self->session, block, bytes, size + wrong));
    }
    free(bytes);
    const uint32_t position = byte(in);
    mark();
    if (took(ingot_session_resume(self->session, position)) && position != 0) {
        self->known = false;
        self->count = position;
    }
}

static void trace(input *in, slot *self) {
    static float values[CALL_TOKENS * MOST_WIDTH];
    int32_t tokens[CALL_TOKENS];
    const uint32_t count = read_tokens(in, tokens, 1 + byte(in) % 20), instructions = byte(in) % 32;
    mark();
    (void)took(ingot_session_trace(self->session, tokens, count, byte(in) % 3, instructions));
    mark();
    (void)took(ingot_session_read(self->session, byte(in), values, byte(in) % 2 == 0 ? sizeof values / 4 : 3));
    self->digested = false;
    if (self->session != NULL && ingot_session_position(self->session) != self->count) {
        stop("a trace moved the position");
    }
}

static void profile(input *in, slot *self) {
    ingot_profile_entry entries[64];
    uint32_t count = 0;
    mark();
    (void)took(ingot_session_profile(self->session, byte(in) % 2));
    mark();
    (void)took(ingot_session_profile_read(self->session, byte(in) % 4, entries, byte(in) % 65, &count));
}

static void tune(input *in, slot *self) {
    ingot_tuning tuning = {.struct_size = sizeof tuning};
    ingot_tune_candidate candidates[32];
    uint32_t count = 0;
    if (byte(in) % 8 == 0) {
        mark();
        (void)took(ingot_session_tune(self->session, 1e-9, byte(in) % 2, &tuning, candidates, byte(in) % 33, &count));
    } else {
        tuning.threads = byte(in) % 4;
        tuning.prefill_threads = byte(in) % 4;
        tuning.grain = byte(in) % 66;
        tuning.kernels[byte(in) % 64] = byte(in) % 64;
    }
    if (self->session != NULL && ingot_session_position(self->session) == 0) {
        self->digested = false;
    }
    mark();
    (void)took(ingot_session_apply(self->session, &tuning));
}

static void ask_model(input *in, ingot_model *model) {
    static const char *const SECTIONS[] = {"tokenizer", "chat", "meta", "weights", "vectors", ""};
    float row[MOST_WIDTH];
    ingot_tensor_info tensor = {.struct_size = sizeof tensor};
    const uint8_t *data = NULL;
    uint64_t size = 0;
    mark();
    (void)took(ingot_model_tensor_info(model, byte(in), &tensor));
    mark();
    const uint32_t begin = byte(in) % 64;
    (void)took(ingot_tensor_dequantize(model, byte(in) % 64, begin, begin + byte(in) % 4, row, MOST_WIDTH));
    mark();
    (void)took(ingot_model_section(model, SECTIONS[byte(in) % 6], &data, &size));
    (void)ingot_model_layout(model);
}

static void ask_session(input *in, slot *self) {
    ingot_memory_info memory = {.struct_size = sizeof memory};
    double gigabytes = 0.0;
    mark();
    (void)took(ingot_session_memory(self->session, &memory));
    mark();
    (void)took(ingot_session_stream(self->session, byte(in) % 4, &gigabytes));
    (void)ingot_session_executed(self->session, byte(in) % 2);
    if (self->session == NULL && ingot_session_logits(self->session, byte(in) % 4) != NULL) {
        stop("logits of no session");
    }
}

static void open_or_close(input *in, uint32_t index) {
    if (models[index] != NULL) {
        ingot_model_close(models[index]);
        models[index] = NULL;
        return;
    }
    mark();
    (void)took(ingot_cpu_set_mask(byte(in) % 4 == 0 ? byte(in) : ingot_cpu_features()));
    mark();
    if (!took(ingot_model_open(paths[index], &models[index]))) {
        stop("a valid file is refused");
    }
}

static void call(input *in) {
    const uint32_t what = byte(in), which = byte(in);
    slot *self = &slots[which % SLOTS], *other = &slots[which / SLOTS % SLOTS];
    switch (what % 20) {
        case 0: open_or_close(in, which % MODELS); break;
        case 1:
            if (self->session == NULL) {
                create(in, self);
            }
            break;
        case 2: destroy(self); break;
        case 3:
        case 4: eval(in, self, 1 + byte(in) % CALL_TOKENS); break;
        case 5:
        case 6: eval(in, self, 1); break;
        case 7:
        case 8: step(in, self); break;
        case 9: sample(in, self); break;
        case 10: fork_slot(in, self, other); break;
        case 11: cut(in, self); break;
        case 12: restore(in, self, other); break;
        case 13: write_noise(in, self); break;
        case 14: trace(in, self); break;
        case 15: profile(in, self); break;
        case 16: ingot_session_cancel(self->session); break;
        case 17: tune(in, self); break;
        case 18: ask_model(in, models[which % MODELS]); break;
        default: ask_session(in, self); break;
    }
    if (what % 20 != 19 && what >= 240) {
        replay(self, 1 + which % 16);
    }
}

/* Two models open and one session there, so that short inputs reach something. */
static void begin(void) {
    for (uint32_t index = 0; index < MODELS; index++) {
        if (ingot_cpu_set_mask(ingot_cpu_features()) != INGOT_OK ||
            ingot_model_open(paths[index], &models[index]) != INGOT_OK) {
            stop("a valid file is refused");
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {data, size};
    begin();
    for (uint32_t calls = 0; in.size > 0 && calls < MOST_CALLS; calls++) {
        call(&in);
    }
    const uint32_t order = byte(&in);
    for (uint32_t index = 0; index < SLOTS; index++) {
        slot *self = &slots[(index + order) % SLOTS];
        replay(self, 1 + order % 16);
        if (index == order / SLOTS % SLOTS) { /* models may go before their sessions */
            for (uint32_t m = 0; m < MODELS; m++) {
                ingot_model_close(models[m]);
                models[m] = NULL;
            }
        }
        destroy(self);
    }
    return 0;
}
