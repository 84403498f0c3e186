/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_NATIVE_H
#define TASKS_SCANS_NATIVE_H

#include "tasks/lib/fields.h"
#include "tasks/lib/mongo.h"
#include "tasks/lib/severity.h"
#include "tasks/scans/scan_state.h"

/* What all scans of native_scans share: the document, its states and its mirror, the team's
 * approved targets, findings, progress, and an end when the scan is cancelled. */

struct native_scan {
    cw_task *t;
    struct scan_state state;
    const bson_t *document;    /* of native_scans */
    const char *target, *host; /* as given; what must be approved */
    bool only_ipv6;            /* the host has no other address: tools want to be told */
    struct mongo_bulk *findings;
    int64_t severities[N_SEVERITIES];
    int64_t found, stored; /* told by the tool, and different ones of them */
    bson_t *summary; /* the scan adds what it wants to tell */
    const char *phase;
    double percent;
    /* of the helpers */
    double told_at;
    int64_t began; /* ms; of this attempt */
    bool complete;
    void *own; /* the scan's */
};

struct native_kind {
    const char *type; /* "network", "ssl", "web": scan_type of the mirror, tool of the findings */
    const struct field_rule *fields; /* of the document, checked first */
    /* Checks target and options and sets host; < 0 after cw_problem. */
    int (*prepare)(struct native_scan *s);
    int (*scan)(struct native_scan *s); /* < 0: the scan failed, by cw_problem or a helper */
    /* For a tool that does one scan at a time: 1 it is ours, 0 busy (the task comes back later), <
     * 0 failed; and what gives it back. Tasks of such a kind have no max_retries: failures are
     * counted in the document. NULL: any number at once. */
    int (*claim)(struct native_scan *s);
    void (*release)(struct native_scan *s, bool clean);
};

cw_outcome native_run(cw_task *t, const struct native_kind *kind);

/* Upsert under (scan_id, key). `fields` is left to the caller; severity as in severity.h. */
int native_finding(struct native_scan *s, const char *key, const char *severity,
                   const bson_t *fields);
/* Tells phase and percent, and looks whether the scan was cancelled: for each second or so. */
int native_tick(struct native_scan *s, double seconds);
int native_on_tick(cw_task *t, double seconds, void *scan); /* for cw_command */

#endif
