/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/compliance/compliance.h"
#include "tasks/compliance/ocsf.h"
#include "tasks/compliance/prowler.h"
#include "tasks/lib/check.h"
#include "tasks/lib/fields.h"
#include "tasks/lib/json_stream.h"
#include "tasks/lib/scan_job.h"
#include "tasks/lib/severity.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* execute_prowler_scan: prowler over some regions of a ScanRun, one run of the program for each (of
 * providers other than AWS one for the whole account, with the region "global"), because only its
 * exit status tells whether a region was really looked at, and only then may a finding that did not
 * come back count as RESOLVED. A finding remembers which run, region and scope (frameworks) saw it
 * last, so that a scan of CIS says nothing about what only a PCI scan looks for.
 *
 * Prowler makes a finding's uid of the resource's name, and names repeat (the security group
 * "default" of each network), so the resource's id belongs to the key.
 *
 * Findings are upserts under (team_id, uid, resource_id): a kill -9 anywhere leaves some of them
 * written, and the next attempt writes them again. Resolving comes after the last of a region was
 * stored. */

enum { MAX_LIST = 60 };

struct totals {
    int64_t findings, fail, pass, manual, resolved;
    int64_t severities[N_SEVERITIES]; /* of those that FAIL */
};

struct prowler_scan {
    cw_task *t;
    struct scan_job job;
    const char *run_id, *scope, *role, *provider;
    const char *account; /* of the run */
    const char *regions[MAX_LIST + 1], *frameworks[MAX_LIST + 1];
    int n_regions, done, scanned;
    const char *region;      /* the one at work */
    int64_t started, worked; /* ms; seconds of progress */
    struct mongo_bulk *bulk;
    struct totals totals;
    cJSON *errors;
};

/* --- arguments --- */

