/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include <string.h>

/* Waiting without polling. The one idea: the data connection has CLIENT TRACKING on, redirected to
 * this second connection, so each key that was asked for by LLEN sends one note here when it
 * changes. Notes only ever cause another LLEN: losing one costs a second, never a message.
 *
 * Each renewal of the lease tests the way: the lease key is read and then changed, so its note must
 * come before the next renewal. Until one has come, fetch.c polls. */

static const char INVALIDATE[] = "__redis__:invalidate";

static void lane_noted(struct lane *lane)
{
    struct channel *c = lane->c;
    if (lane->waiting > (int64_t)lane->n_underway)
        return;
    lane->again = true;
    if (lane->asking)
        return;
    /* All idle workers hear of one message; the first one to ask should be done before the others
     * do. */
    int peers = c->n_peers < 30 ? c->n_peers : 30;
    if (peers > 1) {
        unsigned char random;
        evutil_secure_rng_get_bytes(&random, 1);
        if (!evtimer_pending(c->note_timer, NULL))
            timer_arm(c->note_timer, random / 255.0 * peers * 100e-6);
    } else {
        fetch_ask(lane);
    }
}

void watch_jitter_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct channel *c = arg;
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        if (lane->again && !lane->asking)
            fetch_ask(lane);
}

static void key_noted(struct channel *c, const redisReply *key)
{
    if (key->type != REDIS_REPLY_STRING)
        return;
    if (strcmp(key->str, c->lease_key) == 0) {
        c->probing = false;
        c->tracking = c->armed;
        return;
    }
    if (pause_key_is(c, key)) {
        pause_ask(c);
        return;
    }
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        if (lane->key.size == key->len && memcmp(lane->key.at, key->str, key->len) == 0)
            lane_noted(lane);
}

static void note_arrived(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (strcmp(reply->element[0]->str, "message") != 0 ||
        reply->element[1]->type != REDIS_REPLY_STRING ||
        strcmp(reply->element[1]->str, INVALIDATE) != 0)
        return;
    const redisReply *keys = reply->element[2];
    if (keys->type != REDIS_REPLY_ARRAY) {
        pause_ask(c); /* the whole database was flushed */
        fetch_ask_all(c);
        return;
    }
    for (size_t i = 0; i < keys->elements; i++)
        key_noted(c, keys->element[i]);
}

static void tracking_answered(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        note_error(c, "waiting by polling, CLIENT TRACKING is refused", reply);
        return;
    }
    c->armed = true;
    c->probing = false;
    lease_renew(c);
    pause_ask(c);
    fetch_ask_all(c);
}

void watch_arm(struct channel *c)
{
    c->armed = c->tracking = false;
    int64_t id = redis_client_id(c->watch);
    if (c->ready && c->watch_ready && id > 0)
        redis_sendf(c->redis, tracking_answered, c, "CLIENT TRACKING ON REDIRECT %lld",
                    (long long)id);
}

/* Before a renewal: has the last one's note come? */
void watch_check(struct channel *c)
{
    if (c->watch_ready)
        redis_sendf(c->watch, NULL, NULL, "PING");
    if (!c->armed || !c->probing)
        return;
    if (c->tracking)
        note(c, true, "notes from Redis no longer arrive: polling");
    c->armed = c->tracking = c->probing = false;
    timer_arm(c->poll_timer, 0.05);
    redis_reconnect(c->watch, "no notes arrive");
}

static void subscribed(const redisReply *reply, void *arg)
{
    struct channel *c = arg;
    if (!reply)
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        note_error(c, "waiting by polling, SUBSCRIBE is refused", reply);
        return;
    }
    c->watch_ready = true;
    watch_arm(c);
}

static void watch_up(struct redis *r, void *arg)
{
    redis_sendf(r, subscribed, arg, "SUBSCRIBE %s", INVALIDATE);
}

static void watch_down(struct redis *r, const char *reason, void *arg)
{
    (void)r, (void)reason;
    struct channel *c = arg;
    c->watch_ready = c->armed = c->tracking = c->probing = false;
    if (c->ready)
        timer_arm(c->poll_timer, 0.05);
}

void watch_open(struct channel *c, const struct redis_url *url, const char *name)
{
    struct redis_handlers h = {.on_up = watch_up, .on_down = watch_down, .on_push = note_arrived,
                               .arg = c};
    struct redis_options o = {.client_name = name};
    c->watch = redis_open(c->base, url, &o, &h);
}
