/* SPDX-License-Identifier: Apache-2.0 */
/* Opens the parts in order, turns the loop, and knows how it ends. All work at the end of a turn is
 * in one place: pump() dispatches, sizes the prefetch window, and sees whether a shutdown is
 * complete. */

#include "worker/worker.h"

#include "broker/url.h"
#include "proto/base/mem.h"
#include "worker/control/control.h"
#include "worker/events.h"
#include "worker/fleet_limit.h"
#include "worker/log.h"
#include "worker/rate.h"
#include "worker/registry.h"
#include "worker/revoke.h"
#include "worker/unique.h"

#include <event2/thread.h>
#include <stdlib.h>
#include <string.h>

enum {
    BATCH_PER_LANE = 128,       /* window for tiny tasks: what a child holds and as much again */
    MAX_UNSETTLED = 20000,      /* outcomes that may wait for a store that is down */
    MAX_BYTES = 256 << 20,      /* of messages in our hands */
    CLOCK_INTERVAL = 30,        /* seconds between two looks at Redis' clock */
    CLOCK_DOUBTFUL_US = 1000000,
};

int64_t worker_now(const struct worker *w)
{
    return clock_us(CLOCK_BOOTTIME) + w->clock_offset;
}

void worker_pump(struct worker *w)
{
    event_active(w->pump, EV_TIMEOUT, 0);
}

/* --- the end of a turn ------------------------------------------------------------------------ */

/* Prefetch as Celery counts it, concurrency times multiplier; where the tasks at hand are so short
 * that the pool takes them in batches, enough to keep those full. */
static size_t window(const struct worker *w)
{
    int most = autoscale_get(w).max;
    size_t lanes = (size_t)(most > pool_lanes(w->pool) ? most : pool_lanes(w->pool));
    int64_t multiplier = w->options->settings.worker_prefetch_multiplier;
    size_t limit = multiplier > 0 ? lanes * (size_t)multiplier : MAX_UNSETTLED;
    if ((size_t)pool_room(w->pool) > lanes && limit < lanes * BATCH_PER_LANE)
        limit = lanes * BATCH_PER_LANE;
    if (w->n_requests >= MAX_UNSETTLED || w->n_waiting >= limit || w->n_bytes >= MAX_BYTES ||
        store_is_full(w->store))
        return 0;
    return limit - w->n_waiting;
}

static void stop_when_done(struct worker *w)
{
    if (w->n_requests == 0 && channel_is_quiet(w->channel) && worker_may_end(w) &&
        (store_pending(w->store) == 0 || w->unstored))
        event_base_loopbreak(w->base);
}

static void pump(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct worker *w = arg;
    if (w->phase == WORKER_OVER)
        return;
    /* What is still arriving is the youngest: given back after the others, it would overtake
     * them. */
    bool stopping = w->phase != WORKER_RUNNING && w->phase != WORKER_COLD;
    if (stopping && channel_is_fetching(w->channel))
        return;
    if (w->phase != WORKER_RUNNING)
        flow_give_back_ready(w);
    if (w->phase == WORKER_COLD) /* last, so that what ran is the first to be taken again */
        pool_shut(w->pool, true);
    if (w->phase != WORKER_COLD)
        flow_dispatch(w);
    if (w->phase == WORKER_RUNNING && w->autoscale)
        autoscale_look(w);
    if (w->phase == WORKER_RUNNING)
        channel_set_window(w->channel, window(w));
    else
        stop_when_done(w);
}

/* --- now and then ----------------------------------------------------------------------------- */

/* Whoever reads "ready." may send commands; without PUB/SUB it comes all the same, a little
 * later. */
static void greet(struct worker *w, bool late)
{
    bool deaf = w->control && !fanout_is_listening(w->fanout);
    if (w->greeted || !w->connected || (deaf && !late))
        return;
    log_info("%s ready.", w->options->hostname);
    w->greeted = true;
}

/* While stopping nothing may hang on an event that does not come (the channel falling quiet,
 * say). */
static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct worker *w = arg;
    greet(w, true);
    if (!channel_owns(w->channel))
        pool_recall(w->pool);
    revoked_save(w, false);
    if (w->phase != WORKER_RUNNING)
        worker_pump(w);
}

/* --- Redis' clock ----------------------------------------------------------------------------- */

/* Between two looks a clock counts that nobody sets: what expires or is retried just after a jump of
 * ours must not do so an hour early or late. */

struct clock_reading {
    struct worker *worker;
    int64_t asked;
};

