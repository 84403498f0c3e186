/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/channel_private.h"

#include "proto/base/clock.h"
#include "proto/base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A channel's life: open, what it holds, close. The one idea: names and memory are made here once,
 * for as long as the channel lives; everything that talks to Redis is in the files beside it, and
 * starts from recover.c each time a connection is there.
 *
 * A kill -9 before channel_close leaves lease and registration; the lease lapses by itself and a
 * rescuer finds nothing to give back. After it nothing of ours is left. In the middle cannot be:
 * one script. */

static const double POLL_SECONDS = 1;
static const int64_t SAY_AGAIN = 60000000;

int64_t time_boot(void)
{
    return clock_us(CLOCK_BOOTTIME);
}

void note(struct channel *c, bool warning, const char *fmt, ...)
{
    if (!c->handlers.on_note)
        return;
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    c->handlers.on_note(text, warning, c->handlers.arg);
}

/* The place of a text among those said last, else that of the oldest of them. */
static struct said *said_find(struct channel *c, const char *text)
{
    struct said *oldest = c->said;
    for (struct said *s = c->said; s < c->said + CHANNEL_SAID; s++) {
        if (s->text && strcmp(s->text, text) == 0)
            return s;
        if (s->at < oldest->at)
            oldest = s;
    }
    free(oldest->text);
    *oldest = (struct said){.text = mem_dup(text)};
    return oldest;
}

/* What is wrong is met again with each try, of several commands in turn; the operator reads each
 * once a minute, while it lasts and when it comes back. */
void note_rarely(struct channel *c, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct said *said = said_find(c, text);
    int64_t now = time_boot();
    if (!said->at || now - said->at > SAY_AGAIN) {
        said->at = now;
        note(c, true, "%s", text);
    }
}

void note_error(struct channel *c, const char *what, const redisReply *reply)
{
    if (!reply || reply->type != REDIS_REPLY_ERROR)
        return;
    bool foreign = strncmp(reply->str, "WRONGTYPE", 9) == 0;
    note_rarely(c, "%.150s: %.200s%s", what, reply->str,
                foreign ? " (somebody else's key is in the way: rename or delete it)" : "");
}

void note_later(struct channel *c, const char *what)
{
    if (!c->met_later)
        note(c, true, "a later version of cworker uses this Redis: %s in its format are left to it",
             what);
    c->met_later = true;
}

int step_of(const struct channel *c, int priority)
{
    int step = 0;
    priority = priority < 0 ? 0 : priority > 9 ? 9 : priority;
    while (step + 1 < c->n_steps && c->steps[step + 1] <= priority)
        step++;
    return step;
}

char *queue_key(const struct channel *c, const char *queue, int step)
{
    if (c->steps[step] == 0)
        return mem_printf("%s%s", c->prefix, queue);
    return mem_printf("%s%s" KEY_SEPARATOR "%d", c->prefix, queue, c->steps[step]);
}

static int options_check(const struct channel_options *o, struct error *err)
{
    if (!o->node || !*o->node)
        return error_set(err, ERROR_INVALID, "a channel needs the name of its node");
    if (!o->queues || !o->queues[0])
        return error_set(err, ERROR_INVALID, "a channel needs at least one queue");
    for (int i = 0; o->queues[i]; i++) {
        if (!*o->queues[i])
            return error_set(err, ERROR_INVALID, "a queue's name must not be empty");
        for (int k = 0; k < i; k++)
            if (strcmp(o->queues[i], o->queues[k]) == 0)
                return error_set(err, ERROR_INVALID, "queue %.100s is named twice", o->queues[i]);
    }
    if (o->n_steps < 0 || o->n_steps > CHANNEL_MAX_STEPS)
        return error_set(err, ERROR_INVALID, "at most %d priority steps", CHANNEL_MAX_STEPS);
    for (int i = 0; i < o->n_steps; i++)
        if (o->steps[i] < 0 || o->steps[i] > 9 || (i == 0 ? o->steps[i] != 0
                                                          : o->steps[i] <= o->steps[i - 1]))
            return error_set(err, ERROR_INVALID, "priority_steps must rise from 0 to at most 9");
    if (o->lease < 0)
        return error_set(err, ERROR_INVALID, "the lease must not be negative");
    return 0;
}

