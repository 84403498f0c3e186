/* SPDX-License-Identifier: Apache-2.0 */

/* -P solo: the task runs in main, for debuggers. One job at a time, from an event of its own, so
 * that pool_submit returns first as it does with children. Limits cannot be kept here. */

#include "worker/pool/pool_private.h"

#include "proto/base/mem.h"
#include "worker/task/task_run.h"

#include <stdlib.h>
#include <unistd.h>

struct solo {
    struct event *run;
    struct buf frame; /* of the job that waits */
    uint64_t job;     /* waits or runs; 0: none */
    struct slot slot;
};

static void solo_state(const struct state_frame *f, void *arg)
{
    const struct pool *p = arg;
    p->handlers.on_state(f, p->handlers.arg);
}

static void solo_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pool *p = arg;
    struct solo *s = p->solo;
    const struct pool_handlers *h = &p->handlers;
    struct task_port port = {.on_state = solo_state, .arg = p};
    struct outcome_frame outcome = {0};
    struct buf frame = s->frame;
    struct task_frame f;

    if (s->job == 0 || frame_get_task(frame.data, frame.size, &f) != 0)
        return;
    s->frame = BUF_INIT(FRAME_MAX);
    atomic_store(&s->slot.started_us, pool_now_us());
    atomic_store(&s->slot.job, f.job);
    if (f.flags & TASK_ANNOUNCE)
        h->on_started(f.job, getpid(), h->arg);
    void *token = task_run(&f, &s->slot, &port, &outcome);
    outcome.job = f.job;
    atomic_store(&s->slot.job, 0);
    s->job = 0;
    h->on_outcome(&outcome, getpid(), h->arg);
    task_run_done(token);
    buf_done(&frame);
    if (pool_room(p) > 0)
        h->on_room(h->arg);
}

void solo_open(struct pool *p)
{
    p->solo = mem_zalloc(sizeof *p->solo);
    p->solo->frame = BUF_INIT(FRAME_MAX);
    p->solo->run = event_new(p->base, -1, 0, solo_fired, p);
}

void solo_submit(struct pool *p, const struct task_frame *f)
{
    struct solo *s = p->solo;
    if (s->job == 0 && !p->shutting) {
        frame_put_task(&s->frame, f);
        if (!s->frame.failed) {
            s->job = f->job;
            event_active(s->run, EV_TIMEOUT, 0);
            return;
        }
        s->frame.failed = false;
    }
    p->handlers.on_lost(f->job, POOL_UNSTARTED, getpid(), 0, p->handlers.arg);
}

int solo_running(const struct pool *p)
{
    return p->solo->job != 0;
}

/* Called between jobs, never within one: what is here waits. */
void solo_end_waiting(struct pool *p)
{
    struct solo *s = p->solo;
    uint64_t job = s->job;
    if (job == 0)
        return;
    s->job = 0;
    buf_done(&s->frame);
    p->handlers.on_lost(job, POOL_UNSTARTED, getpid(), 0, p->handlers.arg);
}

void solo_close(struct pool *p)
{
    event_free(p->solo->run);
    buf_done(&p->solo->frame);
    free(p->solo);
    task_process_done();
}
