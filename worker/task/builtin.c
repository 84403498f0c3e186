/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/mem.h"
#include "worker/native.h"

#include <stdlib.h>
#include <string.h>

/* The tasks that every Celery worker has and that run as tasks do: map and starmap call another
 * task of this process once for each item, accumulate ends a task that was replaced by a group, and
 * three are what old producers send. The other two, which need the result store, run in main
 * (native.c). */

/* By position or by name, as Python binds it. */
static const cJSON *argument(cw_task *t, const char *name, int place)
{
    const cJSON *positional = cJSON_GetArrayItem(cw_args(t), place);
    return positional ? positional : json_get(cw_kwargs(t), name);
}

static cw_outcome accumulate(cw_task *t)
{
    const cJSON *index = json_get(cw_kwargs(t), "index"), *args = cw_args(t);
    int64_t place = 0;
    if (!json_as_int(index, &place))
        return cw_return(t, cJSON_Duplicate(args, true));
    int n = cJSON_GetArraySize(args);
    if (place < -n || place >= n)
        return cw_raise(t, "IndexError", "tuple index out of range");
    return cw_return(
        t, cJSON_Duplicate(cJSON_GetArrayItem(args, (int)(place < 0 ? place + n : place)), true));
}

/* --- map, starmap ----------------------------------------------------------------------------- */

static char *make_body(const cJSON *item, bool star)
{
    char *text = json_text(item);
    char *body = mem_printf(star ? "[%s, {}, {}]" : "[[%s], {}, {}]", text);
    free(text);
    return body;
}

static void take_sends(cw_task *t, struct slice text)
{
    cJSON *sends = text.size ? json_parse(text.at, text.size, NULL) : NULL;
    if (sends && !t->sends)
        t->sends = cJSON_CreateArray();
    while (sends && sends->child)
        cJSON_AddItemToArray(t->sends, cJSON_DetachItemViaPointer(sends, sends->child));
    cJSON_Delete(sends);
}

/* The inner task's exception is the outer one's; a retry is one too, and so are Reject and Ignore,
 * as where Python calls a task. */
static cw_outcome fail_as(cw_task *t, const struct outcome_frame *inner)
{
    if (inner->kind == RESULT_REJECT)
        return cw_reject(t, inner->requeue);
    if (inner->kind == RESULT_IGNORE)
        return cw_ignore(t);
    if (inner->kind != RESULT_FAILURE && inner->kind != RESULT_RETRY)
        return cw_raise(t, "RuntimeError", "an inner task ended without an outcome");
    buf_add(&t->result, inner->result.at, inner->result.size);
    buf_add(&t->traceback, inner->traceback.at, inner->traceback.size);
    buf_add(&t->repr, inner->repr.at, inner->repr.size);
    t->verdict = RESULT_FAILURE;
    return (cw_outcome){RESULT_FAILURE};
}

static cw_outcome call_each(cw_task *t, bool star)
{
    const cJSON *it = argument(t, "it", 1);
    const char *name = json_get_string(argument(t, "task", 0), "task");
    int def = name ? registry_find(name) : -1;
    if (def < 0)
        return cw_raise(t, "celery.exceptions.NotRegistered", "%s", name ? name : "None");
    if (registry[def].native)
        return cw_raise(t, "NotImplementedError", "%s cannot be mapped", name);
    cJSON *results = cJSON_CreateArray();
    for (const cJSON *item = it ? it->child : NULL; item; item = item->next) {
        if (cw_stopping(t) != CW_GO) {
            cJSON_Delete(results);
            return cw_stopped(t);
        }
        char *body = make_body(item, star);
        struct task_frame frame = *t->frame;
        struct outcome_frame end;
        frame.def = (uint32_t)def;
        frame.name = (struct slice){name, strlen(name)};
        frame.body = (struct slice){body, strlen(body)};
        void *token = task_run(&frame, t->slot, t->port, &end);
        bool succeeded = end.kind == RESULT_SUCCESS;
        cJSON *value = succeeded && end.result.at ? json_parse(end.result.at, end.result.size, NULL)
                                                  : NULL;
        take_sends(t, end.sends);
        cw_outcome failure = {0};
        if (succeeded)
            cJSON_AddItemToArray(results, value ? value : cJSON_CreateNull());
        else
            failure = fail_as(t, &end);
        task_run_done(token);
        free(body);
        if (!succeeded) {
            cJSON_Delete(results);
            return failure;
        }
    }
    return cw_return(t, results);
}

