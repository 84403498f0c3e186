/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_POOL_PRIVATE_H
#define WORKER_POOL_PRIVATE_H

/* Shared by the pool's files: pool.c (jobs, which lane gets which), pool_child.c (children: their
 * births, their streams, their deaths), pool_watch.c (limits, stops, batches held up),
 * pool_resize.c (another number of lanes), pool_solo.c (-P solo). */

#include "proto/base/clock.h"
#include "worker/pool/zygote.h"

#include <sys/queue.h>

#define LIST_FOREACH_SAFE(var, head, field, next)                                                  \
    for ((var) = LIST_FIRST(head); (var) && ((next) = LIST_NEXT(var, field), 1); (var) = (next))

enum { LANE_BATCH = 64 }; /* tiny jobs that a lane may hold */

struct job {
    uint64_t number;
    struct job *chain;     /* of its bucket */
    TAILQ_ENTRY(job) link; /* of its lane, the backlog or the returned */
    struct pool_lane *lane;
    struct buf frame; /* in the backlog only */
    double soft_limit, hard_limit;
    uint32_t def, place;
    bool soft_told, stopped;
    enum pool_loss verdict; /* CRASHED until something else is known */
    pid_t pid;              /* with the verdict */
    int status;
};
TAILQ_HEAD(job_list, job);

enum lane_state { LANE_GONE, LANE_IDLE, LANE_OPEN, LANE_FULL, LANE_STATES };

struct pool_lane {
    struct pool_child *child;
    struct lane *share;
    TAILQ_ENTRY(pool_lane) link; /* of pool.lanes[state], unless it is gone */
    enum lane_state state;
    struct job_list jobs;
    int count;      /* of jobs */
    bool mixed;     /* holds a job that is not known to be tiny: takes no other beside it */
    int room;       /* as counted in pool.open_room */
    unsigned place; /* where the search for a free place in the ring goes on */
    struct event *limit_timer;
    int64_t limit_due; /* 0: not armed */
};
TAILQ_HEAD(lane_list, pool_lane);

enum child_state { CHILD_WANTED, CHILD_ASKED, CHILD_LIVE, CHILD_DEAD };

struct pool_child {
    struct pool *pool;
    LIST_ENTRY(pool_child) link;
    TAILQ_ENTRY(pool_child) dirty_link;
    enum child_state state;
    uint32_t serial;
    pid_t pid;       /* 0: not known yet */
    int fd, peer_fd; /* peer: the child's end, until the zygote has it */
    struct event *reading, *writing, *kill_timer;
    struct buf in, out;
    size_t out_at; /* sent already */
    bool dirty;    /* has something to send */
    int first, n_lanes;
    struct pool_lane *lanes;
    int jobs, sent, ended;
    int64_t born_us;
    bool closing;    /* gets no further job */
    bool replaced;   /* its lanes no longer count */
    bool shut;       /* was told to exit */
    bool doomed;     /* was killed for one of its jobs: the others are innocent */
    int kill_signal; /* to be sent as soon as the pid is known */
};

struct pace { /* how long the runs of one task take */
    float run_us;
    uint16_t samples;
};

struct pool {
    struct pool_options options;
    struct pool_handlers handlers;
    struct event_base *base;
    struct zygote *zygote;
    struct solo *solo; /* -P solo: all below is unused */

    LIST_HEAD(, pool_child) children;
    uint32_t serials;
    bool used[LANES_MAX]; /* parts of the zygote's shared memory */
    int lanes_open;       /* of children that take jobs */

    struct lane_list lanes[LANE_STATES];
    int n_lanes[LANE_STATES];
    int busy, open_room; /* lanes that hold jobs; jobs that the open ones still take */

    struct job **buckets;
    size_t n_buckets;
    int jobs;
    struct job_list backlog;  /* accepted, no lane yet */
    struct job_list returned; /* to be reported from the loop */
    struct pace *paces;
    uint32_t n_paces;
    bool tiny; /* the last job was: what room an idle lane has */

    TAILQ_HEAD(, pool_child) dirty;
    struct event *control, *flush, *batch_timer, *spawn_timer;
    char *peek; /* LANE_OUT bytes for pool_watch.c */
    int failed_starts;
    int64_t spawn_not_before;
    bool shutting, killing, broken;
};

static inline int64_t pool_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}
struct timeval pool_interval(int64_t us);

/* pool.c */
struct job *job_find(const struct pool *p, uint64_t number);
void job_detach(struct job *j);              /* from its lane */
void job_end(struct pool *p, struct job *j); /* forgets it, frees */
/* Reports a detached job from the loop. */
void job_return(struct pool *p, struct job *j, enum pool_loss why);
bool job_reclaim(struct job *j); /* true: it will not begin in its child */
void lane_update(struct pool_lane *l);
void pool_feed(struct pool *p); /* backlog to lanes, tells of room */
void returned_report(struct pool *p);
void backlog_return(struct pool *p); /* unstarted, all of it */
void pool_kick(struct pool *p);      /* makes the flush run in this turn of the loop */
void pool_measure(struct pool *p, uint32_t def, int64_t run_us, bool at_least);

/* pool_child.c */
void pool_populate(struct pool *p);
void child_kill(struct pool_child *c, int signal);
void child_doom(struct pool_child *c, int signal);
void child_retire_if_due(struct pool_child *c);
void child_close(struct pool_child *c);
void child_write(struct pool_child *c);
void child_take_frames(struct pool_child *c, const char *data, size_t size, size_t *ret_used);
void child_settle(struct pool_child *c, int status, enum pool_loss running);
void child_free(struct pool_child *c);
void pool_take_notes(struct pool *p);

/* pool_watch.c */
void watch_job(struct pool_lane *l, const struct job *j); /* sent just now */
void watch_batches(struct pool *p);
size_t lane_peek(struct pool *p, const struct lane *l); /* outcomes not yet sent, into p->peek */
void slot_stop(struct slot *slot, uint64_t job, unsigned stop);
void stop_tell(struct pool_lane *l, struct job *j, unsigned stop);
void stop_clear(struct pool_lane *l, const struct job *j);
void limit_fired(evutil_socket_t fd, short what, void *lane);
void batch_fired(evutil_socket_t fd, short what, void *pool);

/* pool_solo.c */
void solo_open(struct pool *p);
void solo_submit(struct pool *p, const struct task_frame *f);
void solo_begin_until(struct pool *p, int64_t until);
bool solo_take_back(struct pool *p); /* what has not begun; false: nothing was */
void solo_stop(struct pool *p, uint64_t job, unsigned stop);
bool solo_terminate(struct pool *p, uint64_t job); /* one that has not begun; else false */
int solo_running(const struct pool *p);
const struct slot *solo_slot(const struct pool *p);
void solo_end(struct pool *p); /* returns what has not begun, asks what runs to end */
void solo_close(struct pool *p); /* waits for the end of what runs */

#endif
