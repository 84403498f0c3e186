/* SPDX-License-Identifier: Apache-2.0 */
/* MongoDB: documents as Celery's backend writes them, in bulks, from the writer thread, which owns
 * the only client. The one idea: insert first, since one outcome a task is the common case, and
 * replace what is there already under the guard "not SUCCESS"; every step may be repeated, so that
 * an answer that was lost with its connection costs a repetition and nothing else. */
#include "worker/store/thread.h"

#include "proto/base/mem.h"
#include "proto/message.h"
#include "worker/config/settings.h"

#include <mongoc/mongoc.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DUPLICATE_KEY = 11000, HOUR = 3600 };

struct mongo_store {
    mongoc_uri_t *uri;
    char *database, *tasks_name, *groups_name;
    double expires;
    bool extended;
    bool raised_concern, has_ignored_settings; /* to be noted */
    mongoc_client_t *client; /* made on first use: an SRV name blocks while it is looked up */
    mongoc_collection_t *tasks;
    bool prepared, noted_children, tidied;
};

struct job {
    struct store_entry *entry;
    bson_t *document; /* libbson aligns its own beyond what mem_alloc gives */
    enum { JOB_TODO, JOB_EXISTS, JOB_DONE } state;
};

/* --- the URL ---------------------------------------------------------------------------------- */

/* libmongoc reads `host:27999x` as port 27999. */
static bool ports_are_numbers(const char *url)
{
    const char *at = strstr(url, "://") + 3, *end = at + strcspn(at, "/?");
    for (const char *c = at; c < end; c++)
        if (*c == '@')
            at = c + 1;
    while (at < end) {
        const char *host_end = at + strcspn(at, ",/?");
        const char *bracket = *at == '[' ? memchr(at, ']', (size_t)(host_end - at)) : NULL;
        const char *colon =
            memchr(bracket ? bracket : at, ':', (size_t)(host_end - (bracket ? bracket : at)));
        size_t n_digits = colon ? strspn(colon + 1, "0123456789") : 1;
        if (n_digits == 0 || (colon && colon + 1 + n_digits != host_end))
            return false;
        at = host_end + 1;
    }
    return true;
}

static mongoc_uri_t *parse_url(const char *url, struct error *err)
{
    bson_error_t why;
    size_t scheme = strcspn(url, ":");
    if (strncmp(url + scheme, "://", 3) != 0 || !ports_are_numbers(url)) {
        error_set(err, ERROR_INVALID, "result_backend: not a mongodb://host[:port]/database URL");
        return NULL;
    }
    bool bare = url[scheme + 3] == '\0';
    mongoc_uri_t *uri = mongoc_uri_new_with_error(bare ? "mongodb://localhost" : url, &why);
    if (!uri)
        error_set(err, ERROR_INVALID, "result_backend: %s", why.message);
    return uri;
}

/* Celery authenticates against admin whatever the path names; libmongoc would against the path. */
static void apply_auth_source(mongoc_uri_t *uri)
{
    const char *mechanism = mongoc_uri_get_auth_mechanism(uri);
    bson_iter_t at;
    const bson_t *credentials = mongoc_uri_get_credentials(uri);
    bool named = credentials && bson_iter_init_find_case(&at, credentials, MONGOC_URI_AUTHSOURCE);
    if (mongoc_uri_get_username(uri) && !named &&
        (!mechanism || !strncmp(mechanism, "SCRAM", strlen("SCRAM"))))
        mongoc_uri_set_auth_source(uri, "admin");
}

/* Majority unless the URL says otherwise. Unacknowledged writes would tell us nothing. */
static void apply_write_concern(struct mongo_store *m)
{
    mongoc_write_concern_t *concern =
        mongoc_write_concern_copy(mongoc_uri_get_write_concern(m->uri));
    int w = mongoc_write_concern_get_w(concern);
    if (w == MONGOC_WRITE_CONCERN_W_DEFAULT)
        mongoc_write_concern_set_wmajority(concern, 0);
    m->raised_concern = w == MONGOC_WRITE_CONCERN_W_UNACKNOWLEDGED;
    if (m->raised_concern)
        mongoc_write_concern_set_w(concern, 1);
    if (mongoc_write_concern_get_wtimeout_int64(concern) <= 0)
        mongoc_write_concern_set_wtimeout_int64(concern, 10000);
    mongoc_uri_set_write_concern(m->uri, concern);
    mongoc_write_concern_destroy(concern);
}

