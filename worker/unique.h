/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_UNIQUE_H
#define WORKER_UNIQUE_H

/* Unique work (unique_for, unique_key of a task's definition): of equal calls one at a time waits
 * or runs. The first that a worker takes holds a lease in Redis, `cworker.unique.<hash of name and
 * arguments>` with its task id in it, renewed while it is here. An equal one with another id ends
 * as NOT_UNIQUE. The lease ends in the same step as the ack; a task that goes back, or waits for an
 * ETA or its retry, keeps it. A crash releases it by its expiry, unless the same task comes back
 * before. */

#include "worker/request.h"

void unique_read(struct request *r);  /* names its lease, when its task is unique */
bool unique_asks(struct request *r);  /* true: it comes back through flow_leased or flow_finish */
/* for its settlement; the lease is not renewed any more */
struct effect unique_end(struct request *r);
void unique_free(struct request *r);
void unique_close(struct worker *w);

#endif