static void on_clock(const redisReply *reply, void *arg)
{
    struct clock_reading *reading = arg;
    struct worker *w = reading->worker;
    int64_t now = clock_us(CLOCK_BOOTTIME);
    /* From an answer that was long under way it is not known when Redis looked. */
    bool usable = !w->clock_known || now - reading->asked < CLOCK_DOUBTFUL_US;
    if (usable && reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2) {
        int64_t theirs = strtoll(reply->element[0]->str, NULL, 10) * 1000000 +
                         strtoll(reply->element[1]->str, NULL, 10);
        w->clock_offset = theirs - (reading->asked + now) / 2;
        w->clock_known = true;
    }
    free(reading);
}

void worker_guess_clock(struct worker *w)
{
    w->clock_offset = clock_us(CLOCK_REALTIME) - clock_us(CLOCK_BOOTTIME);
}

void worker_read_clock(struct worker *w)
{
    struct clock_reading *reading = mem_alloc(sizeof *reading);
    *reading = (struct clock_reading){w, clock_us(CLOCK_BOOTTIME)};
    if (redis_sendf(channel_redis(w->channel), on_clock, reading, "TIME") < 0)
        free(reading);
}

static void on_clock_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    worker_read_clock(arg);
}

/* --- what the channel and the store say ------------------------------------------------------- */

static void on_listening(const char *problem, void *arg)
{
    if (problem)
        log_error("Remote control and gossip hear nothing: %s", problem);
    greet(arg, false);
}

static void on_up(void *arg)
{
    struct worker *w = arg;
    char *url = url_mask(w->options->settings.broker_url);
    log_info("Connected to %s", url);
    free(url);
    worker_read_clock(w);
    revoked_read_fleet(w);
    if (w->control)
        control_up(w->control);
    w->connected = true;
    w->n_failures = 0;
    greet(w, false);
    worker_pump(w);
}

/* The setting by which this failure is the last one, or NULL: nothing can be acked without a
 * broker, and what is held comes back with the lease. */
static const char *gives_up(struct worker *w)
{
    const struct settings *s = &w->options->settings;
    int64_t most = s->broker_connection_max_retries;
    if (w->connected ? !s->broker_connection_retry : !s->broker_connection_retry_on_startup)
        return w->connected ? "broker_connection_retry" : "broker_connection_retry_on_startup";
    return most > 0 && ++w->n_failures > most ? "broker_connection_max_retries" : NULL;
}

static void on_down(const char *reason, void *arg)
{
    struct worker *w = arg;
    char *url = url_mask(w->options->settings.broker_url);
    if (w->greeted)
        log_warning("consumer: Connection to broker %s lost: %s. Trying to re-establish the "
                    "connection...",
                    url, reason);
    else
        log_error("consumer: Cannot connect to %s: %s. Trying again...", url, reason);
    free(url);
    const char *setting = gives_up(w);
    if (setting) {
        log_line(LOG_CRITICAL, "No connection to the broker: giving up, as %s says", setting);
        w->exit_status = 1;
        event_base_loopbreak(w->base);
    }
}

static void on_note(const char *text, bool warning, void *arg)
{
    (void)arg;
    log_line(warning ? LOG_WARNING : LOG_INFO, "%s", text);
}

static void on_store_note(const char *text, bool warning, void *arg)
{
    struct worker *w = arg;
    on_note(text, warning, w);
    if (warning && w->store)
        redelivery_keep_ends(w);
}

/* --- open, run, close ------------------------------------------------------------------------- */

static void open_fanout(struct worker *w, const struct redis_url *url)
{
    const struct settings *s = &w->options->settings;
    struct fanout_options options = {
        .key_prefix = s->global_keyprefix,
        .fanout_prefix = s->fanout_prefix,
        .plain = !s->fanout_patterns,
        .client_name = w->options->hostname,
        .commands = channel_redis(w->channel),
        .on_listening = on_listening,
        .arg = w,
    };
    w->fanout = fanout_open(w->base, url, &options);
}

static void on_lease(int64_t until, void *worker)
{
    struct worker *w = worker;
    pool_begin_until(w->pool, until);
    if (w->ready.first) /* it may have waited for this */
        worker_pump(w);
}

