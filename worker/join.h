/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_JOIN_H
#define WORKER_JOIN_H

/* The results of many tasks together, read from the store as they are needed: what GroupResult.join
 * does for Python. On the loop, without blocking it. */

#include "worker/store/store.h"

struct join_end {
    bool ready;     /* false: a member has no result yet, or the store does not answer */
    const char *failed_id, *failed; /* the first member that failed and its exception; NULL: none */
    cJSON *results; /* in the shape of the tuples; taken by the receiver */
};
typedef void join_fn(const struct join_end *end, void *arg);

/* `tuples`: result tuples, [[id, parent], members or null], taken. Looks again until `timeout`
 * seconds have passed; 0: once. */
void join_start(struct event_base *base, struct store *store, cJSON *tuples, double timeout,
                join_fn *fn, void *arg);

/* How many members these have that are no groups. */
size_t join_count(const cJSON *tuples);

#endif
