/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/mongo.h"

#include <string.h>

/* Reads and single writes. Every write that a task makes is an upsert under a key, or an update
 * whose filter holds the state it starts from: a kill -9 before it leaves the old document, one
 * after it the new one, and a second delivery finds either and ends in the same place. */

enum { DUPLICATE_KEY = 11000, UPSERT_ATTEMPTS = 3 };

/* Codes of a server that is going away, electing, short of time for the moment, or that has closed
 * a cursor which waited for too long. */
static bool is_transient_code(uint32_t code)
{
    static const uint32_t codes[] = {6,   7,   43,   50,    64,    89,    91,    112,   133,  189,
                                     237, 262, 9001, 10107, 11600, 11602, 13435, 13436, 13388};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i] == code)
            return true;
    return false;
}

int mongo_failed(cw_task *t, const char *what, const bson_error_t *e)
{
    bool transient =
        e->domain == MONGOC_ERROR_STREAM || e->domain == MONGOC_ERROR_SERVER_SELECTION ||
        ((e->domain == MONGOC_ERROR_SERVER || e->domain == MONGOC_ERROR_WRITE_CONCERN) &&
         is_transient_code(e->code));
    return cw_problem(t, transient, transient ? "ConnectionError" : "RuntimeError",
                      "MongoDB, %s: %s", what, e->message);
}

static void destroy_bson(void *document)
{
    bson_destroy(document);
}

bson_t *mongo_bson(cw_task *t)
{
    bson_t *document = bson_new();
    cw_defer(t, destroy_bson, document);
    return document;
}

int mongo_find(cw_task *t, const char *collection, const bson_t *filter, const bson_t *opts,
               const bson_t **ret)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_error_t error;
    const bson_t *found;
    if (!c)
        return -1;
    bson_t one = BSON_INITIALIZER;
    if (opts)
        bson_copy_to_excluding_noinit(opts, &one, "limit", NULL);
    BSON_APPEND_INT64(&one, "limit", 1);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(c, filter, &one, NULL);
    int code = mongoc_cursor_next(cursor, &found)    ? 1
               : mongoc_cursor_error(cursor, &error) ? mongo_failed(t, collection, &error)
                                                     : 0;
    if (code == 1) {
        bson_t *copy = bson_copy(found);
        cw_defer(t, destroy_bson, copy);
        *ret = copy;
    }
    mongoc_cursor_destroy(cursor);
    bson_destroy(&one);
    return code;
}

const bson_t *mongo_load(cw_task *t, const char *collection, const char *what, const char *id)
{
    bson_t filter = BSON_INITIALIZER;
    const bson_t *found = NULL;
    doc_match_id(&filter, "_id", id);
    if (mongo_find(t, collection, &filter, NULL, &found) == 0)
        cw_problem(t, false, "LookupError", "no %s %.80s", what, id);
    bson_destroy(&filter);
    return found;
}

static int each_of_cursor(cw_task *t, const char *collection, mongoc_cursor_t *cursor,
                          mongo_document_fn *fn, void *arg)
{
    const bson_t *document;
    bson_error_t error;
    int code = 0;
    while (code >= 0 && mongoc_cursor_next(cursor, &document))
        code = fn(t, document, arg);
    if (code >= 0)
        code = mongoc_cursor_error(cursor, &error) ? mongo_failed(t, collection, &error) : 0;
    mongoc_cursor_destroy(cursor);
    return code;
}

int mongo_each(cw_task *t, const char *collection, const bson_t *filter, const bson_t *opts,
               mongo_document_fn *fn, void *arg)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    if (!c)
        return -1;
    return each_of_cursor(t, collection, mongoc_collection_find_with_opts(c, filter, opts, NULL),
                          fn, arg);
}

int mongo_group(cw_task *t, const char *collection, const bson_t *filter, const char *field,
                mongo_document_fn *fn, void *arg)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    if (!c)
        return -1;
    bson_t *pipeline = BCON_NEW("pipeline", "[", "{", "$match", BCON_DOCUMENT(filter), "}", "{",
                                "$group", "{", "_id", BCON_UTF8(cw_printf(t, "$%s", field)), "n",
                                "{", "$sum", BCON_INT32(1), "}", "}", "}", "]");
    mongoc_cursor_t *cursor =
        mongoc_collection_aggregate(c, MONGOC_QUERY_NONE, pipeline, NULL, NULL);
    bson_destroy(pipeline);
    return each_of_cursor(t, collection, cursor, fn, arg);
}

