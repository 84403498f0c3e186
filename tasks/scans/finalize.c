/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/mirror.h"
#include "tasks/lib/severity.h"
#include "tasks/scans/scans.h"

#include <string.h>

/* finalize_cloud_scan: what came of a ScanRun. It reads the jobs' documents rather than results, so
 * that it tells the same however often and by whom it is called; while a job still works it comes
 * back later. A job whose time is over without a word has lost its task and counts as failed.
 *
 * Failures are counted among the findings, as two regions may report the same one. But a finding
 * names only the run that saw it last: where another run of the account was at work meanwhile, what
 * the jobs counted themselves is at least what this run saw. */

static const double look_again = 15;

struct final {
    cw_task *t;
    const char *run_id;
    int jobs, completed, partial, failed, cancelled, open;
    int64_t assets, pass, manual, resolved, fail;
    int64_t severities[N_SEVERITIES], told[N_SEVERITIES]; /* as stored; as the jobs told */
    cJSON *errors;
};

static void add_errors(struct final *f, const bson_t *job)
{
    bson_iter_t at, list;
    const char *text, *kind = doc_text(job, "kind");
    if (!doc_find(job, "errors", &at) || !BSON_ITER_HOLDS_ARRAY(&at) ||
        !bson_iter_recurse(&at, &list))
        return;
    while ((text = doc_next_text(&list)))
        cJSON_AddItemToArray(
            f->errors, cJSON_CreateString(cw_printf(f->t, "%s %.1000s", kind ? kind : "", text)));
}

/* What a task that ended as FAILURE or REVOKED said; NULL: it did not, as far as is known. */
static const char *why_ended(struct final *f, const char *id)
{
    const cJSON *result = id ? cw_result(f->t, id, NULL) : NULL;
    const char *state = tree_text(result, "status");
    if (!state || (strcmp(state, "FAILURE") != 0 && strcmp(state, "REVOKED") != 0))
        return NULL;
    const char *message = tree_text(result, "result.exc_message.0");
    return cw_printf(f->t, "its task ended as %s: %.300s", state, message ? message : "");
}

/* Its task failed before it could say so (revoked, killed by the time limit), or has been silent
 * for longer than an attempt can last. One that waits for its next attempt is not silent, however
 * long its queue is. */
static const char *why_lost(struct final *f, const bson_t *job)
{
    const char *why = why_ended(f, doc_text(job, "task_id")), *status = doc_text(job, "status");
    bool works = status && strcmp(status, "RUNNING") == 0;
    if (why || !works || doc_now() < doc_date(job, "deadline_at", INT64_MAX))
        return why;
    return "its task ended without a word";
}

static void count_open(struct final *f, const bson_t *job)
{
    const char *why = why_lost(f, job), *kind = doc_text(job, "kind"), *key = doc_text(job, "key");
    if (!why) {
        f->open++;
        return;
    }
    f->failed++;
    cJSON_AddItemToArray(f->errors, cJSON_CreateString(cw_printf(
                                        f->t, "%s %s: %s", kind ? kind : "", key ? key : "", why)));
}

static void add_summary(struct final *f, const bson_t *job)
{
    f->assets += doc_int(job, "summary.assets", 0);
    f->pass += doc_int(job, "summary.pass", 0);
    f->manual += doc_int(job, "summary.manual", 0);
    f->resolved += doc_int(job, "summary.resolved", 0);
    for (int i = 0; i < N_SEVERITIES; i++)
        f->told[i] += doc_int(job, cw_printf(f->t, "summary.by_severity.%s", severities[i]), 0);
}

static int on_job(cw_task *t, const bson_t *job, void *arg)
{
    struct final *f = arg;
    const char *status = doc_text(job, "status");
    (void)t;
    f->jobs++;
    add_summary(f, job);
    if (!status || strcmp(status, "PENDING") == 0 || strcmp(status, "RUNNING") == 0 ||
        strcmp(status, "RETRYING") == 0) {
        count_open(f, job);
        return 0;
    }
    f->completed += strcmp(status, "COMPLETED") == 0;
    f->partial += strcmp(status, "PARTIAL") == 0;
    f->failed += strcmp(status, "FAILED") == 0;
    f->cancelled += strcmp(status, "CANCELLED") == 0;
    add_errors(f, job);
    return 0;
}

static int on_severity(cw_task *t, const bson_t *group, void *arg)
{
    struct final *f = arg;
    int64_t n = doc_int(group, "n", 0);
    (void)t;
    f->severities[severity_index(doc_text(group, "_id"))] += n;
    return 0;
}

/* A run without jobs: the task that is to send them works on it, or has ended before it could. */
static void count_missing(struct final *f, const bson_t *run)
{
    static const int64_t patience_ms = 3720000; /* an attempt's limit, and some minutes */
    const char *why = why_ended(f, doc_text(run, "claimed_by"));
    if (!why && doc_now() < doc_date(run, "started_at", 0) + patience_ms) {
        f->open++;
        return;
    }
    why = cw_printf(f->t, "execute_cloud_scan sent no sub-jobs: %s",
                    why ? why : "its task ended without a word");
    cJSON_AddItemToArray(f->errors, cJSON_CreateString(why));
}

static const char *status_of(const struct final *f)
{
    if (f->jobs && !f->failed && !f->partial && !f->cancelled)
        return "COMPLETED";
    return f->completed || f->partial ? "PARTIAL" : "FAILED";
}

