/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_FENCE_H
#define WORKER_FENCE_H

/* Private to the pool: may a child begin a task now? A child holds tasks that it has not begun.
 * Should main be killed, or stand still for longer than its lease, others run them: begun here as
 * well they would run twice. So each child looks here before it begins, in memory that main shares
 * with it: two loads and a clock, no system call.
 *
 * That main lives shows in a robust mutex that it holds from its start to its end: the kernel marks
 * it as soon as main begins to die, long before the zygote can hear of it. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct fence {
    pthread_mutex_t life;   /* held by main's first thread */
    _Atomic bool main_died; /* a child found the mark */
    _Atomic int64_t until;  /* CLOCK_BOOTTIME µs */
};

void fence_init(struct fence *f);                /* before the zygote is forked; open for ever */
void fence_hold(struct fence *f);                /* main, after the fork */
void fence_drop(struct fence *f);                /* main, when no child is left */
void fence_move(struct fence *f, int64_t until); /* main: the lease lasts until then */

bool fence_main_lives(struct fence *f);
bool fence_is_open(const struct fence *f); /* by the lease alone */

#endif
