/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Arguments: the body is read once, bound to the names of the task's table as Python binds a call,
 * and checked there, so that a handler reads only what has the kind it asked for. The errors are
 * worded as Python words them, because it is Python programmers who read them. */

static const char *const kind_names[] = {
    [CW_ANY] = "anything", [CW_INT] = "an integer", [CW_NUM] = "a number",  [CW_BOOL] = "a bool",
    [CW_STR] = "a string", [CW_LIST] = "a list",    [CW_OBJECT] = "a dict",
};

/* An integer is a number without a fraction, an exponent or a name (NaN) in its text; without a
 * text of its own it prints as an integer whenever it has no fraction. */
static bool is_integer(const cJSON *v)
{
    if (!cJSON_IsNumber(v))
        return false;
    if (v->valuestring)
        return !v->valuestring[strspn(v->valuestring, "-0123456789")];
    return v->valuedouble == trunc(v->valuedouble) && fabs(v->valuedouble) <= 0x1p53 &&
           !(v->valuedouble == 0 && signbit(v->valuedouble));
}

static const char *python_type(const cJSON *v)
{
    switch (v ? v->type & 0xFF : cJSON_NULL) {
    case cJSON_True:
    case cJSON_False:
        return "bool";
    case cJSON_Number:
        return is_integer(v) ? "int" : "float";
    case cJSON_String:
        return "str";
    case cJSON_Array:
        return "list";
    case cJSON_Object:
        return "dict";
    default:
        return "NoneType";
    }
}

static bool has_kind(const cJSON *v, enum cw_kind kind)
{
    switch (kind) {
    case CW_INT:
        return is_integer(v);
    case CW_NUM:
        return cJSON_IsNumber(v);
    case CW_BOOL:
        return cJSON_IsBool(v);
    case CW_STR:
        return cJSON_IsString(v);
    case CW_LIST:
        return cJSON_IsArray(v);
    case CW_OBJECT:
        return cJSON_IsObject(v);
    default:
        return true;
    }
}

/* The value as JSON, short enough for a sentence. */
static void clip_value(const cJSON *v, char out[96])
{
    char *text = json_text(v);
    size_t size = strlen(text);
    snprintf(out, 96, "%.80s%s", text, size > 80 ? "..." : "");
    free(text);
}

/* What Python calls the function of the same task in its messages. */
static const char *function_of(const struct cw_task *t)
{
    const char *dot = strrchr(t->entry->def->name, '.');
    return dot ? dot + 1 : t->entry->def->name;
}

static void wrong_kind(struct cw_task *t, const struct cw_arg *arg, const cJSON *v)
{
    char shown[96];
    clip_value(v, shown);
    if (cJSON_IsNull(v))
        task_type_error(t, "%s() argument '%s' must be %s, not None", function_of(t),
                        arg->name, kind_names[arg->kind]);
    else
        task_type_error(t, "%s() argument '%s' must be %s, not %s (%s)", function_of(t),
                        arg->name, kind_names[arg->kind], python_type(v), shown);
}

static int find_arg(const struct cw_def *def, const char *name)
{
    for (int i = 0; def->args && def->args[i].name; i++)
        if (strcmp(def->args[i].name, name) == 0)
            return i;
    return -1;
}

static bool parse_body(struct cw_task *t)
{
    const char *name = function_of(t);
    struct error err = {0};
    t->body = json_parse(t->frame->body.at, t->frame->body.size, &err);
    if (!t->body) {
        task_type_error(t, "%s() was called with a body that is not JSON: %s", name, err.text);
        return false;
    }
    t->args = cJSON_IsArray(t->body) ? t->body->child : NULL;
    t->kwargs = t->args ? t->args->next : NULL;
    if (!cJSON_IsArray(t->args)) {
        task_type_error(t, "%s() args must be a list, not %s", name, python_type(t->args));
        return false;
    }
    if (!cJSON_IsObject(t->kwargs)) {
        task_type_error(t, "%s() kwargs must be a dict, not %s", name, python_type(t->kwargs));
        return false;
    }
    return true;
}

static bool bind_names(struct cw_task *t, bool strict)
{
    const struct cw_def *def = t->entry->def;
    for (const cJSON *v = t->kwargs->child; v; v = v->next) {
        int i = find_arg(def, v->string);
        if (i >= 0 && !t->values[i]) {
            t->values[i] = v;
        } else if (strict && i < 0) {
            task_type_error(t, "%s() got an unexpected keyword argument '%.80s'", function_of(t),
                            v->string);
            return false;
        } else if (strict) {
            task_type_error(t, "%s() got multiple values for argument '%s'", function_of(t),
                            v->string);
            return false;
        }
    }
    return true;
}

static void too_many(struct cw_task *t, int given)
{
    const struct cw_def *def = t->entry->def;
    int required = 0;
    for (int i = 0; i < t->n_args; i++)
        required += !def->args[i].fallback;
    char range[48];
    if (required < t->n_args)
        snprintf(range, sizeof range, "from %d to %d", required, t->n_args);
    else
        snprintf(range, sizeof range, "%d", t->n_args);
    task_type_error(t, "%s() takes %s positional argument%s but %d %s given", function_of(t), range,
                    t->n_args == 1 && required == 1 ? "" : "s", given, given == 1 ? "was" : "were");
}

