/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_REDIS_PRIVATE_H
#define BROKER_REDIS_PRIVATE_H

/* What the parts of a connection share: redis.c connects, greets, drops and tries again;
 * redis_pipe.c sends commands and hands their replies out; redis_script.c runs Lua. */

#include "broker/redis.h"
#include "proto/base/clock.h"

#include <event2/bufferevent.h>

enum redis_state { STATE_DOWN, STATE_CONNECTING, STATE_GREETING, STATE_UP };

struct redis_pending {
    redis_reply_fn *fn;
    void *arg;
    int64_t at; /* redis_clock() when it was sent */
};

struct redis {
    struct event_base *base;
    struct redis_url url;
    char *client_name;
    double command_timeout;
    struct redis_handlers handlers;
    struct bufferevent *bev;
    redisReader *reader;
    struct evdns_base *dns;
    /* Down: the next attempt; connecting: gives up; up: looks at the oldest command. */
    struct event *timer;
    struct redis_pending *ring;
    size_t head, n_pending, capacity; /* capacity is a power of two */
    enum redis_state state;
    struct sentinel_search *search;
    bool found; /* url has the master's address, for this attempt */
    int64_t client_id;
    int64_t last_read; /* redis_clock() of the last bytes that came */
    int64_t up_since;  /* redis_clock() */
    unsigned attempts; /* since a connection has lasted */
    unsigned life;     /* grows with each drop: tells those who hold on to an older connection */
    unsigned depth;    /* calls that hold this struct */
    bool watching;     /* the timer runs to look at the oldest command */
    bool closing;
    bool subscribed;    /* replies may be messages */
    bool plain_scripts; /* the server is too old for `#!lua` lines */
};

/* Whatever ends a connection comes here: all commands under way are answered with NULL, the owner
 * is told, and unless it is closing the next attempt is set. */
void redis_drop(struct redis *r, const char *reason);

/* A callback may close the connection it is called from: what calls one holds the struct until it
 * is done with it. */
static inline void redis_hold(struct redis *r)
{
    r->depth++;
}
void redis_release(struct redis *r);

static inline int64_t redis_clock(void) /* µs, monotonic, cheap */
{
    return clock_us(CLOCK_MONOTONIC_COARSE);
}
void redis_watch(struct redis *r); /* looks at the oldest command in a while */

/* As redis_send, but in any state that has a connection. */
void redis_command(struct redis *r, redis_reply_fn *fn, void *arg, int argc,
                   const struct slice *argv);
void redis_read(struct bufferevent *bev, void *arg); /* bytes have arrived */

#endif
