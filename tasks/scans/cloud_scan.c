/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/cloud_scan.h"

#include "tasks/lib/failure.h"
#include "tasks/lib/mirror.h"
#include "tasks/scans/scans.h"

#include <string.h>

/* execute_cloud_scan: claims a ScanRun and sends its sub-jobs. The claim is a compare-and-set from
 * PENDING that writes down whose it is, so a second message finds the run taken, while the same
 * message, come back after a kill -9, goes on where it was: its sends leave with its ack, all or
 * none. */

static cw_outcome tell(cw_task *t, const char *run_id, const char *status, int jobs)
{
    cJSON *result = cJSON_CreateObject();
    cJSON_AddStringToObject(result, "scan_run_id", run_id);
    cJSON_AddStringToObject(result, "status", status);
    cJSON_AddNumberToObject(result, "jobs", jobs);
    return cw_return(t, result);
}

static int mirror_run(cw_task *t, const char *run_id)
{
    const bson_t *run = mongo_load(t, "scan_runs", "scan run", run_id);
    return run ? mirror_to_unified_scan_results(t, "scan_runs", run, "cloud") : -1;
}

/* 1 it is ours, 0 it is not, -1 failed. */
static int claim(cw_task *t, const char *run_id, const bson_t *run)
{
    const char *me = cw_info(t)->id, *by = doc_text(run, "claimed_by");
    const char *status = doc_text(run, "status");
    if (status && strcmp(status, "RUNNING") == 0 && by && strcmp(by, me) == 0)
        return 1;
    bson_t filter = BSON_INITIALIZER;
    doc_match_id(&filter, "_id", run_id);
    BCON_APPEND(&filter, "status", "{", "$in", "[", "PENDING", BCON_NULL, "]", "}");
    bson_t *update = BCON_NEW("$set", "{", "status", "RUNNING", "claimed_by", BCON_UTF8(me),
                              "started_at", BCON_DATE_TIME(doc_now()), "}");
    int code = mongo_update(t, "scan_runs", &filter, update, false);
    bson_destroy(&filter);
    bson_destroy(update);
    return code;
}

/* A run that cannot be sent ends as FAILED and says why. */
static cw_outcome refuse(cw_task *t, const char *run_id)
{
    struct failure f = failure_read(t);
    if (f.again || cw_stopping(t) == CW_SHUTDOWN)
        return f.outcome;
    bson_t filter = BSON_INITIALIZER, update = BSON_INITIALIZER, set;
    doc_match_id(&filter, "_id", run_id);
    BSON_APPEND_UTF8(&filter, "status", "RUNNING");
    BSON_APPEND_DOCUMENT_BEGIN(&update, "$set", &set);
    BSON_APPEND_UTF8(&set, "status", "FAILED");
    doc_put(&set, "error", f.why, 4000);
    BSON_APPEND_DATE_TIME(&set, "finished_at", doc_now());
    bson_append_document_end(&update, &set);
    int code = mongo_update(t, "scan_runs", &filter, &update, false);
    bson_destroy(&filter);
    bson_destroy(&update);
    return code < 0 || mirror_run(t, run_id) < 0 ? cw_fail(t) : f.outcome;
}

/* Somebody else's, or one that has ended. */
static cw_outcome leave(cw_task *t, const char *run_id, const char *status)
{
    static const char *const known[] = {"PENDING", "RUNNING",   "COMPLETED", "PARTIAL",
                                        "FAILED",  "CANCELLED", NULL};
    for (const char *const *each = known; status && *each; each++)
        if (strcmp(status, *each) == 0)
            return tell(t, run_id, status, 0);
    return cw_raise(t, "ValueError", "scan run %s: status is %s%.40s%s, none that is known", run_id,
                    status ? "\"" : "", status ? status : "no text", status ? "\"" : "");
}

cw_outcome execute_cloud_scan(cw_task *t)
{
    const char *run_id = cw_str(t, "scan_run_id");
    const bson_t *run = mongo_load(t, "scan_runs", "scan run", run_id);
    struct cloud_plan plan;
    if (!run)
        return cw_fail(t);
    int ours = claim(t, run_id, run);
    if (ours < 0)
        return cw_fail(t);
    if (mirror_run(t, run_id) < 0)
        return ours ? refuse(t, run_id) : cw_fail(t);
    if (!ours)
        return leave(t, run_id, doc_text(run, "status"));
    if (cloud_plan_read(t, run, run_id, &plan) < 0 || cloud_plan_send(&plan) < 0)
        return refuse(t, run_id);
    return tell(t, run_id, "RUNNING", plan.jobs);
}
