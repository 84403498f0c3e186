/* SPDX-License-Identifier: Apache-2.0 */
/* What signatures are made of, and how ids get into them. The one idea is Celery's: before anything
 * is sent, a signature is frozen, which writes the ids, the membership of a group and the chord's
 * body into the options of its parts; what is sent later only copies them. Freezing again changes
 * nothing, so a redelivered task sends its continuation under the ids it had. Applying is in
 * canvas_apply.c. */

#include "worker/canvas_private.h"

#include "proto/base/mem.h"
#include "proto/uuid.h"

#include <stdlib.h>
#include <string.h>

/* Of a result. Each is two levels of nesting, of which MongoDB takes 200 in a document. */
enum { ANCESTORS_MOST = 64 };

void make_id(struct canvas_ids *ids, char out[37])
{
    if (!ids) {
        uuid_make(out);
        return;
    }
    char *text = mem_printf("%s/%s%s", ids->task, ids->delivery ? ids->delivery : "",
                            ids->purpose ? ids->purpose : "");
    uuid_derive(text, ids->n++, out);
    free(text);
}

bool canvas_is(const cJSON *signature, const char *type)
{
    const char *own = json_get_string(signature, "subtask_type");
    return own && strcmp(own, type) == 0;
}

cJSON *canvas_tasks(const cJSON *signature)
{
    const cJSON *kwargs = json_get(signature, "kwargs");
    cJSON *tasks = json_get(kwargs, canvas_is(signature, "chord") ? "header" : "tasks");
    /* A header may be a group's signature instead of a list. */
    return cJSON_IsObject(tasks) ? canvas_tasks(tasks) : tasks;
}

cJSON *signature_options(cJSON *signature)
{
    cJSON *options = json_get(signature, "options");
    if (cJSON_IsObject(options))
        return options;
    json_set(signature, "options", cJSON_CreateObject());
    return json_get(signature, "options");
}

bool option_given(const cJSON *options, const char *name)
{
    const cJSON *value = json_get(options, name);
    return value && !cJSON_IsNull(value);
}

void canvas_set(cJSON *signature, const char *name, cJSON *value)
{
    json_set(signature_options(signature), name, value);
}

/* A body that waits for many members is copied into none of them while all are being sent. */
static void set_chord(cJSON *options, const struct membership *m)
{
    if (m->chord)
        json_set(options, "chord", m->share ? cJSON_CreateObjectReference(m->chord->child)
                                            : cJSON_Duplicate(m->chord, true));
}

/* What is there already stays: `text` may be it, and be wanted for the members of a group yet. */
static void set_text(cJSON *options, const char *name, const char *text)
{
    const char *known = json_get_string(options, name);
    if (text && (!known || strcmp(known, text) != 0))
        json_set(options, name, cJSON_CreateString(text));
}

/* --- result tuples ---------------------------------------------------------------------------- */

cJSON *canvas_tuple(const char *id)
{
    cJSON *tuple = cJSON_CreateArray(), *head = cJSON_CreateArray();
    cJSON_AddItemToArray(head, cJSON_CreateString(id));
    cJSON_AddItemToArray(head, cJSON_CreateNull());
    cJSON_AddItemToArray(tuple, head);
    cJSON_AddItemToArray(tuple, cJSON_CreateNull());
    return tuple;
}

static cJSON *group_tuple(const char *id, cJSON *members)
{
    cJSON *tuple = canvas_tuple(id);
    cJSON_ReplaceItemInArray(tuple, 1, members);
    return tuple;
}

bool tuple_is_group(const cJSON *tuple)
{
    return cJSON_IsArray(cJSON_GetArrayItem(tuple, 1));
}

/* The oldest ancestor of `tuple` that is known, or far enough away. */
static cJSON *tuple_oldest(cJSON *tuple)
{
    for (int n = 0; n < ANCESTORS_MOST && cJSON_IsArray(tuple->child->child->next); n++)
        tuple = tuple->child->child->next;
    return tuple;
}

/* Gives the oldest known ancestor of `tuple` its parent; takes parent, with its nearest ancestors. */
static void tuple_set_ancestor(cJSON *tuple, cJSON *parent)
{
    if (!tuple) {
        cJSON_Delete(parent);
        return;
    }
    cJSON_ReplaceItemInArray(tuple_oldest(parent)->child, 1, cJSON_CreateNull());
    cJSON_ReplaceItemInArray(tuple_oldest(tuple)->child, 1, parent);
}

/* --- links ------------------------------------------------------------------------------------ */

/* Options may hold one signature where a list is meant. */
cJSON *option_list(cJSON *options, const char *name)
{
    cJSON *value = json_get(options, name);
    if (cJSON_IsArray(value))
        return value;
    cJSON *list = cJSON_CreateArray();
    if (value && !cJSON_IsNull(value))
        cJSON_AddItemToArray(list, cJSON_Duplicate(value, true));
    json_set(options, name, list);
    return json_get(options, name);
}

