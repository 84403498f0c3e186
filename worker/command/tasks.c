/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/command.h"

#include "proto/base/mem.h"
#include "worker/registry.h"
#include "worker/task/app_database.h"

#include <mongoc/mongoc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What this worker can run (`list`, `show NAME`), and the indexes its tasks count on (`init`).
 * Making an index that is there is nothing new, so init may be run by every deployment. */

static const char *queue_of(const struct registry_entry *entry, const struct options *o)
{
    const char *queue = entry->table ? entry->table->queue : NULL;
    return queue ? queue : o->settings.task_default_queue;
}

static int list_tasks(const struct options *o)
{
    for (int i = 0; i < registry_size; i++) {
        const struct cw_def *def = registry[i].def;
        printf("%-45s %-14s %s\n", def->name, queue_of(&registry[i], o),
               def->help ? def->help : "");
    }
    return 0;
}

/* --- one task --- */

static void show_policy(const struct cw_def *def)
{
    printf("acks: %s%s\n",
           def->flags & CW_ACKS_LATE    ? "late"
           : def->flags & CW_ACKS_EARLY ? "early"
                                        : "as task_acks_late says",
           def->flags & CW_REJECT_ON_LOST ? ", goes back when its child dies" : "");
    if (def->max_retries == CW_FOREVER)
        printf("max_retries: without end\n");
    else
        printf("max_retries: %d\n", def->max_retries < 0 ? 0
                                    : def->max_retries   ? def->max_retries
                                                         : 3);
    if (def->backoff.base > 0)
        printf("retry backoff: %g s, at most %g s%s\n", def->backoff.base,
               def->backoff.max > 0 ? def->backoff.max : 600,
               def->backoff.no_jitter ? "" : ", with jitter");
    if (def->soft_limit > 0 || def->hard_limit > 0)
        printf("time limits: soft %g s, hard %g s\n", def->soft_limit, def->hard_limit);
    if (def->rate_limit)
        printf("rate limit: %s\n", def->rate_limit);
}

static void show_arguments(const struct cw_def *def)
{
    static const char *const kinds[] = {
        [CW_ANY] = "anything", [CW_INT] = "integer", [CW_NUM] = "number",    [CW_BOOL] = "boolean",
        [CW_STR] = "text",     [CW_LIST] = "list",   [CW_OBJECT] = "object",
    };
    printf("arguments:%s\n", def->flags & CW_ANY_ARGS         ? " any"
                             : def->args && def->args[0].name ? ""
                                                              : " none");
    for (const struct cw_arg *arg = def->args; arg && arg->name; arg++)
        printf("  %s: %s%s%s%s%s\n", arg->name, kinds[arg->kind], arg->fallback ? " = " : "",
               arg->fallback ? arg->fallback : "", arg->help ? "; " : "",
               arg->help ? arg->help : "");
}

static int show_task(const struct options *o)
{
    const char *name = command_word(o, 1);
    if (!name)
        return command_usage(o, "show needs the name of a task");
    int index = registry_find(name);
    if (index < 0) {
        fprintf(stderr, "cworker tasks: no task %.100s\n", name);
        return 1;
    }
    const struct cw_def *def = registry[index].def;
    printf("%s\n", def->name);
    if (def->help)
        printf("%s\n", def->help);
    printf("queue: %s\n", queue_of(&registry[index], o));
    show_policy(def);
    show_arguments(def);
    return 0;
}

/* --- indexes --- */

/* {key: {team_id: 1, last_seen: -1}, name: "team_id_1_last_seen_-1", …}, as drivers name them. */
static void put_index(bson_t *list, uint32_t number, const struct cw_index *index)
{
    bson_t entry, key;
    char room[16], *keys = mem_dup(index->keys), *rest = keys, *name = mem_dup("");
    const char *place;
    bson_uint32_to_string(number, &place, room, sizeof room);
    BSON_APPEND_DOCUMENT_BEGIN(list, place, &entry);
    BSON_APPEND_DOCUMENT_BEGIN(&entry, "key", &key);
    for (char *field; (field = strsep(&rest, ", "));) {
        int order = *field == '-' ? -1 : 1;
        field += order < 0;
        if (!*field)
            continue;
        bson_append_int32(&key, field, -1, order);
        char *longer = mem_printf("%s%s%s_%d", name, *name ? "_" : "", field, order);
        free(name);
        name = longer;
    }
    bson_append_document_end(&entry, &key);
    BSON_APPEND_UTF8(&entry, "name", name);
    if (index->unique)
        BSON_APPEND_BOOL(&entry, "unique", true);
    if (index->expire_after > 0)
        BSON_APPEND_INT64(&entry, "expireAfterSeconds", (int64_t)index->expire_after);
    bson_append_document_end(list, &entry);
    free(keys);
    free(name);
}

static int make_index(mongoc_client_t *client, const char *database, const struct cw_index *index)
{
    bson_t command = BSON_INITIALIZER, list;
    bson_error_t error;
    BSON_APPEND_UTF8(&command, "createIndexes", index->collection);
    BSON_APPEND_ARRAY_BEGIN(&command, "indexes", &list);
    put_index(&list, 0, index);
    bson_append_array_end(&command, &list);
    bool good = mongoc_client_command_simple(client, database, &command, NULL, NULL, &error);
    bson_destroy(&command);
    if (good)
        printf("%s: %s%s\n", index->collection, index->keys, index->unique ? " (unique)" : "");
    else
        fprintf(stderr, "cworker tasks: index (%s) of %s: %s\n", index->keys, index->collection,
                error.message);
    return good ? 0 : error.domain == MONGOC_ERROR_SERVER_SELECTION ? EXIT_UNAVAILABLE : 1;
}

/* Tables share a queue's entries: each is visited at the first of its tasks. */
static int make_indexes(mongoc_client_t *client, const char *database)
{
    const struct cw_table *before = NULL;
    int code = 0;
    for (int i = 0; i < registry_size && code != EXIT_UNAVAILABLE; i++) {
        const struct cw_table *table = registry[i].table;
        if (!table || table == before || !table->indexes)
            continue;
        before = table;
        for (const struct cw_index *at = table->indexes; at->collection; at++) {
            int made = make_index(client, database, at);
            code = made ? made : code;
            if (made == EXIT_UNAVAILABLE)
                break;
        }
    }
    return code;
}

static int init_indexes(const struct options *o)
{
    struct error err = {0};
    bson_error_t error = {0};
    mongoc_init();
    mongoc_uri_t *uri = app_database_uri(&o->settings, &err);
    if (!uri)
        return command_usage(o, "%s", err.text);
    mongoc_client_t *client = mongoc_client_new_from_uri_with_error(uri, &error);
    if (!client) {
        fprintf(stderr, "cworker tasks: app_database_url: %s\n", error.message);
        mongoc_uri_destroy(uri);
        return EXIT_USAGE;
    }
    mongoc_client_set_error_api(client, MONGOC_ERROR_API_VERSION_2);
    int code = make_indexes(client, mongoc_uri_get_database(uri));
    mongoc_client_destroy(client);
    mongoc_uri_destroy(uri);
    return code;
}

int command_tasks(struct options *o)
{
    const char *what = command_word(o, 0);
    if (!what || strcmp(what, "list") == 0)
        return list_tasks(o);
    if (strcmp(what, "show") == 0)
        return show_task(o);
    if (strcmp(what, "init") == 0)
        return init_indexes(o);
    return command_usage(o, "\"%.40s\" is none of list, show and init", what);
}
