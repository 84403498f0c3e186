/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_SCHEDULE_H
#define TASKS_SCANS_SCHEDULE_H

#include "tasks/lib/cron.h"
#include "tasks/lib/mongo.h"

enum overlap { OVERLAP_SKIP, OVERLAP_QUEUE, OVERLAP_ALLOW, OVERLAP_CANCEL };

/* What a document of scan_schedules says. */
struct schedule {
    const bson_t *document;
    const char *id;
    enum overlap overlap;
    int64_t due;  /* ms; -1: not worked out yet (cron) */
    int64_t step; /* ms; 0: no interval */
    bool by_cron;
    struct cron cron;
    const struct zone *zone;
};

/* Zones that were read, kept for the delivery. */
struct zones;
struct zones *zones_open(cw_task *t);

/* < 0: ValueError that says what is wrong with it. */
int schedule_read(cw_task *t, struct zones *zones, const bson_t *document, struct schedule *ret);
/* The turn after now (ms), however many were missed; -1: there is none. */
int64_t schedule_next(const struct schedule *s, int64_t now);

#endif
