/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_SCAN_STATE_H
#define TASKS_SCANS_SCAN_STATE_H

#include "tasks/lib/mongo.h"

/* The state of one scan's document. Whoever sets it to CANCELLED has the last word, and of two
 * messages for one scan one has it: no step undoes what another one wrote, and the task ends when
 * it sees it. Each step is followed by the mirror. */
struct scan_state {
    cw_task *t;
    const char *collection, *label; /* "native_scans", "native scan" */
    const char *type;               /* scan_type of the mirror */
    const char *id;
    const bson_t *document; /* as it was loaded */
    bool synced;            /* each step tells `updated_at`, by which sync finds it */
    bool claimed;
    double looked_at;
    const char *ended; /* NULL: it is ours to go on with; else the status it has without us */
};

/* {"$set": set} while it is ours; else `ended` tells. */
int scan_state_set(struct scan_state *s, const bson_t *set);
/* To RUNNING, as this task's. */
int scan_state_running(struct scan_state *s);
/* For each second or so of a run: < 0 once the scan is cancelled. */
int scan_state_watch(struct scan_state *s, double seconds);

#endif
