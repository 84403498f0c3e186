/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PROTO_EVENT_H
#define PROTO_EVENT_H

/* Celery's events as text. An event is one JSON object: what every event says first, the fields of
 * its type in between, its time and type last, in the order of celery.events (peers may compare
 * bytes). */

#include "proto/message.h"

struct event {
    const char *type;      /* task-received */
    const char *hostname;  /* node that says it */
    int64_t pid, clock;    /* Lamport's */
    int64_t timestamp;     /* µs since the epoch */
};

void event_begin(const struct event *e, struct buf *out);
void event_text(struct buf *out, const char *name, const char *value); /* NULL: null */
void event_int(struct buf *out, const char *name, int64_t value);
/* always with a point, as a float */
void event_real(struct buf *out, const char *name, double value);
void event_flag(struct buf *out, const char *name, bool value);
void event_time(struct buf *out, const char *name, int64_t time); /* ISO 8601; TIME_NONE: null */
void event_end(const struct event *e, struct buf *out);

/* All of a task-sent: of this message, to this queue. */
void event_sent(const struct event *e, const struct message *m, const char *queue, struct buf *out);

/* Whole hours that this host's clock is west of UTC, as Celery counts them. */
int event_utcoffset(int64_t timestamp);

#endif
