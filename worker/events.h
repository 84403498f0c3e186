/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_EVENTS_H
#define WORKER_EVENTS_H

/* What happens here, told to whoever listens (celery events, Flower, exporters), in Celery's words.
 * Events travel on a connection of their own and are never waited for: when that connection is slow
 * or gone they wait in a bounded buffer, and beyond it they are dropped, counted, and the log says
 * so. */

#include "worker/worker.h"

enum event_kind {
    EVENT_RECEIVED,
    EVENT_STARTED,
    EVENT_ENDED, /* whichever event the request's outcome calls for, if any */
    EVENT_SENT,  /* its ack is through: task-sent for what left with it (task_send_sent_event) */
};

struct events_count {
    int64_t sent, dropped, waiting; /* events published, lost to a full buffer, and in the buffer */
};

void events_open(struct worker *w);
/* says worker-offline and waits a moment until it is through */
void events_close(struct worker *w);

/* Call through events_task: nobody asked, nothing is spent. */
void events_note(struct worker *w, enum event_kind kind, const struct request *r);

static inline void events_task(struct worker *w, enum event_kind kind, const struct request *r)
{
    if (__builtin_expect(w->task_events, false))
        events_note(w, kind, r);
}

/* Task events on or off while running; false: nothing changed. With -E they are on and stay so:
 * Celery answers "already" to both. */
bool events_enable(struct worker *w, bool on);
void events_heartbeat_now(struct worker *w); /* the `heartbeat` command's */
/* Publishes one event of any type (gossip's, a task's own): `fields` is an object whose members
 * follow the common ones. */
void events_say(struct worker *w, const char *type, const cJSON *fields);
/* The same with a clock of the caller's choice. */
void events_say_at(struct worker *w, const char *type, int64_t clock, const cJSON *fields);
struct events_count events_count(const struct worker *w);

#endif
