/* SPDX-License-Identifier: Apache-2.0 */
/* The embed of a message's body, [args, kwargs, {"callbacks", "errbacks", "chain", "chord"}], read
 * when its task has ended. The chain is kept reversed: the next step is the last. */

#include "worker/continuation.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* How nearly every body ends; such a task has no continuation and its body is not parsed. */
static const char no_embed[] =
    "{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}]";

bool continuation_is_empty(const struct message *m)
{
    size_t size = sizeof no_embed - 1;
    return m->body.size >= size &&
           memcmp(m->body.at + m->body.size - size, no_embed, size) == 0;
}

struct third {
    int n;
    struct slice value;
};

static int take_third(struct slice value, void *arg)
{
    struct third *third = arg;
    if (third->n++ == 2)
        third->value = value;
    return 0;
}

/* Nothing else of the body becomes a tree: one of many megabytes of arguments would take many times
 * that. */
static cJSON *embed_read(const struct message *m)
{
    struct third third = {0};
    if (!m->body.at || json_walk_list(m->body, take_third, &third, NULL) || !third.value.at)
        return NULL;
    cJSON *embed = json_parse(third.value.at, third.value.size, NULL);
    if (cJSON_IsObject(embed))
        return embed;
    cJSON_Delete(embed);
    return NULL;
}

static cJSON *parse_embed(const struct message *m)
{
    return continuation_is_empty(m) ? NULL : embed_read(m);
}

int continuation_check(const struct message *m, struct error *err)
{
    static const char *const parts[] = {"callbacks", "errbacks", "chain"};
    cJSON *embed = parse_embed(m);
    int code = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && code == 0; i++) {
        const cJSON *part = json_get(embed, parts[i]);
        if (part && !cJSON_IsNull(part) && !cJSON_IsArray(part))
            code = error_set(err, ERROR_INVALID, "body: %s is no list", parts[i]);
        for (const cJSON *s = part ? part->child : NULL; s && code == 0; s = s->next)
            if (!json_get_string(s, "task") || !canvas_is_sound(s))
                code = error_set(err, ERROR_INVALID, "body: %s holds no signature", parts[i]);
    }
    const cJSON *chord = json_get(embed, "chord");
    if (code == 0 && chord && !cJSON_IsNull(chord) && !canvas_is_sound(chord))
        code = error_set(err, ERROR_INVALID, "body: chord is no signature");
    cJSON_Delete(embed);
    return code;
}

void continuation_init(struct continuation *c, const struct message *m)
{
    *c = (struct continuation){
        .message = m,
        .canvas = {.root_id = m->root_id ? m->root_id : m->id,
                   .parent_id = m->id,
                   .reply_to = m->reply_to,
                   .priority = -1},
    };
}

/* --- callbacks, errbacks, the next step ------------------------------------------------------- */

static cJSON *one_arg(cJSON *value)
{
    cJSON *args = cJSON_CreateArray();
    cJSON_AddItemToArray(args, value);
    return args;
}

/* What Celery says of every message that follows a task. */
static cJSON *options_of(const struct continuation *c)
{
    cJSON *options = cJSON_CreateObject();
    json_set(options, "root_id", cJSON_CreateString(c->canvas.root_id));
    json_set(options, "parent_id", cJSON_CreateString(c->canvas.parent_id));
    if (c->canvas.priority >= 0)
        json_set(options, "priority", json_int(c->canvas.priority));
    return options;
}

/* One callback is applied as it is; of several the groups are, and the others are one more
 * group. */
static int apply_callbacks(const struct continuation *c, const cJSON *callbacks, const cJSON *args,
                           const cJSON *options, struct error *err)
{
    int n = cJSON_GetArraySize(callbacks), code = 0;
    if (n == 1)
        return canvas_apply(&c->canvas, callbacks->child, args, options, err);
    cJSON *plain = cJSON_CreateArray();
    for (cJSON *one = callbacks ? callbacks->child : NULL; one && code == 0; one = one->next) {
        if (canvas_is(one, "group"))
            code = canvas_apply(&c->canvas, one, args, options, err);
        else
            cJSON_AddItemReferenceToArray(plain, one);
    }
    if (code == 0 && plain->child)
        code = canvas_apply_group(&c->canvas, plain, args, options, err);
    cJSON_Delete(plain);
    return code;
}

