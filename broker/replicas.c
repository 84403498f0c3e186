/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

/* Waiting for replicas. The one idea: WAIT covers all that this connection has written before it,
 * so one is under way at a time, and what is answered meanwhile shares the next one. Redis cannot
 * undo what too few replicas have, so an outcome counts all the same after a second, and the
 * operator reads of it. Nothing else is answered on the connection meanwhile; so while replicas are
 * known to be missing, the next ones wait only for a moment.
 *
 * A failover before the WAIT is answered may have lost the settlement, whole as it was: its entry
 * is in flight again, and it is sent again on the new connection. */

enum { PATIENCE_MS = 1000, IMPATIENCE_MS = 20 };

static bool replicas_cover(struct channel *c)
{
    bool any = false;
    for (struct settlement *s = c->settling; s; s = s->next)
        if (s->awaiting == AWAITS_NEXT) {
            s->awaiting = AWAITS_THIS;
            any = true;
        }
    return any;
}

static void replicas_lost(struct channel *c)
{
    for (struct settlement *s = c->settling; s; s = s->next)
        if (s->awaiting) {
            s->awaiting = AWAITS_NOTHING;
            s->unheard = true;
        }
}

static void replicas_ask(struct channel *c);

static void replicas_answered(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    c->awaiting_replicas = false;
    if (!reply) {
        replicas_lost(c);
        return;
    }
    note_error(c, "waiting for replicas", reply);
    bool few = reply->type == REDIS_REPLY_INTEGER && reply->integer < c->wait_replicas;
    if (few && !c->few_replicas)
        note(c, true,
             "%lld of %d replicas have what was written within %d s (broker_wait_replicas)",
             reply->integer, c->wait_replicas, PATIENCE_MS / 1000);
    c->few_replicas = few;
    for (bool found = true; found;) {
        struct settlement *s = c->settling;
        while (s && s->awaiting != AWAITS_THIS)
            s = s->next;
        found = s != NULL;
        if (s)
            settlement_finish(s, 0);
    }
    replicas_ask(c);
}

static void replicas_ask(struct channel *c)
{
    if (c->awaiting_replicas || !replicas_cover(c))
        return;
    c->awaiting_replicas = true;
    if (redis_sendf(c->redis, replicas_answered, c, "WAIT %d %d", c->wait_replicas,
                    c->few_replicas ? IMPATIENCE_MS : PATIENCE_MS))
        replicas_answered(NULL, c);
}

void replicas_await(struct settlement *s)
{
    s->awaiting = AWAITS_NEXT;
    replicas_ask(s->c);
}
