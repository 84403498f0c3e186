/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/result.h"

#include "proto/base/mem.h"
#include "worker/command/command.h"
#include "worker/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints a stored result in a form that scripts can use: only the value goes to stdout, and the
 * exit status tells success, failure and absence apart. */

enum { STATE_SIZE = 64 };

static void print_clean(FILE *out, const char *text)
{
    char *clean = command_clean(text, false);
    size_t size = strlen(clean);
    fprintf(out, "%s%s", clean, size && clean[size - 1] == '\n' ? "" : "\n");
    free(clean);
}

static bool state_is_failure(const char *state)
{
    return strcmp(state, "FAILURE") == 0 || strcmp(state, "REVOKED") == 0;
}

/* {"exc_type", "exc_message": text or list, "exc_module"} as `Type: text`. */
static void print_exception(const cJSON *result)
{
    const char *type = json_get_string(result, "exc_type");
    const cJSON *message = json_get(result, "exc_message");
    if (!type)
        return;
    if (cJSON_IsArray(message) && message->child && !message->child->next)
        message = message->child;
    char *text = cJSON_IsString(message) ? mem_dup(message->valuestring) : json_text(message);
    char *line = mem_printf("%s: %s", type, text);
    print_clean(stderr, line);
    free(line);
    free(text);
}

static void print_failure(const char *state, const cJSON *record)
{
    const char *traceback = json_get_string(record, "traceback");
    fprintf(stderr, "%s\n", state);
    if (traceback && *traceback)
        print_clean(stderr, traceback);
    else
        print_exception(json_get(record, "result"));
}

static int print_record(const cJSON *record, bool traceback, char *ret_state)
{
    const char *state = json_get_string(record, "status");
    snprintf(ret_state, STATE_SIZE, "%s", state ? state : "");
    if (strcmp(ret_state, "SUCCESS") == 0) {
        char *text = json_text(json_get(record, "result"));
        puts(traceback ? "null" : text);
        free(text);
        return 0;
    }
    if (!state_is_failure(ret_state))
        return RESULT_NOT_YET;
    if (traceback) {
        const char *text = json_get_string(record, "traceback");
        print_clean(stdout, text ? text : "null");
    } else {
        print_failure(ret_state, record);
    }
    return 1;
}

int result_print(const struct options *o, const char *id, bool traceback, char *ret_state)
{
    struct error err = {0};
    ret_state[0] = '\0';
    char *text = store_read(o->settings.result_backend, &o->settings, id, &err);
    if (!text && err.code == 0)
        return RESULT_NOT_YET;
    cJSON *record = text ? json_parse(text, strlen(text), &err) : NULL;
    free(text);
    if (!record) {
        if (err.code == ERROR_NOT_FOUND)
            return RESULT_NOT_YET;
        fprintf(stderr, "cworker %s: %s\n", o->command, err.text);
        return EXIT_UNAVAILABLE;
    }
    int status = print_record(record, traceback, ret_state);
    cJSON_Delete(record);
    fflush(stdout);
    return status;
}

int command_result(struct options *o)
{
    const char *id = command_word(o, 0);
    if (!id || command_word(o, 1))
        return command_usage(o, "one task id is wanted: cworker result ID");
    if (!o->settings.result_backend)
        return command_usage(o, "no result backend is set; say --result-backend URL");
    char state[STATE_SIZE];
    int status = result_print(o, id, command_flag(o, "traceback"), state);
    if (status != RESULT_NOT_YET)
        return status;
    if (*state)
        fprintf(stderr, "%s\n", state);
    else
        fprintf(stderr, "cworker result: nothing is stored for %s\n", id);
    return EXIT_UNAVAILABLE;
}
