/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BROKER_FANOUT_H
#define BROKER_FANOUT_H

/* Kombu's fanout exchanges over PUB/SUB (remote control, events) and the direct queues that replies
 * go to. Receiving has a connection of its own, since one that subscribes can do nothing else;
 * publishing uses the connection that the owner lends.
 *
 *     {prefix}/{db}.{exchange}[/{routing key}]   topic; the routing key only with fanout_patterns
 *     {prefix}_kombu.binding.{exchange}          set of "key SEP pattern SEP queue", SEP = \x06\x16
 *     {prefix}_kombu.binding_deadlines           zset exchange → ms, when Kombu 5.7 may drop it
 *
 * A message published while nobody listens is gone: nothing here is durable. */

#include "broker/redis.h"

struct fanout;

struct fanout_options {
    const char *key_prefix;    /* global_keyprefix or NULL */
    const char *fanout_prefix; /* NULL: "/{db}.", {db} being the database's number; "false": none */
    bool plain;                /* fanout_patterns off: routing keys are no part of topics */
    const char *client_name;   /* of the receiving connection */
    struct redis *commands;    /* borrowed, for all but receiving; outlives the fanout */
    /* May be NULL. Every subscription has been answered; `problem`: Redis refused one. */
    void (*on_listening)(const char *problem, void *arg);
    void *arg;
};

struct fanout *fanout_open(struct event_base *base, const struct redis_url *url,
                           const struct fanout_options *options);
void fanout_close(struct fanout *f); /* takes the bindings back */

/* Called with each message of a subscription; the text is borrowed. */
typedef void fanout_fn(struct slice text, void *arg);

/* Receives what is published to `exchange` with a matching routing key ("" or a pattern with * and
 * #), now and after each reconnect. `queue` is the name to register as bound, NULL for none. */
void fanout_listen(struct fanout *f, const char *exchange, const char *routing_key,
                   const char *queue, fanout_fn *fn, void *arg);
bool fanout_is_listening(const struct fanout *f); /* every subscription is known to Redis */

/* The channel of PUBLISH, for those with a connection of their own. Caller frees. */
char *fanout_topic(const struct fanout *f, const char *exchange, const char *routing_key);

/* Both return 0, or UNAVAILABLE when there is no connection: the message is dropped. */
int fanout_publish(struct fanout *f, const char *exchange, const char *routing_key,
                   struct slice text);
/* To the queues bound to a direct exchange by exactly this key, in one step with the look at the
 * bindings: nobody bound, nothing left behind. A list made by it expires when nobody reads it. */
int fanout_reply(struct fanout *f, const char *exchange, const char *routing_key,
                 struct slice text);

/* The reply queue of a client of our own: binds it, and takes the binding and the list away. */
int fanout_bind_reply(struct fanout *f, const char *exchange, const char *routing_key,
                      const char *queue);
void fanout_unbind_reply(struct fanout *f, const char *exchange, const char *routing_key,
                         const char *queue);

#endif