static void link_to(cJSON *signature, const char *name, const cJSON *callbacks)
{
    cJSON *list = option_list(signature_options(signature), name);
    cJSON *others = canvas_others(callbacks, list, true);
    while (others->child)
        cJSON_AddItemToArray(list, cJSON_DetachItemViaPointer(others, others->child));
    cJSON_Delete(others);
}

static cJSON *immutable_copies(const cJSON *callbacks)
{
    cJSON *copies = cJSON_Duplicate(callbacks, true);
    for (cJSON *copy = copies->child; copy; copy = copy->next)
        json_set(copy, "immutable", cJSON_CreateTrue());
    return copies;
}

/* The first member stands for a group: its callback must not take the member's result for the
 * group's. */
void canvas_link(cJSON *signature, const cJSON *callbacks)
{
    if (!callbacks || !callbacks->child)
        return;
    if (canvas_is(signature, "chord")) {
        canvas_link(json_get(json_get(signature, "kwargs"), "body"), callbacks);
    } else if (canvas_is(signature, "group")) {
        cJSON *tasks = canvas_tasks(signature), *copies = immutable_copies(callbacks);
        if (tasks && tasks->child)
            canvas_link(tasks->child, copies);
        cJSON_Delete(copies);
    } else {
        link_to(signature, "link", callbacks);
    }
}

void canvas_link_error(cJSON *signature, const cJSON *errbacks)
{
    cJSON *tasks = canvas_tasks(signature);
    if (!errbacks || !errbacks->child)
        return;
    if (canvas_is(signature, "chord")) {
        for (cJSON *task = tasks ? tasks->child : NULL; task; task = task->next)
            if (canvas_is(task, "chord"))
                canvas_link_error(task, errbacks);
        canvas_link_error(json_get(json_get(signature, "kwargs"), "body"), errbacks);
    } else if (canvas_is(signature, "group")) {
        cJSON *copies = immutable_copies(errbacks);
        for (cJSON *task = tasks ? tasks->child : NULL; task; task = task->next)
            canvas_link_error(task, copies);
        cJSON_Delete(copies);
    } else {
        link_to(signature, "link_error", errbacks);
    }
}

/* --- making ----------------------------------------------------------------------------------- */

static cJSON *make_signature(const char *task, const char *type, const char *member, cJSON *tasks)
{
    cJSON *signature = cJSON_CreateObject(), *kwargs = cJSON_CreateObject();
    cJSON_AddItemToObject(kwargs, member, tasks);
    cJSON_AddItemToObject(signature, "task", cJSON_CreateString(task));
    cJSON_AddItemToObject(signature, "args", cJSON_CreateArray());
    cJSON_AddItemToObject(signature, "kwargs", kwargs);
    cJSON_AddItemToObject(signature, "options", cJSON_CreateObject());
    cJSON_AddItemToObject(signature, "subtask_type", cJSON_CreateString(type));
    cJSON_AddItemToObject(signature, "immutable", cJSON_CreateFalse());
    return signature;
}

cJSON *make_chain(cJSON *tasks)
{
    return make_signature("celery.chain", "chain", "tasks", tasks);
}

/* Takes both. */
cJSON *make_chord(cJSON *header, cJSON *body)
{
    cJSON *chord = make_signature("celery.chord", "chord", "header", header);
    cJSON *kwargs = json_get(chord, "kwargs");
    cJSON_AddItemToObject(kwargs, "body", body);
    cJSON_AddItemToObject(kwargs, "kwargs", cJSON_CreateObject());
    return chord;
}

cJSON *take_tasks(cJSON *signature)
{
    cJSON *tasks = canvas_tasks(signature);
    return tasks ? cJSON_DetachItemFromObjectCaseSensitive(
                       json_get(signature, "kwargs"),
                       canvas_is(signature, "chord") ? "header" : "tasks")
                 : cJSON_CreateArray();
}

/* A group of one is that one; takes and returns. */
static cJSON *unroll_single(cJSON *signature)
{
    cJSON *tasks = canvas_is(signature, "group") ? canvas_tasks(signature) : NULL;
    if (!tasks || !tasks->child || tasks->child->next)
        return signature;
    cJSON *only = cJSON_DetachItemViaPointer(tasks, tasks->child);
    cJSON_Delete(signature);
    return only;
}

/* The chain's own callbacks go to its last task, its errbacks to all. Takes chain. */
static cJSON *unchain(cJSON *chain)
{
    cJSON *tasks = take_tasks(chain), *options = signature_options(chain);
    const cJSON *links = option_list(options, "link");
    const cJSON *errbacks = option_list(options, "link_error");
    if (tasks->child)
        canvas_link(tasks->child->prev, links);
    for (cJSON *task = errbacks->child ? tasks->child : NULL; task; task = task->next)
        canvas_link_error(task, errbacks);
    cJSON_Delete(chain);
    return tasks;
}

