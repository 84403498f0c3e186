/* SPDX-License-Identifier: Apache-2.0 */

/* What the pool does about jobs that take long: their limits, requests to stop, and batches held up
 * by one of their number. All of it counts from the job's real start, which its child writes into
 * the shared slot: so a timer that comes too early just looks again, and none is needed when a job
 * begins. */

#include "worker/pool/pool_private.h"

#include "proto/base/mem.h"
#include "tasks/cworker.h"

#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { HELD_UP_US = 5000, LOOK_AGAIN_US = 1000 };

/* --- stops --- */

static void stop_wake(struct slot *slot)
{
    syscall(SYS_futex, &slot->stop, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

void slot_stop(struct slot *slot, uint64_t job, unsigned stop)
{
    if (atomic_load(&slot->stop_job) != job)
        atomic_store(&slot->stop, CW_GO);
    atomic_store(&slot->stop_job, job);
    atomic_store(&slot->stop, stop);
    stop_wake(slot);
}

/* Wakes the job's own sleeps by the futex and any other wait by a signal without effect. */
void stop_tell(struct pool_lane *l, struct job *j, unsigned stop)
{
    pid_t pid = atomic_load(&l->share->pid), tid = atomic_load(&l->share->tid);
    if (stop == CW_GO)
        return;
    j->stopped = true;
    slot_stop(&l->share->slot, j->number, stop);
    if (pid > 0 && tid > 0)
        syscall(SYS_tgkill, pid, tid, SIGUSR1);
}

void stop_clear(struct pool_lane *l, const struct job *j)
{
    struct slot *slot = &l->share->slot;
    if (!j->stopped || atomic_load(&slot->stop_job) != j->number)
        return;
    atomic_store(&slot->stop, CW_GO);
    stop_wake(slot);
}

/* --- limits --- */

static int64_t limit_us(double seconds)
{
    return seconds < 1e9 ? (int64_t)(seconds * 1e6) : INT64_C(1000000000000000);
}

/* When the next limit of a job that began at `start` is reached; INT64_MAX: never. */
static int64_t limit_next(const struct job *j, int64_t start)
{
    int64_t next = INT64_MAX;
    if (j->hard_limit > 0)
        next = start + limit_us(j->hard_limit);
    if (j->soft_limit > 0 && !j->soft_told && start + limit_us(j->soft_limit) < next)
        next = start + limit_us(j->soft_limit);
    return next;
}

static void limit_arm(struct pool_lane *l, int64_t due, int64_t now)
{
    int64_t wait = due - now;
    struct timeval interval = pool_interval(wait > LOOK_AGAIN_US ? wait : LOOK_AGAIN_US);
    l->limit_due = due;
    evtimer_add(l->limit_timer, &interval);
}

/* Sets the timer earlier, never later: one that fires for a job that has ended long ago costs less
 * than setting and clearing it around each. */
static void limit_watch(struct pool_lane *l, const struct job *j)
{
    if (j->soft_limit <= 0 && j->hard_limit <= 0)
        return;
    int64_t now = pool_now_us();
    int64_t due = limit_next(j, now);
    if (!l->limit_timer)
        l->limit_timer = evtimer_new(l->child->pool->base, limit_fired, l);
    if (l->limit_due == 0 || due < l->limit_due)
        limit_arm(l, due, now);
}

static void limit_hard(struct pool_lane *l, struct job *j)
{
    if (j->verdict == POOL_CRASHED)
        j->verdict = POOL_HARD_LIMIT;
    child_doom(l->child, SIGKILL);
}

void limit_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pool_lane *l = arg;
    struct pool *p = l->child->pool;
    uint64_t running = atomic_load(&l->share->slot.job);
    int64_t started = atomic_load(&l->share->slot.started_us);
    int64_t now = pool_now_us(), next = INT64_MAX;
    struct job *j, *told = NULL;

    l->limit_due = 0;
    TAILQ_FOREACH(j, &l->jobs, link) {
        int64_t start = j->number == running ? started : now;
        int64_t due = limit_next(j, start);
        if (due <= now && j->hard_limit > 0 && start + limit_us(j->hard_limit) <= now) {
            limit_hard(l, j);
            return;
        }
        if (due <= now) {
            j->soft_told = true;
            stop_tell(l, j, CW_SOFT_LIMIT);
            told = j;
            due = limit_next(j, start);
        }
        if (due < next)
            next = due;
    }
    if (next != INT64_MAX)
        limit_arm(l, next, now);
    if (told)
        p->handlers.on_soft_limit(told->number, told->soft_limit, p->handlers.arg);
}

/* --- batches --- */

void watch_batches(struct pool *p)
{
    struct timeval interval = pool_interval(HELD_UP_US);
    if (!evtimer_pending(p->batch_timer, NULL))
        evtimer_add(p->batch_timer, &interval);
}

void watch_job(struct pool_lane *l, const struct job *j)
{
    if (l->count == 2)
        watch_batches(l->child->pool);
    limit_watch(l, j);
}

/* Copies a lane's gathered outcomes; their size, or 0 when the child was sending them meanwhile. */
size_t lane_peek(struct pool *p, const struct lane *l)
{
    uint32_t generation = atomic_load(&l->generation);
    uint32_t size = atomic_load(&l->out_size);
    if (size == 0 || size > LANE_OUT)
        return 0;
    if (!p->peek)
        p->peek = mem_alloc(LANE_OUT);
    memcpy(p->peek, l->out, size);
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load(&l->generation) == generation ? size : 0;
}

/* The rest of the batch goes to others, and the outcomes that came before the long job are told
 * now. */
static void lane_relieve(struct pool_lane *l, int64_t running_us)
{
    struct pool *p = l->child->pool;
    uint64_t running = atomic_load(&l->share->slot.job);
    size_t size = lane_peek(p, l->share), used;
    struct job *j = TAILQ_FIRST(&l->jobs), *next;

    for (; j; j = next) {
        next = TAILQ_NEXT(j, link);
        if (j->number == running) {
            pool_measure(p, j->def, running_us, true);
            l->mixed = true;
        } else if (job_reclaim(j)) {
            l->child->sent--;
            job_detach(j);
            job_return(p, j, POOL_UNSTARTED);
        }
    }
    lane_update(l);
    if (size > 0)
        child_take_frames(l->child, p->peek, size, &used);
}

/* The lanes are listed first: handlers called on the way may move them between the pool's lists. */
void batch_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pool *p = arg;
    struct pool_lane *held[LANES_MAX], *l;
    int64_t took[LANES_MAX], now = pool_now_us();
    int n = 0;
    bool again = false;

    for (int state = LANE_OPEN; state <= LANE_FULL; state++) {
        TAILQ_FOREACH(l, &p->lanes[state], link) {
            uint64_t running = atomic_load(&l->share->slot.job);
            int64_t running_us = now - atomic_load(&l->share->slot.started_us);
            if (l->count < 2)
                continue;
            again = true;
            if (running != 0 && running_us > HELD_UP_US && n < LANES_MAX) {
                took[n] = running_us;
                held[n++] = l;
            }
        }
    }
    for (int i = 0; i < n; i++)
        lane_relieve(held[i], took[i]);
    if (again)
        watch_batches(p);
}
