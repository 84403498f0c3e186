/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

/* The main process: one loop that owns the channel, the pool, the result store and all requests.
 * worker.c opens and closes it and knows how it stops; flow.c is the way of a task through it. */

#include "broker/fanout.h"
#include "proto/base/clock.h"
#include "worker/config/options.h"
#include "worker/lamport.h"
#include "worker/pool/pool.h"
#include "worker/request.h"
#include "worker/store/store.h"

enum { WORKER_JOB_BUCKETS = 1 << 12 };

enum worker_phase {
    WORKER_RUNNING,
    WORKER_WARM, /* nothing new; what runs may finish; what waits goes back */
    WORKER_SOFT, /* the same, for a limited time */
    WORKER_COLD, /* what runs is ended and goes back too */
    WORKER_OVER, /* the loop has ended: parts are being closed, and may still call back */
};

struct revoked;
struct control;

struct worker {
    struct options *options;
    struct event_base *base;
    struct channel *channel;
    struct fanout *fanout;     /* remote control and events */
    struct pool *pool;
    struct store *store;
    struct revoked *revoked;
    struct unique_leases *leases; /* of unique work; NULL: there was none yet */
    int64_t revoked_saved_at; /* into the state file; CLOCK_MONOTONIC µs */
    struct revoked_saving *revoked_saving; /* NULL: none is under way */
    struct event *pump;       /* activated during a turn, runs when its other events are handled */
    enum worker_phase phase;
    int exit_status;
    bool connected;       /* at least once */
    int64_t n_failures;   /* to connect, one after the other */
    bool greeted;         /* "ready." has been logged */
    bool has_left;        /* it was logged that tasks are left to later versions */
    int64_t clock_offset; /* µs to add to CLOCK_BOOTTIME to get Redis' clock */
    bool clock_known;

    struct request_list ready;
    struct rate *rates;          /* by registry index; NULL: no task has ever had one */
    struct fleet *fleet;         /* limits shared with other workers; NULL: none */
    struct autoscale *autoscale; /* NULL: off */
    struct request *jobs[WORKER_JOB_BUCKETS];
    uint64_t last_job;
    struct request *unstored; /* gave up their results; freed when no store can call back */
    size_t n_waiting;  /* received and without an outcome: counts against the prefetch window */
    int n_claiming;    /* acked early, the answer is under way: a lane is kept for each */
    struct request *newest; /* of all requests, whatever their state */
    size_t n_requests; /* all that are alive */
    size_t n_bytes;    /* of their messages */
    uint64_t n_done;

    struct control *control;    /* NULL: worker_enable_remote_control is off */
    uint64_t *totals;           /* starts by registry index */
    struct lamport clock;       /* Celery's logical clock */
    struct events *events;
    bool task_events;           /* somebody wants to hear of tasks */
    /* Instead of running what was delivered before and has no result yet; NULL: it runs. */
    void (*must_run)(struct request *r);
};

/* Runs until told to stop; the exit status. */
int worker_run(struct options *options, struct zygote *zygote, const struct pool_options *pool);

/* Asks for another turn of dispatch, window and end-of-work checks, once the current events are
 * done. */
void worker_pump(struct worker *w);
int64_t worker_now(const struct worker *w); /* µs since the epoch by Redis' clock */
static inline int64_t monotonic_now(void)   /* µs of CLOCK_MONOTONIC */
{
    return clock_us(CLOCK_MONOTONIC);
}
void worker_guess_clock(struct worker *w);  /* by our own, until Redis has been asked */
void worker_read_clock(struct worker *w);   /* asks Redis for its time */
/* With prefix, replicas and steps, and unless given node and lease, as the settings say; the rest
 * is the caller's. */
struct channel *worker_open_channel(struct worker *w, struct channel_options *options,
                                    const struct channel_handlers *handlers, struct error *err);

/* --- shutdown.c --- */
/* From here on a signal waits for worker_run, which ends cleanly on it. After the zygote's fork:
 * children must not inherit the mask. */
