/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdlib.h>

/* Promotion of delayed messages. The one idea: Redis' own clock decides what is due and says how
 * long the next one has to wait; the local timer is set from that answer, and looks every second
 * besides for what others have put there.
 *
 * A kill -9 before the script leaves the entry delayed, and whoever looks next promotes it; after
 * it the message is in its queue. The script is one step. */

enum { PROMOTE_MAX = 100 };
static const int64_t LOOK_EVERY = 1000000, LOOK_AGAIN = 10000;

/* Moves the timer to an earlier instant only. */
void delayed_expect(struct channel *c, int64_t wait)
{
    int64_t at = time_boot() + (wait > 0 ? wait : 0);
    if (at >= c->delayed_next)
        return;
    c->delayed_next = at;
    timer_arm(c->delayed_timer, wait > 0 ? (double)wait / 1e6 + 0.001 : 0.001);
}

static void promoted(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (!reply)
        return;
    if (c->n_promoting)
        c->n_promoting--;
    bool usable = reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
                  reply->element[1]->type == REDIS_REPLY_INTEGER &&
                  reply->element[2]->type == REDIS_REPLY_INTEGER;
    if (!usable) {
        note_error(c, "promoting delayed messages", reply);
        return;
    }
    if (reply->element[1]->integer >= 0)
        delayed_expect(c, reply->element[1]->integer);
    if (reply->element[2]->integer > 0)
        note_later(c, "delayed messages");
}

static void queue_promote(struct channel *c, const char *queue)
{
    struct argument_list list = {.bytes = BUF_INIT(1 << 24)};
    char *set = mem_printf("%s{%s}.cworker.delayed", c->prefix, queue);
    char *hash = mem_printf("%s.msg", set);
    arguments_text(&list, set);
    arguments_text(&list, hash);
    free(set);
    free(hash);
    for (int step = 0; step < c->n_steps; step++) {
        char *key = queue_key(c, queue, step);
        arguments_text(&list, key);
        free(key);
    }
    list.n_keys = list.n;
    char number[16];
    snprintf(number, sizeof number, "%d", PROMOTE_MAX);
    arguments_text(&list, number);
    for (int step = 0; step < c->n_steps; step++) {
        snprintf(number, sizeof number, "%d", c->steps[step]);
        arguments_text(&list, number);
    }
    if (redis_run(c->redis, &script_promote, promoted, c, list.n_keys, list.n,
                  arguments_seal(&list)) == 0)
        c->n_promoting++;
    arguments_done(&list);
}

void delayed_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    c->delayed_next = time_boot() + LOOK_EVERY;
    timer_arm(c->delayed_timer, (double)LOOK_EVERY / 1e6);
    if (!c->ready || c->stopped)
        return;
    if (c->n_promoting) {
        delayed_expect(c, LOOK_AGAIN);
        return;
    }
    for (int i = 0; i < c->n_queues; i++)
        if (c->queues[i]->consumed)
            queue_promote(c, c->queues[i]->name);
}