static void apply_defaults(mongoc_uri_t *uri)
{
    if (!mongoc_uri_has_option(uri, MONGOC_URI_SOCKETTIMEOUTMS))
        mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SOCKETTIMEOUTMS, 30000);
    if (!mongoc_uri_has_option(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS))
        mongoc_uri_set_option_as_int32(uri, MONGOC_URI_SERVERSELECTIONTIMEOUTMS, 5000);
    if (!mongoc_uri_has_option(uri, MONGOC_URI_SERVERSELECTIONTRYONCE))
        mongoc_uri_set_option_as_bool(uri, MONGOC_URI_SERVERSELECTIONTRYONCE, false);
    if (!mongoc_uri_get_appname(uri))
        mongoc_uri_set_appname(uri, "cworker");
}

static void apply_settings(struct mongo_store *m, const cJSON *settings)
{
    const char *in_url = mongoc_uri_get_database(m->uri);
    char **refs[] = {&m->database, &m->tasks_name, &m->groups_name};
    const char *const names[] = {"database", "taskmeta_collection", "groupmeta_collection"};
    /* As with Celery, a collection behind the database's name has no effect. */
    m->database = in_url && *in_url ? mem_ndup(in_url, strcspn(in_url, ".")) : mem_dup("celery");
    m->tasks_name = mem_dup("celery_taskmeta");
    m->groups_name = mem_dup("celery_groupmeta");
    for (const cJSON *s = settings ? settings->child : NULL; s; s = s->next) {
        size_t i = 0;
        while (i < 3 && strcmp(names[i], s->string) != 0)
            i++;
        if (i < 3 && cJSON_IsString(s) && s->valuestring[0]) {
            free(*refs[i]);
            *refs[i] = mem_dup(s->valuestring);
        } else {
            m->has_ignored_settings = true;
        }
    }
}

static void drop_log(mongoc_log_level_t level, const char *domain, const char *text, void *arg)
{
    (void)level, (void)domain, (void)text, (void)arg;
}

static void init_library(void)
{
    mongoc_init();
    mongoc_log_set_handler(drop_log, NULL); /* our notes say it once and in our words */
}

static void close_client(void *state)
{
    struct mongo_store *m = state;
    mongoc_collection_destroy(m->tasks);
    mongoc_client_destroy(m->client);
    mongoc_uri_destroy(m->uri);
    free(m->database);
    free(m->tasks_name);
    free(m->groups_name);
    free(m);
}

static struct mongo_store *open_store(const struct store_setup *setup, struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_library);
    mongoc_uri_t *uri = parse_url(setup->url, err);
    if (!uri)
        return NULL;
    struct mongo_store *m = mem_zalloc(sizeof *m);
    m->uri = uri;
    m->expires = setup->expires;
    apply_auth_source(uri);
    apply_write_concern(m);
    apply_defaults(uri);
    m->extended = setup->settings->result_extended;
    apply_settings(m, setup->settings->mongodb_backend_settings);
    return m;
}

static int connect_client(struct mongo_store *m, struct error *err)
{
    bson_error_t why;
    if (m->client)
        return 0;
    m->client = mongoc_client_new_from_uri_with_error(m->uri, &why);
    if (!m->client)
        return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    mongoc_client_set_error_api(m->client, MONGOC_ERROR_API_VERSION_2);
    m->tasks = mongoc_client_get_collection(m->client, m->database, m->tasks_name);
    return 0;
}

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

/* About the server, even when it names a document: not primary, shutting down, interrupted, disk
 * full, no permission, write conflict. */
