/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/discovery.h"
#include "tasks/discovery/k8s_api.h"
#include "tasks/discovery/k8s_checks.h"
#include "tasks/discovery/k8s_kinds.h"
#include "tasks/lib/digest.h"
#include "tasks/lib/failure.h"
#include "tasks/lib/fields.h"
#include "tasks/lib/mongo.h"

#include <string.h>

/* execute_kubernetes_cluster_discovery: kind by kind, each object into k8s_resources and what is
 * unsafe about it into k8s_findings. Only a kind that was listed to its end may say that an object
 * is gone or a finding resolved; a kind that we may not list is told in the cluster's document and
 * the others go on. Everything is an upsert, and what is gone is what this run did not see: a run
 * that is killed anywhere and begins again ends in the same place. */

struct discovery {
    cw_task *t;
    const bson_t *cluster;
    const char *cluster_id;
    struct k8s_config config;
    struct mongo_bulk *resources, *findings;
    const struct k8s_kind *kind;
    const cJSON *object; /* whose findings are made */
    int64_t started, n_resources, n_findings, gone, resolved;
    cJSON *skipped; /* [{kind, reason}] */
    int listed;
    bool unstored;
};

/* --- one object --- */

static void key_of(const struct discovery *d, bson_t *key)
{
    doc_copy(key, "team_id", d->cluster, "team_id");
    BSON_APPEND_UTF8(key, "cluster_id", d->cluster_id);
}

static const char *uid_of(const struct discovery *d)
{
    const char *uid = tree_text(d->object, "metadata.uid");
    const char *namespace = tree_text(d->object, "metadata.namespace");
    const char *name = tree_text(d->object, "metadata.name");
    return uid && *uid ? uid
                       : cw_printf(d->t, "%s/%s/%s", d->kind->kind, namespace ? namespace : "",
                                   name ? name : "");
}

static int save_resource(struct discovery *d)
{
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, once = BSON_INITIALIZER;
    key_of(d, &key);
    doc_put(&key, "uid", uid_of(d), 512);
    k8s_describe(d->kind, d->object, &set);
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    BSON_APPEND_BOOL(&set, "gone", false);
    BSON_APPEND_DATE_TIME(&once, "first_seen", doc_now());
    int code = mongo_bulk_upsert(d->resources, &key, &set, &once);
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&once);
    d->n_resources++;
    return code;
}

/* By what it is about, not by the object's uid: the same fault in an object that was made anew is
 * the same finding. */
static void put_uid(const struct discovery *d, const struct k8s_finding *f, bson_t *key)
{
    const char *namespace = tree_text(d->object, "metadata.namespace");
    const char *name = tree_text(d->object, "metadata.name");
    char digest[DIGEST_SIZE];
    digest_hex((const char *const[]){d->cluster_id, d->kind->kind, namespace ? namespace : "",
                                     name ? name : "", f->check_id, f->container, NULL},
               digest);
    BSON_APPEND_UTF8(key, "uid", digest);
}

static void on_finding(const struct k8s_finding *f, void *arg)
{
    struct discovery *d = arg;
    bson_t key = BSON_INITIALIZER, update = BSON_INITIALIZER, set, once;
    key_of(d, &key);
    put_uid(d, f, &key);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    BSON_APPEND_UTF8(&set, "check_id", f->check_id);
    BSON_APPEND_UTF8(&set, "severity", f->severity);
    BSON_APPEND_UTF8(&set, "title", f->title);
    doc_put(&set, "message", f->message, 1024);
    BSON_APPEND_UTF8(&set, "kind", d->kind->kind);
    doc_put(&set, "namespace", tree_text(d->object, "metadata.namespace"), 253);
    doc_put(&set, "name", tree_text(d->object, "metadata.name"), 253);
    doc_put(&set, "container", f->container, 253);
    doc_put(&set, "resource_uid", uid_of(d), 512);
    BSON_APPEND_UTF8(&set, "status", "OPEN");
    BSON_APPEND_NULL(&set, "resolved_at");
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    bson_append_document_end(&update, &set);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$setOnInsert", &once);
    BSON_APPEND_DATE_TIME(&once, "first_seen", doc_now());
    bson_append_document_end(&update, &once);
    mongo_touch(&update);
    d->unstored = d->unstored || mongo_bulk_update(d->findings, &key, &update, true) < 0;
    bson_destroy(&key);
    bson_destroy(&update);
    d->n_findings++;
}