static int apply_next(const struct continuation *c, const cJSON *chain, const cJSON *args,
                      cJSON *options, struct error *err)
{
    if (cJSON_GetArraySize(chain) == 0)
        return 0;
    cJSON *rest = cJSON_Duplicate(chain, true);
    cJSON *next = cJSON_DetachItemViaPointer(rest, rest->child->prev);
    json_set(options, "chain", rest);
    int code = canvas_apply(&c->canvas, next, args, options, err);
    cJSON_Delete(next);
    return code;
}

int continuation_succeeded(const struct continuation *c, struct slice result, struct error *err)
{
    cJSON *embed = parse_embed(c->message);
    int code = 0;
    if (cJSON_GetArraySize(json_get(embed, "callbacks")) +
        cJSON_GetArraySize(json_get(embed, "chain"))) {
        cJSON *value = result.at ? json_parse(result.at, result.size, err) : cJSON_CreateNull();
        cJSON *args = value ? one_arg(value) : NULL, *options = options_of(c);
        code = value ? apply_callbacks(c, json_get(embed, "callbacks"), args, options, err)
                     : err->code;
        if (code == 0)
            code = apply_next(c, json_get(embed, "chain"), args, options, err);
        cJSON_Delete(options);
        cJSON_Delete(args);
    }
    cJSON_Delete(embed);
    return code;
}

/* What an errback of the new style learns of the request that failed. */
static cJSON *describe_request(const struct message *m, const char *id)
{
    cJSON *request = cJSON_CreateObject();
    bool own = m->id && strcmp(m->id, id) == 0;
    json_set(request, "id", cJSON_CreateString(id));
    if (own)
        json_set(request, "task", cJSON_CreateString(m->task));
    json_set(request, "root_id", cJSON_CreateString(m->root_id ? m->root_id : m->id));
    if (own && m->parent_id)
        json_set(request, "parent_id", cJSON_CreateString(m->parent_id));
    if (own && m->group)
        json_set(request, "group", cJSON_CreateString(m->group));
    return request;
}

/* Celery calls such an errback in place; here it is a task like others, with the three as JSON. */
static int send_new_style(const struct continuation *c, const cJSON *errback, const char *id,
                          struct slice exception, const char *traceback, struct error *err)
{
    cJSON *args = one_arg(describe_request(c->message, id)), *options = options_of(c);
    cJSON *value = exception.at ? json_parse(exception.at, exception.size, NULL) : NULL;
    cJSON_AddItemToArray(args, value ? value : cJSON_CreateNull());
    cJSON_AddItemToArray(args, traceback ? cJSON_CreateString(traceback) : cJSON_CreateNull());
    int code = canvas_apply(&c->canvas, errback, args, options, err);
    cJSON_Delete(options);
    cJSON_Delete(args);
    return code;
}

static int send_old_style(const struct continuation *c, const cJSON *errbacks, const char *id,
                          struct error *err)
{
    cJSON *args = one_arg(cJSON_CreateString(id)), *options = options_of(c);
    json_set(options, "parent_id", cJSON_CreateString(id));
    int code = cJSON_IsArray(errbacks)
                   ? canvas_apply_group(&c->canvas, errbacks, args, options, err)
                   : canvas_apply(&c->canvas, errbacks, args, options, err);
    cJSON_Delete(options);
    cJSON_Delete(args);
    return code;
}

/* Celery takes a chain for the new style, by the look of its function, and so sends it outside of
 * the group that the others are. */
int continuation_call_errbacks(const struct continuation *c, const cJSON *errbacks, const char *id,
                               struct slice exception, const char *traceback, struct error *err)
{
    cJSON *old = cJSON_CreateArray();
    const cJSON *first = cJSON_IsArray(errbacks) ? errbacks->child : errbacks;
    int code = 0;
    for (const cJSON *one = first; one && code == 0; one = one->next) {
        const char *task = json_get_string(one, "task");
        if (task && c->takes_error && c->takes_error(task))
            code = send_new_style(c, one, id, exception, traceback, err);
        else if (canvas_is(one, "chain"))
            code = send_old_style(c, one, id, err);
        else if (task)
            cJSON_AddItemToArray(old, cJSON_Duplicate(one, true));
        if (!cJSON_IsArray(errbacks))
            break;
    }
    if (code == 0 && old->child)
        code = send_old_style(c, old, id, err);
    cJSON_Delete(old);
    return code;
}

int continuation_failed(const struct continuation *c, struct slice exception, const char *traceback,
                        struct error *err)
{
    cJSON *embed = parse_embed(c->message);
    int code = continuation_call_errbacks(c, json_get(embed, "errbacks"), c->message->id,
                                          exception, traceback, err);
    cJSON_Delete(embed);
    return code;
}

