/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_FENCE_H
#define WORKER_FENCE_H

/* Private to the pool: may a child begin a task now? A child holds tasks that it has not begun.
 * Should main or the zygote be killed, or main stand still for longer than its lease, others run
 * them: begun here as well they would run twice. So each child looks here before it begins, in
 * memory that all share: three loads and a clock, no system call.
 *
 * That a process lives shows in a robust mutex that it holds to its end: the kernel marks it as
 * soon as the process begins to die. The zygote hears of main's death long after that, and a child
 * is ended for the zygote's only when all memory of the zygote has been given back. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum fence_post { FENCE_MAIN, FENCE_ZYGOTE, FENCE_POSTS };

struct fence {
    pthread_mutex_t posts[FENCE_POSTS]; /* each held by the first thread of its process */
    _Atomic int64_t until;              /* CLOCK_BOOTTIME µs */
};

void fence_init(struct fence *f); /* before the zygote is forked */
/* By main and by the zygote, after that fork and before any child's: a child of the holder's holds
 * nothing. */
void fence_hold(struct fence *f, enum fence_post post);
void fence_drop(struct fence *f);                /* main, when no child is left */
void fence_move(struct fence *f, int64_t until); /* main: the lease lasts until then */

bool fence_stands(const struct fence *f);  /* main and the zygote live */
bool fence_is_open(const struct fence *f); /* by the lease alone; until fence_move it is */

#endif
