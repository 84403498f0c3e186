/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_SCAN_JOB_H
#define TASKS_LIB_SCAN_JOB_H

#include "tasks/lib/mongo.h"

/* A sub-job of a ScanRun (one discovery of a region, one prowler batch) and its document in
 * scan_jobs, under (scan_run_id, kind, key). The chord only tells that all have ended; how each
 * ended is here. */

struct scan_job {
    cw_task *t;
    const char *run_id, *kind, *key;
    const bson_t *run, *document; /* NULL document: the job was not sent by a cloud scan */
    bool done;                    /* this very task has completed before */
    bool cancelled;               /* the run is */
    double looked_at;
};

/* Loads the run (LookupError) and marks the job RUNNING. Then look at done and cancelled. */
int scan_job_begin(cw_task *t, const char *run_id, const char *kind, const char *key,
                   struct scan_job *ret);
/* For a command's on_tick: < 0 once the run is cancelled. */
int scan_job_watch(struct scan_job *j, double seconds);
/* COMPLETED or PARTIAL; summary and errors (a list of texts) may be NULL. */
int scan_job_end(struct scan_job *j, const char *status, const bson_t *summary,
                 const cJSON *errors);
/* Records why it failed, then gives the verdict of cw_fail: RETRYING while attempts are left. */
cw_outcome scan_job_fail(struct scan_job *j);
cw_outcome scan_job_cancelled(struct scan_job *j);

#endif
