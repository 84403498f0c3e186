/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_DISCOVERY_STEAMPIPE_SERVICE_H
#define TASKS_DISCOVERY_STEAMPIPE_SERVICE_H

#include "tasks/cworker.h"

/* Steampipe as a service speaks PostgreSQL's protocol. Built in where libpq is found. */

struct service; /* closed with the delivery */

/* NULL on failure (ConnectionError, PermissionError); url as of libpq, never shown. */
struct service *service_open(cw_task *t, const char *url);

struct service_query {
    const char *sql;
    int (*on_row)(cw_task *t, const cJSON *row, void *arg);
    int (*on_tick)(cw_task *t, double seconds, void *arg); /* about every second */
    void *arg;
};
int service_query(struct service *s, const struct service_query *query);

#endif