static bool is_about_server(int64_t code)
{
    static const int codes[] = {6,     7,     13,    18,    33,    50,    64,   79,    89,
                                91,    100,   112,   134,   189,   262,   9001, 10058, 10107,
                                11600, 11602, 13388, 13435, 13436, 14031, 133,  251,   8000};
    return is_among(code, codes, sizeof codes / sizeof *codes);
}

/* Children are arrays in arrays, which not every server takes: a client can do without them. */
static void refuse(struct mongo_store *m, struct store_thread *t, struct job *job, int64_t code,
                   const char *why)
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

static void read_write_error(struct mongo_store *m, struct store_thread *t, struct job **jobs,
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
    else if (is_about_server(code))
        tally->transient = true;
    else
        refuse(m, t, jobs[index], code, why);
}

static struct tally read_reply(struct mongo_store *m, struct store_thread *t, struct job **jobs,
                               size_t n, bool trust_index, const bson_t *reply)
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

static void add_job(mongoc_bulk_operation_t *bulk, const struct job *job, bool replace,
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
static bool execute(struct mongo_store *m, struct job **jobs, size_t n, bool replace, bson_t *reply,
                    bson_error_t *why)
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

static void finish(struct job *job)
{
    job->state = JOB_DONE;
    job->entry->code = 0;
}

static int run(struct mongo_store *m, struct store_thread *t, struct job **jobs, size_t n,
               bool replace, int64_t *ret_matched, struct error *err);

/* One by one, when a bulk failed for something in it and the server did not say reliably what. */
static int run_singly(struct mongo_store *m, struct store_thread *t, struct job **jobs, size_t n,
                      bool replace, int64_t *ret_matched, struct error *err)
{
    int code = 0;
    for (size_t i = 0; i < n && code == 0; i++)
        if (jobs[i]->state == JOB_TODO)
            code = run(m, t, jobs + i, 1, replace, ret_matched, err);
    return code;
}

/* Writes; moves each job from TODO on, or returns a transient code. */
static int run(struct mongo_store *m, struct store_thread *t, struct job **jobs, size_t n,
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
            if (jobs[i]->state == JOB_TODO)
                finish(jobs[i]);
        return 0;
    }
    if (n == 1 && jobs[0]->state != JOB_TODO)
        return 0;
    bool by_server = why.domain == MONGOC_ERROR_SERVER;
    if (!by_server || (!is_about_document(why.code) && !has_errors) || is_about_server(why.code))
        return error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    if (n > 1)
        return run_singly(m, t, jobs, n, replace, ret_matched, err);
    refuse(m, t, jobs[0], why.code, why.message);
    return 0;
}

/* --- a batch ---------------------------------------------------------------------------------- */

static size_t pick(struct job *all, size_t n, int state, struct job **ret_jobs)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if ((int)all[i].state == state) {
            all[i].state = JOB_TODO;
            ret_jobs[count++] = &all[i];
        }
    }
    return count;
}

/* Replaced unless they are a SUCCESS. Where fewer matched than were sent, the others are a SUCCESS
 * (superseded, thus fine) or were deleted in between: a second insert tells them apart. */
