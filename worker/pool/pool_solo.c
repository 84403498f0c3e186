/* SPDX-License-Identifier: Apache-2.0 */

/* -P solo: the task runs in this process, in a thread beside the loop, which so goes on to renew the
 * lease, to answer remote control and to send events, however long the task takes. One job at a
 * time; nothing can end it but itself, and limits are not kept.
 *
 * What the thread has to tell (begun, a state, the outcome) it leaves for the loop, and waits until
 * that has taken it: nothing is copied, and the handlers run in the loop's thread as they do for
 * children. A kill -9 ends both threads at once. */

#include "worker/pool/pool_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "tasks/cworker.h"
#include "worker/task/task_run.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum tale { TALE_NONE, TALE_STARTED, TALE_STATE, TALE_OUTCOME };

struct solo {
    struct event *heard; /* there is a tale, or a job was returned */
    uint64_t job;        /* submitted and not ended; 0: none. The loop's */
    bool returned;       /* `job` is to be reported as lost, for `why`. The loop's */
    enum pool_loss why;
    struct slot slot;
    pthread_t thread;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t wake;  /* the thread's */
    struct buf frame;     /* of the job while it has not begun; else empty */
    bool acked;           /* it may begin without a lease */
    int64_t until;        /* CLOCK_BOOTTIME µs */
    enum tale tale;
    const void *told;
    bool ended;
};

/* --- the thread --- */

static bool may_begin(const struct solo *s)
{
    return s->frame.size > 0 && (s->acked || clock_us(CLOCK_BOOTTIME) < s->until);
}

/* False when the pool is closed. A lease that has lapsed is said to live again by the loop. */
static bool job_await(struct solo *s, struct buf *ret_frame)
{
    pthread_mutex_lock(&s->lock);
    while (!s->ended && !may_begin(s))
        pthread_cond_wait(&s->wake, &s->lock);
    *ret_frame = s->frame;
    s->frame = BUF_INIT(FRAME_MAX);
    bool ended = s->ended;
    pthread_mutex_unlock(&s->lock);
    return !ended;
}

static void tell(struct solo *s, enum tale tale, const void *what)
{
    pthread_mutex_lock(&s->lock);
    s->tale = tale;
    s->told = what;
    if (!s->ended)
        event_active(s->heard, EV_TIMEOUT, 0);
    while (s->tale != TALE_NONE && !s->ended)
        pthread_cond_wait(&s->wake, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

static void tell_state(const struct state_frame *f, void *solo)
{
    tell(solo, TALE_STATE, f);
}

static void job_run(struct solo *s, const struct task_frame *f)
{
    struct task_port port = {.on_state = tell_state, .arg = s};
    struct outcome_frame outcome = {0};
    atomic_store(&s->slot.started_us, pool_now_us());
    atomic_store(&s->slot.job, f->job);
    if (f->flags & TASK_ANNOUNCE)
        tell(s, TALE_STARTED, f);
    void *token = task_run(f, &s->slot, &port, &outcome);
    outcome.job = f->job;
    atomic_store(&s->slot.job, 0);
    tell(s, TALE_OUTCOME, &outcome);
    task_run_done(token);
}

static void *solo_main(void *solo)
{
    struct solo *s = solo;
    struct buf frame;
    struct task_frame f;
    while (job_await(s, &frame)) {
        if (frame_get_task(frame.data, frame.size, &f) == 0)
            job_run(s, &f);
        buf_done(&frame);
    }
    buf_done(&frame);
    return NULL;
}

/* --- the loop --- */

/* True: it had not begun, and the thread will not see it any more. */
static bool frame_take_back(struct solo *s)
{
    pthread_mutex_lock(&s->lock);
    bool taken = s->frame.size > 0;
    buf_done(&s->frame);
    pthread_mutex_unlock(&s->lock);
    return taken;
}

static void job_over(struct solo *s)
{
    s->job = 0;
    s->returned = false;
    atomic_store(&s->slot.stop, CW_GO);
}

static void report_lost(struct pool *p, enum pool_loss why)
{
    uint64_t job = p->solo->job;
    job_over(p->solo);
    p->handlers.on_lost(job, why, getpid(), 0, p->handlers.arg);
}

static void job_return_later(struct solo *s, enum pool_loss why)
{
    s->returned = true;
    s->why = why;
    event_active(s->heard, EV_TIMEOUT, 0);
}

static void report_tale(struct pool *p, enum tale tale, const void *what)
{
    const struct pool_handlers *h = &p->handlers;
    if (tale == TALE_STARTED) {
        h->on_started(p->solo->job, getpid(), h->arg);
    } else if (tale == TALE_STATE) {
        h->on_state(what, h->arg);
    } else if (tale == TALE_OUTCOME) {
        job_over(p->solo);
        h->on_outcome(what, getpid(), h->arg);
    }
}

static void heard_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pool *p = arg;
    struct solo *s = p->solo;
    if (s->returned)
        report_lost(p, s->why);

    pthread_mutex_lock(&s->lock);
    enum tale tale = s->tale;
    const void *told = s->told;
    pthread_mutex_unlock(&s->lock);
    if (tale != TALE_NONE) {
        report_tale(p, tale, told);
        pthread_mutex_lock(&s->lock);
        s->tale = TALE_NONE;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->lock);
    }
    if (pool_room(p) > 0)
        p->handlers.on_room(p->handlers.arg);
}

void solo_open(struct pool *p)
{
    struct solo *s = mem_zalloc(sizeof *s);
    sigset_t all, before;
    p->solo = s;
    s->frame = BUF_INIT(FRAME_MAX);
    s->until = INT64_MAX;
    s->heard = event_new(p->base, -1, 0, heard_fired, p);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&s->thread, NULL, solo_main, s) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void solo_submit(struct pool *p, const struct task_frame *f)
{
    struct solo *s = p->solo;
    if (s->job != 0 || p->shutting) {
        p->handlers.on_lost(f->job, POOL_UNSTARTED, getpid(), 0, p->handlers.arg);
        return;
    }
    s->job = f->job;
    pthread_mutex_lock(&s->lock);
    frame_put_task(&s->frame, f);
    bool too_big = s->frame.failed;
    if (too_big)
        buf_reset(&s->frame);
    s->acked = f->flags & TASK_ACKED;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (too_big)
        job_return_later(s, POOL_CRASHED);
}

void solo_begin_until(struct pool *p, int64_t until)
{
    struct solo *s = p->solo;
    pthread_mutex_lock(&s->lock);
    s->until = until;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

bool solo_take_back(struct pool *p)
{
    struct solo *s = p->solo;
    if (!s->returned && frame_take_back(s))
        job_return_later(s, POOL_UNSTARTED);
    return s->returned;
}

void solo_stop(struct pool *p, uint64_t job, unsigned stop)
{
    if (p->solo->job == job && !solo_take_back(p))
        slot_stop(&p->solo->slot, job, stop);
}

bool solo_terminate(struct pool *p, uint64_t job)
{
    return p->solo->job == job && solo_take_back(p);
}

int solo_running(const struct pool *p)
{
    return p->solo->job != 0;
}

const struct slot *solo_slot(const struct pool *p)
{
    return &p->solo->slot;
}

void solo_end(struct pool *p)
{
    struct solo *s = p->solo;
    if (s->job == 0)
        return;
    if (solo_take_back(p))
        report_lost(p, s->why);
    else
        slot_stop(&s->slot, s->job, CW_SHUTDOWN);
}

void solo_close(struct pool *p)
{
    struct solo *s = p->solo;
    solo_end(p);
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    event_free(s->heard);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    buf_done(&s->frame);
    free(s);
    task_process_done();
}
