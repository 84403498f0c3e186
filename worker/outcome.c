/* SPDX-License-Identifier: Apache-2.0 */
/* The outcome table, and the exceptions that the worker itself raises in a task's name. */

#include "worker/outcome.h"

#include "proto/json.h"

const struct outcome_row outcome_rows[] = {
#define OUTCOME_ROW(name, state, store, dispose) {#name, state, store, dispose},
    OUTCOMES(OUTCOME_ROW)
#undef OUTCOME_ROW
};

static char *exception_with(const char *module, const char *type, cJSON *args)
{
    cJSON *exception = cJSON_CreateObject();
    json_set(exception, "exc_type", cJSON_CreateString(type));
    json_set(exception, "exc_message", args);
    json_set(exception, "exc_module", cJSON_CreateString(module));
    char *text = json_text(exception);
    cJSON_Delete(exception);
    return text;
}

char *exception_text(const char *module, const char *type, const char *message)
{
    cJSON *args = cJSON_CreateArray();
    if (message)
        cJSON_AddItemToArray(args, cJSON_CreateString(message));
    return exception_with(module, type, args);
}

char *exception_number(const char *module, const char *type, double number)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateNumber(number));
    return exception_with(module, type, args);
}
