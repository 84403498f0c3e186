/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/pool/fence.h"

#include <errno.h>
#include <time.h>

void fence_init(struct fence *f)
{
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&f->life, &how);
    pthread_mutexattr_destroy(&how);
    atomic_init(&f->main_died, false);
    atomic_init(&f->until, INT64_MAX);
}

void fence_hold(struct fence *f)
{
    pthread_mutex_lock(&f->life);
}

void fence_drop(struct fence *f)
{
    pthread_mutex_unlock(&f->life);
}

void fence_move(struct fence *f, int64_t until)
{
    atomic_store_explicit(&f->until, until, memory_order_release);
}

/* Who finds the owner dead becomes the owner: it tells the others and lets go. */
bool fence_main_lives(struct fence *f)
{
    int got = pthread_mutex_trylock(&f->life);
    if (got == EBUSY)
        return !atomic_load_explicit(&f->main_died, memory_order_acquire);
    atomic_store_explicit(&f->main_died, true, memory_order_release);
    if (got == EOWNERDEAD)
        pthread_mutex_unlock(&f->life);
    return false;
}

bool fence_is_open(const struct fence *f)
{
    int64_t until = atomic_load_explicit(&f->until, memory_order_acquire);
    struct timespec t;
    if (until == INT64_MAX)
        return true;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000 < until;
}