/* --- replacing -------------------------------------------------------------------------------- */

static cJSON *accumulate(void)
{
    static const char text[] = "{\"task\": \"celery.accumulate\", \"args\": [], \"kwargs\": "
                               "{\"index\": 0}, \"options\": {}, \"subtask_type\": null, "
                               "\"immutable\": false}";
    return json_parse(text, sizeof text - 1, NULL);
}

static void keep_links(cJSON *signature, const cJSON *embed)
{
    bool chain = canvas_is(signature, "chain");
    canvas_link(chain ? canvas_tasks(signature)->child->prev : signature,
                json_get(embed, "callbacks"));
    canvas_link_error(signature, json_get(embed, "errbacks"));
}

static void keep_place(const struct message *m, cJSON *signature, const cJSON *chord, int nesting)
{
    if (chord && !cJSON_IsNull(chord))
        canvas_set(signature, "chord", cJSON_Duplicate(chord, true));
    canvas_set(signature, "group_id",
               m->group ? cJSON_CreateString(m->group) : cJSON_CreateNull());
    if (m->group_index >= 0)
        canvas_set(signature, "group_index", json_int(m->group_index));
    canvas_set(signature, "root_id", cJSON_CreateString(m->root_id ? m->root_id : m->id));
    canvas_set(signature, "replaced_task_nesting", json_int(nesting));
    cJSON *tasks = canvas_is(signature, "chain") ? canvas_tasks(signature) : NULL;
    for (cJSON *task = tasks ? tasks->child : NULL; task; task = task->next)
        canvas_set(task, "replaced_task_nesting", json_int(nesting));
}

/* What the last of `signature` belongs to must move to the chain's end when a chain follows. A plain
 * one keeps the group that it tells: that of the header whose body it is. */
static cJSON *append_chain(cJSON *signature, const cJSON *chain, int nesting)
{
    cJSON *kept = cJSON_CreateObject();
    static const char *const names[] = {"chord", "group_id", "group_index", "root_id",
                                        "replaced_task_nesting"};
    bool plain = !canvas_is(signature, "chain") && !canvas_is(signature, "chord");
    for (size_t i = plain ? 3 : 0; i < sizeof names / sizeof *names; i++) {
        cJSON *options = json_get(signature, "options");
        cJSON *value = cJSON_DetachItemFromObjectCaseSensitive(options, names[i]);
        if (value && i < 3)
            cJSON_Delete(value); /* the chain's last step has its own */
        else if (value)
            cJSON_AddItemToObject(kept, names[i], value);
    }
    const cJSON *last = chain->child->prev;
    for (const cJSON *step = last; step; step = step == chain->child ? NULL : step->prev) {
        cJSON *copy = cJSON_Duplicate(step, true);
        canvas_set(copy, "replaced_task_nesting", json_int(nesting));
        signature = canvas_or(signature, copy);
    }
    for (cJSON *item = kept->child; item; item = item->next)
        canvas_set(signature, item->string, cJSON_Duplicate(item, true));
    cJSON_Delete(kept);
    return signature;
}

static int apply_instead(const struct continuation *c, const cJSON *signature, const cJSON *embed,
                         struct error *err)
{
    const struct message *m = c->message;
    const cJSON *chain = json_get(embed, "chain");
    cJSON *copy = cJSON_Duplicate(signature, true);
    int nesting = m->replaced_task_nesting + 1;
    if (canvas_is(copy, "group"))
        copy = canvas_or(copy, accumulate());
    keep_links(copy, embed);
    cJSON_Delete(canvas_freeze(copy, m->id, m->root_id ? m->root_id : m->id,
                               c->canvas.ids));
    keep_place(m, copy, json_get(embed, "chord"), nesting);
    if (cJSON_GetArraySize(chain) > 0)
        copy = append_chain(copy, chain, nesting);
    int code = canvas_apply(&c->canvas, copy, NULL, NULL, err);
    cJSON_Delete(copy);
    return code;
}

int continuation_replace(const struct continuation *c, const cJSON *signature, struct error *err)
{
    const cJSON *steps = canvas_tasks(signature);
    if (!canvas_is_sound(signature))
        return error_set(err, ERROR_INVALID, "a task cannot be replaced by what is no signature");
    if (canvas_is(signature, "chain") && (!steps || !steps->child))
        return error_set(err, ERROR_INVALID, "a task cannot be replaced by nothing");
    cJSON *embed = embed_read(c->message);
    int code = canvas_fits(signature, NULL, embed, err);
    if (code == 0)
        code = canvas_or_fits(json_get(embed, "chain"), err);
    if (code == 0)
        code = apply_instead(c, signature, embed, err);
    cJSON_Delete(embed);
    return code;
}