static int each_value(cw_task *t, const bson_t *reply, mongo_document_fn *fn, void *arg)
{
    bson_iter_t at, values;
    int code = 0;
    if (!doc_find(reply, "values", &at) || !bson_iter_recurse(&at, &values))
        return 0;
    while (code >= 0 && bson_iter_next(&values)) {
        bson_t one = BSON_INITIALIZER;
        bson_append_iter(&one, "_id", -1, &values);
        code = fn(t, &one, arg);
        bson_destroy(&one);
    }
    return code;
}

int mongo_distinct(cw_task *t, const char *collection, const char *field, mongo_document_fn *fn,
                   void *arg)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_error_t error;
    bson_t reply;
    if (!c)
        return -1;
    bson_t *command = BCON_NEW("distinct", BCON_UTF8(collection), "key", BCON_UTF8(field));
    int code = mongoc_collection_read_command_with_opts(c, command, NULL, NULL, &reply, &error)
                   ? each_value(t, &reply, fn, arg)
                   : mongo_failed(t, collection, &error);
    bson_destroy(command);
    bson_destroy(&reply);
    return code;
}

int64_t mongo_now(cw_task *t)
{
    static const char *const names[] = {"hello", "isMaster"}; /* the second one before MongoDB 5 */
    mongoc_client_t *client = cw_mongo(t);
    bson_error_t error = {0};
    int64_t now = -1;
    for (size_t i = 0; client && now < 0 && i < sizeof names / sizeof *names; i++) {
        bson_t *command = BCON_NEW(names[i], BCON_INT32(1)), reply;
        if (mongoc_client_command_simple(client, "admin", command, NULL, &reply, &error))
            now = doc_date(&reply, "localTime", -1);
        bson_destroy(command);
        bson_destroy(&reply);
        if (error.domain == MONGOC_ERROR_STREAM || error.domain == MONGOC_ERROR_SERVER_SELECTION)
            return mongo_failed(t, "hello", &error);
    }
    return client && now < 0 ? doc_now() : now;
}

void mongo_touch(bson_t *update)
{
    BCON_APPEND(update, "$currentDate", "{", "updated_at", BCON_BOOL(true), "}");
}

int64_t mongo_count(cw_task *t, const char *collection, const bson_t *filter)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_error_t error;
    if (!c)
        return -1;
    int64_t n = mongoc_collection_count_documents(c, filter, NULL, NULL, NULL, &error);
    return n < 0 ? mongo_failed(t, collection, &error) : n;
}

static int64_t reply_int(const bson_t *reply, const char *field)
{
    return doc_int(reply, field, 0);
}

int mongo_update(cw_task *t, const char *collection, const bson_t *filter, const bson_t *update,
                 bool upsert)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_t opts = BSON_INITIALIZER, reply;
    bson_error_t error;
    int code = -1;
    if (!c)
        return -1;
    BSON_APPEND_BOOL(&opts, "upsert", upsert);
    for (int attempt = 1; code < 0; attempt++) {
        bool good = mongoc_collection_update_one(c, filter, update, &opts, &reply, &error);
        if (good)
            code = reply_int(&reply, "matchedCount") > 0 ||
                   (upsert && bson_has_field(&reply, "upsertedId"));
        bson_destroy(&reply);
        if (good)
            break;
        if (!upsert || error.code != DUPLICATE_KEY || attempt == UPSERT_ATTEMPTS) {
            code = mongo_failed(t, collection, &error);
            break;
        }
    }
    bson_destroy(&opts);
    return code;
}

int64_t mongo_update_many(cw_task *t, const char *collection, const bson_t *filter,
                          const bson_t *update)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_t reply;
    bson_error_t error;
    if (!c)
        return -1;
    bool good = mongoc_collection_update_many(c, filter, update, NULL, &reply, &error);
    int64_t n = good ? reply_int(&reply, "modifiedCount") : -1;
    bson_destroy(&reply);
    return good ? n : mongo_failed(t, collection, &error);
}

int64_t mongo_remove_many(cw_task *t, const char *collection, const bson_t *filter)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_t reply;
    bson_error_t error;
    if (!c)
        return -1;
    bool good = mongoc_collection_delete_many(c, filter, NULL, &reply, &error);
    int64_t n = good ? reply_int(&reply, "deletedCount") : -1;
    bson_destroy(&reply);
    return good ? n : mongo_failed(t, collection, &error);
}

int mongo_insert(cw_task *t, const char *collection, const bson_t *document)
{
    mongoc_collection_t *c = cw_collection(t, collection);
    bson_error_t error;
    if (!c)
        return -1;
    if (mongoc_collection_insert_one(c, document, NULL, NULL, &error))
        return 1;
    return error.code == DUPLICATE_KEY ? 0 : mongo_failed(t, collection, &error);
}