struct channel *worker_open_channel(struct worker *w, struct channel_options *options,
                                    const struct channel_handlers *handlers, struct error *err)
{
    const struct settings *s = &w->options->settings;
    struct redis_url url = {0};
    if (settings_broker(s, &url, err) < 0) {
        error_wrap(err, "broker_url");
        return NULL;
    }
    if (!options->node)
        options->node = w->options->hostname;
    options->key_prefix = s->global_keyprefix;
    if (options->lease <= 0)
        options->lease = s->worker_lease;
    options->wait_replicas = (int)s->broker_wait_replicas;
    for (char **step = s->priority_steps; *step && options->n_steps < CHANNEL_MAX_STEPS; step++)
        options->steps[options->n_steps++] = (int)strtol(*step, NULL, 10);
    struct channel *c = channel_open(w->base, &url, options, handlers, err);
    redis_url_done(&url);
    return c;
}

static int open_channel(struct worker *w, struct error *err)
{
    const struct settings *s = &w->options->settings;
    struct channel_options options = {
        .queues = (const char *const *)w->options->queues,
        .visibility_timeout = s->visibility_timeout,
        .unacked_restore_limit = (size_t)s->unacked_restore_limit,
        .unacked_mutex_expire = s->unacked_mutex_expire,
        .unacked_key = s->unacked_key,
        .unacked_index_key = s->unacked_index_key,
        .unacked_mutex_key = s->unacked_mutex_key,
        .ordered = strcmp(s->queue_order_strategy, "priority") == 0,
        .by_name = strcmp(s->queue_order_strategy, "sorted") == 0,
    };
    struct channel_handlers handlers = {flow_message, flow_delivery_lost, on_lease, on_up,
                                        on_down,      on_note,            w};
    struct redis_url url = {0};
    w->channel = worker_open_channel(w, &options, &handlers, err);
    if (w->channel && settings_broker(s, &url, err) == 0) {
        open_fanout(w, &url);
        redis_url_done(&url);
    }
    return err->code;
}

static int open_parts(struct worker *w, struct zygote *zygote, const struct pool_options *pool)
{
    struct error err = {0};
    const struct settings *s = &w->options->settings;
    struct pool_handlers pool_handlers = flow_pool_handlers;
    struct store_handlers store_handlers = {on_store_note, w};
    pool_handlers.arg = w;
    w->pool = pool_open(w->base, zygote, pool, &pool_handlers);
    if (revoke_open(w, &err) == 0) {
        w->store = store_open(w->base, s->result_backend, s, &store_handlers, &err);
        if (!w->store)
            error_wrap(&err, "result_backend");
        else
            open_channel(w, &err);
    }
    if (!err.code)
        fleet_limit_open(w, &err);
    if (err.code)
        log_line(LOG_CRITICAL, "%s", err.text);
    rate_open(w);
    if (w->options->autoscale.max)
        autoscale_open(w, w->options->autoscale);
    return err.code;
}

static struct event *every(struct worker *w, int seconds, event_callback_fn fn)
{
    struct event *timer = event_new(w->base, -1, EV_PERSIST, fn, w);
    event_add(timer, &(struct timeval){seconds, 0});
    return timer;
}

int worker_run(struct options *options, struct zygote *zygote, const struct pool_options *pool)
{
    struct worker *w = mem_zalloc(sizeof *w);
    struct event *signals[WORKER_SIGNALS] = {0};
    w->options = options;
    worker_guess_clock(w);
    evthread_use_pthreads();
    w->base = event_base_new();
    w->pump = event_new(w->base, -1, 0, pump, w);
    w->totals = mem_zalloc(((size_t)registry_size + 1) * sizeof *w->totals);
    worker_hear_signals(w, signals);
    if (open_parts(w, zygote, pool) == 0) {
        events_open(w);
        if (options->settings.worker_enable_remote_control)
            w->control = control_open(w);
        struct event *clock = every(w, CLOCK_INTERVAL, on_clock_timer);
        struct event *tick = every(w, 1, on_tick);
        event_base_dispatch(w->base);
        event_free(clock);
        event_free(tick);
    } else {
        w->exit_status = 1;
    }
    int status = w->exit_status;
    w->phase = WORKER_OVER;
    events_close(w);
    control_close(w->control);
    w->control = NULL;
    fanout_close(w->fanout);
    if (w->channel)
        channel_stop_fetching(w->channel);
    if (w->store) /* before the channel: what becomes durable now is acked yet */
        store_close(w->store);
    if (w->channel)
        channel_close(w->channel);
    flow_forget_unstored(w);
    autoscale_close(w);
    rate_close(w);
    fleet_limit_close(w);
    pool_shut(w->pool, false);
    pool_close(w->pool);
    for (int i = 0; i < WORKER_SIGNALS; i++)
        if (signals[i])
            event_free(signals[i]);
    revoke_close(w);
    unique_close(w);
    event_free(w->pump);
    event_base_free(w->base);
    free(w->totals);
    free(w);
    return status;
}
