/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_CLOUD_SCAN_H
#define TASKS_SCANS_CLOUD_SCAN_H

#include "tasks/lib/mongo.h"

/* The sub-jobs of one ScanRun, with the task ids that its documents in scan_jobs hold. */
struct cloud_plan {
    cw_task *t;
    const char *run_id;
    const char *regions[64], *frameworks[64];
    int n_regions, n_frameworks;
    bool by_region; /* AWS */
    int batch_size;
    double batch_delay;
    int jobs;
    cJSON *parts; /* signatures so far */
};

/* Reads regions and frameworks of the run; ValueError says what is wrong with them. */
int cloud_plan_read(cw_task *t, const bson_t *run, const char *run_id, struct cloud_plan *ret);
/* Writes the jobs' documents and sends their tasks as a chord that ends in finalize_cloud_scan. */
int cloud_plan_send(struct cloud_plan *plan);

#endif
