/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures to messages. One function, apply(), does what Celery's apply_async does for a plain
 * signature, a group and a chain; everything else here finds out what to apply. The embed keeps a chain's
 * remaining steps reversed: the next one is the last. */

#include "worker/continuation.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* How nearly every body ends; such a task has no continuation and its body is not parsed. */
static const char no_embed[] =
    "{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}]";

/* What the caller of apply() adds to a signature. */
struct call {
    const cJSON *first_arg;  /* before the signature's own arguments, unless it is immutable */
    const cJSON *chain;      /* steps after this one, reversed; NULL: none asked */
    const char *group_id;    /* membership, when a group is taken apart */
    int64_t group_index;
};

static int apply(const struct continuation *c, const cJSON *signature, const struct call *call,
                 struct error *err);

/* What follows a redelivered success again has the ids under which it is stored: they depend on the
 * delivery alone. */
static void make_id(const struct continuation *c, char id[37])
{
    const struct message *m = c->message;
    if (!c->n_ids) {
        uuid_make(id);
        return;
    }
    char *delivery = mem_printf("%s/%s", m->id, m->delivery_tag ?: "");
    uuid_derive(delivery, (*c->n_ids)++, id);
    free(delivery);
}

bool continuation_is_empty(const struct message *m)
{
    size_t size = sizeof no_embed - 1;
    return m->body.size >= size &&
           memcmp(m->body.at + m->body.size - size, no_embed, size) == 0;
}

static cJSON *parse_body(const struct message *m)
{
    return continuation_is_empty(m) ? NULL : json_parse(m->body.at, m->body.size, NULL);
}

static const cJSON *embed_of(const cJSON *body)
{
    const cJSON *embed = cJSON_GetArrayItem(body, 2);
    return cJSON_IsObject(embed) ? embed : NULL;
}

/* Options may hold one signature where a list is meant. NULL when there is none. */
static cJSON *as_list(const cJSON *value)
{
    if (!value || cJSON_IsNull(value))
        return NULL;
    if (cJSON_IsArray(value))
        return cJSON_Duplicate(value, true);
    cJSON *list = cJSON_CreateArray();
    cJSON_AddItemToArray(list, cJSON_Duplicate(value, true));
    return list;
}

static cJSON *make_embed(const cJSON *options, const cJSON *chain)
{
    cJSON *embed = cJSON_CreateObject();
    const cJSON *chord = json_get(options, "chord");
    json_set(embed, "callbacks", as_list(json_get(options, "link")) ?: cJSON_CreateNull());
    json_set(embed, "errbacks", as_list(json_get(options, "link_error")) ?: cJSON_CreateNull());
    json_set(embed, "chain", chain ? cJSON_Duplicate(chain, true) : cJSON_CreateNull());
    json_set(embed, "chord", chord ? cJSON_Duplicate(chord, true) : cJSON_CreateNull());
    return embed;
}

static cJSON *make_args(const cJSON *signature, const struct call *call)
{
    cJSON *args = cJSON_CreateArray();
    const cJSON *own = json_get(signature, "args");
    if (call->first_arg && !cJSON_IsTrue(json_get(signature, "immutable")))
        cJSON_AddItemToArray(args, cJSON_Duplicate(call->first_arg, true));
    for (const cJSON *arg = own ? own->child : NULL; arg; arg = arg->next)
        cJSON_AddItemToArray(args, cJSON_Duplicate(arg, true));
    return args;
}

