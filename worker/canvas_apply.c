/* SPDX-License-Identifier: Apache-2.0 */
/* Signatures to messages. Each kind has one function, and they call each other as the signatures
 * nest; all work on a copy of the whole signature, in which ids are fixed before anything becomes a
 * message. Options given by the caller win over a signature's own, except for its membership in a
 * group and its stamps. */

#include "proto/base/mem.h"
#include "proto/time.h"
#include "worker/canvas_private.h"
#include "worker/join.h"

#include <stdlib.h>
#include <string.h>

/* What a caller adds to a signature; any of them NULL. */
struct given {
    const cJSON *args;   /* a list, before its own */
    const cJSON *kwargs; /* an object, over its own */
    const cJSON *over;   /* options over its own */
};

static int apply(const struct canvas *c, cJSON *signature, const struct given *given,
                 struct error *err);

/* --- options ---------------------------------------------------------------------------------- */

static bool is_fixed(const char *name)
{
    return strcmp(name, "group_id") == 0 || strcmp(name, "stamped_headers") == 0;
}

static bool is_immutable(const cJSON *own, const char *name)
{
    if (is_fixed(name))
        return true;
    const cJSON *stamped = json_get(own, "stamped_headers");
    for (const cJSON *s = stamped ? stamped->child : NULL; s; s = s->next)
        if (cJSON_IsString(s) && strcmp(s->valuestring, name) == 0)
            return true;
    return false;
}

/* NULL where neither gives one; a null is none. */
static const cJSON *option(const cJSON *own, const cJSON *over, const char *name)
{
    const cJSON *value = json_get(over, name), *mine = json_get(own, name);
    if (value && !cJSON_IsNull(value) && !(mine && is_immutable(own, name)))
        return value;
    return mine && !cJSON_IsNull(mine) ? mine : NULL;
}

