/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_CRON_H
#define TASKS_LIB_CRON_H

#include "tasks/lib/zone.h"

/* Cron expressions as Celery's crontab reads them: minute, hour, day of month, month, day of week.
 * All five must match. */
struct cron {
    uint64_t minutes, hours, days, months, weekdays; /* bit n: n matches */
    bool every_hour;
};

/* < 0: ValueError that quotes the field. */
int cron_read(cw_task *t, const char *text, struct cron *ret);
/* The first turn after a time (ms since 1970, UTC); -1: there is none in 40 years. */
int64_t cron_next(const struct cron *cron, const struct zone *zone, int64_t after_ms);

#endif