static void body_or(cJSON *chord, cJSON *second)
{
    cJSON *kwargs = json_get(chord, "kwargs");
    cJSON *body = cJSON_DetachItemFromObjectCaseSensitive(kwargs, "body");
    cJSON_AddItemToObject(kwargs, "body", canvas_or(body, second));
}

static cJSON *chain_of(cJSON *first, cJSON *second)
{
    cJSON *tasks = cJSON_CreateArray();
    cJSON_AddItemToArray(tasks, first);
    cJSON_AddItemToArray(tasks, second);
    return make_chain(tasks);
}

/* Takes both; `tasks` are a chain's. A group that something follows becomes a chord's header. */
static void tasks_or(cJSON *tasks, cJSON *second)
{
    cJSON *last = tasks->child ? tasks->child->prev : NULL;
    if (last && canvas_is(last, "chord") && !canvas_is(second, "chord")) {
        body_or(last, second);
    } else if (last && canvas_is(last, "group") && !canvas_is(second, "group")) {
        cJSON *group = cJSON_DetachItemViaPointer(tasks, last);
        cJSON *chord = make_chord(take_tasks(group), second);
        cJSON_Delete(group);
        if (tasks->child && canvas_is(tasks->child->prev, "chord"))
            body_or(tasks->child->prev, chord);
        else
            cJSON_AddItemToArray(tasks, chord);
    } else {
        cJSON_AddItemToArray(tasks, second);
    }
}

cJSON *canvas_or(cJSON *first, cJSON *second)
{
    second = unroll_single(second);
    if (canvas_is(first, "group")) {
        cJSON *chord = make_chord(take_tasks(first), second);
        cJSON_Delete(first);
        return chord;
    }
    if (canvas_is(first, "chord") && !canvas_is(second, "group") && !canvas_is(second, "chain")) {
        body_or(first, second);
        return first;
    }
    bool is_chain = canvas_is(first, "chain");
    if (!is_chain && !canvas_is(second, "chain"))
        return chain_of(first, second);
    cJSON *tasks = is_chain ? unchain(first) : cJSON_CreateArray();
    if (!is_chain)
        cJSON_AddItemToArray(tasks, first);
    if (canvas_is(second, "chain")) {
        cJSON *others = unchain(second);
        while (others->child)
            tasks_or(tasks, cJSON_DetachItemViaPointer(others, others->child));
        cJSON_Delete(others);
    } else {
        tasks_or(tasks, second);
    }
    return make_chain(tasks);
}

/* --- freezing --------------------------------------------------------------------------------- */

static cJSON *freeze_plain(cJSON *signature, const struct membership *m)
{
    cJSON *options = signature_options(signature);
    char id[37] = "";
    if (!json_get_string(options, "task_id") && !m->id)
        make_id(m->ids, id);
    if (!json_get_string(options, "task_id"))
        set_text(options, "task_id", m->id ? m->id : id);
    set_text(options, "root_id", m->root_id);
    if (!json_get(options, "group_id")) /* a null is there on purpose: it is in none */
        set_text(options, "group_id", m->group_id);
    set_chord(options, m);
    if (m->has_index)
        json_set(options, "group_index", json_int(m->group_index));
    return canvas_tuple(json_get_string(options, "task_id"));
}

static cJSON *reversed(cJSON *list)
{
    cJSON *out = cJSON_CreateArray();
    while (list->child)
        cJSON_AddItemToArray(out, cJSON_DetachItemViaPointer(list, list->child->prev));
    cJSON_Delete(list);
    return out;
}

/* cJSON's own insertion counts its way to the place. */
static void insert_before(cJSON *list, cJSON *place, cJSON *item)
{
    item->prev = place->prev;
    item->next = place;
    if (list->child == place)
        list->child = item;
    else
        place->prev->next = item;
    place->prev = item;
}

/* Puts the items of `inner` in the place of one of `list`; takes inner. */
static void splice(cJSON *list, cJSON *place, cJSON *inner)
{
    while (inner->child)
        insert_before(list, place, cJSON_DetachItemViaPointer(inner, inner->child));
    cJSON_Delete(inner);
    cJSON_Delete(cJSON_DetachItemViaPointer(list, place));
}

/* The members of nested groups stand in one list; those of an inner group backwards, as Celery does
 * it. */
static void flatten(cJSON *tasks)
{
    for (cJSON *task = tasks->child, *next; task; task = next) {
        next = task->next;
        if (!canvas_is(task, "group"))
            continue;
        cJSON *inner = reversed(take_tasks(task));
        flatten(inner);
        splice(tasks, task, inner);
    }
}

