/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/scan_job.h"

#include "tasks/lib/cancel.h"
#include "tasks/lib/failure.h"

#include <string.h>

/* A job's document is written before its task ends, so a kill -9 in between lets the same task run
 * again; `done` then ends it at once. Each attempt says until when it can last: a job that neither
 * ended nor reported by then has lost its task, and finalize_cloud_scan counts it as failed. */

enum { SLACK_MS = 120000 };

static bson_t *key_of(const struct scan_job *j)
{
    return BCON_NEW("scan_run_id", BCON_UTF8(j->run_id), "kind", BCON_UTF8(j->kind), "key",
                    BCON_UTF8(j->key));
}

static int save(struct scan_job *j, const bson_t *set)
{
    bson_t *key = key_of(j), update = BSON_INITIALIZER;
    BSON_APPEND_DOCUMENT(&update, "$set", set);
    int code = mongo_update(j->t, "scan_jobs", key, &update, true);
    bson_destroy(key);
    bson_destroy(&update);
    return code < 0 ? -1 : 0;
}

static bool is_cancelled(const bson_t *run)
{
    const char *status = doc_text(run, "status");
    return status && strcmp(status, "CANCELLED") == 0;
}

static int begin(struct scan_job *j)
{
    const struct cw_info *info = cw_info(j->t);
    const char *status = j->document ? doc_text(j->document, "status") : NULL;
    const char *by = j->document ? doc_text(j->document, "task_id") : NULL;
    j->done = status && by && strcmp(by, info->id) == 0 &&
              (strcmp(status, "COMPLETED") == 0 || strcmp(status, "PARTIAL") == 0);
    if (j->done || j->cancelled)
        return 0;
    int64_t now = doc_now(), limit = info->hard_limit > 0 ? (int64_t)(info->hard_limit * 1000) : 0;
    bson_t set = BSON_INITIALIZER;
    doc_copy(&set, "team_id", j->run, "team_id");
    BSON_APPEND_UTF8(&set, "task_id", info->id);
    BSON_APPEND_UTF8(&set, "status", "RUNNING");
    BSON_APPEND_DATE_TIME(&set, "started_at", now);
    BSON_APPEND_DATE_TIME(&set, "deadline_at", now + (limit ? limit : 3600000) + SLACK_MS);
    BSON_APPEND_INT64(&set, "attempts", info->retries + 1);
    int code = save(j, &set);
    bson_destroy(&set);
    return code;
}

int scan_job_begin(cw_task *t, const char *run_id, const char *kind, const char *key,
                   struct scan_job *ret)
{
    *ret = (struct scan_job){.t = t, .run_id = run_id, .kind = kind, .key = key};
    ret->run = mongo_load(t, "scan_runs", "scan run", run_id);
    if (!ret->run)
        return -1;
    ret->cancelled = is_cancelled(ret->run);
    bson_t *filter = key_of(ret);
    int found = mongo_find(t, "scan_jobs", filter, NULL, &ret->document);
    bson_destroy(filter);
    return found < 0 ? -1 : begin(ret);
}

int scan_job_watch(struct scan_job *j, double seconds)
{
    if (!cancel_is_asked(j->t, "scan_runs", j->run_id, seconds, &j->looked_at))
        return 0;
    j->cancelled = true;
    return cw_problem(j->t, false, "RuntimeError", "the scan run was cancelled");
}

int scan_job_end(struct scan_job *j, const char *status, const bson_t *summary, const cJSON *errors)
{
    bson_t set = BSON_INITIALIZER;
    BSON_APPEND_UTF8(&set, "status", status);
    BSON_APPEND_DATE_TIME(&set, "finished_at", doc_now());
    if (summary)
        BSON_APPEND_DOCUMENT(&set, "summary", summary);
    cJSON *none = errors ? NULL : cJSON_CreateArray();
    doc_put_tree(&set, "errors", errors ? errors : none);
    cJSON_Delete(none);
    int code = save(j, &set);
    bson_destroy(&set);
    return code;
}

/* What we would say to the caller is said to the document too, unless the document cannot be
 * reached: then the attempt's own failure is the one that counts. */
cw_outcome scan_job_fail(struct scan_job *j)
{
    if (j->cancelled)
        return scan_job_cancelled(j);
    struct failure f = failure_read(j->t);
    if (cw_stopping(j->t) == CW_SHUTDOWN || !j->run)
        return f.outcome;
    cJSON *errors = cJSON_CreateArray();
    cJSON_AddItemToArray(errors, cJSON_CreateString(cw_printf(j->t, "%s: %s", j->key, f.why)));
    if (scan_job_end(j, f.again ? "RETRYING" : "FAILED", NULL, errors) < 0)
        cw_log(j->t, CW_WARNING, "scan run %s: the failure of %s %s could not be recorded",
               j->run_id, j->kind, j->key);
    cJSON_Delete(errors);
    return f.outcome;
}

cw_outcome scan_job_cancelled(struct scan_job *j)
{
    if (scan_job_end(j, "CANCELLED", NULL, NULL) < 0)
        return cw_fail(j->t);
    return cw_return_str(j->t, "CANCELLED");
}
