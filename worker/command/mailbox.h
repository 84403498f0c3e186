/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_MAILBOX_H
#define WORKER_MAILBOX_H

/* The client's side of remote control (Kombu's pidbox): one broadcast, and the replies to it. */

#include "worker/command/redis.h"

struct fanout;

struct mailbox {
    struct command_redis redis;
    struct fanout *fanout;
    const struct settings *settings;
};

/* Both as command_redis_open and _close. */
int mailbox_open(struct mailbox *m, const struct options *o);
void mailbox_close(struct mailbox *m);

struct mailbox_question {
    const char *method;
    const cJSON *arguments;      /* NULL: {} */
    const cJSON *destination;    /* a list of node names; NULL: all */
    double timeout;              /* seconds without a reply that end the waiting */
};

typedef void mailbox_reply_fn(const char *node, const cJSON *reply, void *arg);

/* Asks, and calls `fn` with each reply until all that can answer have, or the time is over. 0, or
 * an exit status having said why. */
int mailbox_ask(struct mailbox *m, const struct mailbox_question *q, mailbox_reply_fn *fn,
                void *arg);

/* Tells without waiting for replies. */
int mailbox_tell(struct mailbox *m, const char *method);

#endif
