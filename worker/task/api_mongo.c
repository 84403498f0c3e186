/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/task/app_database.h"
#include "worker/task/task_private.h"

#include <mongoc/mongoc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* MongoDB for tasks: one pool of clients per process, made when the first task asks for one (so
 * after the fork), one client per delivery, and one handle of each collection: a task may ask for
 * one a million times. */

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static mongoc_client_pool_t *pool;
static char *database;

static int pool_make(cw_task *t)
{
    struct error why = {0};
    bson_error_t error = {0};
    mongoc_init();
    mongoc_uri_t *uri = app_database_uri(task_process.settings, &why);
    if (!uri)
        return helper_failed(t, false, why.code == ERROR_NOT_FOUND ? "RuntimeError" : "ValueError",
                             "%s", why.text);
    database = bson_strdup(mongoc_uri_get_database(uri));
    mongoc_uri_set_appname(uri, "cworker");
    pool = mongoc_client_pool_new_with_error(uri, &error);
    mongoc_uri_destroy(uri);
    if (!pool) {
        bson_free(database);
        database = NULL;
        return helper_failed(t, false, "ValueError", "app_database_url: %s", error.message);
    }
    mongoc_client_pool_set_error_api(pool, MONGOC_ERROR_API_VERSION_2);
    return 0;
}

void mongo_close(void)
{
    pthread_mutex_lock(&pool_lock);
    if (pool) {
        mongoc_client_pool_destroy(pool);
        bson_free(database);
        pool = NULL;
        database = NULL;
    }
    pthread_mutex_unlock(&pool_lock);
}

static void give_back(void *client)
{
    mongoc_client_pool_push(pool, client);
}

struct _mongoc_client_t *cw_mongo(cw_task *t)
{
    if (t->mongo)
        return t->mongo;
    pthread_mutex_lock(&pool_lock);
    int code = pool ? 0 : pool_make(t);
    pthread_mutex_unlock(&pool_lock);
    if (code < 0)
        return NULL;
    t->mongo = mongoc_client_pool_pop(pool);
    cw_defer(t, give_back, t->mongo);
    return t->mongo;
}

struct kept_collection {
    struct kept_collection *next;
    mongoc_collection_t *collection;
};

static void destroy_collection(void *collection)
{
    mongoc_collection_destroy(collection);
}

struct _mongoc_collection_t *cw_collection(cw_task *t, const char *name)
{
    mongoc_client_t *client = cw_mongo(t);
    if (!client)
        return NULL;
    for (struct kept_collection *at = t->collections; at; at = at->next)
        if (strcmp(mongoc_collection_get_name(at->collection), name) == 0)
            return at->collection;
    struct kept_collection *kept = cw_alloc(t, sizeof *kept);
    kept->collection = mongoc_client_get_collection(client, database, name);
    kept->next = t->collections;
    t->collections = kept;
    cw_defer(t, destroy_collection, kept->collection);
    return kept->collection;
}
