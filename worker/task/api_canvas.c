/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/task_private.h"

#include "proto/base/mem.h"
#include "proto/uuid.h"
#include "worker/store/store.h"

#include <stdlib.h>
#include <string.h>

/* Canvases of a C task. A signature is made here as Celery writes it and travels to main as it is,
 * with the outcome: main fixes the ids of its parts and makes its messages, as for any
 * continuation. Only the id that the task may want to tell is fixed here. */

static const char *queue_of(const struct cw_send *call)
{
    int index = call->queue || !call->task ? -1 : registry_find(call->task);
    return index >= 0 ? registry[index].table->queue : call->queue;
}

static void set_number(cJSON *options, const char *name, double value)
{
    if (value > 0)
        json_set(options, name, cJSON_CreateNumber(value));
}

static void set_text(cJSON *options, const char *name, const char *value)
{
    if (value)
        json_set(options, name, cJSON_CreateString(value));
}

static cJSON *make(const char *task, cJSON *args, cJSON *kwargs, const char *type)
{
    cJSON *sig = cJSON_CreateObject();
    cJSON_AddItemToObject(sig, "task", task ? cJSON_CreateString(task) : cJSON_CreateNull());
    cJSON_AddItemToObject(sig, "args", args ? args : cJSON_CreateArray());
    cJSON_AddItemToObject(sig, "kwargs", kwargs ? kwargs : cJSON_CreateObject());
    cJSON_AddItemToObject(sig, "options", cJSON_CreateObject());
    cJSON_AddItemToObject(sig, "subtask_type",
                          type ? cJSON_CreateString(type) : cJSON_CreateNull());
    cJSON_AddItemToObject(sig, "immutable", cJSON_CreateFalse());
    return sig;
}

cJSON *cw_sig(struct cw_send call)
{
    cJSON *sig = make(call.task, call.args, call.kwargs, NULL), *options = json_get(sig, "options");
    set_text(options, "queue", queue_of(&call));
    set_text(options, "task_id", call.id);
    set_text(options, "eta", call.eta);
    set_number(options, "countdown", call.countdown);
    set_number(options, "expires", call.expires);
    set_number(options, "priority", call.priority);
    if (call.headers)
        json_set(options, "headers", call.headers);
    if (call.ignore_result)
        json_set(options, "ignore_result", cJSON_CreateTrue());
    if (call.immutable)
        json_set(sig, "immutable", cJSON_CreateTrue());
    return sig;
}

static cJSON *make_list(const char *task, const char *type, const char *member, cJSON *list)
{
    cJSON *kwargs = cJSON_CreateObject();
    json_set(kwargs, member, list ? list : cJSON_CreateArray());
    return make(task, NULL, kwargs, type);
}

cJSON *cw_chain(cJSON *list)
{
    return make_list("celery.chain", "chain", "tasks", list);
}

cJSON *cw_group(cJSON *list)
{
    return make_list("celery.group", "group", "tasks", list);
}

cJSON *cw_chord(cJSON *list, cJSON *body)
{
    cJSON *sig = make_list("celery.chord", "chord", "header", list),
          *kwargs = json_get(sig, "kwargs");
    json_set(kwargs, "body", body ? body : cJSON_CreateNull());
    json_set(kwargs, "kwargs", cJSON_CreateObject());
    return sig;
}

static bool is_a(const cJSON *sig, const char *type)
{
    const char *own = json_get_string(sig, "subtask_type");
    return own && strcmp(own, type) == 0;
}

static void add_link(cJSON *sig, const char *name, cJSON *other)
{
    cJSON *options = json_get(sig, "options"), *list = json_get(options, name);
    if (!cJSON_IsObject(options)) { /* no signature, which cw_apply() says */
        cJSON_Delete(other);
        return;
    }
    if (!list) {
        list = cJSON_CreateArray();
        json_set(options, name, list);
    }
    cJSON_AddItemToArray(list, other);
}

/* A chord is linked at its body, a chain at its last task; a group, as in Celery, at its first,
 * which does not hand on the result that is not the group's. */
void cw_link(cJSON *sig, cJSON *callback)
{
    const cJSON *kwargs = json_get(sig, "kwargs"), *tasks = json_get(kwargs, "tasks");
    cJSON *first = tasks ? tasks->child : NULL;
    if (is_a(sig, "chord")) {
        cw_link(json_get(kwargs, "body"), callback);
    } else if (is_a(sig, "chain") && first) {
        cw_link(first->prev, callback);
    } else if (is_a(sig, "group") && first) {
        json_set(callback, "immutable", cJSON_CreateTrue());
        cw_link(first, callback);
    } else {
        add_link(sig, "link", callback);
    }
}

/* Any task of a group may fail. */
void cw_link_error(cJSON *sig, cJSON *errback)
{
    const cJSON *kwargs = json_get(sig, "kwargs"), *tasks = json_get(kwargs, "tasks");
    if (is_a(sig, "chord")) {
        cw_link_error(json_get(kwargs, "body"), errback);
    } else if (is_a(sig, "group")) {
        json_set(errback, "immutable", cJSON_CreateTrue());
        for (cJSON *task = tasks ? tasks->child : NULL; task; task = task->next)
            cw_link_error(task, cJSON_Duplicate(errback, true));
        cJSON_Delete(errback);
    } else {
        add_link(sig, "link_error", errback);
    }
}

