/* SPDX-License-Identifier: Apache-2.0 */

/* The pool's children as main sees them: born by the zygote, fed and heard through a stream socket,
 * dead when the zygote says so. At a death everything the child has said is heard first, from the
 * socket and from the shared memory, and only then is each job left judged by its claim: never
 * begun, running and to blame, or running in an innocent. */

#include "worker/pool/pool_private.h"

#include "worker/log.h"

#include "proto/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    READ_SIZE = 128 << 10,
    KEEP_SIZE = 1 << 20,  /* a buffer that grew beyond this is given back when it is empty */
    ESCALATE_US = 100000, /* from a terminating signal to SIGKILL */
    BACKOFF_MAX_US = 10000000,
    BACKOFF_FIRST_US = 100000,
    YOUNG_US = 2000000, /* a child that dies idle before this age could not start */
    GONE_WAIT_MS = 100, /* for killed children when there is no zygote left to tell */
};

/* --- births --- */

/* The first of `n` neighbouring free lanes of the shared memory, or -1. */
static int lanes_take(struct pool *p, int n)
{
    int run = 0;
    for (int i = 0; i < LANES_MAX; i++) {
        run = p->used[i] ? 0 : run + 1;
        if (run == n) {
            memset(&p->used[i + 1 - n], true, (size_t)n);
            return i + 1 - n;
        }
    }
    return -1;
}

static void lane_clear(struct lane *l)
{
    memset(l, 0, offsetof(struct lane, out));
}

/* The first attempt after a failure is made at once, each further one after twice the time. */
static void child_failed_start(struct pool *p, const char *why)
{
    int64_t wait = p->failed_starts == 0 ? 0 : BACKOFF_FIRST_US;
    for (int i = 1; i < p->failed_starts && wait < BACKOFF_MAX_US; i++)
        wait *= 2;
    if (wait > BACKOFF_MAX_US)
        wait = BACKOFF_MAX_US;
    p->failed_starts++;
    p->spawn_not_before = pool_now_us() + wait;
    log_warning("pool: a child could not start (%s): next attempt in %.1f s", why,
                (double)wait / 1e6);
}

static void child_ask(struct pool_child *c)
{
    struct zygote_request r = {c->serial, (uint32_t)c->first, (uint32_t)c->n_lanes};
    if (zygote_ask(c->pool->zygote, &r, c->peer_fd) < 0) {
        struct timeval again = pool_interval(BACKOFF_FIRST_US);
        evtimer_add(c->pool->spawn_timer, &again);
        return;
    }
    close(c->peer_fd);
    c->peer_fd = -1;
    c->state = CHILD_ASKED;
    for (int i = 0; i < c->n_lanes; i++)
        lane_update(&c->lanes[i]);
}

static void read_fired(evutil_socket_t fd, short what, void *child);
static void write_fired(evutil_socket_t fd, short what, void *child);

static void escalate_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    child_kill(arg, SIGKILL);
}

static struct pool_child *child_new(struct pool *p, int first, int n, const int pair[2])
{
    struct pool_child *c = mem_zalloc(sizeof *c);
    c->pool = p;
    c->serial = ++p->serials;
    c->born_us = pool_now_us();
    c->fd = pair[0];
    c->peer_fd = pair[1];
    c->first = first;
    c->n_lanes = n;
    c->in = c->out = BUF_INIT(FRAME_MAX);
    c->lanes = mem_zalloc((size_t)n * sizeof *c->lanes);
    for (int i = 0; i < n; i++) {
        struct pool_lane *l = &c->lanes[i];
        l->child = c;
        l->share = &p->zygote->shared->lanes[first + i];
        TAILQ_INIT(&l->jobs);
        lane_clear(l->share);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->reading = event_new(p->base, c->fd, EV_READ | EV_PERSIST, read_fired, c);
    c->writing = event_new(p->base, c->fd, EV_WRITE, write_fired, c);
    c->kill_timer = evtimer_new(p->base, escalate_fired, c);
    event_add(c->reading, NULL);
    LIST_INSERT_HEAD(&p->children, c, link);
    p->lanes_open += n;
    return c;
}

/* False: the shared memory is taken. A failure has told when the next attempt may be made. */
static bool child_spawn(struct pool *p)
{
    int pair[2];
    int n = p->options.kind == POOL_THREADS ? p->options.concurrency : 1;
    int first = lanes_take(p, n);
    if (first < 0)
        return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        memset(&p->used[first], false, (size_t)n);
        child_failed_start(p, strerror(errno));
        return true;
    }
    child_ask(child_new(p, first, n, pair));
    return true;
}

