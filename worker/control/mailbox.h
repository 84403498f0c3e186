/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_CONTROL_MAILBOX_H
#define WORKER_CONTROL_MAILBOX_H

/* Shared by mailbox.c and mingle.c. */

#include "worker/control/call.h"

struct mingle;
struct gossip;

struct control {
    struct worker *worker;
    char *exchange;       /* celery.pidbox */
    char *reply_exchange; /* reply.celery.pidbox */
    struct call *waiting; /* commands that have not answered yet */
    struct mingle *mingle;
    struct gossip *gossip; /* NULL: off */
    bool met;             /* mingling has begun, or is not wanted */
    int64_t started;      /* CLOCK_MONOTONIC µs */
    cJSON *samples;       /* of memsample, until memdump shows them */
};

/* Sends a command to all workers; the reply, where a ticket is given, goes to `routing_key`. Takes
 * arguments. */
int control_send(struct control *c, const char *method, cJSON *arguments, const char *ticket,
                 const char *routing_key);

/* The revoked ids in the form in which workers exchange them, and what another one sent. */
cJSON *revoked_exchange(struct worker *w);
void revoked_take(struct worker *w, const cJSON *revoked);

void mingle_start(struct control *c);
void mingle_end(struct control *c);

void gossip_open(struct control *c);
void gossip_close(struct control *c);

#endif
