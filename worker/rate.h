/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_RATE_H
#define WORKER_RATE_H

/* Rate limits of this worker, as Celery keeps them: one token bucket of capacity 1 for each task
 * type, so starts are evenly spaced. What waits is unacked and counts against the prefetch window.
 * The rate is that of the last rate_set, else of the task's definition, else
 * task_default_rate_limit. */

#include "worker/request.h"

void rate_open(struct worker *w);
void rate_close(struct worker *w);

/* `limit`: "10/m", "0.5/s", "3"; NULL, "" or "0": none. INVALID: it is no rate; NOT_FOUND: no such
 * task. */
int rate_set(struct worker *w, const char *task, const char *limit, struct error *err);

/* True: the request waits here, and comes back through flow_ready. */
bool rate_holds(struct worker *w, struct request *r);
void rate_each(struct worker *w, request_list_fn *fn, void *arg); /* the lists of those that wait */

#endif
