/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_FOLLOW_H
#define WORKER_FOLLOW_H

/* What follows from a task's end, beside its own result: its continuation, what it asked to send,
 * the chords it is a part of. Each step is skipped at once where there is nothing to do. */

#include "worker/worker.h"

typedef void follow_fn(struct request *r);

/* Makes the messages that leave with the ack; the outcome, which is a failure when they cannot be
 * made. */
enum outcome follow_add(struct request *r, enum outcome outcome);

/* What the store must know before those messages leave; then `then`. */
void follow_prepare(struct request *r, follow_fn *then);

/* After the result is durable: counts the task as part of its chords and adds the body of one that
 * is complete to what leaves with the ack; then `then`. */
void follow_chords(struct request *r, follow_fn *then);

/* What the task asked to revoke: before its result is stored, so that no crash forgets it. */
void follow_revoke(struct request *r);

/* After the ack. */
void follow_settled(struct request *r);

/* A chord's body leaves with r's ack. `results` is taken. */
void follow_send_body(struct request *r, const cJSON *body, cJSON *results);
/* The body fails instead: its errbacks leave with r's ack, its record is put. `message` is
 * ChordError's; `exception` the member's own, NULL: none. */
void follow_fail_body(struct request *r, const cJSON *body, const char *message,
                      const char *exception);
/* ValueError('x', 42) of {"exc_type", "exc_message", "exc_module"}; caller frees. */
char *follow_exception_repr(const char *exception);

#endif
