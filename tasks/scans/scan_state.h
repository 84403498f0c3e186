/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_SCAN_STATE_H
#define TASKS_SCANS_SCAN_STATE_H

#include "tasks/lib/mongo.h"

/* The state of one scan's document. Whoever sets it to CANCELLED has the last word: no step of the
 * task undoes that, and the task ends when it sees it. Each step is followed by the mirror. */
struct scan_state {
    cw_task *t;
    const char *collection, *label; /* "native_scans", "native scan" */
    const char *type;               /* scan_type of the mirror */
    const char *id;
    bool synced; /* each step tells `updated_at`, by which sync finds it */
    double looked_at;
    bool cancelled; /* as far as we know */
};

/* {"$set": set} unless it was cancelled meanwhile. */
int scan_state_set(struct scan_state *s, const bson_t *set);
int scan_state_running(struct scan_state *s);
/* For each second or so of a run: < 0 once the scan is cancelled. The store is asked now and
 * then. */
int scan_state_watch(struct scan_state *s, double seconds);

#endif