static void options_take(struct channel *c, const struct channel_options *o)
{
    static const int usual_steps[] = {0, 3, 6, 9};
    c->node = mem_dup(o->node);
    c->prefix = mem_dup(o->key_prefix ? o->key_prefix : "");
    c->n_steps = o->n_steps ? o->n_steps : 4;
    memcpy(c->steps, o->n_steps ? o->steps : usual_steps, (size_t)c->n_steps * sizeof *c->steps);
    c->ordered = o->ordered || o->by_name;
    c->by_name = o->by_name;
    c->lease = o->lease > 0 ? o->lease : 30;
    c->unacked.hash = mem_printf("%s%s", c->prefix, o->unacked_key ? o->unacked_key : "unacked");
    c->unacked.index = mem_printf("%s%s", c->prefix,
                                  o->unacked_index_key ? o->unacked_index_key : "unacked_index");
    c->unacked.mutex = mem_printf("%s%s", c->prefix,
                                  o->unacked_mutex_key ? o->unacked_mutex_key : "unacked_mutex");
    c->unacked.timeout = o->visibility_timeout;
    c->unacked.mutex_expire = o->unacked_mutex_expire > 0 ? o->unacked_mutex_expire : 300;
    c->unacked.limit = o->unacked_restore_limit;
    c->wait_replicas = o->wait_replicas;
    c->max_message = o->max_message ? o->max_message : (size_t)512 << 20;
    c->poll_period = POLL_SECONDS;
    c->stopped = c->passive = o->passive;
    evutil_secure_rng_get_bytes(&c->nonce, sizeof c->nonce);
}

static void connection_up(struct redis *r, void *arg)
{
    (void)r;
    recover_start(arg);
}

static void connection_down(struct redis *r, const char *reason, void *arg)
{
    (void)r;
    struct channel *c = arg;
    c->ready = c->recovering = c->renewing = false;
    c->armed = c->tracking = c->probing = false;
    c->n_underway = 0;
    c->n_comparing = c->n_registering = 0;
    c->delayed_all_at = 0;
    for (int i = 0; i < c->n_queues; i++)
        c->queues[i]->promoting = false;
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane)) {
        lane->asking = lane->again = false;
        lane->waiting = 0;
        lane->n_underway = 0;
    }
    rescue_forget_all(c);
    if (c->handlers.on_down)
        c->handlers.on_down(reason, c->handlers.arg);
}

struct channel *channel_open(struct event_base *base, const struct redis_url *url,
                             const struct channel_options *options,
                             const struct channel_handlers *handlers, struct error *err)
{
    if (options_check(options, err))
        return NULL;
    struct channel *c = mem_zalloc(sizeof *c);
    c->base = base;
    c->handlers = *handlers;
    options_take(c, options);
    lease_identify(c);
    fetch_begin(c);
    for (int i = 0; options->queues[i]; i++)
        queue_append(c, options->queues[i]);
    c->poll_timer = evtimer_new(base, fetch_poll, c);
    c->note_timer = evtimer_new(base, watch_jitter_over, c);
    c->retry_timer = evtimer_new(base, settle_retry, c);
    c->delayed_timer = evtimer_new(base, delayed_look, c);
    STAILQ_INIT(&c->to_search);
    STAILQ_INIT(&c->hastened);
    c->hasten_timer = evtimer_new(base, hasten_again, c);
    c->rescue_timer = evtimer_new(base, rescue_due, c);
    c->restore_timer = evtimer_new(base, restore_look, c);
    c->lease_timer = evtimer_new(base, lease_tick, c);
    timer_arm(c->lease_timer, c->lease / 3);
    struct redis_handlers h = {.on_up = connection_up, .on_down = connection_down, .arg = c};
    struct redis_options o = {.client_name = c->node};
    c->redis = redis_open(base, url, &o, &h);
    watch_open(c, url, c->node);
    return c;
}

