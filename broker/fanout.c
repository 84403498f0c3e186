/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/fanout.h"

#include "broker/scripts.h"

#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Fanout exchanges over PUB/SUB, as Kombu does them. The one idea: what is listened to is a list
 * made before the connection is there, so each connection simply subscribes to all of it again.
 *
 * A kill -9 leaves our members in the binding sets. They name queues that are never written (a
 * fanout goes by PUBLISH), and Kombu's deadline on the set lets its sweep drop them. A reply is one
 * script. */

#define SEPARATOR "\x06\x16"

enum {
    CARE_SECONDS = 60,            /* between two renewals of bindings, and two PINGs */
    BINDING_MILLISECONDS = 3600000, /* Kombu's least deadline */
    REPLY_MILLISECONDS = 60000,
};

struct subscription {
    struct subscription *next;
    char *exchange, *routing_key, *queue, *topic;
    fanout_fn *fn;
    void *arg;
};

struct fanout {
    struct redis *receive, *commands;
    char *prefix, *fanout_prefix;
    bool plain;
    struct subscription *subscriptions;
    int n_unheard; /* subscriptions without an answer yet */
    struct event *care_timer;
    void (*on_listening)(const char *problem, void *arg);
    void *arg;
};

/* Who looks what is wrong with a full Redis is answered: what this writes is little, and expires. */

/* KEYS binding set, deadlines. ARGV member, exchange, ms from now. */
static struct redis_script script_bind = {
    .body = SCRIPT_ALLOW_OOM
            "redis.call('SADD', KEYS[1], ARGV[1])\n"
            "local now = redis.call('TIME')\n"
            "local due = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3]\n"
            "redis.call('ZADD', KEYS[2], 'GT', string.format('%.0f', due), ARGV[2])"};

/* KEYS binding set. ARGV prefix, routing key, text, ms. How many queues took it. */
static struct redis_script script_reply = {
    .body = SCRIPT_ALLOW_OOM
            "local sep, n = '\\6\\22', 0\n"
            "for _, member in ipairs(redis.call('SMEMBERS', KEYS[1])) do\n"
            "  local a, b = string.find(member, sep, 1, true)\n"
            "  local c, d = string.find(member, sep, (b or 0) + 1, true)\n"
            "  if d and string.sub(member, 1, a - 1) == ARGV[2] then\n"
            "    local key = ARGV[1] .. string.sub(member, d + 1)\n"
            "    redis.call('LPUSH', key, ARGV[3])\n"
            "    if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, ARGV[4]) end\n"
            "    n = n + 1\n"
            "  end\n"
            "end\n"
            "return n"};

/* --- names ------------------------------------------------------------------------------------ */

static char *prefix_of(const struct fanout_options *o, int db)
{
    const char *text = o->fanout_prefix;
    if (!text || strcmp(text, "true") == 0)
        text = "/{db}.";
    if (strcmp(text, "false") == 0)
        text = "";
    const char *mark = strstr(text, "{db}");
    if (!mark)
        return mem_dup(text);
    return mem_printf("%.*s%d%s", (int)(mark - text), text, db, mark + 4);
}

char *fanout_topic(const struct fanout *f, const char *exchange, const char *routing_key)
{
    bool keyed = routing_key && *routing_key && !f->plain;
    return mem_printf("%s%s%s%s%s", f->prefix, f->fanout_prefix, exchange, keyed ? "/" : "",
                      keyed ? routing_key : "");
}

static char *binding_key(const struct fanout *f, const char *exchange)
{
    return mem_printf("%s_kombu.binding.%s", f->prefix, exchange);
}

/* --- bindings --------------------------------------------------------------------------------- */

static int queue_bind(struct fanout *f, const char *exchange, const char *routing_key,
                      const char *queue)
{
    char *key = binding_key(f, exchange);
    char *deadlines = mem_printf("%s_kombu.binding_deadlines", f->prefix);
    char *member = mem_printf("%s" SEPARATOR SEPARATOR "%s", routing_key, queue);
    char wait[24];
    snprintf(wait, sizeof wait, "%d", BINDING_MILLISECONDS);
    int code = redis_run(f->commands, &script_bind, NULL, NULL, 2, 5,
                         (struct slice[]){slice_of(key), slice_of(deadlines), slice_of(member),
                                          slice_of(exchange), slice_of(wait)});
    free(key);
    free(deadlines);
    free(member);
    return code;
}

static void queue_unbind(struct fanout *f, const char *exchange, const char *routing_key,
                         const char *queue)
{
    char *key = binding_key(f, exchange);
    char *member = mem_printf("%s" SEPARATOR SEPARATOR "%s", routing_key, queue);
    redis_send(f->commands, NULL, NULL, 3,
               (struct slice[]){slice_of("SREM"), slice_of(key), slice_of(member)});
    free(key);
    free(member);
}

int fanout_bind_reply(struct fanout *f, const char *exchange, const char *routing_key,
                      const char *queue)
{
    return queue_bind(f, exchange, routing_key, queue);
}

void fanout_unbind_reply(struct fanout *f, const char *exchange, const char *routing_key,
                         const char *queue)
{
    char *key = mem_printf("%s%s", f->prefix, queue);
    queue_unbind(f, exchange, routing_key, queue);
    redis_send(f->commands, NULL, NULL, 2, (struct slice[]){slice_of("DEL"), slice_of(key)});
    free(key);
}

