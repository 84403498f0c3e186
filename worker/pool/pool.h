/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_POOL_H
#define WORKER_POOL_H

/* The pool, seen from main: it hands tasks to children, keeps their limits, replaces those that
 * die. The children are forked by the zygote (zygote.h). It knows nothing of messages: a job is a
 * number.
 *
 *     submitted ──▶ in a child's queue ──▶ running ──▶ outcome
 *                        │                    ├──▶ lost: crash, hard limit, terminated
 *                        └──▶ given back unstarted, when its child dies or is retired
 */

#include "worker/pool/frame.h"
#include "worker/pool/slot.h"

#include <event2/event.h>
#include <stdbool.h>
#include <sys/types.h>

enum pool_kind { POOL_PREFORK, POOL_THREADS, POOL_SOLO };

enum pool_loss {
    POOL_CRASHED,    /* the child died under it: status says how */
    POOL_HARD_LIMIT, /* killed for its hard limit */
    POOL_TERMINATED, /* killed by pool_terminate */
    POOL_UNSTARTED,  /* never began: may be submitted again */
    POOL_ORPHANED,   /* ran, but its child died through no fault of the task: give it back */
};

/* A handler may call every pool function but pool_shut and pool_close (on_broken may call these
 * too). */
struct pool_handlers {
    void (*on_started)(uint64_t job, pid_t pid, void *arg);
    void (*on_state)(const struct state_frame *f, void *arg);
    void (*on_outcome)(const struct outcome_frame *f, pid_t pid, void *arg);
    void (*on_lost)(uint64_t job, enum pool_loss why, pid_t pid, int status, void *arg);
    void (*on_soft_limit)(uint64_t job, double limit, void *arg);
    void (*on_room)(void *arg); /* a lane is free again */
    void (*on_broken)(void *arg); /* the zygote is gone: nothing can run any more, all jobs came back */
    void *arg;
};

struct pool_options {
    enum pool_kind kind;
    int concurrency;         /* lanes */
    int max_tasks_per_child; /* 0: no limit */
    int64_t max_memory_kb;   /* 0: no limit */
};

struct pool;
struct zygote;

/* Forks the zygote. Before any thread, connection or event base exists; the registry is filled. The
 * child side never returns. NULL: errno says why not. With POOL_SOLO no process is made. */
struct zygote *zygote_start(const struct pool_options *options);

/* With POOL_SOLO the base was made after evthread_use_pthreads(). */
struct pool *pool_open(struct event_base *base, struct zygote *zygote,
                       const struct pool_options *options, const struct pool_handlers *handlers);

int pool_lanes(const struct pool *p);     /* tasks that can run at a time */
int pool_most(const struct pool *p);      /* what pool_resize may ask for */
/* Another number of lanes, 0 to pool_most(). What runs goes on: children that are too many take
 * nothing new and exit when they have ended what they hold. With -P threads a new child replaces
 * the old one. False with -P solo. */
bool pool_resize(struct pool *p, int concurrency);
void pool_restart(struct pool *p);        /* every child is replaced, once it has ended what it holds */
int pool_room(const struct pool *p);      /* jobs that may be submitted now; batches for tiny tasks counted */
void pool_submit(struct pool *p, const struct task_frame *f); /* copies; needs pool_room() > 0 */
/* Tasks that are not acked yet begin until then only (CLOCK_BOOTTIME µs). Until the first call
 * there is no end; a later call with a later instant lets them begin again. */
void pool_begin_until(struct pool *p, int64_t until);
void pool_recall(struct pool *p); /* what has not begun comes back as POOL_UNSTARTED */
void pool_stop(struct pool *p, uint64_t job, unsigned stop /* enum cw_stop */); /* asks it to end early */
/* Sends `signal` to the child's group and SIGKILL 0.1 s later; false: not here. Both this and
 * pool_stop take a job that has not begun back from its child: it is POOL_UNSTARTED. */
bool pool_terminate(struct pool *p, uint64_t job, int signal);
int pool_running(const struct pool *p); /* jobs submitted and not ended yet */
int pool_pids(const struct pool *p, pid_t *pids, int max);
/* Has this job begun? Then the child, and since when (CLOCK_MONOTONIC µs). */
bool pool_job_runs(const struct pool *p, uint64_t job, pid_t *ret_pid, int64_t *ret_started);
/* Jobs sent to each child so far, in the order of pool_pids. */
int pool_counts(const struct pool *p, uint64_t *counts, int max);

/* Asks idle children to exit and waits for none; with `kill`, ends all of them and their programs
 * now: running jobs come back as POOL_TERMINATED, queued ones as POOL_UNSTARTED, before it
 * returns. With POOL_SOLO what runs is only asked to end (CW_SHUTDOWN). */
void pool_shut(struct pool *p, bool kill);
/* After pool_shut: reaps the zygote too. With POOL_SOLO it waits for what runs, whose outcome is
 * told to nobody. */
void pool_close(struct pool *p);

#endif