static double number_option(const cJSON *options, const char *name)
{
    const cJSON *value = json_get(options, name);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

/* eta as text wins over a countdown, which counts from now: from the parent's end. */
static int64_t eta_of(const struct continuation *c, const cJSON *options)
{
    int64_t eta = TIME_NONE;
    const char *text = json_get_string(options, "eta");
    double countdown = number_option(options, "countdown");
    if (text && time_parse(text, strlen(text), &eta) == 0)
        return eta;
    return countdown > 0 ? c->now + (int64_t)(countdown * 1e6) : TIME_NONE;
}

static int64_t expires_of(const struct continuation *c, const cJSON *options)
{
    int64_t expires = TIME_NONE;
    const char *text = json_get_string(options, "expires");
    double seconds = number_option(options, "expires");
    if (text && time_parse(text, strlen(text), &expires) == 0)
        return expires;
    return seconds > 0 ? c->now + (int64_t)(seconds * 1e6) : TIME_NONE;
}

static void add_send(const struct continuation *c, const struct message_spec *spec, const char *text)
{
    cJSON *row = cJSON_CreateObject();
    json_set(row, "queue", cJSON_CreateString(spec->queue));
    json_set(row, "priority", json_int(spec->priority));
    json_set(row, "due", spec->eta == TIME_NONE ? cJSON_CreateNull() : json_int(spec->eta));
    json_set(row, "id", cJSON_CreateString(spec->id));
    json_set(row, "text", cJSON_CreateString(text));
    cJSON_AddItemToArray(c->sends, row);
}

static int apply_plain(const struct continuation *c, const cJSON *signature, const struct call *call,
                       struct error *err)
{
    const cJSON *options = json_get(signature, "options");
    const struct message *m = c->message;
    char id[37];
    make_id(c, id);
    int64_t group_index = call->group_index, priority = 0;
    if (!call->group_id && !json_as_int(json_get(options, "group_index"), &group_index))
        group_index = -1;
    json_as_int(json_get(options, "priority"), &priority);
    cJSON *args = make_args(signature, call), *embed = make_embed(options, call->chain);
    struct message_spec spec = {
        .task = json_get_string(signature, "task"),
        .id = json_get_string(options, "task_id") ?: id,
        .args = args,
        .kwargs = json_get(signature, "kwargs"),
        .embed = embed,
        .queue = json_get_string(options, "queue")         ?: json_get_string(options, "routing_key")
                                                           ?: c->default_queue,
        .root_id = m->root_id ?: m->id,
        .parent_id = m->id,
        .group = call->group_id ?: json_get_string(options, "group_id"),
        .group_index = group_index,
        .shadow = json_get_string(options, "shadow"),
        .reply_to = json_get_string(options, "reply_to") ?: m->reply_to,
        .eta = eta_of(c, options),
        .expires = expires_of(c, options),
        .now = c->now,
        .hard_limit = number_option(options, "time_limit"),
        .soft_limit = number_option(options, "soft_time_limit"),
        .priority = (int)priority,
        .ignore_result = cJSON_IsTrue(json_get(options, "ignore_result")),
        .headers = json_get(options, "headers"),
    };
    char *text = spec.task ? message_encode(&spec, err) : NULL;
    if (text)
        add_send(c, &spec, text);
    int code = text ? 0 : spec.task ? err->code : error_set(err, ERROR_INVALID, "no task name");
    free(text);
    cJSON_Delete(args);
    cJSON_Delete(embed);
    return code;
}

/* Each member gets the group's id and its place; steps that follow the group follow each member. */
static int apply_group(const struct continuation *c, const cJSON *signature, const struct call *call,
                       struct error *err)
{
    const cJSON *tasks = json_get(json_get(signature, "kwargs"), "tasks");
    const char *given = json_get_string(json_get(signature, "options"), "task_id");
    char id[37];
    make_id(c, id);
    struct call member = *call;
    member.group_id = given ?: id;
    member.group_index = 0;
    int code = 0;
    for (const cJSON *task = tasks ? tasks->child : NULL; task && code == 0; task = task->next) {
        code = apply(c, task, &member, err);
        member.group_index++;
    }
    return code;
}

/* Its first step goes now; the others, reversed, go with it, after them what follows the chain itself. */
static int apply_chain(const struct continuation *c, const cJSON *signature, const struct call *call,
                       struct error *err)
{
    const cJSON *tasks = json_get(json_get(signature, "kwargs"), "tasks");
    if (!tasks || !tasks->child)
        return 0;
    cJSON *rest = call->chain ? cJSON_Duplicate(call->chain, true) : cJSON_CreateArray();
    for (const cJSON *task = tasks->child->prev; task != tasks->child; task = task->prev) {
        cJSON *step = cJSON_Duplicate(task, true);
        if (!task->next && call->group_id) { /* the last step is the group's member */
            cJSON *options = cJSON_GetObjectItemCaseSensitive(step, "options");
            json_set(options, "group_id", cJSON_CreateString(call->group_id));
            json_set(options, "group_index", json_int(call->group_index));
        }
        cJSON_AddItemToArray(rest, step);
    }
    struct call first = {.first_arg = call->first_arg, .chain = rest};
    if (!tasks->child->next) {
        first.group_id = call->group_id;
        first.group_index = call->group_index;
    }
    int code = apply(c, tasks->child, &first, err);
    cJSON_Delete(rest);
    return code;
}

static int apply(const struct continuation *c, const cJSON *signature, const struct call *call,
                 struct error *err)
{
    const char *type = json_get_string(signature, "subtask_type");
    if (!type)
        return apply_plain(c, signature, call, err);
    if (strcmp(type, "group") == 0)
        return apply_group(c, signature, call, err);
    if (strcmp(type, "chain") == 0)
        return apply_chain(c, signature, call, err);
    return error_set(err, ERROR_UNSUPPORTED, "a %s as the continuation of a task is not supported",
                     type);
}

static int apply_all(const struct continuation *c, const cJSON *signatures, const struct call *call,
                     struct error *err)
{
    char group_id[37];
    struct call member = *call;
    if (cJSON_GetArraySize(signatures) > 1) { /* several callbacks are published as one group */
        make_id(c, group_id);
        member.group_id = group_id;
    }
    int code = 0;
    for (const cJSON *s = signatures ? signatures->child : NULL; s && code == 0; s = s->next) {
        code = apply(c, s, &member, err);
        member.group_index++;
    }
    return code;
}

int continuation_check(const struct message *m, struct error *err)
{
    static const char *const parts[] = {"callbacks", "errbacks", "chain"};
    cJSON *body = parse_body(m);
    int code = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts && code == 0; i++) {
        const cJSON *part = json_get(embed_of(body), parts[i]);
        if (part && !cJSON_IsNull(part) && !cJSON_IsArray(part))
            code = error_set(err, ERROR_INVALID, "body: %s is no list", parts[i]);
        for (const cJSON *s = part ? part->child : NULL; s && code == 0; s = s->next)
            if (!json_get_string(s, "task"))
                code = error_set(err, ERROR_INVALID, "body: %s holds no signature", parts[i]);
    }
    cJSON_Delete(body);
    return code;
}

