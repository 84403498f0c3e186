/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_FRAME_H
#define WORKER_FRAME_H

/* The whole language between main and a pool child, over a stream socket. Both ends are one binary
 * on one machine, so a frame is a head, a fixed struct as it lies in memory, and the bytes of its
 * slices in order. Slices of a decoded frame point into the receiver's buffer. */

#include "proto/json.h"
#include "worker/task/result_kind.h"

#include <stdint.h>

enum frame_kind { FRAME_TASK = 1, FRAME_STARTED, FRAME_STATE, FRAME_OUTCOME };

enum { FRAME_MAX = 0x7fffffff }; /* bytes of one frame, head included */

struct frame_head {
    uint32_t size; /* of all that follows */
    uint32_t kind;
};

enum task_frame_flags {
    TASK_ANNOUNCE = 1, /* send FRAME_STARTED when it begins */
    TASK_WANT_REPR = 2, /* the log or events want Python's repr of the result */
    TASK_REDELIVERED = 4,
    TASK_ACKED = 8, /* early: no other worker can have it */
};

/* main → child */
struct task_frame {
    uint64_t job;  /* main's number for this run; unique in main's life */
    uint32_t def;  /* index into the registry */
    uint32_t flags;
    uint32_t lane, place; /* where its claim lies (lane.h); the pool fills them in */
    double soft_limit, hard_limit; /* 0: none; kept by main, told for cw_time_left */
    int64_t retries;
    struct slice id, name, queue;
    struct slice headers, properties; /* of the message, raw JSON objects */
    struct slice body;                /* [args, kwargs, embed] */
    struct slice root_id, parent_id, group_id;
};

/* child → main, with FRAME_STARTED */
struct started_frame {
    uint64_t job;
    int64_t pid;
};

/* child → main: a state the task set while running */
struct state_frame {
    uint64_t job;
    uint64_t is_event;        /* an event of the task's own: `state` is its type, `meta` its fields */
    struct slice state, meta; /* meta: JSON text */
};

/* child → main: the end of a run */
struct outcome_frame {
    uint64_t job;
    uint32_t kind; /* enum result_kind */
    uint32_t requeue;
    double countdown;              /* RESULT_RETRY */
    int64_t run_us, cpu_us;        /* the bill */
    int64_t peak_kb, resident_kb;  /* of the process; peak is its high-water mark */
    struct slice result;           /* RESULT_SUCCESS: JSON text; FAILURE, RETRY: {"exc_type",…} */
    struct slice traceback;        /* FAILURE, RETRY */
    struct slice repr;             /* Python's repr of result or exception */
    struct slice sends;            /* JSON array of elements to publish with the ack; {0}: none */
};

/* Appends a frame to `out`; one that would pass the buffer's maximum or FRAME_MAX leaves it as it
 * was, with `failed` set. */
void frame_put_task(struct buf *out, const struct task_frame *f);
void frame_put_started(struct buf *out, const struct started_frame *f);
void frame_put_state(struct buf *out, const struct state_frame *f);
void frame_put_outcome(struct buf *out, const struct outcome_frame *f);

/* Is a whole frame at the start of data? Its total size, 0 when more bytes are needed, -1 when it
 * can be none (a child that writes rubbish is killed). */
int64_t frame_complete(const char *data, size_t size);
enum frame_kind frame_kind_of(const char *data);
int frame_get_task(const char *data, size_t size, struct task_frame *ret);
int frame_get_started(const char *data, size_t size, struct started_frame *ret);
int frame_get_state(const char *data, size_t size, struct state_frame *ret);
int frame_get_outcome(const char *data, size_t size, struct outcome_frame *ret);

#endif
