/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_SLOT_H
#define WORKER_SLOT_H

/* One lane of work (a prefork child, or one thread of a threads child), in memory that main and the
 * child share. It answers what a dead child cannot: which task was running, since when. And it
 * carries the request to stop the other way: one load for the task, a futex for its sleeps. */

#include <stdatomic.h>
#include <stdint.h>

struct slot {
    _Atomic uint64_t job;         /* running now; 0: idle. Written by the child around each run */
    _Atomic int64_t started_us;   /* CLOCK_MONOTONIC, when `job` began */
    _Atomic uint64_t stop_job;    /* whom `stop` is meant for: another job ignores it */
    _Atomic uint32_t stop;        /* enum cw_stop; a futex word. Written by main alone */
    char pad[64 - 28];
};

#endif