static int replace_some(struct mongo_store *m, struct store_thread *t, struct job **jobs, size_t n,
                        struct error *err)
{
    int64_t matched = 0, ignored = 0;
    int code = run(m, t, jobs, n, true, &matched, err);
    size_t again = 0;
    for (size_t i = 0; code == 0 && matched < (int64_t)n && i < n; i++) {
        if (jobs[i]->entry->code == 0) {
            jobs[i]->entry->code = STORE_WAITING;
            jobs[i]->state = JOB_TODO;
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
static int replace_existing(struct mongo_store *m, struct store_thread *t, struct job *all,
                            size_t n, struct error *err)
{
    enum { AT_ONCE = 100 };
    struct job **jobs = mem_alloc(n * sizeof(struct job *));
    size_t count = pick(all, n, JOB_EXISTS, jobs);
    int code = 0;
    for (size_t i = 0; i < count && code == 0; i += AT_ONCE)
        code = replace_some(m, t, jobs + i, count - i < AT_ONCE ? count - i : AT_ONCE, err);
    free(jobs);
    return code;
}

static int64_t expiry_of(const struct mongo_store *m, const struct store_record *r)
{
    if (m->expires <= 0)
        return 0;
    int64_t from = r->date_done == TIME_NONE ? (int64_t)time(NULL) * 1000 : r->date_done / 1000;
    return from + (int64_t)(m->expires * 1000);
}

static size_t build(const struct mongo_store *m, struct store_entry **entries, size_t n,
                    struct job *all)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        struct store_entry *e = entries[i];
        struct error why;
        struct job *job = &all[count];
        job->document = bson_new();
        job->entry = e;
        job->state = JOB_TODO;
        /* Celery's client takes the fields for given in every document, also where nothing is known. */
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

static int prepare(struct mongo_store *m, struct store_thread *t, struct error *err);

static int write_documents(void *state, struct store_thread *t, struct store_entry **entries,
                           size_t n, struct error *err)
{
    struct mongo_store *m = state;
    int code = prepare(m, t, err);
    if (code < 0)
        return code;
    struct job *all = mem_alloc(n * sizeof *all);
    struct job **jobs = mem_alloc(n * sizeof *jobs);
    size_t count = build(m, entries, n, all);
    int64_t ignored = 0;
    for (size_t i = 0; i < count; i++)
        jobs[i] = &all[i];
    if (count)
        code = run(m, t, jobs, count, false, &ignored, err);
    if (code == 0 && count)
        code = replace_existing(m, t, all, count, err);
    for (size_t i = 0; i < count; i++)
        bson_destroy(all[i].document);
    free(jobs);
    free(all);
    return code;
}

/* --- indexes and expiry ----------------------------------------------------------------------- */

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
           (why->code != UNAUTHORIZED && is_about_server(why->code));
}

/* Once, before the first write. date_done_1 is asked for exactly as Python asks for it: the same
 * name and key with another option would make one of the two fail. A server that refuses an index
 * is used without. */
static int prepare(struct mongo_store *m, struct store_thread *t, struct error *err)
{
    static const char expiry_name[] = "cworker_expires_at";
    bson_error_t why;
    int code = connect_client(m, err);
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

/* Where a TTL index works this finds nothing; some servers take the index and delete nothing. */
static double tidy_documents(void *state, struct store_thread *t)
{
    struct mongo_store *m = state;
    struct error err;
    if (!m->tidied) {
        m->tidied = true;
        return HOUR * (store_backoff(7) - 7.5) / 2.5; /* anywhere within the hour */
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
    mongoc_collection_t *groups = mongoc_client_get_collection(m->client, m->database, m->groups_name);
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
    if (connect_client(m, err) < 0 || !text_is_utf8(id, strlen(id)))
        return NULL;
    bson_t selector = BSON_INITIALIZER, opts = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&selector, "_id", id);
    BSON_APPEND_INT64(&opts, "limit", 1);
    mongoc_cursor_t *cursor = mongoc_collection_find_with_opts(m->tasks, &selector, &opts, NULL);
    if (mongoc_cursor_next(cursor, &document))
        text = record_from_bson(document);
    else if (mongoc_cursor_error(cursor, &why))
        error_set(err, ERROR_UNAVAILABLE, "%s", why.message);
    mongoc_cursor_destroy(cursor);
    bson_destroy(&opts);
    bson_destroy(&selector);
    return text;
}

/* --- the backend ------------------------------------------------------------------------------ */

static const struct store_writer mongo_writer = {write_documents, read_document, tidy_documents,
                                                 close_client, clean_up_documents};

static void *mongo_open(const struct store_setup *setup, struct error *err)
{
    struct mongo_store *m = open_store(setup, err);
    return m ? store_thread_open(setup, &mongo_writer, m, err) : NULL;
}

static char *mongo_read(const struct store_setup *setup, const char *id, struct error *err)
{
    struct mongo_store *m = open_store(setup, err);
    char *text = m ? read_document(m, id, err) : NULL;
    if (m)
        close_client(m);
    return text;
}

const struct store_ops store_mongo_ops = {mongo_open, store_thread_put, store_thread_get,
                                          store_thread_close, mongo_read, .tidy = store_thread_cleanup};
