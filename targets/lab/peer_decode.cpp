// SPDX-License-Identifier: Apache-2.0
// What decode.c does, with llama.cpp: a prompt of PROMPT tokens in one batch, then COUNT tokens one by one, on one
// thread, without sampling. Usage: peer_decode FILE PROMPT COUNT
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

static bool feed(llama_context *context, int first, int count, int rows) {
    std::vector<llama_token> tokens(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) tokens[static_cast<size_t>(i)] = (first + i) % rows;
    return count == 0 || llama_decode(context, llama_batch_get_one(tokens.data(), count)) == 0;
}

int main(int argc, char **argv) {
    if (argc != 4) return std::fprintf(stderr, "usage: peer_decode FILE PROMPT COUNT\n"), 2;
    const int prompt = std::atoi(argv[2]), count = std::atoi(argv[3]);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_model_params model_parameters = llama_model_default_params();
    llama_model *model = llama_model_load_from_file(argv[1], model_parameters);
    if (model == nullptr) return std::fprintf(stderr, "%s: not loaded\n", argv[1]), 1;
    llama_context_params parameters = llama_context_default_params();
    parameters.n_ctx = 512;
    parameters.n_batch = parameters.n_ubatch = 512;
    parameters.n_threads = parameters.n_threads_batch = 1;
    llama_context *context = llama_init_from_model(model, parameters);
    if (context == nullptr) return std::fprintf(stderr, "no context\n"), 1;
    const int rows = llama_vocab_n_tokens(llama_model_get_vocab(model));
    bool good = feed(context, 0, prompt, rows);
    for (int i = 0; good && i < count; i++) good = feed(context, prompt + i, 1, rows);
    llama_free(context);
    llama_model_free(model);
    return good ? 0 : 1;
}
