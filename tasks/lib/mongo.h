/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_MONGO_H
#define TASKS_LIB_MONGO_H

#include "tasks/cworker.h"
#include "tasks/lib/doc.h"

#include <mongoc/mongoc.h>

/* MongoDB for the built-in tasks. Like the helpers of cworker.h these return < 0 (or NULL) on
 * failure and leave the reason for cw_fail: what a further attempt may mend (network, elections) is
 * retried. */

/* Maps a driver's error; returns -1. `what` names the collection. */
int mongo_failed(cw_task *t, const char *what, const bson_error_t *error);

/* The document of that id, stored as text or ObjectId; it lives as long as the delivery.
 * LookupError
 * ("no scan run …") when there is none: `what` is its name for people. */
const bson_t *mongo_load(cw_task *t, const char *collection, const char *what, const char *id);
/* 1 found (*ret lives as long as the delivery), 0 none, -1 failed. opts as of mongoc, or NULL. */
int mongo_find(cw_task *t, const char *collection, const bson_t *filter, const bson_t *opts,
               const bson_t **ret);
/* Calls fn with each document, in the store's batches; fn < 0 ends it (and is returned). */
typedef int mongo_document_fn(cw_task *t, const bson_t *document, void *arg);
int mongo_each(cw_task *t, const char *collection, const bson_t *filter, const bson_t *opts,
               mongo_document_fn *fn, void *arg);
int64_t mongo_count(cw_task *t, const char *collection, const bson_t *filter);

/* One update. 1: a document matched (or was made by upsert), 0: none did, -1 failed. With the old
 * state in the filter this is a compare-and-set. Two upserts that meet are tried again. */
int mongo_update(cw_task *t, const char *collection, const bson_t *filter, const bson_t *update,
                 bool upsert);
/* The number of documents that were changed, -1 failed. */
int64_t mongo_update_many(cw_task *t, const char *collection, const bson_t *filter,
                          const bson_t *update);
/* 1 inserted, 0 there is one under that key already, -1 failed. */
int mongo_insert(cw_task *t, const char *collection, const bson_t *document);

/* The number of documents removed, -1 failed. */
int64_t mongo_remove_many(cw_task *t, const char *collection, const bson_t *filter);

/* How many documents there are for each value of a field; fn gets {_id: value, n: count}. */
int mongo_group(cw_task *t, const char *collection, const bson_t *filter, const char *field,
                mongo_document_fn *fn, void *arg);

/* Each value that a field has, as {_id: value}; from an index that begins with the field, if there
 * is one, whatever the number of documents. */
int mongo_distinct(cw_task *t, const char *collection, const char *field, mongo_document_fn *fn,
                   void *arg);

/* The store's own time, ms: one clock for all workers. < 0 failed. */
int64_t mongo_now(cw_task *t);

/* Has the update set `updated_at` to the store's time as it is made: what the sync of findings goes
 * by. */
void mongo_touch(bson_t *update);

/* Upserts in batches of at most 500 documents or 8 MiB: bounded memory however many there are. */
struct mongo_bulk;
struct mongo_bulk *mongo_bulk_open(cw_task *t, const char *collection);
/* {$set: set, $setOnInsert: on_insert} under the unique key; on_insert may be NULL. */
int mongo_bulk_upsert(struct mongo_bulk *b, const bson_t *key, const bson_t *set,
                      const bson_t *on_insert);
/* Any update; see mongo_update. */
int mongo_bulk_update(struct mongo_bulk *b, const bson_t *filter, const bson_t *update,
                      bool upsert);
/* The statements make documents, or change ones that nobody has changed since: who finds that
 * another one has is content. */
void mongo_bulk_make_once(struct mongo_bulk *b);
int mongo_bulk_flush(struct mongo_bulk *b); /* what waits is written; call it at the end */
struct mongo_bulk_counts {
    int64_t inserted, matched, modified, removed;
};
struct mongo_bulk_counts mongo_bulk_counts(const struct mongo_bulk *b);

/* BSON that is freed with the delivery. */
bson_t *mongo_bson(cw_task *t);

#endif