/* --- one more part ---------------------------------------------------------------------------- */

int continuation_add_to_chord(const struct continuation *c, const cJSON *signature,
                              struct error *err)
{
    const struct message *m = c->message;
    if (!c->canvas.counts_chords)
        return error_set(err, ERROR_UNSUPPORTED, "Backend does not support add_to_chord");
    if (!m->group || !canvas_is_sound(signature))
        return error_set(err, ERROR_INVALID, "what is no signature cannot be part of a chord");
    if (canvas_fits(signature, NULL, NULL, err) < 0)
        return ERROR_TOO_BIG;
    cJSON *embed = embed_read(m), *copy = cJSON_Duplicate(signature, true);
    canvas_set(copy, "group_id", cJSON_CreateString(m->group));
    if (m->group_index >= 0)
        canvas_set(copy, "group_index", json_int(m->group_index));
    canvas_set(copy, "chord", cJSON_Duplicate(json_get(embed, "chord"), true));
    canvas_set(copy, "root_id", cJSON_CreateString(m->root_id ? m->root_id : m->id));
    cJSON *tuple = canvas_freeze(copy, NULL, m->root_id ? m->root_id : m->id, c->canvas.ids);
    int code = tuple ? canvas_apply(&c->canvas, copy, NULL, NULL, err)
                     : error_set(err, ERROR_INVALID, "an empty chain cannot be part of a chord");
    if (code == 0) {
        cJSON *row = cJSON_CreateObject();
        json_set(row, "group", cJSON_CreateString(m->group));
        json_set(row, "added", cJSON_Duplicate(cJSON_GetArrayItem(tuple->child, 0), true));
        cJSON_AddItemToArray(c->canvas.prepares, row);
    }
    cJSON_Delete(tuple);
    cJSON_Delete(copy);
    cJSON_Delete(embed);
    return code;
}

/* --- what fails, or is counted, with a task --------------------------------------------------- */

static void add_end(const cJSON *signature, cJSON *ends)
{
    const cJSON *options = json_get(signature, "options");
    static const char *const own[] = {"task", "args", "kwargs"};
    static const char *const names[][2] = {
        {"task_id", "id"}, {"group_id", "group"}, {"group_index", "index"}, {"chord", "chord"}};
    if (!json_get_string(options, "task_id"))
        return;
    cJSON *end = cJSON_CreateObject();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const cJSON *value = json_get(options, names[i][0]);
        if (value && !cJSON_IsNull(value))
            json_set(end, names[i][1], cJSON_Duplicate(value, true));
    }
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (json_get(signature, own[i]))
            json_set(end, own[i], cJSON_Duplicate(json_get(signature, own[i]), true));
    cJSON_AddItemToArray(ends, end);
}

/* A chord ends in its body, a group in all its members. */
void continuation_ends(const cJSON *signature, cJSON *ends)
{
    const cJSON *tasks = canvas_tasks(signature);
    if (canvas_is(signature, "chord"))
        continuation_ends(json_get(json_get(signature, "kwargs"), "body"), ends);
    else if (canvas_is(signature, "group") || canvas_is(signature, "chain"))
        for (const cJSON *task = tasks ? tasks->child : NULL; task; task = task->next)
            continuation_ends(task, ends);
    else
        add_end(signature, ends);
}

cJSON *continuation_abandoned(const struct message *m)
{
    cJSON *embed = parse_embed(m), *ends = NULL;
    const cJSON *chain = json_get(embed, "chain");
    for (const cJSON *step = chain ? chain->child : NULL; step; step = step->next) {
        if (!ends)
            ends = cJSON_CreateArray();
        continuation_ends(step, ends);
    }
    cJSON_Delete(embed);
    return ends;
}

cJSON *continuation_part(const struct message *m)
{
    if (!m->id || !m->group)
        return NULL;
    cJSON *embed = parse_embed(m), *part = NULL;
    cJSON *chord = json_get(embed, "chord");
    if (cJSON_IsObject(chord)) {
        part = cJSON_CreateObject();
        json_set(part, "id", cJSON_CreateString(m->id));
        json_set(part, "group", cJSON_CreateString(m->group));
        if (m->group_index >= 0)
            json_set(part, "index", json_int(m->group_index));
        json_set(part, "chord", cJSON_Duplicate(chord, true));
    }
    cJSON_Delete(embed);
    return part;
}
