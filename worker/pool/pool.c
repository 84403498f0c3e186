/* SPDX-License-Identifier: Apache-2.0 */

/* The pool's jobs, and which lane gets which. A lane holds one job at a time, except of tasks
 * measured to be tiny: of these it takes a row, so that a switch of process is paid once for many.
 * What is submitted while no lane may take it waits in the backlog (one job, as a rule: there is no
 * room meanwhile), so a wrong guess of the room never puts a job behind a long one. */

#include "worker/pool/pool_private.h"

#include "proto/base/mem.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define TINY_US 500.0f /* mean run time below which a task travels in batches */
#define PACE_WEIGHT 0.125f

enum {
    PACE_SAMPLES = 8,
    BUCKETS = 1024,
    KILL_WAIT_US = 1000000, /* for killed children to be gone */
    EXIT_WAIT_US = 2000000, /* for idle children to close what their tables opened */
};

struct timeval pool_interval(int64_t us)
{
    if (us < 0)
        us = 0;
    return (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
}

/* --- how long tasks take --- */

static struct pace *pace_of(struct pool *p, uint32_t def)
{
    if (def >= p->n_paces) {
        uint32_t n = def + 16;
        p->paces = mem_realloc(p->paces, n * sizeof *p->paces);
        memset(p->paces + p->n_paces, 0, (n - p->n_paces) * sizeof *p->paces);
        p->n_paces = n;
    }
    return &p->paces[def];
}

static bool is_tiny(struct pool *p, uint32_t def)
{
    const struct pace *pace = pace_of(p, def);
    return pace->samples >= PACE_SAMPLES && pace->run_us < TINY_US;
}

void pool_measure(struct pool *p, uint32_t def, int64_t run_us, bool at_least)
{
    struct pace *pace = pace_of(p, def);
    float us = (float)run_us;
    if (at_least) {
        if (pace->run_us < us)
            pace->run_us = us;
        return;
    }
    pace->run_us = pace->samples == 0 ? us : pace->run_us + (us - pace->run_us) * PACE_WEIGHT;
    if (pace->samples < PACE_SAMPLES)
        pace->samples++;
}

/* --- jobs --- */

/* Numbers are handed out in a row, so that the low bits spread them evenly. */
static struct job **bucket_of(const struct pool *p, uint64_t number)
{
    return &p->buckets[number & (p->n_buckets - 1)];
}

struct job *job_find(const struct pool *p, uint64_t number)
{
    struct job *j = *bucket_of(p, number);
    while (j && j->number != number)
        j = j->chain;
    return j;
}

static struct job *job_new(struct pool *p, const struct task_frame *f)
{
    struct job *j = mem_zalloc(sizeof *j);
    struct job **bucket = bucket_of(p, f->job);
    j->number = f->job;
    j->def = f->def;
    j->soft_limit = f->soft_limit;
    j->hard_limit = f->hard_limit;
    j->verdict = POOL_CRASHED;
    j->frame = BUF_INIT(FRAME_MAX);
    j->chain = *bucket;
    *bucket = j;
    p->jobs++;
    return j;
}

void job_end(struct pool *p, struct job *j)
{
    struct job **at = bucket_of(p, j->number);
    while (*at != j)
        at = &(*at)->chain;
    *at = j->chain;
    p->jobs--;
    buf_done(&j->frame);
    free(j);
}

void job_detach(struct job *j)
{
    struct pool_lane *l = j->lane;
    TAILQ_REMOVE(&l->jobs, j, link);
    if (--l->count == 0) {
        l->mixed = false;
        l->child->pool->busy--;
    }
    l->child->jobs--;
    j->lane = NULL;
    stop_clear(l, j);
}

void job_return(struct pool *p, struct job *j, enum pool_loss why)
{
    j->verdict = why;
    TAILQ_INSERT_TAIL(&p->returned, j, link);
    pool_kick(p);
}

bool job_reclaim(struct job *j)
{
    uint64_t number = j->number;
    return atomic_compare_exchange_strong(&j->lane->share->claims[j->place], &number, 0);
}

/* --- lanes --- */

static enum lane_state lane_judge(const struct pool_lane *l)
{
    const struct pool_child *c = l->child;
    if (c->closing || c->doomed || c->state == CHILD_WANTED || c->state == CHILD_DEAD)
        return LANE_GONE;
    if (l->count == 0)
        return LANE_IDLE;
    return l->mixed || l->count >= LANE_BATCH ? LANE_FULL : LANE_OPEN;
}

/* Brings the lane's place in the pool's lists in line with what it holds. */
void lane_update(struct pool_lane *l)
{
    struct pool *p = l->child->pool;
    enum lane_state state = lane_judge(l);
    int room = state == LANE_OPEN ? LANE_BATCH - l->count : 0;
    p->open_room += room - l->room;
    l->room = room;
    if (state == l->state)
        return;
    if (l->state != LANE_GONE) {
        TAILQ_REMOVE(&p->lanes[l->state], l, link);
        p->n_lanes[l->state]--;
    }
    l->state = state;
    if (state != LANE_GONE) {
        TAILQ_INSERT_TAIL(&p->lanes[state], l, link);
        p->n_lanes[state]++;
    }
}

/* A child on its way out may still be busy while its successor is idle. */
static int idle_lanes(const struct pool *p)
{
    int allowed = p->options.concurrency - p->busy;
    int idle = p->n_lanes[LANE_IDLE];
    return idle < allowed ? idle : allowed > 0 ? allowed : 0;
}

/* The lane for a job, or NULL. An idle one first; a row of tiny jobs is dealt round the lanes. */
static struct pool_lane *lane_choose(struct pool *p, bool tiny)
{
    if (idle_lanes(p) > 0)
        return TAILQ_FIRST(&p->lanes[LANE_IDLE]);
    struct pool_lane *l = tiny ? TAILQ_FIRST(&p->lanes[LANE_OPEN]) : NULL;
    if (l) {
        TAILQ_REMOVE(&p->lanes[LANE_OPEN], l, link);
        TAILQ_INSERT_TAIL(&p->lanes[LANE_OPEN], l, link);
    }
    return l;
}

static void job_send(struct pool_lane *l, struct job *j, const struct task_frame *f, bool tiny)
{
    struct pool_child *c = l->child;
    struct pool *p = c->pool;
    struct task_frame out = *f;

    do
        l->place = (l->place + 1) % LANE_PLACES;
    while (atomic_load_explicit(&l->share->claims[l->place], memory_order_relaxed) != 0);
    out.lane = (uint32_t)(l - c->lanes);
    out.place = j->place = l->place;
    atomic_store(&l->share->claims[l->place], j->number);
    frame_put_task(&c->out, &out);
    if (c->out.failed) {
        c->out.failed = false;
        atomic_store(&l->share->claims[l->place], 0);
        job_return(p, j, POOL_CRASHED);
        return;
    }

    j->lane = l;
    TAILQ_INSERT_TAIL(&l->jobs, j, link);
    if (l->count++ == 0)
        p->busy++;
    l->mixed |= !tiny;
    c->jobs++;
    c->sent++;
    if (p->options.max_tasks_per_child > 0 && c->sent >= p->options.max_tasks_per_child)
        c->closing = true;
    for (int i = 0; i < (c->closing ? c->n_lanes : 0); i++)
        lane_update(&c->lanes[i]);
    lane_update(l);

    if (!c->dirty) {
        c->dirty = true;
        TAILQ_INSERT_TAIL(&p->dirty, c, dirty_link);
    }
    watch_job(l, j);
    pool_kick(p);
}

/* --- the turn of the loop --- */

void pool_kick(struct pool *p)
{
    event_active(p->flush, EV_TIMEOUT, 0);
}

void returned_report(struct pool *p)
{
    struct job *j;
    while ((j = TAILQ_FIRST(&p->returned))) {
        uint64_t number = j->number;
        enum pool_loss why = j->verdict;
        pid_t pid = j->pid;
        int status = j->status;
        TAILQ_REMOVE(&p->returned, j, link);
        job_end(p, j);
        p->handlers.on_lost(number, why, pid, status, p->handlers.arg);
    }
}

void pool_feed(struct pool *p)
{
    struct job *j;
    while ((j = TAILQ_FIRST(&p->backlog))) {
        struct task_frame f;
        bool tiny = is_tiny(p, j->def);
        struct pool_lane *l = lane_choose(p, tiny);
        if (!l)
            return;
        TAILQ_REMOVE(&p->backlog, j, link);
        frame_get_task(j->frame.data, j->frame.size, &f);
        job_send(l, j, &f, tiny);
        buf_done(&j->frame);
    }
    if (pool_room(p) > 0)
        p->handlers.on_room(p->handlers.arg);
}

/* Runs after all that was submitted in this turn of the loop, so that a row of jobs is one write.
 */
static void flush_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pool *p = arg;
    struct pool_child *c;
    while ((c = TAILQ_FIRST(&p->dirty))) {
        TAILQ_REMOVE(&p->dirty, c, dirty_link);
        c->dirty = false;
        child_write(c);
    }
    if (!TAILQ_EMPTY(&p->returned)) {
        returned_report(p);
        pool_feed(p);
    }
}

