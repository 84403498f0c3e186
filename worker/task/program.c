/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Programs as tasks, in any language, from the `tasks` setting:
 *
 *     {"name": "reports.build", "queue": "reports", "command": ["./build", "--fast"],
 *      "timeout": 600, "soft_timeout": 540, "env": {"MODE": "full"}}
 *
 * Standard input is one line {"id", "name", "args", "kwargs", "retries"}. Standard output is the
 * result as JSON; nothing is null. A line {"progress": …} before it sets state PROGRESS. Exit
 * status 0 is SUCCESS, 75 (EX_TEMPFAIL) a retry, any other FAILURE with the last line's {"error":
 * {"type", "message", "traceback"}} if there is one. */

enum { EXIT_TRY_AGAIN = 75 };

/* --- the setting --- */

static int bad(struct error *err, int number, const char *name, const char *what)
{
    return error_set(err, ERROR_INVALID, "setting tasks, row %d (%s): %s", number,
                     name ? name : "no name", what);
}

static bool all_strings(const cJSON *list)
{
    for (const cJSON *item = list->child; item; item = item->next)
        if (!cJSON_IsString(item))
            return false;
    return true;
}

static const char *check_field(const cJSON *field)
{
    static const struct rule {
        const char *name, *what;
        int type;
    } rules[] = {
        {"name", "must be a string", cJSON_String},
        {"queue", "must be a string", cJSON_String},
        {"command", "must be a list of strings, the program first", cJSON_Array},
        {"timeout", "must be a number of seconds, above 0", cJSON_Number},
        {"soft_timeout", "must be a number of seconds, above 0", cJSON_Number},
        {"max_retries", "must be a number above 0", cJSON_Number},
        {"default_retry_delay", "must be a number of seconds, above 0", cJSON_Number},
        {"env", "must be an object of strings", cJSON_Object},
        {"unique_for", "must be a number of seconds, above 0", cJSON_Number},
        {"unique_key", "must be a list of names of arguments", cJSON_Array},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (strcmp(rules[i].name, field->string) != 0)
            continue;
        bool good = (field->type & 0xFF) == rules[i].type;
        if (good && cJSON_IsNumber(field))
            good = field->valuedouble > 0;
        else if (good && (cJSON_IsArray(field) || cJSON_IsObject(field)))
            good = all_strings(field);
        return good ? NULL : rules[i].what;
    }
    return "there are only name, queue, command, timeout, soft_timeout, max_retries, "
           "default_retry_delay, env, unique_for and unique_key";
}

static int check_row(const cJSON *row, int number, struct error *err)
{
    const char *name = cJSON_IsObject(row) ? json_get_string(row, "name") : NULL;
    if (!cJSON_IsObject(row))
        return bad(err, number, NULL, "must be an object");
    for (const cJSON *field = row->child; field; field = field->next) {
        const char *what = check_field(field);
        if (what)
            return error_set(err, ERROR_INVALID, "setting tasks, row %d (%s), field %.40s: %s",
                             number, name ? name : "no name", field->string, what);
    }
    if (!name || !*name)
        return bad(err, number, name, "name is missing");
    const cJSON *command = json_get(row, "command");
    if (!command || !command->child || !*command->child->valuestring)
        return bad(err, number, name, "command is missing: a list of strings, the program first");
    return 0;
}

static double seconds_of(const cJSON *row, const char *field)
{
    const cJSON *value = json_get(row, field);
    return value ? value->valuedouble : 0;
}

/* --- the run --- */

struct reading {
    struct buf rest; /* all but the progress */
    size_t last;     /* where its last line begins */
};

/* A line that is an object of nothing but "progress". */
static bool take_progress(cw_task *t, const char *line, size_t size)
{
    if (*line != '{')
        return false;
    cJSON *object = json_parse(line, size, NULL);
    bool is = cJSON_IsObject(object) && object->child && !object->child->next &&
              strcmp(object->child->string, "progress") == 0;
    if (is)
        cw_progress(t, cJSON_DetachItemViaPointer(object, object->child));
    cJSON_Delete(object);
    return is;
}

static void on_line(cw_task *t, const char *line, size_t size, void *arg)
{
    struct reading *r = arg;
    if (take_progress(t, line, size))
        return;
    if (size)
        r->last = r->rest.size;
    buf_add(&r->rest, line, size);
    buf_char(&r->rest, '\n');
}

static char *input_make(cw_task *t)
{
    const struct cw_info *info = cw_info(t);
    struct buf out = BUF_INIT(SIZE_MAX / 4);
    buf_str(&out, "{\"id\": ");
    json_print_string(info->id, strlen(info->id), &out);
    buf_str(&out, ", \"name\": ");
    json_print_string(info->name, strlen(info->name), &out);
    buf_str(&out, ", \"args\": ");
    json_print(cw_args(t), &out);
    buf_str(&out, ", \"kwargs\": ");
    json_print(cw_kwargs(t), &out);
    buf_printf(&out, ", \"retries\": %lld}\n", (long long)info->retries);
    char *text = buf_take(&out);
    cw_defer(t, free, text);
    return text;
}