static const char *text_option(const cJSON *own, const cJSON *over, const char *name)
{
    const cJSON *value = option(own, over, name);
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

static cJSON *copy_of(const cJSON *object)
{
    return cJSON_IsObject(object) ? cJSON_Duplicate(object, true) : cJSON_CreateObject();
}

/* `over` over `own`, as a new object. */
static cJSON *merge(const cJSON *own, const cJSON *over)
{
    cJSON *merged = copy_of(own), *taken = cJSON_CreateObject();
    struct json_index mine = json_index(own);
    struct json_index stamped = json_index(json_get(own, "stamped_headers"));
    for (const cJSON *item = over ? over->child : NULL; item; item = item->next) {
        const char *name = item->string;
        bool fixed = is_fixed(name) || json_index_get(&stamped, name);
        if (!cJSON_IsNull(item) && !(fixed && json_index_get(&mine, name)))
            cJSON_AddItemToArray(taken, cJSON_Duplicate(item, true)); /* with its name */
    }
    json_index_done(&stamped);
    json_index_done(&mine);
    json_merge(merged, taken);
    return merged;
}

static void drop(cJSON *options, const char *const *names)
{
    for (; *names; names++)
        cJSON_DeleteItemFromObjectCaseSensitive(options, *names);
}

/* A list of `first`'s and `second`'s items, without copies of them. */
static cJSON *joined(const cJSON *first, const cJSON *second)
{
    cJSON *list = cJSON_CreateArray();
    for (const cJSON *item = first ? first->child : NULL; item; item = item->next)
        cJSON_AddItemReferenceToArray(list, (cJSON *)(uintptr_t)item);
    for (const cJSON *item = second ? second->child : NULL; item; item = item->next)
        cJSON_AddItemReferenceToArray(list, (cJSON *)(uintptr_t)item);
    return list;
}

static cJSON *args_of(const cJSON *signature, const cJSON *args)
{
    bool immutable = cJSON_IsTrue(json_get(signature, "immutable"));
    return joined(immutable ? NULL : args, json_get(signature, "args"));
}

/* NULL: its own. The caller frees. */
static cJSON *kwargs_of(const cJSON *signature, const cJSON *kwargs)
{
    if (!kwargs || !kwargs->child || cJSON_IsTrue(json_get(signature, "immutable")))
        return NULL;
    cJSON *all = copy_of(json_get(signature, "kwargs"));
    json_merge(all, copy_of(kwargs));
    return all;
}

static void add_child(const struct canvas *c, cJSON *tuple)
{
    if (c->children && tuple)
        cJSON_AddItemToArray(c->children, tuple);
    else
        cJSON_Delete(tuple);
}

/* --- a plain signature ------------------------------------------------------------------------ */

static double number_option(const cJSON *own, const cJSON *over, const char *name)
{
    const cJSON *value = option(own, over, name);
    return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

/* An instant as text, or seconds that count from now: from the parent's end. */
static int64_t instant_option(const struct canvas *c, const cJSON *own, const cJSON *over,
                              const char *name, const char *seconds_name)
{
    int64_t instant = TIME_NONE;
    const char *text = text_option(own, over, name);
    const cJSON *seconds = option(own, over, seconds_name);
    if (text && time_parse(text, strlen(text), &instant) == 0)
        return instant;
    bool none = !cJSON_IsNumber(seconds) || (seconds->valuedouble == 0 && strcmp(name, "eta") == 0);
    return none ? TIME_NONE : c->now + (int64_t)(seconds->valuedouble * 1e6);
}

static cJSON *list_of(const cJSON *value)
{
    cJSON *list = cJSON_CreateArray();
    if (cJSON_IsObject(value))
        cJSON_AddItemReferenceToArray(list, (cJSON *)(uintptr_t)value);
    for (const cJSON *item = cJSON_IsArray(value) ? value->child : NULL; item; item = item->next)
        cJSON_AddItemReferenceToArray(list, (cJSON *)(uintptr_t)item);
    return list;
}

static cJSON *make_embed(const cJSON *own, const cJSON *over)
{
    cJSON *embed = cJSON_CreateObject();
    const cJSON *link = option(own, over, "link"), *errback = option(own, over, "link_error");
    const cJSON *chain = option(own, over, "chain"), *chord = option(own, over, "chord");
    json_set(embed, "callbacks", link ? list_of(link) : cJSON_CreateNull());
    json_set(embed, "errbacks", errback ? list_of(errback) : cJSON_CreateNull());
    json_set(embed, "chain", chain ? list_of(chain) : cJSON_CreateNull());
    json_set(embed, "chord",
             chord ? cJSON_CreateObjectReference(chord->child) : cJSON_CreateNull());
    return embed;
}

static cJSON *make_stamps(const cJSON *own, const cJSON *stamped)
{
    cJSON *stamps = cJSON_CreateObject();
    struct json_index mine = json_index(own), names = json_index(stamped);
    for (const cJSON *name = names.first; name; name = name->next) {
        bool first = cJSON_IsString(name) && json_index_get(&names, name->valuestring) == name;
        const cJSON *value = first ? json_index_get(&mine, name->valuestring) : NULL;
        if (value)
            cJSON_AddItemToObject(stamps, name->valuestring, cJSON_Duplicate(value, true));
    }
    json_index_done(&names);
    json_index_done(&mine);
    return stamps;
}

static void add_send(const struct canvas *c, const struct message_spec *spec, const char *text)
{
    cJSON *row = cJSON_CreateObject();
    json_set(row, "queue", cJSON_CreateString(spec->queue));
    json_set(row, "priority", json_int(spec->priority));
    json_set(row, "due", spec->eta <= c->now ? cJSON_CreateNull() : json_int(spec->eta));
    json_set(row, "id", cJSON_CreateString(spec->id));
    json_set(row, "text", cJSON_CreateString(text));
    cJSON_AddItemToArray(c->sends, row);
}

static int count_bytes(const struct canvas *c, const char *text, struct error *err)
{
    if (!c->sent)
        return 0;
    *c->sent += strlen(text);
    return *c->sent <= (size_t)CANVAS_MIB_MOST << 20
               ? 0
               : error_set(err, ERROR_TOO_BIG, "messages of more than %d MiB", CANVAS_MIB_MOST);
}

/* A row for a message whose JSON parts the caller holds. */
static int send_message(const struct canvas *c, struct message_spec *spec, const cJSON *own,
                        const cJSON *over, struct error *err)
{
    int64_t index = -1, priority = c->priority > 0 ? c->priority : 0, nesting = 0;
    json_as_int(option(own, over, "group_index"), &index);
    json_as_int(option(own, over, "priority"), &priority);
    json_as_int(option(own, over, "replaced_task_nesting"), &nesting);
    spec->queue = text_option(own, over, "queue")         ?: text_option(own, over, "routing_key")
                                                          ?: c->default_queue;
    spec->root_id = text_option(own, over, "root_id") ?: c->root_id;
    spec->parent_id = text_option(own, over, "parent_id") ?: c->parent_id;
    spec->group = text_option(own, over, "group_id");
    spec->group_index = index;
    spec->shadow = text_option(own, over, "shadow");
    spec->reply_to = text_option(own, over, "reply_to") ?: c->reply_to;
    spec->origin = c->origin;
    spec->eta = instant_option(c, own, over, "eta", "countdown");
    spec->expires = instant_option(c, own, over, "expires", "expires");
    spec->now = c->now;
    spec->hard_limit = number_option(own, over, "time_limit");
    spec->soft_limit = number_option(own, over, "soft_time_limit");
    spec->priority = (int)priority;
    spec->ignore_result = cJSON_IsTrue(option(own, over, "ignore_result"));
    spec->replaced_task_nesting = (int)nesting;
    spec->headers = option(own, over, "headers");
    spec->compression = text_option(own, over, "compression");
    int code = count_bytes(c, "", err); /* what is over already must not cost more */
    if (code < 0)
        return code;
    char *text = message_encode(spec, err);
    if (!text)
        return err->code;
    code = count_bytes(c, text, err);
    if (code == 0)
        add_send(c, spec, text);
    free(text);
    return code;
}

static int apply_plain(const struct canvas *c, cJSON *signature, const struct given *given,
                       struct error *err)
{
    const cJSON *own = json_get(signature, "options"), *over = given->over;
    const cJSON *stamped = option(own, over, "stamped_headers");
    char id[37] = "";
    if (!text_option(own, over, "task_id"))
        make_id(c->ids, id);
    cJSON *all = args_of(signature, given->args), *embed = make_embed(own, over);
    cJSON *kwargs = kwargs_of(signature, given->kwargs);
    cJSON *merged = stamped ? merge(own, over) : NULL;
    cJSON *stamps = stamped ? make_stamps(merged, stamped) : NULL;
    struct message_spec spec = {
        .task = json_get_string(signature, "task"),
        .id = text_option(own, over, "task_id") ?: id,
        .args = all,
        .kwargs = kwargs ? kwargs : json_get(signature, "kwargs"),
        .embed = embed,
        .stamped_headers = stamped,
        .stamps = stamps,
    };
    int code = spec.task ? send_message(c, &spec, own, over, err)
                         : error_set(err, ERROR_INVALID, "a signature names no task");
    if (code == 0)
        add_child(c, canvas_tuple(spec.id));
    cJSON_Delete(all);
    cJSON_Delete(kwargs);
    cJSON_Delete(embed);
    cJSON_Delete(stamps);
    cJSON_Delete(merged);
    return code;
}

/* --- a group ---------------------------------------------------------------------------------- */

/* How many parts of a chord this header member counts as. */
static int64_t count_parts(const cJSON *signature)
{
    const cJSON *tasks = canvas_tasks(signature);
    int64_t n = 0;
    if (canvas_is(signature, "group")) {
        for (const cJSON *task = tasks ? tasks->child : NULL; task; task = task->next)
            n += count_parts(task);
        return n;
    }
    if (canvas_is(signature, "chord"))
        return count_parts(json_get(json_get(signature, "kwargs"), "body"));
    if (!canvas_is(signature, "chain"))
        return 1;
    const cJSON *last = tasks && tasks->child ? tasks->child->prev : NULL;
    for (const cJSON *task = last; task && n == 0; task = task == tasks->child ? NULL : task->prev)
        n = count_parts(task);
    return n;
}

struct group_run {
    const struct canvas *c;
    const char *id, *root_id;
    struct given given; /* to each member */
    bool has_chord;
    const char *chord_group;  /* whose size is to be told */
    int64_t n_parts;
    cJSON *results;
};

/* A group in a group is its members, each counted from 0 again. Each is freed when it is a
 * message. */
static int apply_members(struct group_run *run, cJSON *tasks, struct error *err)
{
    int64_t index = 0;
    int code = 0;
    for (; tasks->child && code == 0; index++) {
        cJSON *task = cJSON_DetachItemViaPointer(tasks, tasks->child);
        if (canvas_is(task, "group")) {
            cJSON *inner = canvas_tasks(task);
            code = inner ? apply_members(run, inner, err) : 0;
            cJSON_Delete(task);
            continue;
        }
        struct membership m = {.ids = run->c->ids,
                               .root_id = run->root_id,
                               .group_id = run->id,
                               .has_index = true,
                               .group_index = index,
                               .share = true};
        cJSON *result = signature_freeze(task, &m);
        if (result)
            cJSON_AddItemToArray(run->results, result);
        if (run->has_chord || option_given(json_get(task, "options"), "chord")) {
            run->chord_group = run->id;
            run->n_parts += count_parts(task);
        }
        code = apply(run->c, task, &run->given, err);
        cJSON_Delete(task);
    }
    return code;
}

static cJSON *add_prepare(const struct canvas *c, const char *group)
{
    cJSON *row = cJSON_CreateObject();
    json_set(row, "group", cJSON_CreateString(group));
    if (c->prepares)
        cJSON_AddItemToArray(c->prepares, row);
    return row;
}

static void tell_size(const struct canvas *c, const char *group, int64_t size, bool keep)
{
    if (!c->counts_chords || !c->prepares)
        return;
    cJSON *row = add_prepare(c, group);
    json_set(row, "size", json_int(size));
    json_set(row, "keep", cJSON_CreateBool(keep));
}

static cJSON *group_result(const char *id, cJSON *results)
{
    cJSON *only = results->child && !results->child->next ? results->child : NULL;
    if (only && tuple_is_group(only)) {
        cJSON *inner = cJSON_DetachItemViaPointer(results, only);
        cJSON_Delete(results);
        return inner;
    }
    cJSON *tuple = canvas_tuple(id);
    cJSON_ReplaceItemInArray(tuple, 1, results);
    return tuple;
}

/* `is_header`: a chord's run sends it, which knows the whole size. A group that stands at the end
 * of a header's chain was counted by that header already, so that size is kept. */
static int send_group(const struct canvas *c, cJSON *tasks, const struct given *given,
                      cJSON *options, bool is_header, struct error *err)
{
    static const char *const not_for_members[] = {"task_id", "group_index", "link_error", NULL};
    struct canvas inner = *c;
    char id[37] = "";
    const char *known = json_get_string(options, "task_id");
    if (!known)
        make_id(c->ids, id);
    char *group = mem_dup(known ? known : id);
    drop(options, not_for_members);
    if (is_header)
        cJSON_DeleteItemFromObjectCaseSensitive(options, "link"); /* its body has them */
    json_set(options, "group_id", cJSON_CreateString(group));
    inner.children = NULL;
    struct group_run run = {.c = &inner,
                            .id = group,
                            .given = {given->args, given->kwargs, options},
                            .root_id = json_get_string(options, "root_id"),
                            .has_chord = option_given(options, "chord"),
                            .results = cJSON_CreateArray()};
    int code = apply_members(&run, tasks, err);
    if (run.chord_group && code == 0)
        tell_size(c, group, run.n_parts, !is_header);
    add_child(c, group_result(group, run.results));
    free(group);
    return code;
}

static int apply_group(const struct canvas *c, cJSON *signature, const struct given *given,
                       struct error *err)
{
    cJSON *tasks = canvas_tasks(signature);
    if (!tasks || !tasks->child)
        return 0;
    cJSON *options = merge(json_get(signature, "options"), given->over);
    int code = send_group(c, tasks, given, options, false, err);
    cJSON_Delete(options);
    return code;
}

/* --- a chain ---------------------------------------------------------------------------------- */

static void link_errors(cJSON *steps, const cJSON *errbacks)
{
    cJSON *list = list_of(errbacks);
    for (cJSON *step = steps->child; step; step = step->next)
        canvas_link_error(step, list);
    cJSON_Delete(list);
}

/* Of a group each task gets them, when it is sent. */
static void link_last(cJSON *step, const cJSON *links)
{
    cJSON *list = list_of(links);
    if (!canvas_is(step, "group"))
        canvas_link(step, list);
    for (const cJSON *link = canvas_is(step, "group") ? list->child : NULL; link; link = link->next)
        cJSON_AddItemToArray(option_list(signature_options(step), "link"),
                             cJSON_Duplicate(link, true));
    cJSON_Delete(list);
}

/* The first step goes now; the others go with it, reversed, behind what follows the chain
 * itself. */
static int apply_chain(const struct canvas *c, cJSON *signature, const struct given *given,
                       struct error *err)
{
    static const char *const not_for_first[] = {"group_id",    "chord",      "task_id",
                                                "link",        "root_id",    "parent_id",
                                                "group_index", "link_error", NULL};
    cJSON *steps = chain_steps(signature);
    if (!steps)
        return 0;
    cJSON *options = merge(json_get(signature, "options"), given->over);
    cJSON *all = joined(given->args, json_get(signature, "args")); /* not asking if it is immutable */
    struct membership m = {
        .ids = c->ids,
        .id = json_get_string(options, "task_id"),
        .root_id = json_get_string(options, "root_id"),
        .group_id = json_get_string(options, "group_id"),
        .chord = option_given(options, "chord") ? json_get(options, "chord") : NULL,
    };
    m.has_index = json_as_int(json_get(options, "group_index"), &m.group_index);
    cJSON_Delete(chain_prepare(steps, &m));
    if (option_given(options, "link_error"))
        link_errors(steps, json_get(options, "link_error"));
    link_last(steps->child->prev, json_get(options, "link"));
    cJSON *first = cJSON_DetachItemViaPointer(steps, steps->child);
    cJSON *rest = joined(json_get(options, "chain"), NULL);
    for (cJSON *step = steps->child ? steps->child->prev : NULL; step;
         step = step == steps->child ? NULL : step->prev)
        cJSON_AddItemReferenceToArray(rest, step);
    cJSON *of_first = cJSON_Duplicate(options, true);
    drop(of_first, not_for_first);
    json_set(of_first, "chain", rest);
    int code = apply(c, first, &(struct given){all, given->kwargs, of_first}, err);
    cJSON_Delete(of_first);
    cJSON_Delete(first);
    cJSON_Delete(all);
    cJSON_Delete(options);
    return code;
}

/* --- a chord ---------------------------------------------------------------------------------- */

/* It has no ETA of its own, so that the end of the last part can bring it forward. */
static void delay_unlock(const struct canvas *c, const char *group, const cJSON *results,
                         const cJSON *of_chord)
{
    cJSON *row = c->sends->child->prev;
    const cJSON *countdown = json_get(of_chord, "countdown");
    double seconds = cJSON_IsNumber(countdown) ? countdown->valuedouble : 1;
    json_set(row, "due", json_int(c->now + (int64_t)(seconds * 1e6)));
    json_set(row, "chord", cJSON_CreateString(group));
    json_set(row, "n_parts", json_int((int64_t)join_count(results)));
}

/* Without a count in the store somebody has to look whether the parts are ready. */
static int send_unlock(const struct canvas *c, const char *group, const cJSON *body,
                       cJSON *results, const cJSON *of_chord, struct error *err)
{
    const cJSON *of_body = json_get(body, "options");
    cJSON *args = cJSON_CreateArray(), *kwargs = cJSON_CreateObject();
    char id[37];
    make_id(c->ids, id);
    cJSON_AddItemToArray(args, cJSON_CreateString(group));
    cJSON_AddItemReferenceToArray(args, (cJSON *)(uintptr_t)body);
    const cJSON *interval = json_get(of_chord, "interval");
    const cJSON *most = json_get(of_chord, "max_retries");
    json_set(kwargs, "interval", interval ? cJSON_Duplicate(interval, true) : cJSON_CreateNull());
    json_set(kwargs, "max_retries", most ? cJSON_Duplicate(most, true) : cJSON_CreateNull());
    json_set(kwargs, "result", cJSON_CreateArrayReference(results->child));
    cJSON *options = cJSON_CreateObject();
    static const char *const kept[] = {"queue", "priority"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (option_given(of_body, kept[i]))
            json_set(options, kept[i], cJSON_Duplicate(json_get(of_body, kept[i]), true));
    json_set(options, "ignore_result", cJSON_CreateTrue());
    struct message_spec spec = {.task = "celery.chord_unlock", .id = id, .args = args,
                                .kwargs = kwargs};
    int code = send_message(c, &spec, options, NULL, err);
    if (code == 0) {
        delay_unlock(c, group, results, of_chord);
        add_child(c, canvas_tuple(id));
    }
    cJSON_Delete(options);
    cJSON_Delete(args);
    cJSON_Delete(kwargs);
    return code;
}

/* Results that are groups keep their shape only if the header's result is saved. */
static void save_header(const struct canvas *c, const char *group, const cJSON *results)
{
    bool complex = false;
    for (const cJSON *result = results->child; result; result = result->next)
        complex = complex || tuple_is_group(result);
    if (!complex || !c->prepares)
        return;
    cJSON *tuple = canvas_tuple(group);
    cJSON_ReplaceItemInArray(tuple, 1, cJSON_Duplicate(results, true));
    json_set(add_prepare(c, group), "result", tuple);
}

static int send_header(const struct canvas *c, cJSON *chord, const char *group, cJSON *body,
                       const struct given *given, cJSON *options, struct error *err)
{
    static const char *const not_for_header[] = {"chain", "chord", "task_id", NULL};
    cJSON *tasks = canvas_tasks(chord);
    drop(options, not_for_header);
    struct membership m = {.ids = c->ids, .group_id = group, .chord = body, .share = true,
                           .root_id = json_get_string(json_get(body, "options"), "root_id")};
    cJSON *results = freeze_members(tasks, &m);
    int code = 0;
    if (c->counts_chords)
        save_header(c, group, results);
    else
        code = send_unlock(c, group, body, results, options, err);
    cJSON_Delete(results);
    json_set(options, "task_id", cJSON_CreateString(group));
    json_set(options, "chord", cJSON_CreateObjectReference(body->child));
    return code == 0 ? send_group(c, tasks, given, options, true, err) : code;
}

/* What its kwargs hold for the header's members, and what was given over that. */
static cJSON *header_kwargs(const cJSON *chord, const cJSON *given)
{
    cJSON *all = copy_of(json_get(json_get(chord, "kwargs"), "kwargs"));
    json_merge(all, copy_of(given));
    return all;
}

static void give_options(cJSON *body, const cJSON *options)
{
    cJSON *given = cJSON_CreateObject();
    for (const cJSON *item = options->child; item; item = item->next)
        if (!cJSON_IsNull(item) || strcmp(item->string, "group_id") == 0)
            cJSON_AddItemToArray(given, cJSON_Duplicate(item, true)); /* with its name */
    json_merge(signature_options(body), given);
}

static int apply_chord(const struct canvas *c, cJSON *signature, const struct given *given,
                       struct error *err)
{
    cJSON *body = json_get(json_get(signature, "kwargs"), "body"), *tasks = canvas_tasks(signature);
    cJSON *options = merge(json_get(signature, "options"), given->over);
    cJSON *all = args_of(signature, given->args), *kwargs = header_kwargs(signature, given->kwargs);
    char id[37] = "";
    const char *known = header_group_id(signature);
    if (!known)
        make_id(c->ids, id);
    char *group = mem_dup(known ? known : id);
    char *body_id = mem_dup(json_get_string(options, "task_id"));
    cJSON_DeleteItemFromObjectCaseSensitive(options, "task_id");
    give_options(body, options);
    struct membership m = {.ids = c->ids, .id = body_id, .group_id = group,
                           .root_id = json_get_string(json_get(body, "options"), "root_id")};
    cJSON_Delete(signature_freeze(body, &m));
    int code;
    if (tasks && tasks->child) {
        code = send_header(c, signature, group, body, &(struct given){all, kwargs, NULL}, options,
                           err);
    } else {
        cJSON *empty = cJSON_CreateArray();
        cJSON_AddItemToArray(empty, cJSON_CreateArray());
        code = apply(c, body, &(struct given){.args = empty}, err);
        cJSON_Delete(empty);
    }
    free(group);
    free(body_id);
    cJSON_Delete(kwargs);
    cJSON_Delete(options);
    cJSON_Delete(all);
    return code;
}

/* ---------------------------------------------------------------------------------------------- */

static int apply(const struct canvas *c, cJSON *signature, const struct given *given,
                 struct error *err)
{
    const char *type = json_get_string(signature, "subtask_type");
    if (!type || !*type)
        return apply_plain(c, signature, given, err);
    if (strcmp(type, "group") == 0)
        return apply_group(c, signature, given, err);
    if (strcmp(type, "chain") == 0)
        return apply_chain(c, signature, given, err);
    if (strcmp(type, "chord") == 0)
        return apply_chord(c, signature, given, err);
    return error_set(err, ERROR_UNSUPPORTED, "a signature of type %s is not known", type);
}

/* Whether it can be applied at all. */
static int look_through(const cJSON *signatures, const cJSON *args, const cJSON *options,
                        struct error *err)
{
    bool sound = cJSON_IsArray(signatures) ? canvas_are_sound(signatures)
                                           : canvas_is_sound(signatures);
    return sound ? canvas_fits(signatures, args, options, err)
                 : error_set(err, ERROR_INVALID, "a signature is none, or holds what is none");
}

int canvas_apply(const struct canvas *c, const cJSON *signature, const cJSON *args,
                 const cJSON *options, struct error *err)
{
    int code = look_through(signature, args, options, err);
    if (code < 0)
        return code;
    cJSON *copy = cJSON_Duplicate(signature, true);
    code = apply(c, copy, &(struct given){.args = args, .over = options}, err);
    cJSON_Delete(copy);
    return code;
}

int canvas_apply_last(const struct canvas *c, cJSON *signature, struct error *err)
{
    int code = look_through(signature, NULL, NULL, err);
    return code < 0 ? code : apply(c, signature, &(struct given){0}, err);
}

int canvas_apply_group(const struct canvas *c, const cJSON *signatures, const cJSON *args,
                       const cJSON *options, struct error *err)
{
    int code = look_through(signatures, args, options, err);
    if (code < 0)
        return code;
    cJSON *tasks = cJSON_Duplicate(signatures, true);
    cJSON *of_group = options ? cJSON_Duplicate(options, true) : cJSON_CreateObject();
    code = send_group(c, tasks, &(struct given){.args = args}, of_group, false, err);
    cJSON_Delete(of_group);
    cJSON_Delete(tasks);
    return code;
}
