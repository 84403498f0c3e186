/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdlib.h>

/* Promotion of delayed messages. The one idea: Redis' own clock decides what is due and says how
 * long the next one of a queue has to wait; the local timer is set from that answer, and looks at
 * all queues every second besides, for what others have put there.
 *
 * A kill -9 before the script leaves the entry delayed, and whoever looks next promotes it; after
 * it the message is in its queue. The script is one step. */

enum { PROMOTE_MAX = 100 };
static const int64_t LOOK_EVERY = 1000000;

/* Moves the timer to an earlier instant only. */
static void look_at(struct channel *c, int64_t at)
{
    if (at >= c->delayed_next)
        return;
    int64_t wait = at - time_boot();
    c->delayed_next = at;
    timer_arm(c->delayed_timer, wait > 0 ? (double)wait / 1e6 + 0.001 : 0.001);
}

void delayed_expect(struct queue *queue, int64_t wait)
{
    int64_t at = time_boot() + (wait > 0 ? wait : 0);
    if (at < queue->delayed_at)
        queue->delayed_at = at;
    look_at(queue->lanes[0].c, queue->delayed_at);
}

static void promoted(const redisReply *reply, void *arg)
{
    struct queue *queue = arg;
    struct channel *c = queue->lanes[0].c;
    if (!reply)
        return;
    queue->promoting = false;
    look_at(c, queue->delayed_at); /* what was expected meanwhile */
    bool usable = reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
                  reply->element[1]->type == REDIS_REPLY_INTEGER &&
                  reply->element[2]->type == REDIS_REPLY_INTEGER;
    if (!usable) {
        char *what = mem_printf("promoting delayed messages of queue %.100s", queue->name);
        note_error(c, what, reply);
        free(what);
        return;
    }
    if (reply->element[1]->integer >= 0)
        delayed_expect(queue, reply->element[1]->integer);
    if (reply->element[2]->integer > 0)
        note_later(c, "delayed messages");
}

static void queue_promote(struct queue *queue)
{
    struct channel *c = queue->lanes[0].c;
    struct argument_list list = {.bytes = BUF_INIT(1 << 24)};
    char *set = mem_printf("%s{%s}.cworker.delayed", c->prefix, queue->name);
    char *hash = mem_printf("%s.msg", set);
    arguments_text(&list, set);
    arguments_text(&list, hash);
    free(set);
    free(hash);
    for (int step = 0; step < c->n_steps; step++)
        arguments_add(&list, queue->lanes[step].key.at, queue->lanes[step].key.size);
    list.n_keys = list.n;
    char number[16];
    snprintf(number, sizeof number, "%d", PROMOTE_MAX);
    arguments_text(&list, number);
    for (int step = 0; step < c->n_steps; step++) {
        snprintf(number, sizeof number, "%d", c->steps[step]);
        arguments_text(&list, number);
    }
    queue->delayed_at = INT64_MAX;
    queue->promoting = redis_run(c->redis, &script_promote, promoted, queue, list.n_keys, list.n,
                                 arguments_seal(&list)) == 0;
    arguments_done(&list);
}

void delayed_look(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    int64_t now = time_boot();
    bool all = now >= c->delayed_all_at;
    if (all)
        c->delayed_all_at = now + LOOK_EVERY;
    c->delayed_next = INT64_MAX;
    look_at(c, c->delayed_all_at);
    for (int i = 0; i < c->n_queues && c->ready && !c->stopped; i++) {
        struct queue *queue = c->queues[i];
        if (!queue->consumed || queue->promoting)
            continue;
        if (all || queue->delayed_at <= now)
            queue_promote(queue);
        else
            look_at(c, queue->delayed_at);
    }
}