static void control_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    pool_take_notes(arg);
}

static void spawn_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    pool_populate(arg);
    pool_feed(arg);
}

/* --- the pool --- */

struct pool *pool_open(struct event_base *base, struct zygote *zygote,
                       const struct pool_options *options, const struct pool_handlers *handlers)
{
    struct pool *p = mem_zalloc(sizeof *p);
    p->base = base;
    p->zygote = zygote;
    p->options = *options;
    p->handlers = *handlers;
    if (p->options.kind == POOL_SOLO)
        p->options.concurrency = 1;
    if (p->options.concurrency > LANES_MAX)
        p->options.concurrency = LANES_MAX;
    if (p->options.kind == POOL_SOLO) {
        solo_open(p);
        return p;
    }
    for (int i = 0; i < LANE_STATES; i++)
        TAILQ_INIT(&p->lanes[i]);
    TAILQ_INIT(&p->backlog);
    TAILQ_INIT(&p->returned);
    TAILQ_INIT(&p->dirty);
    p->n_buckets = BUCKETS;
    p->buckets = mem_zalloc(p->n_buckets * sizeof(struct job *));
    p->flush = event_new(base, -1, 0, flush_fired, p);
    p->batch_timer = evtimer_new(base, batch_fired, p);
    p->spawn_timer = evtimer_new(base, spawn_fired, p);
    p->control = event_new(base, zygote->fd, EV_READ | EV_PERSIST, control_fired, p);
    event_add(p->control, NULL);
    pool_populate(p);
    return p;
}