/* Until the lent connection is there it is tried again each second. */
static void care(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct fanout *f = arg;
    bool all = true;
    for (const struct subscription *s = f->subscriptions; s; s = s->next)
        if (s->queue && queue_bind(f, s->exchange, s->routing_key, s->queue) < 0)
            all = false;
    if (redis_is_up(f->receive))
        redis_sendf(f->receive, NULL, NULL, "PING");
    event_add(f->care_timer, &(struct timeval){all ? CARE_SECONDS : 1, 0});
}

/* --- receiving -------------------------------------------------------------------------------- */

static void subscribed(const redisReply *reply, void *arg)
{
    struct fanout *f = arg;
    if (!reply || --f->n_unheard > 0 || !f->on_listening)
        return;
    f->on_listening(reply->type == REDIS_REPLY_ERROR ? reply->str : NULL, f->arg);
}

static void subscribe(struct fanout *f, const struct subscription *s)
{
    redis_send(f->receive, subscribed, f, 2,
               (struct slice[]){slice_of("PSUBSCRIBE"), slice_of(s->topic)});
}

static void receive_up(struct redis *r, void *arg)
{
    (void)r;
    struct fanout *f = arg;
    f->n_unheard = 0;
    for (const struct subscription *s = f->subscriptions; s; s = s->next, f->n_unheard++)
        subscribe(f, s);
}

static void receive_push(const redisReply *reply, void *arg)
{
    struct fanout *f = arg;
    if (reply->elements != 4 || reply->element[1]->type != REDIS_REPLY_STRING ||
        reply->element[3]->type != REDIS_REPLY_STRING)
        return;
    const char *topic = reply->element[1]->str;
    for (const struct subscription *s = f->subscriptions, *next; s; s = next) {
        next = s->next;
        if (strcmp(s->topic, topic) == 0)
            s->fn((struct slice){reply->element[3]->str, reply->element[3]->len}, s->arg);
    }
}

void fanout_listen(struct fanout *f, const char *exchange, const char *routing_key,
                   const char *queue, fanout_fn *fn, void *arg)
{
    struct subscription *s = mem_zalloc(sizeof *s);
    s->exchange = mem_dup(exchange);
    s->routing_key = mem_dup(routing_key ? routing_key : "");
    s->queue = mem_dup(queue);
    s->topic = fanout_topic(f, exchange, routing_key);
    for (char *at = s->topic; *at; at++)
        if (*at == '#')
            *at = '*';
    s->fn = fn;
    s->arg = arg;
    s->next = f->subscriptions;
    f->subscriptions = s;
    f->n_unheard++;
    if (redis_is_up(f->receive))
        subscribe(f, s);
    event_add(f->care_timer, &(struct timeval){0, 0});
}

bool fanout_is_listening(const struct fanout *f)
{
    return redis_is_up(f->receive) && f->n_unheard == 0;
}

/* --- publishing ------------------------------------------------------------------------------- */

int fanout_publish(struct fanout *f, const char *exchange, const char *routing_key,
                   struct slice text)
{
    char *topic = fanout_topic(f, exchange, routing_key);
    int code = redis_send(f->commands, NULL, NULL, 3,
                          (struct slice[]){slice_of("PUBLISH"), slice_of(topic), text});
    free(topic);
    return code;
}

int fanout_reply(struct fanout *f, const char *exchange, const char *routing_key, struct slice text)
{
    char *key = binding_key(f, exchange);
    char wait[24];
    snprintf(wait, sizeof wait, "%d", REPLY_MILLISECONDS);
    int code = redis_run(f->commands, &script_reply, NULL, NULL, 1, 5,
                         (struct slice[]){slice_of(key), slice_of(f->prefix), slice_of(routing_key),
                                          text, slice_of(wait)});
    free(key);
    return code;
}

/* --- open and close --------------------------------------------------------------------------- */

struct fanout *fanout_open(struct event_base *base, const struct redis_url *url,
                           const struct fanout_options *options)
{
    struct fanout *f = mem_zalloc(sizeof *f);
    f->commands = options->commands;
    f->prefix = mem_dup(options->key_prefix ? options->key_prefix : "");
    f->fanout_prefix = prefix_of(options, url->db);
    f->plain = options->plain;
    f->on_listening = options->on_listening;
    f->arg = options->arg;
    f->care_timer = evtimer_new(base, care, f);
    struct redis_handlers h = {.on_up = receive_up, .on_push = receive_push, .arg = f};
    struct redis_options o = {.client_name = options->client_name};
    f->receive = redis_open(base, url, &o, &h);
    return f;
}

void fanout_close(struct fanout *f)
{
    if (!f)
        return;
    redis_close(f->receive);
    for (struct subscription *s = f->subscriptions, *next; s; s = next) {
        next = s->next;
        if (s->queue)
            queue_unbind(f, s->exchange, s->routing_key, s->queue);
        free(s->exchange);
        free(s->routing_key);
        free(s->queue);
        free(s->topic);
        free(s);
    }
    event_free(f->care_timer);
    free(f->prefix);
    free(f->fanout_prefix);
    free(f);
}