static void missing(struct cw_task *t, int count)
{
    const struct cw_def *def = t->entry->def;
    struct buf names = BUF_INIT(4096);
    int shown = 0;
    for (int i = 0; i < t->n_args; i++) {
        if (t->values[i] || def->args[i].fallback)
            continue;
        const char *before = !shown              ? ""
                             : shown < count - 1 ? ", "
                             : count == 2        ? " and "
                                                 : ", and ";
        buf_printf(&names, "%s'%s'", before, def->args[i].name);
        shown++;
    }
    task_type_error(t, "%s() missing %d required positional argument%s: %s", function_of(t), count,
                    count == 1 ? "" : "s", names.data);
    buf_done(&names);
}

static void delete_value(void *value)
{
    cJSON_Delete(value);
}

/* Puts the fallbacks in; false when a required argument is missing. */
static bool fill_up(struct cw_task *t)
{
    const struct cw_arg *args = t->entry->def->args;
    int absent = 0;
    for (int i = 0; i < t->n_args; i++)
        absent += !t->values[i] && !args[i].fallback;
    if (absent) {
        missing(t, absent);
        return false;
    }
    for (int i = 0; i < t->n_args; i++) {
        if (t->values[i])
            continue;
        cJSON *value = json_parse(args[i].fallback, strlen(args[i].fallback), NULL);
        cw_defer(t, delete_value, value);
        t->values[i] = value;
    }
    return true;
}

static bool check_kinds(struct cw_task *t)
{
    const struct cw_arg *args = t->entry->def->args;
    for (int i = 0; i < t->n_args; i++) {
        const cJSON *v = t->values[i];
        bool is_fallback = args[i].fallback && !cw_given(t, args[i].name);
        if (is_fallback || has_kind(v, args[i].kind) || (args[i].nullable && cJSON_IsNull(v)))
            continue;
        wrong_kind(t, &args[i], v);
        return false;
    }
    return true;
}

bool task_bind(struct cw_task *t)
{
    const struct cw_def *def = t->entry->def;
    bool strict = !(def->flags & CW_ANY_ARGS);
    if (!parse_body(t))
        return false;
    while (def->args && def->args[t->n_args].name)
        t->n_args++;
    if (t->n_args)
        t->values = cw_alloc(t, (size_t)t->n_args * sizeof *t->values);
    int given = 0;
    for (const cJSON *v = t->args->child; v; v = v->next, given++)
        if (given < t->n_args)
            t->values[given] = v;
    if (t->kwargs->child && !bind_names(t, strict))
        return false;
    if (!strict)
        return true;
    if (given > t->n_args) {
        too_many(t, given);
        return false;
    }
    return !t->n_args || (fill_up(t) && check_kinds(t));
}

/* The argument's value; NULL when not given. With CW_ANY_ARGS names beyond the table's are looked
 * up among the keyword arguments; elsewhere such a name is a slip of the handler. */
static const cJSON *value_of(struct cw_task *t, const char *arg)
{
    int i = find_arg(t->entry->def, arg);
    if (i >= 0)
        return t->values[i];
    if (!(t->entry->def->flags & CW_ANY_ARGS))
        task_misuse(t, "RuntimeError", "%s asks for an argument '%s' that its table does not name",
                    t->entry->def->name, arg);
    return json_get(t->kwargs, arg);
}

/* The value if it has the kind that the accessor reads. */
static const cJSON *value_as(struct cw_task *t, const char *arg, enum cw_kind kind)
{
    const cJSON *v = value_of(t, arg);
    if (!v || cJSON_IsNull(v) || has_kind(v, kind))
        return v && cJSON_IsNull(v) ? NULL : v;
    char shown[96];
    clip_value(v, shown);
    task_misuse(t, "TypeError", "%s() argument '%s' must be %s, not %s (%s)", function_of(t),
                arg, kind_names[kind], python_type(v), shown);
    return NULL;
}

int64_t cw_int(cw_task *t, const char *arg)
{
    const cJSON *v = value_as(t, arg, CW_INT);
    int64_t value = 0;
    if (!v || json_as_int(v, &value))
        return value;
    char shown[96];
    clip_value(v, shown);
    task_misuse(t, "OverflowError", "%s() argument '%s' does not fit in 64 bits: %s",
                function_of(t), arg, shown);
    return 0;
}

double cw_num(cw_task *t, const char *arg)
{
    const cJSON *v = value_as(t, arg, CW_NUM);
    return v ? v->valuedouble : 0;
}

bool cw_bool(cw_task *t, const char *arg)
{
    return cJSON_IsTrue(value_as(t, arg, CW_BOOL));
}

const char *cw_str(cw_task *t, const char *arg)
{
    const cJSON *v = value_as(t, arg, CW_STR);
    return v ? v->valuestring : NULL;
}

const char *cw_digits(cw_task *t, const char *arg)
{
    const cJSON *v = value_as(t, arg, CW_INT);
    if (!v)
        return NULL;
    if (v->valuestring)
        return v->valuestring;
    char text[32];
    int size = snprintf(text, sizeof text, "%.0f", v->valuedouble);
    return task_text(t, text, (size_t)size);
}

const cJSON *cw_json(cw_task *t, const char *arg)
{
    return value_of(t, arg);
}

bool cw_given(cw_task *t, const char *arg)
{
    int i = find_arg(t->entry->def, arg);
    return (i >= 0 && i < cJSON_GetArraySize(t->args)) || json_get(t->kwargs, arg);
}

const cJSON *cw_args(cw_task *t)
{
    return t->args;
}

const cJSON *cw_kwargs(cw_task *t)
{
    return t->kwargs;
}