int continuation_succeeded(const struct continuation *c, struct slice result, struct error *err)
{
    cJSON *body = parse_body(c->message);
    const cJSON *embed = embed_of(body), *chain = json_get(embed, "chain");
    int code = 0;
    if (embed) {
        cJSON *value = result.at ? json_parse(result.at, result.size, err) : cJSON_CreateNull();
        struct call call = {.first_arg = value};
        code = value ? apply_all(c, json_get(embed, "callbacks"), &call, err) : err->code;
        if (code == 0 && cJSON_GetArraySize(chain) > 0) {
            cJSON *rest = cJSON_Duplicate(chain, true);
            cJSON *next = cJSON_DetachItemFromArray(rest, cJSON_GetArraySize(rest) - 1);
            call.chain = rest;
            code = apply(c, next, &call, err);
            cJSON_Delete(next);
            cJSON_Delete(rest);
        }
        cJSON_Delete(value);
    }
    cJSON_Delete(body);
    return code;
}

int continuation_failed(const struct continuation *c, struct error *err)
{
    cJSON *body = parse_body(c->message);
    cJSON *id = cJSON_CreateString(c->message->id);
    struct call call = {.first_arg = id};
    int code = apply_all(c, json_get(embed_of(body), "errbacks"), &call, err);
    cJSON_Delete(id);
    cJSON_Delete(body);
    return code;
}

cJSON *continuation_abandoned(const struct message *m)
{
    cJSON *body = parse_body(m), *ids = NULL;
    const cJSON *chain = json_get(embed_of(body), "chain");
    for (const cJSON *step = chain ? chain->child : NULL; step; step = step->next) {
        const char *id = json_get_string(json_get(step, "options"), "task_id");
        if (!ids)
            ids = cJSON_CreateArray();
        if (id)
            cJSON_AddItemToArray(ids, cJSON_CreateString(id));
    }
    cJSON_Delete(body);
    return ids;
}
