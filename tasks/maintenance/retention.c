/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/check.h"
#include "tasks/lib/digest.h"
#include "tasks/lib/mongo.h"
#include "tasks/maintenance/maintenance.h"

#include <string.h>

/* run_retention_cycle: each policy names a collection, a date field and a number of days; what is
 * older goes, in batches. A policy is a document, so it can only name collections of the list below
 * or of the operator's setting.
 *
 * With `archive` a batch is copied first and removed only when every copy is seen: a kill -9
 * between the two leaves documents in both places, and the next cycle finds their copies and
 * removes them. */

enum { BATCH = 500, BATCH_BYTES = 16 << 20, FULL = -2 };
static const int64_t day_ms = 86400000;

static const char *const listed[] = {"assets",          "compliance_snapshots",
                                     "container_scans", "cspm_findings",
                                     "k8s_findings",    "k8s_resources",
                                     "native_scans",    "notifications",
                                     "quality_reports", "scan_findings",
                                     "scan_jobs",       "scan_runs",
                                     "sla_breaches",    "threat_indicators",
                                     "uptime_samples",  "unified_scan_results",
                                     "worker_metrics",  "vulnerability_occurrences"};

struct cycle {
    cw_task *t;
    int64_t now, failed, removed;
    const bson_t **list; /* read before the first one is applied, which may take long */
    size_t n, room;
};

struct policy {
    cw_task *t;
    const bson_t *document;
    const char *id, *collection, *field;
    bool archive;
    int64_t cutoff, removed;
    char audit_id[DIGEST_SIZE];
    bson_t *filter, *ids; /* which are old; those of the batch */
    bson_t *documents[BATCH];
    int n;
    size_t bytes;
};

static bool is_listed(cw_task *t, const char *name)
{
    size_t size = strlen(name);
    for (size_t i = 0; i < sizeof listed / sizeof *listed; i++)
        if (strcmp(listed[i], name) == 0)
            return true;
    for (const char *at = cw_setting(t, "retention_collections"); at && *at;) {
        size_t length = strcspn(at, ", ");
        if (length == size && strncmp(at, name, size) == 0)
            return true;
        at += length + strspn(at + length, ", ");
    }
    return false;
}

/* Without a team, or with null: documents of all of them. */
static int put_team(struct policy *p)
{
    bson_iter_t at;
    char room[DOC_ID_SIZE];
    const char *team = doc_id(p->document, "team_id", room);
    if (team)
        doc_match_id(p->filter, "team_id", team);
    else if (doc_find(p->document, "team_id", &at) && !BSON_ITER_HOLDS_NULL(&at))
        return cw_problem(p->t, false, "ValueError",
                          "team_id must be a text, an ObjectId, a number or a UUID");
    return 0;
}

/* What somebody wrote for "off" ("false", 0) must not remove anything. */
static bool is_switch_clear(const bson_t *policy)
{
    bson_iter_t at;
    return !doc_find(policy, "enabled", &at) || BSON_ITER_HOLDS_NULL(&at) ||
           BSON_ITER_HOLDS_BOOL(&at);
}

static int read_policy(struct policy *p, int64_t now)
{
    const char *action = doc_text(p->document, "action");
    int64_t days = doc_int(p->document, "days", 0);
    p->collection = doc_text(p->document, "collection");
    p->field = doc_text(p->document, "field");
    p->archive = action && strcmp(action, "archive") == 0;
    if (!is_switch_clear(p->document))
        return cw_problem(p->t, false, "ValueError", "enabled must be true or false");
    if (!p->collection || !is_listed(p->t, p->collection))
        return cw_problem(p->t, false, "PermissionError",
                          "collection %.80s is not one that a policy may name",
                          p->collection ? p->collection : "(none)");
    if (!p->field || !check_name(p->field) || strcmp(p->field, "_id") == 0)
        return cw_problem(p->t, false, "ValueError", "field must name a date of the documents");
    if (days < 1 || days > 36500)
        return cw_problem(p->t, false, "ValueError", "days must be 1 to 36500");
    if (action && !p->archive && strcmp(action, "delete") != 0)
        return cw_problem(p->t, false, "ValueError", "action must be delete or archive");
    p->cutoff = now - days * day_ms;
    BCON_APPEND(p->filter, p->field, "{", "$lt", BCON_DATE_TIME(p->cutoff), "}");
    return put_team(p);
}