int pool_lanes(const struct pool *p)
{
    return p->options.concurrency;
}

int pool_room(const struct pool *p)
{
    if (p->solo)
        return p->shutting || solo_running(p) ? 0 : 1;
    if (p->shutting || p->broken || !TAILQ_EMPTY(&p->backlog))
        return 0;
    return p->open_room + idle_lanes(p) * (p->tiny ? LANE_BATCH : 1);
}

void pool_submit(struct pool *p, const struct task_frame *f)
{
    if (p->solo) {
        solo_submit(p, f);
        return;
    }
    struct job *j = job_new(p, f);
    if (p->shutting || p->broken) {
        job_return(p, j, POOL_UNSTARTED);
        return;
    }
    p->tiny = is_tiny(p, f->def);
    struct pool_lane *l = TAILQ_EMPTY(&p->backlog) ? lane_choose(p, p->tiny) : NULL;
    if (l) {
        job_send(l, j, f, p->tiny);
    } else {
        frame_put_task(&j->frame, f);
        if (j->frame.failed)
            job_return(p, j, POOL_CRASHED);
        else
            TAILQ_INSERT_TAIL(&p->backlog, j, link);
    }
}

void pool_begin_until(struct pool *p, int64_t until)
{
    if (p->solo)
        solo_begin_until(p, until);
    else
        fence_move(&p->zygote->shared->fence, until);
}

/* Takes a job back that has not begun; false when it runs, or is none of ours. */
static bool job_take_back(struct pool *p, struct job *j)
{
    if (!j->lane) {
        if (j->frame.size == 0) /* on its way back already */
            return true;
        TAILQ_REMOVE(&p->backlog, j, link);
        buf_done(&j->frame);
        job_return(p, j, POOL_UNSTARTED);
        return true;
    }
    if (!job_reclaim(j))
        return false;
    struct pool_lane *l = j->lane;
    l->child->sent--;
    job_detach(j);
    lane_update(l);
    child_retire_if_due(l->child);
    job_return(p, j, POOL_UNSTARTED);
    return true;
}

void pool_recall(struct pool *p)
{
    struct pool_child *c;
    if (p->solo) {
        solo_take_back(p);
        return;
    }
    backlog_return(p);
    LIST_FOREACH(c, &p->children, link) {
        for (int i = 0; i < c->n_lanes; i++) {
            struct job *j = TAILQ_FIRST(&c->lanes[i].jobs), *next;
            for (; j; j = next) {
                next = TAILQ_NEXT(j, link);
                job_take_back(p, j);
            }
        }
    }
}

