/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_REDIS_H
#define BROKER_REDIS_H

/* One connection to Redis: libevent's bufferevent underneath, hiredis as the protocol library. All
 * is pipelined; replies are matched in order. It connects, authenticates (HELLO is not used; AUTH,
 * SELECT, CLIENT SETNAME), notices a dead peer (TCP keepalive and a deadline on the oldest
 * unanswered command), and reconnects by itself with jittered backoff (0.1 s … 10 s). Loop thread
 * only. The program ignores SIGPIPE. */

#include "broker/url.h"
#include "proto/json.h"

#include <event2/event.h>
#include <hiredis/hiredis.h>

struct redis;

/* `reply` is NULL when the connection went before the answer came: whether the command ran is
 * unknown. A Redis error arrives as a reply of type REDIS_REPLY_ERROR. Borrowed until the callback
 * returns. */
typedef void redis_reply_fn(const redisReply *reply, void *arg);

struct redis_handlers {
    void (*on_up)(struct redis *r, void *arg);           /* ready for commands */
    void (*on_down)(struct redis *r, const char *reason, void *arg); /* lost; an attempt failed */
    void (*on_push)(const redisReply *reply, void *arg); /* pub/sub messages (may be NULL) */
    void *arg;
};

struct redis_options {
    const char *client_name; /* NULL: none */
    double command_timeout;  /* seconds the oldest command may wait; 0: 30 */
};

/* Copies url and options. Starts connecting at once; on_up tells. */
struct redis *redis_open(struct event_base *base, const struct redis_url *url,
                         const struct redis_options *options,
                         const struct redis_handlers *handlers);
void redis_close(struct redis *r); /* pending callbacks get NULL */
/* At the end of the program: waits up to `seconds` until the server has read what is queued; then
 * as redis_close. Blocks. */
void redis_finish(struct redis *r, double seconds);
bool redis_is_up(const struct redis *r);
/* drops the connection, then as on loss */
void redis_reconnect(struct redis *r, const char *reason);
size_t redis_unsent(const struct redis *r);     /* bytes waiting in the output buffer */
int64_t redis_client_id(const struct redis *r); /* CLIENT ID of this connection, 0 if not up */

/* Queues one command; fn may be NULL. Returns 0, or UNAVAILABLE when not up (fn is not called
 * then). */
int redis_send(struct redis *r, redis_reply_fn *fn, void *arg, int argc, const struct slice *argv);
int redis_sendf(struct redis *r, redis_reply_fn *fn, void *arg, const char *fmt, ...);

/* A Lua script: run by EVALSHA, loaded on the first NOSCRIPT by itself. Define as static and zeroed
 * but for `body`. */
struct redis_script {
    const char *body;
    char sha[41];
};
int redis_run(struct redis *r, struct redis_script *script, redis_reply_fn *fn, void *arg,
              int n_keys, int argc, const struct slice *argv);
/* The same without a copy of the arguments, which the caller keeps until `fn` has been called. */
int redis_run_kept(struct redis *r, struct redis_script *script, redis_reply_fn *fn, void *arg,
                   int n_keys, int argc, const struct slice *argv);

#endif