/* Forks what is missing to the full number of lanes. Where the shared memory is taken by children
 * on their way out, their deaths come back here. */
void pool_populate(struct pool *p)
{
    struct pool_child *c;
    if (p->shutting || p->broken)
        return;
    LIST_FOREACH(c, &p->children, link)
        if (c->state == CHILD_WANTED)
            child_ask(c);
    while (p->lanes_open < p->options.concurrency) {
        int64_t wait = p->spawn_not_before - pool_now_us();
        if (wait > 0) {
            struct timeval interval = pool_interval(wait);
            evtimer_add(p->spawn_timer, &interval);
            return;
        }
        if (!child_spawn(p))
            return;
    }
}

/* --- ends --- */

void child_kill(struct pool_child *c, int signal)
{
    if (c->state == CHILD_DEAD) /* the number may be another's by now */
        return;
    if (c->pid <= 0)
        c->pid = atomic_load(&c->lanes[0].share->pid);
    if (c->pid > 0)
        kill(-c->pid, signal);
    else if (c->kill_signal != SIGKILL)
        c->kill_signal = signal;
    if (signal != SIGKILL && !evtimer_pending(c->kill_timer, NULL)) {
        struct timeval interval = pool_interval(ESCALATE_US);
        evtimer_add(c->kill_timer, &interval);
    }
}

/* It is being killed for one of its jobs: it gets no more, and the others are not to blame. */
void child_doom(struct pool_child *c, int signal)
{
    c->doomed = true;
    for (int i = 0; i < c->n_lanes; i++)
        lane_update(&c->lanes[i]);
    child_kill(c, signal);
}

static void child_close_lanes(struct pool_child *c)
{
    if (!c->replaced)
        c->pool->lanes_open -= c->n_lanes;
    c->replaced = true;
    for (int i = 0; i < c->n_lanes; i++)
        lane_update(&c->lanes[i]);
}

/* With one lane the successor is forked when this one has ended its last job; with many, at once.
 */
void child_retire_if_due(struct pool_child *c)
{
    if (!c->closing || c->shut || c->state == CHILD_DEAD)
        return;
    if (c->jobs == 0) {
        c->shut = true;
        shutdown(c->fd, SHUT_WR);
    } else if (c->n_lanes == 1) {
        return;
    }
    if (!c->replaced) {
        child_close_lanes(c);
        pool_populate(c->pool);
    }
}

/* It takes nothing new, and exits when it has ended what it holds. */
void child_close(struct pool_child *c)
{
    c->closing = true;
    for (int i = 0; i < c->n_lanes; i++)
        lane_update(&c->lanes[i]);
    child_retire_if_due(c);
}

void child_free(struct pool_child *c)
{
    struct pool *p = c->pool;
    c->state = CHILD_DEAD;
    child_close_lanes(c);
    for (int i = 0; i < c->n_lanes; i++)
        if (c->lanes[i].limit_timer)
            event_free(c->lanes[i].limit_timer);
    if (c->dirty)
        TAILQ_REMOVE(&p->dirty, c, dirty_link);
    LIST_REMOVE(c, link);
    event_free(c->reading);
    event_free(c->writing);
    event_free(c->kill_timer);
    close(c->fd);
    if (c->peer_fd >= 0)
        close(c->peer_fd);
    buf_done(&c->in);
    buf_done(&c->out);
    memset(&p->used[c->first], false, (size_t)c->n_lanes);
    free(c->lanes);
    free(c);
}

static void child_hear_out(struct pool_child *c);

static enum pool_loss job_judge(const struct pool_child *c, struct job *j, enum pool_loss running)
{
    const struct lane *share = j->lane->share;
    bool somebody_guilty = false;
    if (job_reclaim(j) || atomic_load(&share->slot.job) != j->number)
        return POOL_UNSTARTED;
    if (j->verdict != POOL_CRASHED)
        return j->verdict;
    for (int i = 0; i < c->n_lanes; i++)
        somebody_guilty |= atomic_load(&c->lanes[i].share->guilty) != 0;
    if (running == POOL_CRASHED && (c->doomed || (somebody_guilty && !atomic_load(&share->guilty))))
        return POOL_ORPHANED;
    return running;
}

