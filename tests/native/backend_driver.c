/* SPDX-License-Identifier: Apache-2.0 */
/* Reaches the error returns around backends, with the backend of backend_sample.c, which lies beside this program.
 *
 *   backend_driver PLAIN [--plant status]
 *
 * PLAIN is a decoder that runs. Each call must give the status that is named, with a message. */
#include <stdlib.h>

#include "core/backend.h"
#include "core/session.h"
#include "platform/platform.h"
#include "tests/native/expect.h"

enum { MANY = 100, MOST_PATH = 8192 };

static int32_t tokens[MANY];

static ingot_model *open_sample(const char *path) {
    const ingot_open_config config = {.struct_size = sizeof config, .backend = "sample"};
    ingot_model *model = NULL;
    EXPECT(OK, ingot_model_open_with(path, &config, &model));
    return model;
}

static void refuse_backend(ingot_status expected, const char *path, const char *backend, const char *fault) {
    const ingot_open_config config = {.struct_size = sizeof config, .backend = backend};
    ingot_model *model = NULL;
    (void)setenv("INGOT_SAMPLE_FAULT", fault, 1);
    (void)ingot_fail(INGOT_OK, "%s", MARKER);
    expect(expected, ingot_model_open_with(path, &config, &model), backend, __LINE__);
    (void)unsetenv("INGOT_SAMPLE_FAULT");
}

static void check_backend_files(const char *path) {
    static char name[MOST_PATH];
    memset(name, '/', sizeof name - 1);
    char folder[1024];
    refuse_backend(INGOT_ERROR_INVALID_ARGUMENT, path, name, "");
    refuse_backend(INGOT_ERROR_NO_BACKEND, path, "absent", "");
    refuse_backend(INGOT_ERROR_NO_BACKEND, path, "sample", "abi");
    refuse_backend(INGOT_ERROR_HARDWARE, path, "sample", "refuse");
    EXPECT(ERROR_IO, ingot_platform_own_folder(folder, 1));
    EXPECT(OK, ingot_platform_own_folder(folder, sizeof folder));
    (void)snprintf(name, sizeof name, "%s/libingot_sample.so", folder);
    void *library = NULL, *function = NULL;
    EXPECT(ERROR_NO_BACKEND, ingot_platform_load(name, "no_such_function", &library, &function));
    ingot_device_info info = {.struct_size = 1};
    uint32_t devices = 0;
    REFUSED(ingot_backend_device_get("sample", 0, &info, &devices));
    info.struct_size = sizeof info;
    EXPECT(OK, ingot_backend_device_get("sample", 0, &info, &devices));
}

static void check_backend(const char *path) {
    check_backend_files(path);
    (void)setenv("INGOT_SAMPLE_TAKES", "attention", 1);
    ingot_model *model = open_sample(path);
    uint8_t taken[MANY];
    REFUSED(ingot_model_taken(model, taken, 1));
    (void)setenv("INGOT_SAMPLE_FAULT", "full", 1);
    ingot_session *session = NULL;
    EXPECT(ERROR_OUT_OF_MEMORY, ingot_session_create(model, NULL, &session));
    (void)setenv("INGOT_SAMPLE_FAULT", "weights", 1); /* copies of a TB */
    const ingot_session_config limited = {.struct_size = sizeof limited, .memory_limit = 1u << 30};
    EXPECT(ERROR_MEMORY_LIMIT, ingot_session_create(model, &limited, &session));
    (void)unsetenv("INGOT_SAMPLE_FAULT");
    EXPECT(OK, ingot_session_create(model, NULL, &session));
    EXPECT(OK, ingot_session_eval(session, tokens, 3, 1));
    EXPECT(ERROR_WRONG_STATE, ingot_session_profile(session, 1));
    ingot_session_cancel(session);
    EXPECT(ERROR_CANCELLED, ingot_session_trace(session, tokens, 1, 1, model->step_count));
    (void)setenv("INGOT_SAMPLE_FAULT", "lost", 1);
    EXPECT(ERROR_HARDWARE, ingot_session_eval(session, tokens, 1, 1));
    (void)setenv("INGOT_SAMPLE_FAULT", "picks", 1); /* as if it had taken the head */
    session->pick_count = 1;
    EXPECT(ERROR_INTERNAL, ingot_backend_collect(session, 0));
    (void)unsetenv("INGOT_SAMPLE_FAULT");
    ingot_session_destroy(session);
    ingot_model_close(model);
}

int main(int count, char **arguments) {
    if (count < 2) {
        printf("usage: backend_driver PLAIN [--plant status]\n");
        return 2;
    }
    planted = count > 2 ? 3 : 0;
    check_backend(arguments[1]);
    return concluded();
}