void pool_stop(struct pool *p, uint64_t job, unsigned stop)
{
    if (p->solo) {
        solo_stop(p, job, stop);
        return;
    }
    struct job *j = job_find(p, job);
    if (j && !job_take_back(p, j))
        stop_tell(j->lane, j, stop);
}

bool pool_terminate(struct pool *p, uint64_t job, int signal)
{
    if (p->solo)
        return solo_terminate(p, job);
    struct job *j = job_find(p, job);
    if (!j)
        return false;
    if (!job_take_back(p, j)) {
        if (j->verdict == POOL_CRASHED)
            j->verdict = POOL_TERMINATED;
        child_doom(j->lane->child, signal);
    }
    return true;
}

int pool_running(const struct pool *p)
{
    return p->solo ? solo_running(p) : p->jobs;
}

int pool_pids(const struct pool *p, pid_t *pids, int max)
{
    int n = 0;
    const struct pool_child *c;
    LIST_FOREACH(c, &p->children, link)
        if (c->pid > 0 && !c->shut && n < max)
            pids[n++] = c->pid;
    return n;
}

int pool_counts(const struct pool *p, uint64_t *counts, int max)
{
    int n = 0;
    const struct pool_child *c;
    LIST_FOREACH(c, &p->children, link)
        if (c->pid > 0 && !c->shut && n < max)
            counts[n++] = (uint64_t)c->sent;
    return n;
}

bool pool_job_runs(const struct pool *p, uint64_t job, pid_t *ret_pid, int64_t *ret_started)
{
    const struct job *j = p->solo ? NULL : job_find(p, job);
    if (!p->solo && !(j && j->lane && j->lane->share))
        return false;
    const struct slot *slot = p->solo ? solo_slot(p) : &j->lane->share->slot;
    if (atomic_load(&slot->job) != job)
        return false;
    *ret_pid = p->solo ? getpid() : j->lane->child->pid;
    *ret_started = atomic_load(&slot->started_us);
    return true;
}

/* --- the end --- */

/* Waits for the deaths of all children, or of those that were told to exit. */
static void children_wait(struct pool *p, int64_t us, bool all)
{
    int64_t deadline = pool_now_us() + us;
    while (!p->broken) {
        bool any = false;
        const struct pool_child *c;
        LIST_FOREACH(c, &p->children, link)
            any |= all || c->shut;
        int64_t left = deadline - pool_now_us();
        if (!any || left <= 0)
            return;
        struct pollfd wait = {.fd = p->zygote->fd, .events = POLLIN};
        if (poll(&wait, 1, (int)(left / 1000) + 1) > 0)
            pool_take_notes(p);
    }
}

void backlog_return(struct pool *p)
{
    struct job *j;
    while ((j = TAILQ_FIRST(&p->backlog))) {
        TAILQ_REMOVE(&p->backlog, j, link);
        job_return(p, j, POOL_UNSTARTED);
    }
}

void pool_shut(struct pool *p, bool kill)
{
    struct pool_child *c, *next;
    p->shutting = true;
    if (p->solo) {
        if (kill)
            solo_end(p);
        return;
    }
    p->killing |= kill;
    evtimer_del(p->spawn_timer);
    backlog_return(p);
    LIST_FOREACH_SAFE(c, &p->children, link, next) {
        if (c->state == CHILD_WANTED) {
            child_free(c);
            continue;
        }
        if (kill)
            child_kill(c, SIGKILL);
        child_close(c);
    }
    if (!kill)
        return;
    children_wait(p, KILL_WAIT_US, true);
    while ((c = LIST_FIRST(&p->children)))
        child_settle(c, SIGKILL, POOL_TERMINATED);
    returned_report(p);
}

void pool_close(struct pool *p)
{
    struct pool_child *c;
    struct job *j;
    if (p->solo) {
        solo_close(p);
        zygote_end(p->zygote);
        free(p);
        return;
    }
    children_wait(p, EXIT_WAIT_US, false);
    zygote_end(p->zygote);
    while ((c = LIST_FIRST(&p->children)))
        child_free(c);
    for (size_t i = 0; i < p->n_buckets; i++)
        while ((j = p->buckets[i]))
            job_end(p, j);
    event_free(p->control);
    event_free(p->flush);
    event_free(p->batch_timer);
    event_free(p->spawn_timer);
    free(p->peek);
    free(p->paces);
    free(p->buckets);
    free(p);
}