/* The child is dead. `running`: what has become of a job that ran, unless its own fate is known. */
void child_settle(struct pool_child *c, int status, enum pool_loss running)
{
    struct pool *p = c->pool;
    struct job *j;
    bool young = c->ended == 0 && pool_now_us() - c->born_us < YOUNG_US;

    c->state = CHILD_DEAD;
    child_close_lanes(c);
    child_hear_out(c);
    for (int i = 0; i < c->n_lanes; i++) {
        struct pool_lane *l = &c->lanes[i];
        while ((j = TAILQ_FIRST(&l->jobs))) {
            enum pool_loss why = job_judge(c, j, running);
            young &= why == POOL_UNSTARTED;
            j->pid = c->pid;
            j->status = status;
            job_detach(j);
            job_return(p, j, why);
        }
    }
    if (young && !c->shut && running == POOL_CRASHED)
        child_failed_start(p, WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it exited");
    child_free(c);
}

/* --- the stream from the child --- */

static bool child_owns(const struct pool_child *c, const struct job *j)
{
    return j && j->lane && j->lane->child == c;
}

static bool over_memory(const struct pool_child *c, int64_t resident_kb)
{
    int64_t max = c->pool->options.max_memory_kb;
    return max > 0 && resident_kb > max;
}

static void outcome_take(struct pool_child *c, const struct outcome_frame *f)
{
    struct pool *p = c->pool;
    struct job *j = job_find(p, f->job);
    if (!child_owns(c, j))
        return;
    struct pool_lane *l = j->lane;
    pool_measure(p, j->def, f->run_us, false);
    job_detach(j);
    job_end(p, j);
    c->ended++;
    p->failed_starts = 0;
    if (over_memory(c, f->resident_kb))
        c->closing = true;
    lane_update(l);
    child_retire_if_due(c);
    p->handlers.on_outcome(f, c->pid, p->handlers.arg);
}

static int frame_take(struct pool_child *c, const char *data, size_t size)
{
    const struct pool_handlers *h = &c->pool->handlers;
    struct started_frame started;
    struct state_frame state;
    struct outcome_frame outcome;

    switch (frame_kind_of(data)) {
    case FRAME_STARTED:
        if (frame_get_started(data, size, &started) != 0)
            return ERROR_INVALID;
        if (child_owns(c, job_find(c->pool, started.job)))
            h->on_started(started.job, c->pid, h->arg);
        return 0;
    case FRAME_STATE:
        if (frame_get_state(data, size, &state) != 0)
            return ERROR_INVALID;
        if (child_owns(c, job_find(c->pool, state.job)))
            h->on_state(&state, h->arg);
        return 0;
    case FRAME_OUTCOME:
        if (frame_get_outcome(data, size, &outcome) != 0)
            return ERROR_INVALID;
        outcome_take(c, &outcome);
        return 0;
    default:
        return ERROR_INVALID;
    }
}

/* Takes all whole frames. What is none ends the child: nothing after it can be believed. */
void child_take_frames(struct pool_child *c, const char *data, size_t size, size_t *ret_used)
{
    size_t at = 0;
    if (c->pid <= 0)
        c->pid = atomic_load(&c->lanes[0].share->pid);
    for (;;) {
        int64_t n = frame_complete(data + at, size - at);
        if (n == 0)
            break;
        if (n < 0 || frame_take(c, data + at, (size_t)n) != 0) {
            log_error("pool: child %d sent what is no frame: killing it", (int)c->pid);
            event_del(c->reading);
            child_kill(c, SIGKILL);
            at = size;
            break;
        }
        at += (size_t)n;
    }
    *ret_used = at;
}

/* Reads once; false when there is nothing to read now, or never will be. */
static bool child_read(struct pool_child *c)
{
    size_t want = READ_SIZE, used;
    struct frame_head head;
    if (c->in.size >= sizeof head) {
        memcpy(&head, c->in.data, sizeof head);
        size_t total = head.size + sizeof head;
        /* At most as much again as has come: a head of rubbish may name two gigabytes. */
        size_t most = c->in.size > want ? c->in.size : want;
        if (total > c->in.size + want)
            want = total - c->in.size < most ? total - c->in.size : most;
    }
    char *at = buf_reserve(&c->in, want);
    ssize_t n = at ? read(c->fd, at, want) : 0;
    if (n < 0)
        return errno == EINTR;
    if (n == 0) {
        event_del(c->reading);
        child_kill(c, SIGKILL);
        return false;
    }
    c->in.size += (size_t)n;
    child_take_frames(c, c->in.data, c->in.size, &used);
    if (used > 0)
        buf_drop(&c->in, used);
    if (c->in.size == 0 && c->in.capacity > KEEP_SIZE)
        buf_done(&c->in);
    return true;
}

/* A child whose stream has ended is dead or will not be heard of again: the zygote reports its end.
 */
static void read_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct pool_child *c = arg;
    child_read(c);
    pool_feed(c->pool);
}