void worker_hold_signals(void);
enum { WORKER_SIGNALS = 4 };
void worker_hear_signals(struct worker *w, struct event *events[WORKER_SIGNALS]);
void worker_stop(struct worker *w);      /* warm, as by SIGTERM */
void worker_stop_cold(struct worker *w);
/* once all is done: is there nothing else to wait for? */
bool worker_may_end(const struct worker *w);

/* --- flow.c --- */
void flow_message(char *text, size_t size, const char *queue, int step, void *worker);
/* The request that a message becomes; err->code tells whether it could be read. */
struct request *flow_arrive(struct worker *w, char *text, size_t size, const char *queue, int step,
                            struct error *err);
void flow_delivery_lost(struct delivery *d, void *worker);
/* All that waits in this worker, list by list: for a rate, for a lane. */
void flow_each_waiting(struct worker *w, request_list_fn *fn, void *arg);
void flow_admit(struct request *r);           /* the task is known and has to run */
void flow_leased(struct request *r);          /* its lease, if it needs one, is there */
void flow_allowed(struct request *r);         /* by the limits that a fleet shares */
void flow_ready(struct request *r, bool front); /* it waits for a lane from now on */
void flow_dispatch(struct worker *w);         /* ready requests to the pool, while it has room */
void flow_give_back_ready(struct worker *w);  /* for shutdown */
void flow_discard_revoked(struct worker *w);  /* among the ready ones */

/* --- run.c --- */
void flow_run(struct request *r);             /* to the pool, which has room */
extern const struct pool_handlers flow_pool_handlers; /* .arg is the worker's to set */

/* --- revoke.c: what the remote control commands do --- */
/* Marks ids as revoked, here and for workers that start later, and stores REVOKED for each. What
 * waits is ended at once; what runs ends only with `terminate`. Then: the ids that this worker has
 * in its hands, a list to be freed; else NULL. */
cJSON *flow_revoke(struct worker *w, const char *const *ids, size_t n, bool terminate, int signal)
    __attribute__((warn_unused_result));
/* The same by stamps, {header: value or [values]}, borrowed; stores nothing by itself. With
 * `terminate` the stamps by which running tasks were found, {header: [values]}, to be freed. */
cJSON *flow_revoke_stamped(struct worker *w, const cJSON *headers, bool terminate, int signal)
    __attribute__((warn_unused_result));

/* --- redelivery.c --- */
/* Takes over a request whose message was delivered before: it comes back by flow_admit when it has
 * to run. False: nothing could tell, it runs. */
bool redelivery_check(struct request *r);
bool redelivery_must_mark(const struct request *r);
void redelivery_mark(struct request *r, channel_settled_fn *fn); /* before it runs; fn's arg is r */
/* What is left of the record when the message goes back; NULL: nothing. Caller frees. */
char *redelivery_sent_before(const struct request *r);
/* sent: the task itself sent tasks */
bool redelivery_must_record(const struct request *r, bool sent);
void redelivery_record(struct request *r);                       /* goes on with flow_recorded */
/* The store has gone down: with the ends that are on their way to it. */
void redelivery_keep_ends(struct worker *w);

/* --- finish.c --- */
void flow_publish(struct worker *w, const cJSON *sends); /* rows of struct continuation, at once */
/* stores, settles, frees: r is gone or waits */
void flow_finish(struct request *r, enum outcome outcome);
int64_t flow_due(const struct request *r); /* of an outcome that waits for its time */
void flow_give_back_unstored(struct worker *w);            /* cold: what waits for the store */
void flow_give_up(struct request *r);                      /* no more steps; kept for callbacks */
void flow_forget_unstored(struct worker *w);               /* after the store is closed */
void flow_recorded(struct request *r, bool ours);
void flow_end_recorded(struct request *r); /* while its result is on its way */
void flow_done(struct request *r);                         /* the request's end, without either */

#endif
