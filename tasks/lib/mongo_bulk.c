/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/mongo.h"

/* Many writes in few round trips. Batches are unordered, so one bad document does not stop the
 * others, and each statement is an upsert under its key: a batch that was written half, or twice,
 * is mended by writing it again. */

enum { BATCH = 500, BATCH_BYTES = 8 << 20, DUPLICATE_KEY = 11000 };

struct mongo_bulk {
    cw_task *t;
    const char *name;
    mongoc_collection_t *collection;
    mongoc_bulk_operation_t *operation;
    int pending;
    bool make_once;
    size_t bytes;
    struct mongo_bulk_counts counts;
};

static void destroy_operation(struct mongo_bulk *b)
{
    if (b->operation)
        mongoc_bulk_operation_destroy(b->operation);
    b->operation = NULL;
    b->pending = 0;
    b->bytes = 0;
}

static void close_bulk(void *bulk)
{
    destroy_operation(bulk);
}

struct mongo_bulk *mongo_bulk_open(cw_task *t, const char *collection)
{
    struct mongo_bulk *b = cw_alloc(t, sizeof *b);
    b->t = t;
    b->name = cw_printf(t, "%s", collection);
    b->collection = cw_collection(t, collection);
    if (!b->collection)
        return NULL;
    cw_defer(t, close_bulk, b);
    return b;
}

static void count(struct mongo_bulk *b, const bson_t *reply)
{
    b->counts.inserted += doc_int(reply, "nUpserted", 0) + doc_int(reply, "nInserted", 0);
    b->counts.matched += doc_int(reply, "nMatched", 0);
    b->counts.modified += doc_int(reply, "nModified", 0);
    b->counts.removed += doc_int(reply, "nRemoved", 0);
}

void mongo_bulk_make_once(struct mongo_bulk *b)
{
    b->make_once = true;
}

/* Nothing else went wrong than that documents were there already. */
static bool are_duplicates(const bson_t *reply)
{
    bson_iter_t at, list, code;
    bool any = false;
    if (!doc_find(reply, "writeErrors", &at) || !bson_iter_recurse(&at, &list))
        return false;
    for (; bson_iter_next(&list); any = true)
        if (!bson_iter_recurse(&list, &code) || !bson_iter_find(&code, "code") ||
            bson_iter_as_int64(&code) != DUPLICATE_KEY)
            return false;
    bool concern = doc_find(reply, "writeConcernErrors", &at) && bson_iter_recurse(&at, &list) &&
                   bson_iter_next(&list);
    return any && !concern;
}

/* Another writer made the same document in the same instant: the statement did nothing, and the
 * other one wrote what is true as well; it is transient, as the next attempt finds the document. */
int mongo_bulk_flush(struct mongo_bulk *b)
{
    bson_t reply;
    bson_error_t error;
    if (!b->pending)
        return 0;
    bool good = mongoc_bulk_operation_execute(b->operation, &reply, &error);
    bool made = !good && b->make_once && are_duplicates(&reply);
    count(b, &reply);
    bson_destroy(&reply);
    destroy_operation(b);
    if (good || made)
        return 0;
    if (error.code == DUPLICATE_KEY)
        return cw_problem(b->t, true, "ConnectionError", "MongoDB, %s: %s", b->name, error.message);
    return mongo_failed(b->t, b->name, &error);
}

static int added(struct mongo_bulk *b, bool good, size_t size, const bson_error_t *error)
{
    if (!good)
        return mongo_failed(b->t, b->name, error);
    b->pending++;
    b->bytes += size;
    return b->pending >= BATCH || b->bytes >= BATCH_BYTES ? mongo_bulk_flush(b) : 0;
}

static mongoc_bulk_operation_t *operation_of(struct mongo_bulk *b)
{
    if (!b->operation) {
        bson_t opts = BSON_INITIALIZER;
        BSON_APPEND_BOOL(&opts, "ordered", false);
        b->operation = mongoc_collection_create_bulk_operation_with_opts(b->collection, &opts);
        bson_destroy(&opts);
    }
    return b->operation;
}

int mongo_bulk_update(struct mongo_bulk *b, const bson_t *filter, const bson_t *update, bool upsert)
{
    bson_t opts = BSON_INITIALIZER;
    bson_error_t error;
    BSON_APPEND_BOOL(&opts, "upsert", upsert);
    bool good =
        mongoc_bulk_operation_update_one_with_opts(operation_of(b), filter, update, &opts, &error);
    bson_destroy(&opts);
    return added(b, good, filter->len + update->len, &error);
}

int mongo_bulk_upsert(struct mongo_bulk *b, const bson_t *key, const bson_t *set,
                      const bson_t *on_insert)
{
    bson_t update = BSON_INITIALIZER;
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    if (on_insert && !bson_empty(on_insert))
        BSON_APPEND_DOCUMENT(&update, "$setOnInsert", on_insert);
    int code = mongo_bulk_update(b, key, &update, true);
    bson_destroy(&update);
    return code;
}

struct mongo_bulk_counts mongo_bulk_counts(const struct mongo_bulk *b)
{
    return b->counts;
}
