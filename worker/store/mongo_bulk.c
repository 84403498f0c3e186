/* SPDX-License-Identifier: Apache-2.0 */
/* Documents in bulks. The one idea: insert first, since one outcome a task is the common case, and
 * replace what is there already under the guard "not SUCCESS"; every step may be repeated, so that
 * an answer that was lost with its connection costs a repetition and nothing else. */
#include "worker/store/mongo_private.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { DUPLICATE_KEY = 11000 };

/* --- what an error means ---------------------------------------------------------------------- */

static bool is_among(int64_t code, const int *codes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (codes[i] == code)
            return true;
    return false;
}

/* About this document, when the server names no document: bad value, bad BSON, wrong type, names of
 * fields, validation, size. Anything else is the server's state and may change. */
static bool is_about_document(int64_t code)
{
    static const int codes[] = {2,  9,  14,  15,    22,    52,    54,    55,
                                56, 57, 121, 10334, 17280, 17419, 17420, 20};
    return is_among(code, codes, sizeof codes / sizeof *codes);
}

/* Not primary, shutting down, interrupted, disk full, no permission, write conflict. */
bool mongo_is_about_server(int64_t code)
{
    static const int codes[] = {6,     7,     13,    18,    33,    50,    64,   79,    89,
                                91,    100,   112,   134,   189,   262,   9001, 10058, 10107,
                                11600, 11602, 13388, 13435, 13436, 14031, 133,  251,   8000};
    return is_among(code, codes, sizeof codes / sizeof *codes);
}

/* Children are arrays in arrays, which not every server takes: a client can do without them. */
static void refuse(struct mongo_store *m, struct store_thread *t, struct mongo_job *job,
                   int64_t code, const char *why)
{
    struct store_entry *e = job->entry;
    bool has_children = e->record.children && strcmp(e->record.children, "[]") != 0;
    job->state = JOB_DONE;
    if (!has_children || e->no_children) {
        entry_refuse(e, ERROR_INVALID, "MongoDB refuses the document: %s (code %lld)", why,
                     (long long)code);
        return;
    }
    e->no_children = true; /* it waits, and comes again at once */
    if (!m->noted_children)
        store_thread_note(t, true, "refuses \"children\" (%s): stored without", why);
    m->noted_children = true;
}

/* --- one bulk --------------------------------------------------------------------------------- */

struct tally {
    size_t n_named; /* documents that an error names */
    int64_t n_inserted, n_matched;
    bool transient;
};

static int64_t reply_int(const bson_t *reply, const char *key)
{
    bson_iter_t at;
    return bson_iter_init_find(&at, reply, key) ? bson_iter_as_int64(&at) : 0;
}

static bool reply_has_items(const bson_t *reply, const char *key)
{
    bson_iter_t at, inner;
    return bson_iter_init_find(&at, reply, key) && bson_iter_recurse(&at, &inner) &&
           bson_iter_next(&inner);
}

static void read_write_error(struct mongo_store *m, struct store_thread *t, struct mongo_job **jobs,
                             size_t n, bson_iter_t *error, struct tally *tally)
{
    int64_t index = -1, code = 0;
    const char *why = "";
    while (bson_iter_next(error)) {
        if (!strcmp(bson_iter_key(error), "index"))
            index = bson_iter_as_int64(error);
        else if (!strcmp(bson_iter_key(error), "code"))
            code = bson_iter_as_int64(error);
        else if (!strcmp(bson_iter_key(error), "errmsg") && BSON_ITER_HOLDS_UTF8(error))
            why = bson_iter_utf8(error, NULL);
    }
    if (index < 0 || index >= (int64_t)n)
        return;
    tally->n_named++;
    if (code == DUPLICATE_KEY)
        jobs[index]->state = JOB_EXISTS;
    else if (mongo_is_about_server(code))
        tally->transient = true;
    else
        refuse(m, t, jobs[index], code, why);
}

static struct tally read_reply(struct mongo_store *m, struct store_thread *t,
                               struct mongo_job **jobs, size_t n, bool trust_index,
                               const bson_t *reply)
{
    struct tally tally = {.n_inserted = reply_int(reply, "nInserted"),
                          .n_matched = reply_int(reply, "nMatched"),
                          .transient = reply_has_items(reply, "writeConcernErrors")};
    bson_iter_t at, list, error;
    if (trust_index && bson_iter_init_find(&at, reply, "writeErrors") &&
        bson_iter_recurse(&at, &list))
        while (bson_iter_next(&list))
            if (bson_iter_recurse(&list, &error))
                read_write_error(m, t, jobs, n, &error, &tally);
    return tally;
}

static void add_job(mongoc_bulk_operation_t *bulk, const struct mongo_job *job, bool replace,
                    const bson_t *insert_opts, const bson_t *replace_opts)
{
    if (!replace) {
        mongoc_bulk_operation_insert_with_opts(bulk, job->document, insert_opts, NULL);
        return;
    }
    bson_t selector = BSON_INITIALIZER, guard;
    BSON_APPEND_UTF8(&selector, "_id", job->entry->record.id);
    BSON_APPEND_DOCUMENT_BEGIN(&selector, "status", &guard);
    BSON_APPEND_UTF8(&guard, "$ne", "SUCCESS");
    bson_append_document_end(&selector, &guard);
    mongoc_bulk_operation_replace_one_with_opts(bulk, &selector, job->document, replace_opts, NULL);
    bson_destroy(&selector);
}

/* The documents are known to be well-formed: libmongoc need not look again, and would refuse empty
 * keys. */
