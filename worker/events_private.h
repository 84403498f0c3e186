/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_EVENTS_PRIVATE_H
#define WORKER_EVENTS_PRIVATE_H

/* Between events.c (how events leave) and events_task.c (what they say of a task). */

#include "proto/event.h"
#include "worker/events.h"

struct events; /* events.c */

/* Begins an event in the batch of this turn; its fields are added to the buffer that is returned;
 * then events_batch_end with the same struct. */
struct buf *events_batch_begin(struct events *e, const char *type, struct event *ret_event);
void events_batch_end(struct events *e, const struct event *event);

/* An event of its own, not in a batch: `body` is whole. event->hostname lives as long as `e`. */
void events_post(struct events *e, const struct event *event, const struct buf *body);

bool events_of_tasks(const struct events *e); /* -E or enable_events */
bool events_of_sends(const struct events *e); /* task_send_sent_event */
/* gen<pid>@<host>: who publishes, for task-sent */
const char *events_publisher(const struct events *e);

#endif
