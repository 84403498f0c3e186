/* SPDX-License-Identifier: Apache-2.0 */
/* MongoDB: documents as Celery's backend writes them, from the writer thread, which owns the only
 * client. Indexes are made before the first write, and what has expired is deleted here where the
 * server does not do it. */
#include "worker/store/mongo_private.h"

#include "proto/base/mem.h"
#include "proto/time.h"
#include "proto/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { HOUR = 3600 };

/* --- indexes ---------------------------------------------------------------------------------- */

static bool create_index(struct mongo_store *m, const char *collection, const char *field,
                         const char *name, bool ttl, bson_error_t *why)
{
    bson_t command = BSON_INITIALIZER, list, index, key;
    BSON_APPEND_UTF8(&command, "createIndexes", collection);
    BSON_APPEND_ARRAY_BEGIN(&command, "indexes", &list);
    BSON_APPEND_DOCUMENT_BEGIN(&list, "0", &index);
    BSON_APPEND_DOCUMENT_BEGIN(&index, "key", &key);
    BSON_APPEND_INT32(&key, field, 1);
    bson_append_document_end(&index, &key);
    BSON_APPEND_UTF8(&index, "name", name);
    BSON_APPEND_BOOL(&index, "background", true);
    if (ttl)
        BSON_APPEND_INT32(&index, "expireAfterSeconds", 0);
    bson_append_document_end(&list, &index);
    bson_append_array_end(&command, &list);
    bool ok = mongoc_client_command_simple(m->client, m->database, &command, NULL, NULL, why);
    bson_destroy(&command);
    return ok;
}

/* Not so a missing permission: one may write without being allowed to make indexes. */
static bool may_pass(const bson_error_t *why)
{
    enum { UNAUTHORIZED = 13 };
    return why->domain != MONGOC_ERROR_SERVER ||
           (why->code != UNAUTHORIZED && mongo_is_about_server(why->code));
}

/* Once, before the first write. date_done_1 is asked for exactly as Python asks for it: the same
 * name and key with another option would make one of the two fail. A server that refuses an index
 * is used without. */
static int prepare(struct mongo_store *m, struct store_thread *t, struct error *err)
{
    static const char expiry_name[] = "cworker_expires_at";
    bson_error_t why;
    int code = mongo_store_connect(m, err);
    if (code < 0 || m->prepared)
        return code;
    const char *const collections[] = {m->tasks_name, m->groups_name};
    for (size_t i = 0; i < 2; i++) {
        if (create_index(m, collections[i], "date_done", "date_done_1", false, &why))
            continue;
        if (may_pass(&why))
            return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
        store_thread_note(t, true, "no index date_done_1 on %s: %s", collections[i], why.message);
    }
    if (m->expires > 0 && !create_index(m, m->tasks_name, "expires_at", expiry_name, true, &why)) {
        if (may_pass(&why))
            return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
        store_thread_note(t, true,
                          "no TTL index: %s; expired results are deleted each hour instead",
                          why.message);
        create_index(m, m->tasks_name, "expires_at", expiry_name, false, &why);
    }
    if (m->raised_concern)
        store_thread_note(t, true, "w=0 in its URL would lose results unseen: w=1 is used");
    if (m->has_ignored_settings)
        store_thread_note(t, true,
                          "mongodb_backend_settings: only database, taskmeta_collection and "
                          "groupmeta_collection count, the rest belongs into the URL");
    m->prepared = true;
    return 0;
}

/* --- writing ---------------------------------------------------------------------------------- */

static int64_t expiry_of(const struct mongo_store *m, const struct store_record *r)
{
    if (m->expires <= 0)
        return 0;
    int64_t from = r->date_done == TIME_NONE ? (int64_t)time(NULL) * 1000 : r->date_done / 1000;
    return from + (int64_t)(m->expires * 1000);
}

static size_t build(const struct mongo_store *m, struct store_entry **entries, size_t n,
                    struct mongo_job *all)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        struct store_entry *e = entries[i];
        struct error why;
        struct mongo_job *job = &all[count];
        job->document = bson_new();
        job->entry = e;
        job->state = JOB_WAITING;
        /* Celery's client takes the fields for given in every document, also where nothing is
         * known. */
        e->record.extended |= m->extended;
        if (record_bson(&e->record, e->no_children, expiry_of(m, &e->record), job->document, &why) <
            0) {
            entry_refuse(e, why.code, "%s", why.text);
            bson_destroy(job->document);
        } else {
            count++;
        }
    }
    return count;
}