static bool execute(struct mongo_store *m, struct mongo_job **jobs, size_t n, bool replace,
                    bson_t *reply, bson_error_t *why)
{
    bson_t bulk_opts = BSON_INITIALIZER, insert_opts = BSON_INITIALIZER;
    bson_t replace_opts = BSON_INITIALIZER;
    BSON_APPEND_BOOL(&bulk_opts, "ordered", false);
    BSON_APPEND_BOOL(&insert_opts, "validate", false);
    BSON_APPEND_BOOL(&replace_opts, "validate", false);
    BSON_APPEND_BOOL(&replace_opts, "upsert", false);
    mongoc_bulk_operation_t *bulk =
        mongoc_collection_create_bulk_operation_with_opts(m->tasks, &bulk_opts);
    for (size_t i = 0; i < n; i++)
        add_job(bulk, jobs[i], replace, &insert_opts, &replace_opts);
    bool ok = mongoc_bulk_operation_execute(bulk, reply, why) != 0;
    mongoc_bulk_operation_destroy(bulk);
    bson_destroy(&replace_opts);
    bson_destroy(&insert_opts);
    bson_destroy(&bulk_opts);
    return ok;
}

static void finish(struct mongo_job *job)
{
    job->state = JOB_DONE;
    job->entry->code = 0;
}

static int run(struct mongo_store *m, struct store_thread *t, struct mongo_job **jobs, size_t n,
               bool replace, int64_t *ret_matched, struct error *err);

/* One by one, when a bulk failed for something in it and the server did not say reliably what. */
static int run_singly(struct mongo_store *m, struct store_thread *t, struct mongo_job **jobs,
                      size_t n, bool replace, int64_t *ret_matched, struct error *err)
{
    int code = 0;
    for (size_t i = 0; i < n && code == 0; i++)
        if (jobs[i]->state == JOB_WAITING)
            code = run(m, t, jobs + i, 1, replace, ret_matched, err);
    return code;
}

/* Writes; moves each job from WAITING on, or returns a transient code. */
static int run(struct mongo_store *m, struct store_thread *t, struct mongo_job **jobs, size_t n,
               bool replace, int64_t *ret_matched, struct error *err)
{
    bson_t reply;
    bson_error_t why = {0};
    bool ok = execute(m, jobs, n, replace, &reply, &why);
    /* Some servers stop a bulk of updates at its first error and get the index wrong. */
    bool trust_index = !replace || n == 1;
    struct tally tally = read_reply(m, t, jobs, n, trust_index, &reply);
    bool has_errors = reply_has_items(&reply, "writeErrors");
    bson_destroy(&reply);
    *ret_matched += tally.n_matched;

    if (tally.transient)
        return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    bool all_known = trust_index && tally.n_inserted + (int64_t)tally.n_named == (int64_t)n;
    if (ok || all_known) {
        for (size_t i = 0; i < n; i++)
            if (jobs[i]->state == JOB_WAITING)
                finish(jobs[i]);
        return 0;
    }
    if (n == 1 && jobs[0]->state != JOB_WAITING)
        return 0;
    bool by_server = why.domain == MONGOC_ERROR_SERVER;
    if (!by_server || (!is_about_document(why.code) && !has_errors) ||
        mongo_is_about_server(why.code))
        return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    if (n > 1)
        return run_singly(m, t, jobs, n, replace, ret_matched, err);
    refuse(m, t, jobs[0], why.code, why.message);
    return 0;
}

/* --- insert, then replace --------------------------------------------------------------------- */

static size_t pick(struct mongo_job *all, size_t n, int state, struct mongo_job **ret_jobs)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if ((int)all[i].state == state) {
            all[i].state = JOB_WAITING;
            ret_jobs[count++] = &all[i];
        }
    }
    return count;
}

/* Replaced unless they are a SUCCESS. Where fewer matched than were sent, the others are a SUCCESS
 * (superseded, thus fine) or were deleted in between: a second insert tells them apart. */
static int replace_some(struct mongo_store *m, struct store_thread *t, struct mongo_job **jobs,
                        size_t n, struct error *err)
{
    int64_t matched = 0, ignored = 0;
    int code = run(m, t, jobs, n, true, &matched, err);
    size_t again = 0;
    for (size_t i = 0; code == 0 && matched < (int64_t)n && i < n; i++) {
        if (jobs[i]->entry->code == 0) {
            jobs[i]->entry->code = STORE_WAITING;
            jobs[i]->state = JOB_WAITING;
            jobs[again++] = jobs[i];
        }
    }
    if (again)
        code = run(m, t, jobs, again, false, &ignored, err);
    for (size_t i = 0; code == 0 && i < again; i++)
        if (jobs[i]->state == JOB_EXISTS)
            finish(jobs[i]);
    return code;
}

/* In small bulks: some stand-ins for MongoDB search the whole collection for each guarded replace,
 * or hang at more than a hundred in one command. */
static int replace_existing(struct mongo_store *m, struct store_thread *t, struct mongo_job *all,
                            size_t n, struct error *err)
{
    enum { AT_ONCE = 100 };
    struct mongo_job **jobs = mem_alloc(n * sizeof(struct mongo_job *));
    size_t count = pick(all, n, JOB_EXISTS, jobs);
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i += AT_ONCE)
        code = replace_some(m, t, jobs + i, count - i < AT_ONCE ? count - i : AT_ONCE, err);
    free(jobs);
    return code;
}

int mongo_write(struct mongo_store *m, struct store_thread *t, struct mongo_job *all, size_t n,
                struct error *err)
{
    struct mongo_job **jobs = mem_alloc(n * sizeof *jobs);
    int64_t ignored = 0;
    for (size_t i = 0; i < n; i++)
        jobs[i] = &all[i];
    int code = n ? run(m, t, jobs, n, false, &ignored, err) : 0;
    if (code == 0 && n)
        code = replace_existing(m, t, all, n, err);
    free(jobs);
    return code;
}