/* Texts of an argument, or else of the run's field, each of them checked. */
static int read_list(struct prowler_scan *s, const char *name, bool (*check)(const char *),
                     const char *ret[MAX_LIST + 1])
{
    const cJSON *given = cw_json(s->t, name);
    int n = 0;
    if (!cJSON_IsArray(given)) {
        n = field_texts(s->t, s->job.run, cw_printf(s->t, "scan run %.80s", s->run_id), name, check,
                        ret, MAX_LIST);
        ret[n < 0 ? 0 : n] = NULL;
        return n;
    }
    for (const cJSON *item = given->child; item; item = item->next) {
        const char *text = cJSON_GetStringValue(item);
        if (!text || !check(text) || n == MAX_LIST)
            return cw_problem(s->t, false, "TypeError",
                              "argument '%s' must be a list of at most %d names, not %.60s", name,
                              MAX_LIST, text ? text : "something else");
        ret[n++] = text;
    }
    ret[n] = NULL;
    return n;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static const char *joined(cw_task *t, const char *const *list)
{
    const char *text = "";
    for (; *list; list++)
        text = cw_printf(t, "%s%s%s", text, *text ? "," : "", *list);
    return text;
}

/* The key of the job's document, made before anything is read: the same for each attempt. What is
 * no region is refused later, and so not part of it. */
static const char *job_key(cw_task *t)
{
    const cJSON *list = cw_json(t, "regions");
    const char *names[MAX_LIST + 1] = {0};
    int n = 0;
    for (const cJSON *at = cJSON_IsArray(list) ? list->child : NULL; at && n < MAX_LIST;
         at = at->next)
        if (cJSON_IsString(at) && check_name(at->valuestring))
            names[n++] = at->valuestring;
    return n ? joined(t, names) : "all";
}

/* Binary that is no UUID has no text form, but may be the id of a document all the same. */
static int find_account(struct prowler_scan *s, const char *id, const bson_t **ret)
{
    bson_iter_t at;
    if (!doc_find(s->job.run, "cloud_account_id", &at) || BSON_ITER_HOLDS_NULL(&at))
        return 0;
    bson_t filter = BSON_INITIALIZER;
    if (id)
        doc_match_id(&filter, "_id", id);
    else
        bson_append_iter(&filter, "_id", -1, &at);
    int found = mongo_find(s->t, "cloud_accounts", &filter, NULL, ret);
    bson_destroy(&filter);
    return found;
}

/* The role of another team's account is not lent, whatever a run says. */
static bool is_of_team(const struct prowler_scan *s, const bson_t *account)
{
    bson_iter_t at;
    char own[DOC_ID_SIZE], other[DOC_ID_SIZE];
    if (!doc_find(account, "team_id", &at) || BSON_ITER_HOLDS_NULL(&at))
        return true;
    const char *team = doc_id(s->job.run, "team_id", own);
    const char *owner = doc_id(account, "team_id", other);
    return team && owner && strcmp(team, owner) == 0;
}

static int read_role(struct prowler_scan *s)
{
    static const struct field_rule rules[] = {{"role_arn", CW_STR, 0, 0}, {0}};
    char room[DOC_ID_SIZE];
    const bson_t *account = NULL;
    const char *id = doc_id(s->job.run, "cloud_account_id", room);
    s->account = id ? cw_printf(s->t, "%s", id) : "";
    if (strcmp(s->provider, "aws") != 0)
        return 0;
    int found = find_account(s, id, &account);
    if (found != 1)
        return found;
    id = id ? id : "of this scan run";
    if (!is_of_team(s, account))
        return cw_problem(s->t, false, "PermissionError",
                          "cloud account %.80s belongs to another team", id);
    if (fields_check(s->t, account, rules) < 0)
        return -1;
    s->role = doc_text(account, "role_arn");
    if (s->role && (strncmp(s->role, "arn:aws", 7) != 0 || strlen(s->role) > 2048 ||
                    strpbrk(s->role, " \t\n")))
        return cw_problem(s->t, false, "ValueError", "cloud account %.80s: role_arn is no ARN", id);
    return 0;
}

static int read_provider(struct prowler_scan *s)
{
    static const struct field_rule rules[] = {{"provider", CW_STR, 0, 0}, {0}};
    const char *given = doc_text(s->job.run, "provider");
    given = given ? given : "aws";
    if (fields_check(s->t, s->job.run, rules) < 0)
        return -1;
    for (size_t i = 0; prowler_providers[i] && !s->provider; i++)
        if (strcasecmp(given, prowler_providers[i]) == 0)
            s->provider = prowler_providers[i];
    if (s->provider)
        return 0;
    return cw_problem(s->t, false, "ValueError",
                      "prowler scans of \"%.40s\" are not supported: aws, azure, gcp and "
                      "kubernetes are",
                      given);
}

/* Only AWS is scanned by region. */
static int read_regions(struct prowler_scan *s)
{
    if (strcmp(s->provider, "aws") == 0)
        return read_list(s, "regions", check_region, s->regions);
    if (!check_account(s->account))
        return cw_problem(s->t, false, "ValueError",
                          "scan run %s needs a cloud_account_id (of azure the subscription, of gcp "
                          "the project, of kubernetes the context), not \"%.100s\"",
                          s->run_id, s->account);
    s->regions[0] = "global";
    return 1;
}

static int prepare(struct prowler_scan *s)
{
    const char *what = cw_printf(s->t, "scan run %.80s", s->run_id);
    if (field_id(s->t, s->job.run, what, "team_id", true) < 0 ||
        field_id(s->t, s->job.run, what, "cloud_account_id", false) < 0 || read_provider(s) < 0 ||
        read_role(s) < 0)
        return -1;
    s->n_regions = read_regions(s);
    int n = read_list(s, "frameworks", check_framework, s->frameworks);
    if (s->n_regions < 0 || n < 0)
        return -1;
    if (s->n_regions == 0)
        return cw_problem(s->t, false, "ValueError", "scan run %s names no region", s->run_id);
    qsort(s->frameworks, (size_t)n, sizeof *s->frameworks, by_text);
    s->scope = n ? joined(s->t, s->frameworks) : "*";
    return 0;
}

/* --- progress --- */

static int on_tick(cw_task *t, double seconds, void *arg)
{
    struct prowler_scan *s = arg;
    if ((int64_t)seconds >= s->worked + 5) {
        s->worked = (int64_t)seconds;
        cJSON *meta = cJSON_CreateObject();
        cJSON_AddStringToObject(meta, "region", s->region);
        cJSON_AddNumberToObject(meta, "done", s->done);
        cJSON_AddNumberToObject(meta, "of", s->n_regions);
        cJSON_AddNumberToObject(meta, "findings", (double)s->totals.findings);
        cw_progress(t, meta);
    }
    return scan_job_watch(&s->job, seconds);
}

/* --- findings --- */

static void count(struct totals *n, const struct ocsf_finding *f)
{
    n->findings++;
    n->pass += strcmp(f->status, "PASS") == 0;
    n->manual += strcmp(f->status, "MANUAL") == 0;
    if (strcmp(f->status, "FAIL") == 0) {
        n->fail++;
        n->severities[severity_index(f->severity)]++;
    }
}

/* Part of the key, so it is there even when it is empty. */
static void put_resource(bson_t *key, const char *id)
{
    if (*id)
        doc_put(key, "resource_id", id, 2048);
    else
        BSON_APPEND_UTF8(key, "resource_id", "");
}

static int on_finding(cw_task *t, const cJSON *element, void *arg)
{
    struct prowler_scan *s = arg;
    struct ocsf_finding f;
    const char *wrong = ocsf_read(element, &f);
    if (wrong)
        return cw_problem(t, false, "ValueError", "prowler (%s): %s", s->region, wrong);
    bson_t key = BSON_INITIALIZER, set = BSON_INITIALIZER, update = BSON_INITIALIZER, part;
    doc_copy(&key, "team_id", s->job.run, "team_id");
    doc_put(&key, "uid", f.uid, 1000);
    put_resource(&key, f.resource);
    ocsf_fields(&f, &set);
    doc_copy(&set, "cloud_account_id", s->job.run, "cloud_account_id");
    BSON_APPEND_UTF8(&set, "scan_run_id", s->run_id);
    BSON_APPEND_UTF8(&set, "scan_region", s->region);
    BSON_APPEND_DATE_TIME(&set, "last_seen", doc_now());
    BSON_APPEND_NULL(&set, "resolved_at");
    BSON_APPEND_NULL(&set, "resolved_by");
    BSON_APPEND_DOCUMENT(&update, "$set", &set);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$setOnInsert", &part);
    BSON_APPEND_DATE_TIME(&part, "first_seen", doc_now());
    bson_append_document_end(&update, &part);
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$addToSet", &part);
    BSON_APPEND_UTF8(&part, "scopes", s->scope);
    bson_append_document_end(&update, &part);
    mongo_touch(&update);
    int code = mongo_bulk_update(s->bulk, &key, &update, true);
    bson_destroy(&key);
    bson_destroy(&set);
    bson_destroy(&update);
    count(&s->totals, &f);
    return code;
}

/* What this scan would have reported again if it were still there. A run without an account knows
 * nothing of those of any. */
static int resolve_vanished(struct prowler_scan *s)
{
    bson_t filter = BSON_INITIALIZER;
    int64_t now = doc_now();
    doc_copy(&filter, "team_id", s->job.run, "team_id");
    doc_match(&filter, "cloud_account_id", s->job.run);
    BSON_APPEND_UTF8(&filter, "scan_region", s->region);
    BCON_APPEND(&filter, "status", "{", "$ne", "RESOLVED", "}", "scan_run_id", "{", "$ne",
                BCON_UTF8(s->run_id), "}", "last_seen", "{", "$lt", BCON_DATE_TIME(s->started),
                "}");
    if (strcmp(s->scope, "*") != 0)
        BSON_APPEND_UTF8(&filter, "scopes", s->scope);
    bson_t *update = BCON_NEW("$set", "{", "status", "RESOLVED", "resolved_at", BCON_DATE_TIME(now),
                              "resolved_by", BCON_UTF8(s->run_id), "}");
    mongo_touch(update);
    int64_t n = mongo_update_many(s->t, "cspm_findings", &filter, update);
    bson_destroy(&filter);
    bson_destroy(update);
    if (n < 0)
        return -1;
    s->totals.resolved += n;
    return 0;
}

static int scan_region(struct prowler_scan *s)
{
    struct prowler_run run = {
        .provider = s->provider,
        .account = s->account,
        .region = s->region,
        .frameworks = s->frameworks,
        .role = s->role,
        .on_tick = on_tick,
        .arg = s,
    };
    struct json_stream_options options = {.on_element = on_finding, .arg = s};
    const char *path = NULL;
    s->started = doc_now();
    s->worked = 0;
    s->job.looked_at = 0;
    if (prowler_run(s->t, &run, &path) < 0)
        return -1;
    if (path) {
        int code = json_stream_file(s->t, path, &options, NULL);
        unlink(path);
        if (code < 0 || mongo_bulk_flush(s->bulk) < 0)
            return -1;
    }
    return resolve_vanished(s);
}

/* --- the end --- */

static void put_totals(const struct totals *n, bson_t *summary)
{
    bson_t by;
    BSON_APPEND_INT64(summary, "findings", n->findings);
    BSON_APPEND_INT64(summary, "fail", n->fail);
    BSON_APPEND_INT64(summary, "pass", n->pass);
    BSON_APPEND_INT64(summary, "manual", n->manual);
    BSON_APPEND_INT64(summary, "resolved", n->resolved);
    BSON_APPEND_DOCUMENT_BEGIN(summary, "by_severity", &by);
    for (int i = 0; i < N_SEVERITIES; i++)
        bson_append_int64(&by, severities[i], -1, n->severities[i]);
    bson_append_document_end(summary, &by);
}

/* The same for the attempt that did the work and for a later one that finds it done. */
static cw_outcome result_of(cw_task *t, const char *run_id, const char *status,
                            const bson_t *summary, const cJSON *errors)
{
    cJSON *result = doc_tree(summary);
    cJSON_AddStringToObject(result, "scan_run_id", run_id);
    cJSON_AddStringToObject(result, "status", status);
    cJSON_AddItemToObject(result, "errors", cJSON_Duplicate(errors, true));
    return cw_return(t, result);
}

static cw_outcome finish(struct prowler_scan *s)
{
    const char *status = cJSON_GetArraySize(s->errors) ? "PARTIAL" : "COMPLETED";
    bson_t summary = BSON_INITIALIZER;
    put_totals(&s->totals, &summary);
    BSON_APPEND_INT64(&summary, "regions", s->scanned);
    cw_outcome outcome = scan_job_end(&s->job, status, &summary, s->errors) < 0
                             ? cw_fail(s->t)
                             : result_of(s->t, s->run_id, status, &summary, s->errors);
    bson_destroy(&summary);
    return outcome;
}

static cw_outcome was_done(struct prowler_scan *s)
{
    cJSON *job = doc_tree(s->job.document);
    bson_t summary = BSON_INITIALIZER;
    bson_iter_t at;
    uint32_t size;
    const uint8_t *data;
    if (doc_find(s->job.document, "summary", &at) && BSON_ITER_HOLDS_DOCUMENT(&at)) {
        bson_iter_document(&at, &size, &data);
        bson_init_static(&summary, data, size);
    }
    cw_outcome outcome = result_of(s->t, s->run_id, doc_text(s->job.document, "status"), &summary,
                                   cJSON_GetObjectItemCaseSensitive(job, "errors"));
    cJSON_Delete(job);
    return outcome;
}

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

/* A region that fails for good does not stop the others; with a passing trouble, or when none
 * worked, the whole job fails and is tried again. */
static cw_outcome run_all(struct prowler_scan *s)
{
    s->errors = cJSON_CreateArray();
    cw_defer(s->t, delete_tree, s->errors);
    for (; s->done < s->n_regions; s->done++) {
        bool transient = false;
        s->region = s->regions[s->done];
        if (scan_region(s) == 0) {
            s->scanned++;
            continue;
        }
        const char *text = cw_problem_text(s->t, &transient);
        bool missing = text && strncmp(text, "FileNotFoundError", 17) == 0;
        bool last = s->done + 1 == s->n_regions && s->scanned == 0;
        if (transient || missing || last || s->job.cancelled || cw_stopping(s->t) != CW_GO)
            return scan_job_fail(&s->job);
        cJSON_AddItemToArray(s->errors,
                             cJSON_CreateString(cw_printf(s->t, "%s: %s", s->region, text)));
    }
    return finish(s);
}

cw_outcome execute_prowler_scan(cw_task *t)
{
    struct prowler_scan *s = cw_alloc(t, sizeof *s);
    s->t = t;
    s->run_id = cw_str(t, "scan_run_id");
    if (scan_job_begin(t, s->run_id, "prowler", job_key(t), &s->job) < 0)
        return cw_fail(t);
    if (s->job.cancelled)
        return scan_job_cancelled(&s->job);
    if (s->job.done)
        return was_done(s);
    s->bulk = mongo_bulk_open(t, "cspm_findings");
    if (!s->bulk || prepare(s) < 0)
        return scan_job_fail(&s->job);
    return run_all(s);
}