static int on_object(cw_task *t, const cJSON *object, void *arg)
{
    struct discovery *d = arg;
    if (!tree_text(object, "metadata.name"))
        return cw_problem(t, false, "ValueError", "%s: an object without a name", d->kind->path);
    d->object = object;
    if (save_resource(d) < 0)
        return -1;
    k8s_check(d->kind->kind, object, on_finding, d);
    return d->unstored ? -1 : 0;
}

static int on_page(cw_task *t, int page, void *arg)
{
    struct discovery *d = arg;
    cJSON *meta = cJSON_CreateObject();
    cJSON_AddStringToObject(meta, "kind", d->kind->kind);
    cJSON_AddNumberToObject(meta, "page", page);
    cJSON_AddNumberToObject(meta, "resources", (double)d->n_resources);
    cJSON_AddNumberToObject(meta, "findings", (double)d->n_findings);
    return cw_progress(t, meta);
}

/* --- one kind --- */

static int64_t mark(struct discovery *d, const char *collection, const char *state,
                    const bson_t *set)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER;
    key_of(d, &filter);
    BSON_APPEND_UTF8(&filter, "kind", d->kind->kind);
    if (strcmp(state, "OPEN") == 0)
        BSON_APPEND_UTF8(&filter, "status", state);
    else
        BSON_APPEND_BOOL(&filter, state, false);
    BCON_APPEND(&filter, "last_seen", "{", "$lt", BCON_DATE_TIME(d->started), "}");
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    mongo_touch(&update);
    int64_t n = mongo_update_many(d->t, collection, &filter, &update);
    bson_destroy(&filter);
    bson_destroy(&update);
    return n;
}

static int mark_vanished(struct discovery *d)
{
    int64_t now = doc_now();
    bson_t *gone = BCON_NEW("gone", BCON_BOOL(true), "gone_at", BCON_DATE_TIME(now));
    bson_t *resolved =
        BCON_NEW("status", "RESOLVED", "resolved_at", BCON_DATE_TIME(now));
    int64_t n = mark(d, "k8s_resources", "gone", gone);
    int64_t m = n < 0 ? -1 : mark(d, "k8s_findings", "OPEN", resolved);
    bson_destroy(gone);
    bson_destroy(resolved);
    d->gone += n > 0 ? n : 0;
    d->resolved += m > 0 ? m : 0;
    return m < 0 ? -1 : 0;
}

static void skip(struct discovery *d, const char *why)
{
    cJSON *entry = cJSON_CreateObject();
    cJSON_AddStringToObject(entry, "kind", d->kind->kind);
    cJSON_AddStringToObject(entry, "reason", why);
    cJSON_AddItemToArray(d->skipped, entry);
    cw_log(d->t, CW_WARNING, "cluster %s: %s: %s", d->cluster_id, d->kind->kind, why);
}

static int discover_kind(struct discovery *d)
{
    const char *why;
    struct k8s_list list = {
        .t = d->t,
        .config = &d->config,
        .path = d->kind->path,
        .limit = 500,
        .on_object = on_object,
        .on_page = on_page,
        .arg = d,
    };
    enum k8s_listed how = k8s_list(&list, &why);
    if (how == K8S_FAILED || mongo_bulk_flush(d->resources) < 0 ||
        mongo_bulk_flush(d->findings) < 0)
        return -1;
    d->listed += how == K8S_COMPLETE || how == K8S_PARTIAL;
    if (how == K8S_COMPLETE)
        return mark_vanished(d);
    if (how == K8S_ABSENT && strncmp(d->kind->path, "/api/", 5) == 0)
        return cw_problem(d->t, false, "ValueError",
                          "%s is not there (404): is this the API of Kubernetes?", d->kind->path);
    skip(d, why);
    return 0;
}

/* --- the whole --- */