/* --- one batch --- */

static void forget_batch(void *policy)
{
    struct policy *p = policy;
    for (int i = 0; i < p->n; i++)
        bson_destroy(p->documents[i]);
    p->n = 0;
    p->bytes = 0;
    bson_reinit(p->ids);
}

static int keep_document(cw_task *t, const bson_t *document, void *arg)
{
    struct policy *p = arg;
    char room[16];
    const char *name;
    (void)t;
    bson_uint32_to_string((uint32_t)p->n, &name, room, sizeof room);
    doc_copy(p->ids, name, document, "_id");
    p->documents[p->n++] = bson_copy(document);
    p->bytes += document->len;
    return p->bytes < BATCH_BYTES ? 0 : FULL;
}

static int load_batch(struct policy *p)
{
    bson_t *opts = BCON_NEW("limit", BCON_INT64(BATCH));
    if (!p->archive)
        BCON_APPEND(opts, "projection", "{", "_id", BCON_INT32(1), "}");
    forget_batch(p);
    int code = mongo_each(p->t, p->collection, p->filter, opts, keep_document, p);
    bson_destroy(opts);
    return code == FULL ? 0 : code;
}

static void put_ids(const struct policy *p, bson_t *filter)
{
    bson_t in;
    BSON_APPEND_DOCUMENT_BEGIN(filter, "_id", &in);
    BSON_APPEND_ARRAY(&in, "$in", p->ids);
    bson_append_document_end(filter, &in);
}

/* A copy that is there already may be of an older state: it was made before a kill, and the
 * document was touched since. So each copy is replaced by what is about to be removed, whatever its
 * fields are named: the store took them once. */
static int put_copies(struct policy *p, const char *name)
{
    mongoc_collection_t *c = cw_collection(p->t, name);
    bson_t *unordered = BCON_NEW("ordered", BCON_BOOL(false)),
           *upsert = BCON_NEW("upsert", BCON_BOOL(true), "validate", BCON_BOOL(false));
    bson_error_t error = {0};
    bson_t reply;
    bool good = c;
    if (c) {
        mongoc_bulk_operation_t *bulk =
            mongoc_collection_create_bulk_operation_with_opts(c, unordered);
        for (int i = 0; good && i < p->n; i++) {
            bson_t key = BSON_INITIALIZER;
            doc_copy(&key, "_id", p->documents[i], "_id");
            good = mongoc_bulk_operation_replace_one_with_opts(bulk, &key, p->documents[i], upsert,
                                                               &error);
            bson_destroy(&key);
        }
        if (good) {
            good = mongoc_bulk_operation_execute(bulk, &reply, &error);
            bson_destroy(&reply);
        }
        mongoc_bulk_operation_destroy(bulk);
        if (!good)
            mongo_failed(p->t, name, &error);
    }
    bson_destroy(unordered);
    bson_destroy(upsert);
    return good ? 0 : -1;
}

static int copy_batch(struct policy *p)
{
    const char *name = cw_printf(p->t, "%s_archive", p->collection);
    bson_t filter = BSON_INITIALIZER;
    if (put_copies(p, name) < 0)
        return -1;
    put_ids(p, &filter);
    int64_t there = mongo_count(p->t, name, &filter);
    bson_destroy(&filter);
    if (there >= 0 && there != p->n)
        return cw_problem(p->t, true, "RuntimeError", "%s holds %lld of %d copies", name,
                          (long long)there, p->n);
    return there < 0 ? -1 : 0;
}

/* The date is asked for again: a document that was touched meanwhile stays. */
static int64_t remove_batch(struct policy *p)
{
    bson_t filter = BSON_INITIALIZER;
    bson_concat(&filter, p->filter);
    put_ids(p, &filter);
    int64_t n = mongo_remove_many(p->t, p->collection, &filter);
    bson_destroy(&filter);
    return n;
}

/* --- the record --- */