/* --- sending ---------------------------------------------------------------------------------- */

static bool is_sound(const cJSON *sig)
{
    const char *type = json_get_string(sig, "subtask_type");
    const cJSON *kwargs = json_get(sig, "kwargs");
    const cJSON *list = json_get(kwargs, type && !strcmp(type, "chord") ? "header" : "tasks");
    if (!json_get_string(sig, "task") || !cJSON_IsArray(json_get(sig, "args")) ||
        !cJSON_IsObject(kwargs))
        return false;
    if (!type)
        return true;
    for (const cJSON *one = list ? list->child : NULL; one; one = one->next)
        if (!is_sound(one))
            return false;
    return cJSON_IsArray(list) &&
           (strcmp(type, "chord") != 0 || is_sound(json_get(kwargs, "body")));
}

/* The part whose result is that of all: a chord's body, a chain's last task. A group of one is that
 * one in a chain. */
static cJSON *last_part(cJSON *sig, bool in_chain)
{
    const cJSON *kwargs = json_get(sig, "kwargs"), *tasks = json_get(kwargs, "tasks");
    cJSON *first = tasks ? tasks->child : NULL;
    if (is_a(sig, "chord"))
        return last_part(json_get(kwargs, "body"), false);
    if (first && (is_a(sig, "chain") || (in_chain && is_a(sig, "group") && !first->next)))
        return last_part(first->prev, true);
    return sig;
}

static const char *fix_id(cJSON *sig)
{
    cJSON *options = json_get(last_part(sig, false), "options");
    char id[CW_ID_SIZE];
    uuid_make(id);
    if (!json_get_string(options, "task_id"))
        json_set(options, "task_id", cJSON_CreateString(id));
    return json_get_string(options, "task_id");
}

static void add_row(cw_task *t, const char *kind, cJSON *value)
{
    cJSON *row = cJSON_CreateObject();
    json_set(row, kind, value);
    if (!t->sends)
        t->sends = cJSON_CreateArray();
    cJSON_AddItemToArray(t->sends, row);
}

int cw_apply(cw_task *t, cJSON *sig, char ret_id[CW_ID_SIZE])
{
    if (ret_id)
        ret_id[0] = '\0';
    if (!is_sound(sig)) {
        cJSON_Delete(sig);
        return helper_failed(t, false, "ValueError",
                             "cw_apply() of a signature without task, list or body");
    }
    const char *id = fix_id(sig);
    if (ret_id) {
        strncpy(ret_id, id, CW_ID_SIZE - 1);
        ret_id[CW_ID_SIZE - 1] = '\0';
    }
    add_row(t, "apply", sig);
    return 0;
}

static bool is_part(cw_task *t)
{
    const cJSON *embed = cJSON_GetArrayItem(t->body, 2);
    return cw_info(t)->group_id && cJSON_IsObject(json_get(embed, "chord"));
}

int cw_add_to_chord(cw_task *t, cJSON *sig)
{
    if (is_sound(sig) && is_part(t)) {
        add_row(t, "part", sig);
        return 0;
    }
    const char *why = is_sound(sig) ? "Current task is not member of any chord"
                                    : "cw_add_to_chord() of a signature without task, list or body";
    cJSON_Delete(sig);
    return helper_failed(t, false, "ValueError", "%s", why);
}

cw_outcome cw_replace(cw_task *t, cJSON *sig)
{
    if (!is_sound(sig)) {
        cJSON_Delete(sig);
        return cw_raise(t, "ValueError", "cw_replace() by a signature without task, list or body");
    }
    const char *type = json_get_string(sig, "subtask_type");
    const cJSON *steps = json_get(json_get(sig, "kwargs"), "tasks");
    if (type && strcmp(type, "chain") == 0 && !steps->child) {
        cJSON_Delete(sig);
        return cw_raise(t, "celery.exceptions.ImproperlyConfigured",
                        "Cannot replace with an empty chain");
    }
    cw_outcome outcome = cw_ignore(t);
    add_row(t, "replace", sig);
    t->replaced = true;
    return outcome;
}

int cw_revoke(cw_task *t, const char *const *ids, size_t n, bool terminate)
{
    cJSON *what = cJSON_CreateObject(), *list = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(ids[i]));
    json_set(what, "ids", list);
    json_set(what, "terminate", cJSON_CreateBool(terminate));
    add_row(t, "revoke", what);
    return 0;
}

/* --- results of others ------------------------------------------------------------------------ */

static void free_tree(void *tree)
{
    cJSON_Delete(tree);
}

const cJSON *cw_result(cw_task *t, const char *id, int *ret_code)
{
    struct error err = {0};
    int ignored;
    int *code = ret_code ? ret_code : &ignored;
    *code = 0;
    char *text = task_process.settings ? store_read(task_process.settings->result_backend,
                                                    task_process.settings, id, &err)
                                       : NULL;
    if (err.code != 0) {
        *code = helper_failed(t, true, "ConnectionError", "result of %s: %s", id, err.text);
        return NULL;
    }
    cJSON *result = text ? json_parse(text, strlen(text), NULL) : NULL;
    free(text);
    if (result)
        cw_defer(t, free_tree, result);
    return result;
}