static int save_cluster(struct discovery *d, const char *status, const char *error)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    doc_match_id(&filter, "_id", d->cluster_id);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    BSON_APPEND_UTF8(&set, "discovery_status", status);
    if (error)
        doc_put(&set, "discovery_error", error, 1024);
    else
        BSON_APPEND_NULL(&set, "discovery_error");
    doc_put_tree(&set, "discovery_skipped", d->skipped);
    if (!error)
        BSON_APPEND_DATE_TIME(&set, "discovered_at", doc_now());
    bson_append_document_end(&update, &set);
    int code = mongo_update(d->t, "k8s_clusters", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code;
}

static cw_outcome failed(struct discovery *d)
{
    struct failure f = failure_read(d->t);
    if (cw_stopping(d->t) != CW_SHUTDOWN && save_cluster(d, "FAILED", f.why) < 0)
        cw_log(d->t, CW_WARNING, "cluster %s: the failure could not be recorded", d->cluster_id);
    return f.outcome;
}

static cw_outcome finish(struct discovery *d)
{
    bool partial = cJSON_GetArraySize(d->skipped) > 0;
    const char *status = partial ? "PARTIAL" : "COMPLETED";
    if (save_cluster(d, status, NULL) < 0)
        return cw_fail(d->t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "cluster_id", d->cluster_id);
    cJSON_AddStringToObject(result, "status", status);
    cJSON_AddNumberToObject(result, "resources", (double)d->n_resources);
    cJSON_AddNumberToObject(result, "findings", (double)d->n_findings);
    cJSON_AddNumberToObject(result, "gone", (double)d->gone);
    cJSON_AddNumberToObject(result, "resolved", (double)d->resolved);
    cJSON_AddItemToObject(result, "skipped", cJSON_Duplicate(d->skipped, true));
    return cw_return(d->t, result);
}

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

static cw_outcome discover(struct discovery *d)
{
    for (d->kind = k8s_kinds; d->kind->kind; d->kind++)
        if (discover_kind(d) < 0)
            return failed(d);
    if (!d->listed) {
        cw_problem(d->t, false, "PermissionError",
                   "the cluster lets us list nothing: %.500s",
                   tree_text(d->skipped, "0.reason"));
        return failed(d);
    }
    return finish(d);
}

static int check_cluster(struct discovery *d)
{
    static const struct field_rule rules[] = {
        {"in_cluster", CW_BOOL, 0, 0}, {"kubeconfig", CW_STR, 0, 0}, {"context", CW_STR, 0, 0},
        {"api_server", CW_STR, 0, 0},  {"ca", CW_STR, 0, 0},         {"token_secret", CW_STR, 0, 0},
        {0}};
    const char *what = cw_printf(d->t, "cluster %.80s", d->cluster_id);
    return field_id(d->t, d->cluster, what, "team_id", true) < 0
               ? -1
               : fields_check(d->t, d->cluster, rules);
}

cw_outcome execute_kubernetes_cluster_discovery(cw_task *t)
{
    struct discovery *d = cw_alloc(t, sizeof *d);
    char room[DOC_ID_SIZE];
    d->t = t;
    d->cluster = mongo_load(t, "k8s_clusters", "cluster", cw_str(t, "cluster_id"));
    if (!d->cluster)
        return cw_fail(t);
    d->cluster_id = doc_id(d->cluster, "_id", room);
    if (!d->cluster_id)
        return cw_raise(t, "ValueError", "the cluster's _id is neither text, ObjectId, number nor UUID");
    d->cluster_id = cw_printf(t, "%s", d->cluster_id);
    d->started = doc_now();
    d->skipped = cJSON_CreateArray();
    cw_defer(t, delete_tree, d->skipped);
    if (check_cluster(d) < 0)
        return failed(d);
    d->resources = mongo_bulk_open(t, "k8s_resources");
    d->findings = mongo_bulk_open(t, "k8s_findings");
    if (!d->resources || !d->findings)
        return cw_fail(t);
    if (k8s_config_load(t, d->cluster, &d->config) < 0)
        return failed(d);
    return discover(d);
}
