/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Fetching. The one idea: LLEN says what may be fetched, and never more LMOVEs are under way than
 * messages are known to wait and the window has room for, so an empty queue costs nothing and a
 * window of one is never exceeded. LLEN also arms the note that wakes an idle worker (watch.c).
 *
 * A kill -9 before Redis runs the LMOVE leaves the message in its queue; after it, in our in-flight
 * list, whether or not the answer was read. The script used when Redis is out of memory is the same
 * step. */

enum {
    MAX_UNDERWAY = 32,
    BYTES_UNDERWAY = 64 << 20 /* about: nobody knows how large a message is before it comes */
};
static const double POLL_UNWATCHED = 0.05;
static const int64_t OOM_MICROSECONDS = 1000000;

static int64_t lane_available(const struct lane *lane)
{
    return lane->queue->open ? lane->waiting - (int64_t)lane->n_underway : 0;
}

/* Redis does not say which key it does not like. */
static void lane_note(const struct lane *lane, const char *what, const redisReply *reply)
{
    char *text = mem_printf("%s queue %.100s", what, lane->queue->name);
    note_error(lane->c, text, reply);
    free(text);
}

static void length_answered(const redisReply *reply, void *arg)
{
    struct lane *lane = arg;
    if (!reply)
        return;
    lane->asking = false;
    if (reply->type != REDIS_REPLY_INTEGER) {
        lane->waiting = 0;
        lane_note(lane, "asking for the length of", reply);
        return;
    }
    lane->waiting = reply->integer;
    bool again = lane->again;
    lane->again = false;
    if (lane_available(lane) > 0)
        fetch_pump(lane->c);
    else if (again)
        fetch_ask(lane);
}

void fetch_ask(struct lane *lane)
{
    struct channel *c = lane->c;
    if (lane->asking || c->stopped || !c->ready || !lane->queue->open)
        return;
    lane->again = false;
    lane->asking = redis_send(c->redis, length_answered, lane, 2,
                              (struct slice[]){slice_of("LLEN"), lane->key}) == 0;
}

void fetch_ask_all(struct channel *c)
{
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        if (lane_available(lane) <= 0)
            fetch_ask(lane);
}

void fetch_begin(struct channel *c)
{
    c->typical_size = BYTES_UNDERWAY; /* the first comes alone, the next in ever larger rows */
}

void fetch_arrived(struct lane *lane, const char *text, size_t size)
{
    struct channel *c = lane->c;
    if (size > c->max_message) {
        note(c, true, "a message of %zu bytes in %s is larger than the limit: set aside", size,
             lane->queue->name);
        settle_dead(lane, (struct slice){text, size}, "larger than the limit for messages");
        return;
    }
    if (c->window)
        c->window--;
    c->typical_size = size > c->typical_size / 2 ? size : c->typical_size / 2;
    c->arriving = lane;
    c->handlers.on_message(mem_ndup(text, size), size, lane->queue->name, lane->step,
                           c->handlers.arg);
    c->arriving = NULL;
}

static void fetch_answered(const redisReply *reply, void *arg)
{
    struct lane *lane = arg;
    struct channel *c = lane->c;
    lane->n_underway--;
    c->n_underway--;
    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_STRING) {
        if (lane->waiting > 0)
            lane->waiting--;
        fetch_arrived(lane, reply->str, reply->len);
    } else if (reply->type == REDIS_REPLY_ERROR) {
        if (strncmp(reply->str, "OOM", 3) == 0 && !c->oom_until)
            c->oom_until = time_boot() + OOM_MICROSECONDS;
        else
            lane->waiting = 0;
        lane_note(lane, "fetching from", reply);
    } else {
        lane->waiting = 0;
        fetch_ask(lane);
    }
    fetch_pump(c);
}

static int fetch_send(struct lane *lane)
{
    struct channel *c = lane->c;
    if (c->oom_until && time_boot() < c->oom_until)
        return redis_run(c->redis, &script_fetch, fetch_answered, lane, 2, 2,
                         (struct slice[]){lane->key, lane->inflight});
    c->oom_until = 0;
    return redis_send(c->redis, fetch_answered, lane, 5,
                      (struct slice[]){slice_of("LMOVE"), lane->key, lane->inflight,
                                       slice_of("RIGHT"), slice_of("LEFT")});
}

/* All queues at one step before any at the next. In turns, the queue that is served goes to the
 * end. */
static struct lane *lane_next(struct channel *c)
{
    for (int step = 0; step < c->n_steps; step++)
        for (int i = 0; i < c->n_queues; i++) {
            int queue = c->order[i];
            struct lane *lane = &c->queues[queue]->lanes[step];
            if (lane_available(lane) <= 0)
                continue;
            if (!c->ordered) {
                memmove(c->order + i, c->order + i + 1,
                        (size_t)(c->n_queues - i - 1) * sizeof *c->order);
                c->order[c->n_queues - 1] = queue;
            }
            return lane;
        }
    return NULL;
}

/* As many as there may be of messages as large as those that came last, one in any case. */
static size_t underway_most(const struct channel *c)
{
    size_t most = BYTES_UNDERWAY / (c->typical_size + 1);
    return most < 1 ? 1 : most < MAX_UNDERWAY ? most : MAX_UNDERWAY;
}

void fetch_pump(struct channel *c)
{
    if (!c->ready || c->stopped || !channel_owns(c))
        return;
    size_t most = underway_most(c);
    while (c->n_underway < c->window && c->n_underway < most) {
        struct lane *lane = lane_next(c);
        if (!lane || fetch_send(lane))
            return;
        lane->n_underway++;
        c->n_underway++;
        if (lane_available(lane) <= 0)
            fetch_ask(lane);
    }
}

/* Notes can be lost; a look every second bounds what that costs. Without notes it is the only
 * way. */
void fetch_poll(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    if (!c->ready)
        return;
    pause_ask(c);
    rescue_watch_pids(c);
    fetch_ask_all(c);
    fetch_pump(c);
    timer_arm(c->poll_timer, c->tracking ? c->poll_period : POLL_UNWATCHED);
}