static int audit(struct policy *p, int64_t removed, const char *error)
{
    bson_t *key = BCON_NEW("_id", BCON_UTF8(p->audit_id));
    bson_t *set =
        BCON_NEW("action", "retention", "policy_id", BCON_UTF8(p->id), "collection",
                 BCON_UTF8(p->collection ? p->collection : ""), "cutoff", BCON_DATE_TIME(p->cutoff),
                 "at", BCON_DATE_TIME(doc_now()), "task_id", BCON_UTF8(cw_info(p->t)->id));
    doc_put(set, "error", error, 1000);
    doc_keep(set, "team_id", p->document, "team_id");
    bson_t *update = BCON_NEW("$inc", "{", p->archive ? "archived" : "deleted", BCON_INT64(removed),
                              "}", "$set", BCON_DOCUMENT(set));
    int code = mongo_update(p->t, "audit_logs", key, update, true);
    bson_destroy(set);
    bson_destroy(key);
    bson_destroy(update);
    return code < 0 ? -1 : 0;
}

static int progress(struct policy *p)
{
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "collection", p->collection);
    cJSON_AddNumberToObject(meta, "removed", (double)p->removed);
    return cw_progress(p->t, meta);
}

static int apply(struct policy *p)
{
    int64_t n = 0;
    do {
        if (cw_sleep(p->t, 0) < 0 || load_batch(p) < 0 || (p->n && p->archive && copy_batch(p) < 0))
            return -1;
        n = p->n ? remove_batch(p) : 0;
        if (n < 0 || audit(p, n, NULL) < 0)
            return -1;
        p->removed += n;
        if (n)
            progress(p);
    } while (n > 0);
    return 0;
}

/* --- the cycle --- */

/* A policy that is wrong, or whose documents the store refuses, is recorded and does not stop the
 * others; trouble of the moment does. */
static int record_failure(struct cycle *c, struct policy *p)
{
    bool transient = false;
    const char *why = cw_problem_text(c->t, &transient);
    if (transient || !why || cw_stopping(c->t) != CW_GO)
        return -1;
    why = cw_printf(c->t, "%s", why);
    cw_log(c->t, CW_WARNING, "retention policy %s: %s", p->id, why);
    c->failed++;
    return audit(p, 0, why);
}

static int apply_policy(struct cycle *c, const bson_t *document)
{
    char room[DOC_ID_SIZE];
    cw_task *t = c->t;
    struct policy *p = cw_alloc(t, sizeof *p);
    const char *id = doc_id(document, "_id", room);
    *p = (struct policy){.t = t, .document = document, .id = cw_printf(t, "%s", id ? id : "")};
    p->ids = mongo_bson(t);
    p->filter = mongo_bson(t);
    cw_defer(t, forget_batch, p);
    const char *parts[] = {"retention", cw_info(t)->id, p->id, NULL};
    digest_hex(parts, p->audit_id);
    int code = read_policy(p, c->now) < 0 || apply(p) < 0 ? record_failure(c, p) : 0;
    c->removed += p->removed;
    forget_batch(p);
    return code;
}

static int keep_policy(cw_task *t, const bson_t *document, void *arg)
{
    struct cycle *c = arg;
    if (c->n == c->room) {
        const bson_t **more = cw_alloc(t, (c->room = 2 * c->room + 64) * sizeof *more);
        if (c->n)
            memcpy(more, c->list, c->n * sizeof *more);
        c->list = more;
    }
    bson_t *copy = mongo_bson(t);
    bson_concat(copy, document);
    c->list[c->n++] = copy;
    return 0;
}

cw_outcome run_retention_cycle(cw_task *t)
{
    struct cycle c = {.t = t, .now = doc_now()};
    bson_t *enabled = BCON_NEW("enabled", "{", "$ne", BCON_BOOL(false), "}");
    int code = mongo_each(t, "retention_policies", enabled, NULL, keep_policy, &c);
    bson_destroy(enabled);
    for (size_t i = 0; code >= 0 && i < c.n; i++)
        code = apply_policy(&c, c.list[i]);
    if (code < 0)
        return cw_stopping(t) != CW_GO ? cw_stopped(t) : cw_fail(t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddNumberToObject(result, "policies", (double)c.n);
    cJSON_AddNumberToObject(result, "failed", (double)c.failed);
    cJSON_AddNumberToObject(result, "removed", (double)c.removed);
    return cw_return(t, result);
}