static void put_summary(const struct final *f, bson_t *set)
{
    bson_t summary, part;
    BSON_APPEND_DOCUMENT_BEGIN(set, "summary", &summary);
    BSON_APPEND_INT64(&summary, "findings", f->fail);
    BSON_APPEND_INT64(&summary, "pass", f->pass);
    BSON_APPEND_INT64(&summary, "manual", f->manual);
    BSON_APPEND_INT64(&summary, "resolved", f->resolved);
    BSON_APPEND_INT64(&summary, "assets", f->assets);
    BSON_APPEND_DOCUMENT_BEGIN(&summary, "by_severity", &part);
    for (int i = 0; i < N_SEVERITIES; i++)
        bson_append_int64(&part, severities[i], -1, f->severities[i]);
    bson_append_document_end(&summary, &part);
    BSON_APPEND_DOCUMENT_BEGIN(&summary, "jobs", &part);
    BSON_APPEND_INT32(&part, "completed", f->completed);
    BSON_APPEND_INT32(&part, "partial", f->partial);
    BSON_APPEND_INT32(&part, "failed", f->failed);
    bson_append_document_end(&summary, &part);
    bson_append_document_end(set, &summary);
}

/* Only a run that is RUNNING ends here: one that was cancelled, or failed by the watchdog, stays
 * so. */
static int save(struct final *f)
{
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    doc_match_id(&filter, "_id", f->run_id);
    BSON_APPEND_UTF8(&filter, "status", "RUNNING");
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    BSON_APPEND_UTF8(&set, "status", status_of(f));
    BSON_APPEND_DATE_TIME(&set, "finished_at", doc_now());
    put_summary(f, &set);
    doc_put_tree(&set, "errors", f->errors);
    const cJSON *first = f->errors->child;
    if (first)
        doc_put(&set, "error", first->valuestring, 2000);
    bson_append_document_end(&update, &set);
    int code = mongo_update(f->t, "scan_runs", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code;
}

/* The jobs refuse a run whose ids are none; as a filter they would be errors, or others' ids. */
static bool is_id(const bson_t *run, const char *field)
{
    char room[DOC_ID_SIZE];
    return !bson_has_field(run, field) || doc_id(run, field, room);
}

/* Another run has seen findings of this account since this one began, or resolved some of its own. */
static int is_shared(struct final *f, const bson_t *run)
{
    bson_t taken = BSON_INITIALIZER, filter = BSON_INITIALIZER;
    const bson_t *found;
    if (!is_id(run, "team_id") || !is_id(run, "cloud_account_id"))
        return 0;
    doc_match(&taken, "team_id", run);
    doc_match(&taken, "cloud_account_id", run);
    BCON_APPEND(&taken, "last_seen", "{", "$gte",
                BCON_DATE_TIME(doc_date(run, "started_at", 0)), "}", "scan_run_id", "{", "$ne",
                BCON_UTF8(f->run_id), "}");
    BCON_APPEND(&filter, "$or", "[", BCON_DOCUMENT(&taken), "{", "scan_run_id",
                BCON_UTF8(f->run_id), "status", "RESOLVED", "}", "]");
    int code = mongo_find(f->t, "cspm_findings", &filter, NULL, &found);
    bson_destroy(&taken);
    bson_destroy(&filter);
    return code;
}

static int count_failures(struct final *f, const bson_t *run, const bson_t *findings)
{
    int shared = is_shared(f, run);
    if (shared < 0 || mongo_group(f->t, "cspm_findings", findings, "severity", on_severity, f) < 0)
        return -1;
    for (int i = 0; i < N_SEVERITIES; i++) {
        if (shared && f->severities[i] < f->told[i])
            f->severities[i] = f->told[i];
        f->fail += f->severities[i];
    }
    return 0;
}

static int look(struct final *f, const bson_t *run)
{
    bson_t jobs = BSON_INITIALIZER, findings = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&jobs, "scan_run_id", f->run_id);
    BSON_APPEND_UTF8(&findings, "scan_run_id", f->run_id);
    BSON_APPEND_UTF8(&findings, "status", "FAIL");
    int code = mongo_each(f->t, "scan_jobs", &jobs, NULL, on_job, f);
    if (code >= 0 && !f->jobs)
        count_missing(f, run);
    if (code >= 0 && !f->open)
        code = count_failures(f, run, &findings);
    bson_destroy(&jobs);
    bson_destroy(&findings);
    return code;
}

static cw_outcome finish(struct final *f)
{
    const bson_t *run = mongo_load(f->t, "scan_runs", "scan run", f->run_id);
    if (!run || mirror_to_unified_scan_results(f->t, "scan_runs", run, "cloud") < 0)
        return cw_fail(f->t);
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "scan_run_id", f->run_id);
    cJSON_AddStringToObject(result, "status", doc_text(run, "status"));
    cJSON_AddNumberToObject(result, "findings", (double)doc_int(run, "summary.findings", 0));
    return cw_return(f->t, result);
}

static void delete_tree(void *tree)
{
    cJSON_Delete(tree);
}

cw_outcome finalize_cloud_scan(cw_task *t)
{
    struct final *f = cw_alloc(t, sizeof *f);
    f->t = t;
    f->run_id = cw_str(t, "scan_run_id");
    f->errors = cJSON_CreateArray();
    cw_defer(t, delete_tree, f->errors);
    const bson_t *run = mongo_load(t, "scan_runs", "scan run", f->run_id);
    if (!run)
        return cw_fail(t);
    const char *status = doc_text(run, "status");
    if (!status || strcmp(status, "RUNNING") != 0)
        return finish(f);
    if (look(f, run) < 0)
        return cw_fail(t);
    if (f->open)
        return cw_retry(t, look_again, "RuntimeError", "scan run %s: %s", f->run_id,
                        f->jobs ? cw_printf(t, "%d sub-jobs still work", f->open)
                                : "its sub-jobs are not sent yet");
    return save(f) < 0 ? cw_fail(t) : finish(f);
}