cJSON *freeze_members(cJSON *tasks, const struct membership *m)
{
    cJSON *results = cJSON_CreateArray();
    struct membership member = *m;
    if (!tasks)
        return results;
    member.id = NULL;
    member.has_index = true;
    member.group_index = 0;
    flatten(tasks);
    for (cJSON *task = tasks->child; task; task = task->next, member.group_index++)
        cJSON_AddItemToArray(results, signature_freeze(task, &member));
    return results;
}

static cJSON *freeze_group(cJSON *group, const struct membership *m)
{
    cJSON *options = signature_options(group), *tasks = canvas_tasks(group);
    char id[37] = "";
    if (!json_get_string(options, "task_id") && !m->group_id && !m->id)
        make_id(m->ids, id);
    if (!json_get_string(options, "task_id"))
        set_text(options, "task_id", m->group_id ? m->group_id : m->id ? m->id : id);
    const char *group_id = json_get_string(options, "task_id");
    set_text(options, "group_id", m->group_id);
    set_text(options, "root_id", m->root_id);
    set_chord(options, m);
    struct membership member = *m;
    member.group_id = group_id;
    return group_tuple(group_id, freeze_members(tasks, &member));
}

/* The id of a header that was frozen before is in its members. */
const char *header_group_id(const cJSON *chord)
{
    const cJSON *tasks = canvas_tasks(chord);
    const cJSON *first = tasks ? tasks->child : NULL;
    const char *id = first && !json_get_string(first, "subtask_type")
                         ? json_get_string(json_get(first, "options"), "group_id")
                         : NULL;
    return id ? id : json_get_string(json_get(chord, "options"), "task_id");
}

static cJSON *freeze_chord(cJSON *chord, const struct membership *m)
{
    cJSON *tasks = canvas_tasks(chord), *body = json_get(json_get(chord, "kwargs"), "body");
    char id[37] = "";
    const char *known = header_group_id(chord);
    if (!known) {
        make_id(m->ids, id);
        known = id;
    }
    /* The body first: its copies in the header's members must carry its ids. */
    cJSON *result = signature_freeze(body, m);
    struct membership member = {.ids = m->ids, .root_id = m->root_id, .group_id = known,
                                .chord = body, .share = m->share};
    cJSON *header = group_tuple(known, freeze_members(tasks, &member));
    canvas_set(chord, "task_id", cJSON_CreateString(header->child->child->valuestring));
    tuple_set_ancestor(result, header);
    return result;
}

static cJSON *freeze_chain(cJSON *chain, const struct membership *m)
{
    cJSON *steps = chain_steps(chain);
    return steps ? chain_prepare(steps, m) : NULL;
}

cJSON *signature_freeze(cJSON *signature, const struct membership *m)
{
    if (canvas_is(signature, "group"))
        return freeze_group(signature, m);
    if (canvas_is(signature, "chord"))
        return freeze_chord(signature, m);
    if (canvas_is(signature, "chain"))
        return freeze_chain(signature, m);
    return freeze_plain(signature, m);
}

cJSON *canvas_freeze(cJSON *signature, const char *id, const char *root_id, struct canvas_ids *ids)
{
    return signature_freeze(signature,
                            &(struct membership){.ids = ids, .id = id, .root_id = root_id});
}

/* Splices nested chains, unrolls groups of one, and makes a chord of a group that a step
 * follows. */
static void normalise(cJSON *steps)
{
    for (cJSON *step = steps->child ? steps->child->prev : NULL, *before; step; step = before) {
        before = step == steps->child ? NULL : step->prev;
        if (canvas_is(step, "chain") ||
            (canvas_is(step, "group") && canvas_tasks(step) && canvas_tasks(step)->child &&
             !canvas_tasks(step)->child->next)) {
            cJSON *inner = take_tasks(step);
            before = inner->child ? inner->child->prev : before;
            splice(steps, step, inner);
        } else if (canvas_is(step, "group") && step->next) {
            cJSON *body = cJSON_DetachItemViaPointer(steps, step->next);
            cJSON *chord = make_chord(take_tasks(step), body);
            cJSON_ReplaceItemViaPointer(steps, step, chord);
        }
    }
}

cJSON *chain_steps(cJSON *chain)
{
    cJSON *steps = canvas_tasks(chain);
    if (steps)
        normalise(steps);
    return steps && steps->child ? steps : NULL;
}

/* Every step gets its id; the last one is the chain's member in whatever the chain is part of. */
cJSON *chain_prepare(cJSON *steps, const struct membership *m)
{
    cJSON *result = NULL;
    for (cJSON *step = steps->child; step; step = step->next) {
        struct membership plain = {.ids = m->ids, .root_id = m->root_id, .share = m->share};
        cJSON *before = result;
        result = signature_freeze(step, step->next ? &plain : m);
        if (before)
            tuple_set_ancestor(result, before);
    }
    return result;
}