static int write_documents(void *state, struct store_thread *t, struct store_entry **entries,
                           size_t n, struct error *err)
{
    struct mongo_store *m = state;
    int code = prepare(m, t, err);
    if (code < 0) {
        mongo_store_disconnect(m);
        return code;
    }
    struct mongo_job *all = mem_alloc(n * sizeof *all);
    size_t count = build(m, entries, n, all);
    code = mongo_write(m, t, all, count, err);
    for (size_t i = 0; i < count; i++)
        bson_destroy(all[i].document);
    free(all);
    if (code < 0)
        mongo_store_disconnect(m);
    return code;
}

/* --- expiry ----------------------------------------------------------------------------------- */

/* Where a TTL index works this finds nothing; some servers take the index and delete nothing. */
static double tidy_documents(void *state, struct store_thread *t)
{
    struct mongo_store *m = state;
    struct error err;
    if (!m->tidied) {
        m->tidied = true;
        return HOUR * store_random();
    }
    if (m->expires <= 0 || prepare(m, t, &err) < 0)
        return HOUR;
    bson_t selector = BSON_INITIALIZER, past;
    BSON_APPEND_DOCUMENT_BEGIN(&selector, "expires_at", &past);
    BSON_APPEND_DATE_TIME(&past, "$lt", (int64_t)time(NULL) * 1000);
    bson_append_document_end(&selector, &past);
    mongoc_collection_delete_many(m->tasks, &selector, NULL, NULL, NULL);
    bson_destroy(&selector);
    return HOUR;
}

/* What celery.backend_cleanup removes: every record and saved group older than result_expires. */
static void clean_up_documents(void *state, struct store_thread *t)
{
    struct mongo_store *m = state;
    struct error err;
    if (m->expires <= 0 || prepare(m, t, &err) < 0)
        return;
    bson_t selector = BSON_INITIALIZER, past;
    BSON_APPEND_DOCUMENT_BEGIN(&selector, "date_done", &past);
    BSON_APPEND_DATE_TIME(&past, "$lt", (int64_t)(((double)time(NULL) - m->expires) * 1000));
    bson_append_document_end(&selector, &past);
    mongoc_collection_t *groups =
        mongoc_client_get_collection(m->client, m->database, m->groups_name);
    mongoc_collection_delete_many(m->tasks, &selector, NULL, NULL, NULL);
    mongoc_collection_delete_many(groups, &selector, NULL, NULL, NULL);
    mongoc_collection_destroy(groups);
    bson_destroy(&selector);
}

/* --- reading ---------------------------------------------------------------------------------- */

static char *read_document(void *state, const char *id, struct error *err)
{
    struct mongo_store *m = state;
    const bson_t *document;
    bson_error_t why;
    char *text = NULL;
    if (mongo_store_connect(m, err) < 0 || !utf8_is_valid(id, strlen(id)))
        return NULL;
    bson_t selector = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&selector, "_id", id);
    BSON_APPEND_INT64(&opts, "limit", 1);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(m->tasks, &selector, &opts, NULL);
    if (mongoc_cursor_next(cursor, &document)) {
        text = record_from_bson(document);
        if (!text)
            error_set(err, ERROR_UNSUPPORTED, "the stored result is not JSON");
    } else if (mongoc_cursor_error(cursor, &why)) {
        error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    }
    mongoc_cursor_destroy(cursor);
    bson_destroy(&opts);
    bson_destroy(&selector);
    if (err->code == ERROR_UNAVAILABLE)
        mongo_store_disconnect(m);
    return text;
}

/* --- the backend ------------------------------------------------------------------------------ */

static const struct store_writer mongo_writer = {write_documents, read_document, tidy_documents,
                                                 mongo_store_free, clean_up_documents};

static void *mongo_open(const struct store_setup *setup, struct error *err)
{
    struct mongo_store *m = mongo_store_new(setup, err);
    return m ? store_thread_open(setup, &mongo_writer, m, err) : NULL;
}

static char *mongo_read(const struct store_setup *setup, const char *id, struct error *err)
{
    struct mongo_store *m = mongo_store_new(setup, err);
    char *text = m ? read_document(m, id, err) : NULL;
    if (m)
        mongo_store_free(m);
    return text;
}

const struct store_ops store_mongo_ops = {mongo_open,
                                          store_thread_put,
                                          store_thread_get,
                                          store_thread_close,
                                          mongo_read,
                                          .is_down = store_thread_is_down,
                                          .tidy = store_thread_cleanup};
