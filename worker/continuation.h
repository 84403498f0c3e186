/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CONTINUATION_H
#define WORKER_CONTINUATION_H

/* What a producer asked to happen after a task: the next step of its chain, its callbacks (link) and
 * errbacks (link_error), as they travel in the embed of the message's body. Signatures become messages
 * here; they leave with the task's ack. Source: celery.app.trace, celery.canvas. */

#include "proto/message.h"

struct continuation {
    const struct message *message; /* of the task that ended */
    const char *default_queue;     /* for signatures that name none */
    int64_t now;
    cJSON *sends;                  /* rows {"queue","priority","due","id","text"} are appended here */
    uint64_t *n_ids;               /* ids made so far, of those that the delivery has; NULL: random ids */
};

/* True when the message asks for nothing: the common case, told without parsing. */
bool continuation_is_empty(const struct message *m);

/* Are callbacks, errbacks and chain lists of signatures, where there are any? */
int continuation_check(const struct message *m, struct error *err);

/* Callbacks, then the next step of the chain, each with `result` (JSON text) before its own arguments. */
int continuation_succeeded(const struct continuation *c, struct slice result, struct error *err);

/* Errbacks, each with the task's id before its own arguments. */
int continuation_failed(const struct continuation *c, struct error *err);

/* Ids of the chain's remaining steps, which fail with it: a JSON array of strings, or NULL for none. */
cJSON *continuation_abandoned(const struct message *m);

#endif