static void channel_leave(struct channel *c)
{
    struct argument_list list = {.bytes = BUF_INIT(1 << 24)};
    arguments_text(&list, c->lease_key);
    arguments_text(&list, c->registry_key);
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        arguments_add(&list, lane->inflight.at, lane->inflight.size);
    list.n_keys = list.n;
    arguments_text(&list, c->incarnation);
    const struct slice *words = arguments_seal(&list);
    /* By its text, since nobody will be there to hear that Redis does not know its sum. An old
     * Redis cannot read the text's first line, so the same follows without it: twice is as good as
     * once. */
    const char *body = script_leave.body;
    for (int plain = 0; plain < 2; plain++) {
        struct slice *argv = mem_alloc((size_t)(list.n + 3) * sizeof *argv);
        char n_keys[16];
        snprintf(n_keys, sizeof n_keys, "%d", list.n_keys);
        argv[0] = slice_of("EVAL");
        argv[1] = slice_of(plain ? body + strcspn(body, "\n") : body);
        argv[2] = slice_of(n_keys);
        memcpy(argv + 3, words, (size_t)list.n * sizeof *argv);
        redis_send(c->redis, NULL, NULL, list.n + 3, argv);
        free(argv);
    }
    arguments_done(&list);
}

static void channel_free(struct channel *c)
{
    struct event *timers[] = {c->poll_timer,   c->note_timer,   c->retry_timer,   c->delayed_timer,
                              c->hasten_timer, c->rescue_timer, c->restore_timer, c->lease_timer};
    for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
        event_free(timers[i]);
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane)) {
        free((char *)lane->key.at);
        free((char *)lane->inflight.at);
    }
    for (int i = 0; i < c->n_queues; i++) {
        free(c->queues[i]->name);
        free(c->queues[i]->exchange);
        free(c->queues[i]->exchange_type);
        free(c->queues[i]->routing_key);
        free(c->queues[i]);
    }
    pause_forget(c);
    char *strings[] = {c->node,         c->prefix,       c->incarnation,
                       c->description,  c->lease_key,    c->registry_key,
                       c->unacked.hash, c->unacked.index, c->unacked.mutex};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        free(strings[i]);
    for (int i = 0; i < CHANNEL_SAID; i++)
        free(c->said[i].text);
    free(c->queues);
    free(c->order);
    free(c);
}

void channel_close(struct channel *c)
{
    if (!c)
        return;
    c->stopped = true;
    c->handlers = (struct channel_handlers){0};
    redis_close(c->watch);
    channel_leave(c);
    c->ready = false; /* who hears of the end below may settle, but nothing can be sent any more */
    redis_finish(c->redis, 1);
    rescue_forget_all(c);
    hasten_forget_all(c);
    settle_abandon(c);
    channel_free(c);
}

void channel_hold(struct channel *c, struct delivery *d, struct slice text, const char *queue,
                  int step)
{
    struct lane *lane = c->arriving;
    if (!lane || lane->queue->name != queue || lane->step != step)
        lane = lane_find(c, queue, step);
    *d = (struct delivery){.text = text, .queue = queue, .step = step, .held = lane != NULL,
                           .lane = lane};
    if (!lane)
        return;
    d->next = lane->held;
    if (lane->held)
        lane->held->prev = d;
    lane->held = d;
    lane->n_held++;
}

void channel_each_held(struct channel *c, void (*fn)(struct delivery *d, void *arg), void *arg)
{
    for (struct lane *lane = lane_first(c); lane; lane = lane_after(lane))
        for (struct delivery *d = lane->held, *next; d; d = next) {
            next = d->next;
            fn(d, arg);
        }
}

void delivery_unlink(struct delivery *d)
{
    struct lane *lane = d->lane;
    if (!d->held)
        return;
    if (d->prev)
        d->prev->next = d->next;
    else
        lane->held = d->next;
    if (d->next)
        d->next->prev = d->prev;
    d->next = d->prev = NULL;
    d->held = false;
    lane->n_held--;
}

void channel_set_window(struct channel *c, size_t n_free)
{
    c->window = n_free;
    fetch_pump(c);
}

void channel_stop_fetching(struct channel *c)
{
    c->stopped = true;
}

bool channel_is_fetching(const struct channel *c)
{
    return c->n_underway > 0;
}

bool channel_is_quiet(const struct channel *c)
{
    return !c->n_underway && !c->settling && !c->recovering;
}

bool channel_owns(const struct channel *c)
{
    return c->ever_ready && time_boot() < c->lease_until;
}

struct redis *channel_redis(struct channel *c)
{
    return c->redis;
}
