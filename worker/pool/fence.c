/* SPDX-License-Identifier: Apache-2.0 */

/* The fence before a begin. The one idea: the kernel tells of a death, and the children only look.
 *
 * A kill -9 of main or of the zygote marks its post before anything else of the process goes. What
 * a child has not begun by then it never begins; what it has begun ends with the child. */

#include "worker/pool/fence.h"

#include "proto/base/clock.h"

#include <linux/futex.h>

void fence_init(struct fence *f)
{
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    for (int i = 0; i < FENCE_POSTS; i++)
        pthread_mutex_init(&f->posts[i], &how);
    pthread_mutexattr_destroy(&how);
    atomic_init(&f->until, INT64_MAX);
}

void fence_hold(struct fence *f, enum fence_post post)
{
    pthread_mutex_lock(&f->posts[post]);
}

void fence_drop(struct fence *f)
{
    pthread_mutex_unlock(&f->posts[FENCE_MAIN]);
}

void fence_move(struct fence *f, int64_t until)
{
    atomic_store_explicit(&f->until, until, memory_order_release);
}

/* The mutex's word as the kernel defines it: the holder's thread, none once that has died. To ask
 * by a trylock would be to write to it, at each begin of each child. */
static bool is_held(const pthread_mutex_t *post)
{
    return __atomic_load_n(&post->__data.__lock, __ATOMIC_ACQUIRE) & FUTEX_TID_MASK;
}

bool fence_stands(const struct fence *f)
{
    return is_held(&f->posts[FENCE_MAIN]) && is_held(&f->posts[FENCE_ZYGOTE]);
}

bool fence_is_open(const struct fence *f)
{
    int64_t until = atomic_load_explicit(&f->until, memory_order_acquire);
    return until == INT64_MAX || clock_us(CLOCK_BOOTTIME) < until;
}
