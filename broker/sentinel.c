/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/sentinel.h"

#include "proto/base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Finding the master. The one idea: this happens anew before each connection, so following a
 * failover is nothing but reconnecting: Redis hangs up on everybody when it becomes a replica, and
 * a dead one says nothing. A sentinel that thinks the master down is not believed to know one. */

static const double PATIENCE = 2; /* seconds for one sentinel */

struct sentinel_search {
    struct event_base *base;
    const struct redis_url *url;
    struct redis *redis;
    struct event *timer; /* the next one's turn */
    int n_asked;
    sentinel_fn *fn;
    void *arg;
    char why[200];
};

static void search_free(struct sentinel_search *s)
{
    redis_close(s->redis);
    event_free(s->timer);
    free(s);
}

/* From the loop, so that a connection is never closed by what it is calling. */
static void turn_next(struct sentinel_search *s, const char *why)
{
    snprintf(s->why, sizeof s->why, "%.190s", why);
    evtimer_add(s->timer, &(struct timeval){0});
}

static const char *field(const redisReply *reply, const char *name)
{
    for (size_t i = 0; i + 1 < reply->elements; i += 2)
        if (reply->element[i]->str && strcmp(reply->element[i]->str, name) == 0)
            return reply->element[i + 1]->str ? reply->element[i + 1]->str : "";
    return "";
}

static void master_told(const redisReply *reply, void *arg)
{
    struct sentinel_search *s = arg;
    if (!reply)
        return;
    if (reply->type != REDIS_REPLY_ARRAY) {
        turn_next(s,
                  reply->type == REDIS_REPLY_ERROR ? reply->str : "an answer of an unknown kind");
        return;
    }
    const char *flags = field(reply, "flags"), *host = field(reply, "ip");
    int port = (int)strtol(field(reply, "port"), NULL, 10);
    if (strstr(flags, "s_down") || strstr(flags, "o_down") || !*host || port <= 0) {
        turn_next(s, "the sentinels hold the master for down");
        return;
    }
    char *copy = mem_dup(host);
    sentinel_fn *fn = s->fn;
    void *owner = s->arg;
    search_free(s);
    fn(copy, port, NULL, owner);
    free(copy);
}

static void sentinel_up(struct redis *r, void *arg)
{
    struct sentinel_search *s = arg;
    redis_send(
        r, master_told, s, 3,
        (struct slice[]){slice_of("SENTINEL"), slice_of("MASTER"), slice_of(s->url->master)});
}

static void sentinel_down(struct redis *r, const char *reason, void *arg)
{
    (void)r;
    turn_next(arg, reason);
}

static void turn_begin(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct sentinel_search *s = arg;
    if (s->redis && s->n_asked && !*s->why)
        snprintf(s->why, sizeof s->why, "no answer within %.0f seconds", PATIENCE);
    redis_close(s->redis);
    s->redis = NULL;
    if (s->n_asked == s->url->n_sentinels) {
        sentinel_fn *fn = s->fn;
        void *owner = s->arg;
        char why[300];
        snprintf(why, sizeof why, "no sentinel knows a master named %.60s: %s", s->url->master,
                 s->why);
        search_free(s);
        fn(NULL, 0, why, owner);
        return;
    }
    struct redis_handlers handlers = {.on_up = sentinel_up, .on_down = sentinel_down, .arg = s};
    struct redis_options options = {.client_name = "cworker-sentinel"};
    *s->why = '\0';
    s->redis = redis_open(s->base, &s->url->sentinels[s->n_asked++], &options, &handlers);
    evtimer_add(s->timer, &(struct timeval){.tv_sec = (time_t)PATIENCE});
}

struct sentinel_search *sentinel_ask(struct event_base *base, const struct redis_url *url,
                                     sentinel_fn *fn, void *arg)
{
    struct sentinel_search *s = mem_zalloc(sizeof *s);
    *s = (struct sentinel_search){.base = base, .url = url, .fn = fn, .arg = arg};
    s->timer = evtimer_new(base, turn_begin, s);
    evtimer_add(s->timer, &(struct timeval){0});
    return s;
}

void sentinel_cancel(struct sentinel_search *s)
{
    search_free(s);
}
