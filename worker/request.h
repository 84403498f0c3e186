/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_REQUEST_H
#define WORKER_REQUEST_H

/* One task in the hands of main, from its arrival to its ack: one struct, one state machine.
 *
 *   RECEIVED ▶ CHECKING ▶ LEASING ▶ LIMITED ▶ READY ▶ RUNNING ▶ PREPARING ▶ RECORDING ▶ STORING ▶
 *                                             ▲ ▼ ▲     ▼                           SETTLING ▶ DONE
 *                                         CLAIMING└─────┘ its child died before it began
 *
 * Moves go to the right, past all there is nothing to do for, and back only as drawn. Nearly every
 * task is RECEIVED, READY, RUNNING, STORING, SETTLING, DONE. The others:
 *
 *   CHECKING   delivered before: has it succeeded (redelivery.c)? If so it does not run
 *   LEASING    unique work: is it the only one (unique.c)?
 *   LIMITED    a rate limit makes it wait (rate.c)
 *   CLAIMING   its early ack is under way; or, if delivered before, the mark of its start (flow.c)
 *   PREPARING  the store hears of the chords that will leave with its ack (follow.c)
 *   RECORDING  what the task sent is made durable (redelivery.c)
 *
 * What ends without a run (revoked, expired, unreadable, not registered, not unique, given back,
 * delayed until its ETA) goes from where it is to STORING or SETTLING. What another worker has got
 * meanwhile goes to DONE as soon as nothing is under way for it.
 *
 * Every move goes through request_move, which checks the table and logs at debug level. */

#include "broker/channel.h"
#include "proto/message.h"
#include "worker/outcome.h"

#include <stddef.h>

struct worker;

#define REQUEST_STATES(X)                                                                          \
    X(RECEIVED) X(CHECKING) X(LEASING) X(LIMITED) X(READY) X(CLAIMING) X(RUNNING) X(PREPARING)     \
    X(RECORDING) X(STORING) X(SETTLING) X(DONE)

enum request_state {
#define REQUEST_STATE(name) REQUEST_##name,
    REQUEST_STATES(REQUEST_STATE)
#undef REQUEST_STATE
};

struct request;
struct unique;
struct fleet_use;
struct request_list {
    struct request *first, *last;
    size_t n;
};
typedef void request_list_fn(struct request_list *list, void *arg);

struct request {
    struct request *next, *prev;
    struct request_list *list;      /* the one it is in: ready, or waiting for a rate; NULL: none */
    struct request *job_next;       /* in the worker's table of jobs */
    struct request *older, **place; /* in the worker's list of all */
    struct worker *worker;
    enum request_state state;
    enum outcome outcome;   /* once it has one */
    struct message message; /* owned */
    struct delivery delivery;
    uint64_t job; /* pool's number, 0 before the first run */
    int def;      /* registry index, -1: not registered */
    pid_t pid;    /* child that runs it, 0: none */
    bool acks_late, ignore_result, track_started, reject_on_lost;
    bool acked;     /* early: its delivery is settled already */
    int terminated; /* signal by which a revoke ends its run, 0: none */
    bool sent;      /* the task itself sent others */
    bool marked;    /* its start is in the outbox */
    int64_t starts; /* of these before, that no end followed */
    cJSON *sent_before; /* by such a run, as recorded. Owned */
    bool recorded;  /* there is a record in the outbox, or may be */
    bool recording, settles; /* while it waits for its store; then it settles */
    bool given_up;  /* went back, as no store answers, and is kept for its callbacks */
    bool stored;    /* its final state was in the store when it came */
    bool lost;      /* rescued by another worker: whatever we do must have no effect */
    int64_t received_at, started_at; /* CLOCK_MONOTONIC µs */

    /* What the end of the run left, for storing and settling. Owned. */
    char *result, *traceback;
    char *reason;                /* why it goes to the dead-letter list */
    cJSON *sends;                /* what the task sent, to be published with the ack */
    double countdown;            /* of a retry */
    struct fleet_use *fleet_use; /* its start and slot; NULL: no fleet limit (fleet_limit.h) */
    struct unique *unique;       /* its lease; NULL: not unique work (unique.h) */
    /* Of canvases; see follow.h. Owned, NULL where there is nothing. */
    cJSON *prepares;             /* what the store must know before the sends leave */
    cJSON *children;             /* result tuples of the sends */
    cJSON *parts;                /* chords that its end counts for */
    cJSON *revokes;              /* {"ids", "terminate"}: what the task asked to revoke */
    cJSON *chords;               /* groups whose chord it has completed */
    cJSON *counts;               /* groups whose chord is polled and hears of its end */
    char *polls;                 /* of a celery.chord_unlock: the group that it waits for, */
    int64_t n_polled;            /* how many parts that has, */
    bool polled;                 /* and that all of them are there */
    uint64_t n_ids;              /* made for the bodies and errbacks of chords */
    size_t sent_bytes;           /* of the messages made so far */
    size_t n_puts;               /* records of others that must be durable before its ack */
    void (*after_puts)(struct request *), (*after_chords)(struct request *);
    char *repr;                  /* of the result or the exception; only when events want it */
    int64_t run_us;
};

static inline struct request *request_of(struct delivery *d) /* that it lies in */
{
    return (struct request *)((char *)d - offsetof(struct request, delivery));
}

struct request *request_new(struct worker *w);
void request_free(struct request *r);
/* Before `next`; NULL: at the end. */
void request_list_insert(struct request_list *list, struct request *r, struct request *next);
void request_list_remove(struct request *r); /* from the one it is in, if any */
void request_move(struct request *r, enum request_state to);

/* The exception that is this request's result from now on; takes the text. */
void request_raise(struct request *r, char *exception);

/* How often it was started before without an end: a header that only cworker writes, when the death
 * of a child sends the message back. */
int64_t request_deliveries(const struct request *r);
/* The element to put back: marked as redelivered, and with that count when `started`. Caller
 * frees. */
char *request_redelivery(const struct request *r, bool started);

/* The element with a note that its arrival was told of in an event, and whether that note is there
 * for this try. Caller frees; NULL only if the text is no envelope. */
char *request_told(const struct request *r);
/* An element without its ETA: what may be brought forward. Caller frees; NULL only if it is no
 * envelope. */
char *request_undated(const char *text, size_t size);
bool request_was_told(const struct request *r);

/* Name and id for log lines; "?" where the message could not be read. */
const char *request_name(const struct request *r);
const char *request_id(const struct request *r);

#endif