/* The last words of a dead child. */
static void child_hear_out(struct pool_child *c)
{
    size_t size, used;
    while (event_pending(c->reading, EV_READ, NULL) && child_read(c))
        ;
    for (int i = 0; i < c->n_lanes; i++)
        if ((size = lane_peek(c->pool, c->lanes[i].share)) > 0)
            child_take_frames(c, c->pool->peek, size, &used);
}

/* --- the stream to the child --- */

void child_write(struct pool_child *c)
{
    if (event_pending(c->writing, EV_WRITE, NULL))
        return;
    while (c->out_at < c->out.size) {
        ssize_t n = send(c->fd, c->out.data + c->out_at, c->out.size - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN) {
            event_add(c->writing, NULL);
            return;
        }
        if (n < 0) /* its death is on its way to us */
            break;
        c->out_at += (size_t)n;
    }
    c->out_at = 0;
    if (c->out.capacity > KEEP_SIZE)
        buf_done(&c->out);
    buf_reset(&c->out);
}

static void write_fired(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    child_write(arg);
}

/* --- the zygote's notes --- */

static struct pool_child *child_find(const struct pool *p, uint32_t serial)
{
    struct pool_child *c;
    LIST_FOREACH(c, &p->children, link)
        if (c->serial == serial)
            return c;
    return NULL;
}

static void child_born(struct pool_child *c, int pid)
{
    struct pool *p = c->pool;
    if (pid < 0) {
        c->shut = true; /* the failure is told here, not by its death */
        child_failed_start(p, strerror(-pid));
        child_settle(c, 0, POOL_CRASHED);
        return;
    }
    c->pid = pid;
    c->state = CHILD_LIVE;
    if (p->killing)
        c->kill_signal = SIGKILL;
    if (c->kill_signal)
        child_kill(c, c->kill_signal);
}

static void child_died(struct pool_child *c, const struct zygote_note *n)
{
    if (WIFSIGNALED(n->status))
        log_debug("pool: child %d ended by signal %d (%lld kB at most, %.2f s of CPU)", (int)n->pid,
                  WTERMSIG(n->status), (long long)n->peak_kb, (double)n->cpu_us / 1e6);
    else
        log_debug("pool: child %d exited with %d (%lld kB at most, %.2f s of CPU)", (int)n->pid,
                  WEXITSTATUS(n->status), (long long)n->peak_kb, (double)n->cpu_us / 1e6);
    child_settle(c, n->status, c->pool->killing ? POOL_TERMINATED : POOL_CRASHED);
}

/* Without the zygote nobody forks or reaps: what runs is killed here, and all jobs go back. */
static void pool_break(struct pool *p)
{
    struct pool_child *c;
    int left = GONE_WAIT_MS;
    p->broken = true;
    event_del(p->control);
    LIST_FOREACH(c, &p->children, link)
        child_kill(c, SIGKILL);
    while ((c = LIST_FIRST(&p->children))) {
        struct pollfd gone = {.fd = c->fd, .events = POLLRDHUP};
        for (; left > 0 && poll(&gone, 1, 0) == 0; left--)
            poll(NULL, 0, 1);
        child_settle(c, SIGKILL, p->killing ? POOL_TERMINATED : POOL_ORPHANED);
    }
    backlog_return(p);
    returned_report(p);
    if (!p->shutting)
        p->handlers.on_broken(p->handlers.arg);
}

void pool_take_notes(struct pool *p)
{
    struct zygote_note n;
    int got = 0;
    while (!p->broken && (got = zygote_read(p->zygote, &n)) > 0) {
        struct pool_child *c = child_find(p, n.serial);
        if (!c)
            continue;
        if (n.kind == ZYGOTE_FORKED)
            child_born(c, n.pid);
        else
            child_died(c, &n);
        pool_populate(p);
    }
    if (got < 0)
        pool_break(p);
    else if (!p->broken)
        pool_feed(p);
}
