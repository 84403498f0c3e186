/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

#include "proto/base/mem.h"
#include "proto/repr.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Arguments in, replies out. The one idea: a client cannot tell us from Celery, so what Python
 * would raise for wrong arguments is answered in the words of its repr(). */

char *call_repr(const cJSON *value)
{
    struct buf out = BUF_INIT(1 << 26);
    repr_python(value, false, 1 << 24, &out);
    return buf_take(&out);
}

static cJSON *reply_of(const char *key, char *text)
{
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddItemToObject(reply, key, cJSON_CreateString(text));
    free(text);
    return reply;
}

static char *print(const char *fmt, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0)
        return mem_dup("");
    return text;
}

cJSON *call_ok(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text = print(fmt, args);
    va_end(args);
    return reply_of("ok", text);
}

cJSON *call_nok(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text = print(fmt, args);
    va_end(args);
    return reply_of("error", text);
}

cJSON *call_raise(const char *type, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    char *text = print(fmt, args);
    va_end(args);
    cJSON *value = cJSON_CreateString(text);
    char *repr = call_repr(value);
    cJSON_Delete(value);
    free(text);
    text = mem_printf("%s(%s)", type, repr);
    free(repr);
    return reply_of("error", text);
}

const cJSON *call_argument(const struct call *call, const char *name)
{
    const cJSON *value = json_get(call->arguments, name);
    return cJSON_IsNull(value) ? NULL : value;
}

const char *call_type(const cJSON *value)
{
    int64_t number;
    return cJSON_IsString(value)   ? "str"
           : cJSON_IsBool(value)   ? "bool"
           : cJSON_IsNumber(value) ? json_as_int(value, &number) ? "int" : "float"
           : cJSON_IsArray(value)  ? "list"
           : cJSON_IsObject(value) ? "dict"
                                   : "NoneType";
}

bool call_is_false(const cJSON *value)
{
    if (cJSON_IsString(value))
        return !*value->valuestring;
    if (cJSON_IsNumber(value))
        return value->valuedouble == 0;
    return !cJSON_IsTrue(value) && !(value && value->child);
}

bool call_flag(const struct call *call, const char *name)
{
    return !call_is_false(call_argument(call, name));
}

cJSON *call_unhashable(const cJSON *ids)
{
    const cJSON *id = cJSON_IsArray(ids) ? ids->child : ids;
    for (; id; id = cJSON_IsArray(ids) ? id->next : NULL)
        if (cJSON_IsArray(id) || cJSON_IsObject(id))
            return call_raise("TypeError", "unhashable type: '%s'", call_type(id));
    return NULL;
}

const char **call_texts(const struct call *call, const char *name, size_t *ret_n)
{
    const cJSON *value = call_argument(call, name);
    size_t n = 0, most = cJSON_IsArray(value) ? (size_t)cJSON_GetArraySize(value) : 1;
    const char **texts = mem_alloc((most + 1) * sizeof *texts);
    if (cJSON_IsString(value))
        texts[n++] = value->valuestring;
    const cJSON *item;
    if (cJSON_IsArray(value))
        cJSON_ArrayForEach(item, value)
            if (cJSON_IsString(item))
                texts[n++] = item->valuestring;
    *ret_n = n;
    return texts;
}

/* --- are they the function's? ----------------------------------------------------------------- */

/* The next name of a row's arguments, without its mark. False at the end. */
static bool next_name(const char **at, struct slice *ret_name, bool *ret_required)
{
    *at += strspn(*at, " ");
    size_t size = strcspn(*at, " ");
    if (size == 0)
        return false;
    *ret_required = (*at)[size - 1] == '!';
    *ret_name = (struct slice){*at, size - *ret_required};
    *at += size;
    return true;
}

static bool is_known(const char *arguments, const char *name)
{
    struct slice known;
    bool required;
    while (next_name(&arguments, &known, &required))
        if ((known.size == 1 && *known.at == '*') ||
            (strlen(name) == known.size && memcmp(name, known.at, known.size) == 0))
            return true;
    return false;
}

/* 'a' | 'a' and 'b' | 'a', 'b', and 'c' */
static cJSON *missing(const struct call *call, const struct slice *names, int n)
{
    struct buf list = BUF_INIT(1 << 12);
    for (int i = 0; i < n; i++)
        buf_printf(&list, "%s'%.*s'",
                   i == 0                ? ""
                   : i + 1 < n           ? ", "
                   : n == 2              ? " and "
                                         : ", and ",
                   (int)names[i].size, names[i].at);
    cJSON *reply = call_raise("TypeError", "%s() missing %d required positional argument%s: %s",
                              call->command->name, n, n == 1 ? "" : "s", list.data);
    buf_done(&list);
    return reply;
}

cJSON *call_check(const struct call *call)
{
    const char *arguments = call->command->arguments;
    const cJSON *given;
    cJSON_ArrayForEach(given, call->arguments)
        if (!is_known(arguments, given->string))
            return call_raise("TypeError", "%s() got an unexpected keyword argument '%s'",
                              call->command->name, given->string);
    enum { MOST = 8 };
    struct slice name, absent[MOST];
    bool required;
    int n = 0;
    for (const char *at = arguments; next_name(&at, &name, &required);) {
        char text[40] = "";
        memcpy(text, name.at, name.size < sizeof text ? name.size : sizeof text - 1);
        if (required && !json_get(call->arguments, text) && n < MOST)
            absent[n++] = name;
    }
    return n ? missing(call, absent, n) : NULL;
}
