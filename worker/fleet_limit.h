/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_FLEET_LIMIT_H
#define WORKER_FLEET_LIMIT_H

/* Limits that all workers of a fleet share (setting task_fleet_limits), which Celery does not have:
 *
 *     {"scans.execute_cloud_scan": {"rate": "10/m", "concurrency": 3, "key": "cloud_account_id"}}
 *
 * At most so many starts in a time, at most so many at once; with `key`, for each value of that
 * argument. What has to wait stays with the worker that took it, as with a rate limit.
 *
 *   keys, behind global_keyprefix:
 *     cworker.limit.TASK[:VALUE]        µs of Redis' clock: next start
 *     cworker.limit.TASK[:VALUE].runs   zset  task id → when its slot lapses */

#include "worker/request.h"

int fleet_limit_open(struct worker *w, struct error *err);
void fleet_limit_close(struct worker *w);

/* True: the request waits, and comes back through flow_allowed. */
bool fleet_limit_holds(struct worker *w, struct request *r);
void fleet_limit_end(struct request *r); /* it has ended, one way or another: its slot is free */
/* the list of those that wait */
void fleet_limit_each(struct worker *w, request_list_fn *fn, void *arg);

#endif
