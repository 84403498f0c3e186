/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_ZONE_H
#define TASKS_LIB_ZONE_H

#include "tasks/cworker.h"

/* Time zones by their names (Europe/Madrid), from the system's zoneinfo. */

struct zone;

/* NULL or "UTC" need no file. NULL (ValueError) when there is no such zone; freed with the
 * delivery. */
struct zone *zone_open(cw_task *t, const char *name);

struct zone_at {
    int64_t offset; /* seconds east of UTC */
    int64_t since;  /* when that began, INT64_MIN: always */
    int64_t before; /* the offset before it */
};
struct zone_at zone_look(const struct zone *zone, int64_t utc);

#endif