/* Texts of a list, or of an object as NAME=value, as an argument vector. */
static const char *const *vector_make(cw_task *t, const cJSON *list)
{
    int n = list ? cJSON_GetArraySize(list) : 0, i = 0;
    const char **vector = cw_alloc(t, (size_t)(n + 1) * sizeof *vector);
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next)
        vector[i++] = cJSON_IsObject(list) ? cw_printf(t, "%s=%s", item->string, item->valuestring)
                                           : item->valuestring;
    return vector;
}

static void delete_value(void *value)
{
    cJSON_Delete(value);
}

/* The error that the program told, as its last line; NULL: none. */
static const cJSON *told_error(cw_task *t, const struct reading *r)
{
    if (!r->rest.size)
        return NULL;
    cJSON *value = json_parse(r->rest.data, r->rest.size, NULL);
    if (!value)
        value = json_parse(r->rest.data + r->last, r->rest.size - r->last, NULL);
    cw_defer(t, delete_value, value);
    const cJSON *error = json_get(value, "error");
    return cJSON_IsObject(error) ? error : NULL;
}

static const char *how_it_ended(cw_task *t, const char *program, const struct cw_exit *e)
{
    if (e->signal)
        return cw_printf(t, "%s was ended by signal %d (%s)", program, e->signal,
                         strsignal(e->signal));
    return cw_printf(t, "%s ended with exit status %d", program, e->status);
}

static cw_outcome failed(cw_task *t, const char *program, const struct cw_exit *e,
                         const struct reading *r)
{
    static const size_t shown = 2000;
    const cJSON *error = told_error(t, r);
    const char *type = error ? json_get_string(error, "type") : NULL;
    const char *message = error ? json_get_string(error, "message") : NULL;
    const char *detail = error ? json_get_string(error, "traceback") : e->errors;
    if (!message) {
        size_t size = strlen(e->errors);
        const char *end = size > shown ? e->errors + size - shown : e->errors;
        while (size && (end[strlen(end) - 1] == '\n') && size--)
            end = task_text(t, end, strlen(end) - 1);
        message = cw_printf(t, "%s%s%s", how_it_ended(t, program, e), *end ? ": " : "", end);
    }
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, cJSON_CreateString(message));
    struct place place = {program, t->entry->def->name, 0};
    type = type && *type ? type : "RuntimeError";
    if (!e->signal && e->status == EXIT_TRY_AGAIN)
        return task_retry(t, &place, -1, type, args, detail);
    return task_fail(t, &place, type, args, detail);
}

static cw_outcome succeeded(cw_task *t, const char *program, const struct reading *r)
{
    size_t size = r->rest.size;
    while (size && strchr(" \t\r\n", r->rest.data[size - 1]))
        size--;
    if (!size)
        return cw_return(t, NULL);
    struct error err = {0};
    cJSON *value = json_parse(r->rest.data, size, &err);
    if (!value)
        return cw_raise(t, "ValueError", "the result of %s is not JSON: %s", program, err.text);
    return cw_return(t, value);
}

static void reading_done(void *arg)
{
    struct reading *r = arg;
    buf_done(&r->rest);
}

static cw_outcome run(cw_task *t)
{
    const cJSON *row = t->entry->command;
    struct reading *r = cw_alloc(t, sizeof *r);
    r->rest = BUF_INIT(TASK_RESULT_MAX);
    cw_defer(t, reading_done, r);
    struct cw_command command = {
        .argv = vector_make(t, json_get(row, "command")),
        .input = input_make(t),
        .environment = vector_make(t, json_get(row, "env")),
        .on_line = on_line,
        .arg = r,
    };
    struct cw_exit e;
    if (cw_exec(t, &command, &e) < 0)
        return cw_fail(t);
    if (e.status || e.signal)
        return failed(t, command.argv[0], &e, r);
    return succeeded(t, command.argv[0], r);
}

static const char *const *names_of(const cJSON *list)
{
    if (!list)
        return NULL;
    const char **names = mem_zalloc(((size_t)cJSON_GetArraySize(list) + 1) * sizeof *names),
               **at = names;
    for (const cJSON *name = list->child; name; name = name->next)
        *at++ = name->valuestring;
    return names;
}

int command_task_read(const cJSON *row, int number, struct registry_entry *ret, struct error *err)
{
    if (check_row(row, number, err) < 0)
        return err->code;
    cJSON *own = cJSON_Duplicate(row, true);
    struct cw_def *defs = mem_zalloc(2 * sizeof *defs);
    struct cw_table *table = mem_zalloc(sizeof *table);
    defs->name = json_get_string(own, "name");
    defs->run = run;
    defs->flags = CW_ANY_ARGS;
    defs->hard_limit = seconds_of(own, "timeout");
    defs->soft_limit = seconds_of(own, "soft_timeout");
    defs->max_retries = (int)seconds_of(own, "max_retries");
    defs->default_retry_delay = seconds_of(own, "default_retry_delay");
    defs->unique_for = seconds_of(own, "unique_for");
    defs->unique_key = names_of(json_get(own, "unique_key"));
    *table = (struct cw_table){.api = CW_API, .queue = json_get_string(own, "queue"), .defs = defs};
    *ret = (struct registry_entry){.table = table, .def = defs, .command = own};
    return 0;
}

void command_task_free(struct registry_entry *entry)
{
    cJSON_Delete((cJSON *)(uintptr_t)entry->command);
    free((void *)(uintptr_t)entry->def->unique_key);
    free((void *)(uintptr_t)entry->def);
    free((void *)(uintptr_t)entry->table);
}