static cw_outcome map(cw_task *t)
{
    return call_each(t, false);
}

static cw_outcome starmap(cw_task *t)
{
    return call_each(t, true);
}

/* --- what old producers send ------------------------------------------------------------------ */

static cw_outcome chunks(cw_task *t)
{
    const cJSON *task = argument(t, "task", 0), *it = argument(t, "it", 1);
    int64_t n = 0;
    if (!json_as_int(argument(t, "n", 2), &n) || n < 1)
        return cw_raise(t, "ValueError", "n must be at least one");
    cJSON *parts = cJSON_CreateArray(), *part = NULL;
    int64_t left = 0;
    for (const cJSON *item = it ? it->child : NULL; item; item = item->next) {
        if (left-- == 0) {
            left = n - 1;
            cJSON *kwargs = cJSON_CreateObject();
            json_set(kwargs, "task", cJSON_Duplicate(task, true));
            part = cJSON_AddArrayToObject(kwargs, "it");
            cJSON_AddItemToArray(parts, cw_sig((struct cw_send){.task = "celery.starmap",
                                                                .kwargs = kwargs,
                                                                .immutable = true}));
        }
        cJSON_AddItemToArray(part, cJSON_Duplicate(item, true));
    }
    char id[CW_ID_SIZE];
    cw_apply(t, cw_group(parts), id);
    return cw_return_str(t, id);
}

/* Copies of signatures with `first` before the arguments of those that take them. */
static cJSON *with_args(const cJSON *tasks, const cJSON *first)
{
    cJSON *copies = cJSON_Duplicate(tasks, true);
    for (cJSON *task = copies ? copies->child : NULL; task; task = task->next) {
        cJSON *args = first ? cJSON_Duplicate(first, true) : NULL;
        const cJSON *own = json_get(task, "args");
        if (!cJSON_IsArray(args) || cJSON_IsTrue(json_get(task, "immutable"))) {
            cJSON_Delete(args);
            continue;
        }
        for (const cJSON *arg = own ? own->child : NULL; arg; arg = arg->next)
            cJSON_AddItemToArray(args, cJSON_Duplicate(arg, true));
        json_set(task, "args", args);
    }
    return copies;
}

static cw_outcome group(cw_task *t)
{
    const cJSON *result = argument(t, "result", 1), *id = argument(t, "group_id", 2);
    cJSON *sig = cw_group(with_args(argument(t, "tasks", 0), argument(t, "partial_args", 3)));
    if (cJSON_IsString(id))
        json_set(json_get(sig, "options"), "task_id", cJSON_CreateString(id->valuestring));
    if (cw_apply(t, sig, NULL) < 0)
        return cw_fail(t);
    return cw_return(t, result ? cJSON_Duplicate(result, true) : NULL);
}

static cw_outcome chord(cw_task *t)
{
    const cJSON *header = argument(t, "header", 0);
    if (cJSON_IsObject(header))
        header = json_get(json_get(header, "kwargs"), "tasks");
    char id[CW_ID_SIZE];
    if (cw_apply(t, cw_chord(with_args(header, argument(t, "partial_args", 2)),
                             cJSON_Duplicate(argument(t, "body", 1), true)), id) < 0)
        return cw_fail(t);
    return cw_return_str(t, id);
}

static cw_outcome chain(cw_task *t)
{
    return cw_raise(t, "NotImplementedError", "chain is not a real task");
}

/* Main takes these before a child could. */
static cw_outcome in_main(cw_task *t)
{
    return cw_raise(t, "NotImplementedError", "this task runs in the worker itself");
}

#define ANY .flags = CW_ANY_ARGS, .max_retries = -1
static const struct cw_def defs[] = {
    {.name = "celery.accumulate", .run = accumulate, ANY},
    {.name = "celery.map", .run = map, ANY},
    {.name = "celery.starmap", .run = starmap, ANY},
    {.name = "celery.chunks", .run = chunks, ANY},
    {.name = "celery.group", .run = group, ANY},
    {.name = "celery.chord", .run = chord, ANY},
    {.name = "celery.chain", .run = chain, ANY},
    {.name = "celery.chord_unlock", .run = in_main, .flags = CW_ANY_ARGS | CW_IGNORE_RESULT |
     CW_ACKS_LATE, .max_retries = CW_FOREVER},
    {.name = "celery.backend_cleanup", .run = in_main, .flags = CW_ANY_ARGS | CW_ACKS_LATE},
    {0}};
const struct cw_table celery_table = {.api = CW_API, .defs = defs};
