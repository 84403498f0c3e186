/* SPDX-License-Identifier: Apache-2.0 */
/* Events out: written into a batch while the turn lasts, published as one `task.multi` at its end,
 * as Celery's buffered groups are. The one idea: nothing here is ever waited for. Batches queue as
 * parcels; parcels leave while the connection keeps up; what does not fit into the queue is dropped
 * and counted. Nothing is durable, by nature: a kill -9 loses the events of the last turn, never a
 * task. */

#include "worker/events_private.h"

#include "broker/fanout.h"
#include "broker/timer.h"
#include "broker/url.h"
#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "worker/log.h"
#include "worker/version.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    BATCH_EVENTS = 24,              /* Celery's buffer_limit */
    BATCH_MAX = 16 << 20,           /* bytes; each of one event's texts may have 1 MiB */
    BATCH_FULL = 1 << 20,           /* bytes after which no more is added */
    PARCELS_MAX = 16 << 20,         /* bytes that may wait for the connection */
    UNSENT_MAX = 1 << 20,           /* bytes in its output buffer */
    UNANSWERED_MAX = 512,           /* parcels that Redis has not taken note of yet */
};
static const double FAREWELL = 1;   /* seconds for worker-offline to leave */
static const double HEARTBEAT_FREQ_ON_REQUEST = 5; /* what Celery's `heartbeat` command reports */

struct parcel {
    struct parcel *next;
    char topic[40]; /* task.multi */
    const char *hostname; /* who says it */
    size_t size;
    int n_events;
    char body[];
};

struct events {
    struct worker *worker;
    struct redis *redis; /* NULL until somebody needs it */
    const char *exchange;
    char *publisher;
    struct buf batch;
    int n_batch;
    struct event *turn, *heart;
    struct parcel *first, *last;
    size_t waiting; /* bytes in the parcels */
    int n_unanswered;
    bool always;    /* -E */
    bool wanted;    /* enable_events */
    bool sent;      /* task_send_sent_event */
    bool overflowing;
    int64_t dropped_before; /* this overflow */
    struct events_count count;
};

/* --- parcels ---------------------------------------------------------------------------------- */

static void parcels_send(struct events *e);

static void on_answer(const redisReply *reply, void *arg)
{
    struct events *e = arg;
    e->n_unanswered--;
    if (e->first && reply) /* without one the connection is gone: on_up goes on */
        parcels_send(e);
}

static void overflow_over(struct events *e)
{
    if (!e->overflowing || e->first)
        return;
    e->overflowing = false;
    log_warning("Events: %lld dropped while the connection to Redis was slow or gone",
                (long long)(e->count.dropped - e->dropped_before));
}

static bool parcel_send(struct events *e, const struct parcel *p)
{
    struct buf headers = BUF_INIT(4096);
    buf_str(&headers, "{\"hostname\": ");
    json_print_string(p->hostname, strlen(p->hostname), &headers);
    buf_char(&headers, '}');
    struct envelope_spec spec = {.body = {p->body, p->size},
                                 .headers = headers.data,
                                 .exchange = e->exchange,
                                 .routing_key = p->topic,
                                 .delivery_mode = 1};
    char *channel = fanout_topic(e->worker->fanout, e->exchange, p->topic);
    char *envelope = envelope_encode(&spec);
    struct slice argv[] = {{"PUBLISH", 7}, slice_of(channel), slice_of(envelope)};
    e->n_unanswered++;
    bool sent = redis_send(e->redis, on_answer, e, 3, argv) == 0;
    e->n_unanswered -= !sent;
    free(channel);
    free(envelope);
    buf_done(&headers);
    return sent;
}

static void parcels_send(struct events *e)
{
    while (e->first && e->redis && redis_is_up(e->redis) && e->n_unanswered < UNANSWERED_MAX &&
           redis_unsent(e->redis) < UNSENT_MAX) {
        struct parcel *p = e->first;
        if (!parcel_send(e, p))
            return;
        e->first = p->next;
        e->waiting -= p->size;
        e->count.waiting -= p->n_events;
        e->count.sent += p->n_events;
        free(p);
    }
    overflow_over(e);
}

static void parcel_drop(struct events *e, int n_events)
{
    if (!e->overflowing) {
        e->overflowing = true;
        e->dropped_before = e->count.dropped;
        log_warning("Events: the connection to Redis is slow or gone and %d MiB of events wait for "
                    "it: further ones are dropped until it is back. Tasks are not affected",
                    PARCELS_MAX >> 20);
    }
    e->count.dropped += n_events;
}

static void parcel_add(struct events *e, struct parcel head, const struct buf *body, bool front)
{
    if (body->failed || e->waiting + body->size > PARCELS_MAX) {
        parcel_drop(e, head.n_events);
        return;
    }
    struct parcel *p = mem_alloc(sizeof *p + body->size);
    *p = head;
    p->next = NULL;
    p->size = body->size;
    memcpy(p->body, body->data, body->size);
    if (front || !e->first) {
        p->next = e->first;
        e->first = p;
    } else {
        e->last->next = p;
    }
    if (!p->next)
        e->last = p;
    e->waiting += p->size;
    e->count.waiting += head.n_events;
}

static void batch_close(struct events *e)
{
    if (e->n_batch == 0)
        return;
    buf_char(&e->batch, ']');
    parcel_add(e, (struct parcel){.topic = "task.multi", .hostname = e->worker->options->hostname,
                                  .n_events = e->n_batch},
               &e->batch, false);
    buf_reset(&e->batch);
    e->batch.failed = false;
    e->n_batch = 0;
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    batch_close(arg);
    parcels_send(arg);
}

/* --- one event -------------------------------------------------------------------------------- */

static struct event event_at(const struct events *e, const char *type, int64_t clock)
{
    const struct worker *w = e->worker;
    return (struct event){type, w->options->hostname, getpid(), clock, clock_us(CLOCK_REALTIME)};
}

static struct event event_now(struct events *e, const char *type)
{
    return event_at(e, type, lamport_forward(&e->worker->clock));
}

struct buf *events_batch_begin(struct events *e, const char *type, struct event *ret_event)
{
    *ret_event = event_now(e, type);
    if (e->n_batch++ == 0)
        event_active(e->turn, EV_TIMEOUT, 0);
    buf_str(&e->batch, e->n_batch == 1 ? "[" : ", ");
    event_begin(ret_event, &e->batch);
    return &e->batch;
}

void events_batch_end(struct events *e, const struct event *event)
{
    event_end(event, &e->batch);
    if (e->n_batch >= BATCH_EVENTS || e->batch.size >= BATCH_FULL || e->batch.failed) {
        batch_close(e);
        parcels_send(e);
    }
}

/* The topic is the type with points: worker.heartbeat. */
static void post(struct events *e, const struct event *event, const struct buf *body, bool front)
{
    struct parcel head = {.hostname = event->hostname, .n_events = 1};
    for (size_t i = 0; event->type[i] && i + 1 < sizeof head.topic; i++)
        head.topic[i] = event->type[i] == '-' ? '.' : event->type[i];
    parcel_add(e, head, body, front);
    parcels_send(e);
}

void events_post(struct events *e, const struct event *event, const struct buf *body)
{
    post(e, event, body, false);
}

bool events_of_tasks(const struct events *e)
{
    return e->always || e->wanted;
}

bool events_of_sends(const struct events *e)
{
    return e->sent;
}

const char *events_publisher(const struct events *e)
{
    return e->publisher;
}

/* --- of the worker ---------------------------------------------------------------------------- */

static void say_software(struct buf *out)
{
    event_text(out, "sw_ident", "cworker");
    event_text(out, "sw_ver", CWORKER_VERSION);
    event_text(out, "sw_sys", "Linux");
}

static void say_load(struct events *e, struct buf *out)
{
    const struct worker *w = e->worker;
    double load[3] = {0};
    int running = pool_running(w->pool), lanes = pool_lanes(w->pool);
    event_int(out, "active", running < lanes ? running : lanes);
    event_int(out, "processed", (int64_t)w->last_job);
    if (getloadavg(load, 3) != 3)
        load[0] = load[1] = load[2] = 0;
    buf_printf(out, ", \"loadavg\": [%.2f, %.2f, %.2f]", load[0], load[1], load[2]);
}

/* worker-online goes before what waits: who hears of a worker's task has heard of the worker. */
static void say_worker(struct events *e, const char *type, bool front)
{
    struct buf out = BUF_INIT(1 << 16);
    struct event event = event_now(e, type);
    event_begin(&event, &out);
    event_real(&out, "freq", e->worker->options->heartbeat);
    say_load(e, &out);
    say_software(&out);
    event_end(&event, &out);
    post(e, &event, &out, front);
    buf_done(&out);
}

static void on_heart(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct events *e = arg;
    if (e->redis && redis_is_up(e->redis)) /* an old heartbeat is worth nothing */
        say_worker(e, "worker-heartbeat", false);
}

/* --- the connection --------------------------------------------------------------------------- */

static bool beats(const struct events *e)
{
    return !e->worker->options->without_heartbeat;
}

static void on_up(struct redis *r, void *arg)
{
    struct events *e = arg;
    e->redis = r;
    if (beats(e))
        say_worker(e, "worker-online", true);
    parcels_send(e);
}

static void connect_redis(struct events *e)
{
    const struct settings *s = &e->worker->options->settings;
    struct redis_url url = {0};
    if (e->redis || settings_broker(s, &url, NULL) < 0)
        return;
    struct redis_options options = {.client_name = "cworker-events"};
    struct redis_handlers handlers = {.on_up = on_up, .arg = e};
    e->redis = redis_open(e->worker->base, &url, &options, &handlers);
    redis_url_done(&url);
}

void events_heartbeat_now(struct worker *w)
{
    struct events *e = w->events;
    struct buf out = BUF_INIT(1 << 16);
    struct event event = event_now(e, "worker-heartbeat");
    connect_redis(e);
    event_begin(&event, &out);
    event_real(&out, "freq", HEARTBEAT_FREQ_ON_REQUEST);
    say_software(&out);
    event_end(&event, &out);
    post(e, &event, &out, false);
    buf_done(&out);
}

void events_say(struct worker *w, const char *type, const cJSON *fields)
{
    events_say_at(w, type, lamport_forward(&w->clock), fields);
}

void events_say_at(struct worker *w, const char *type, int64_t clock, const cJSON *fields)
{
    struct events *e = w->events;
    struct buf out = BUF_INIT(BATCH_MAX);
    struct event event = event_at(e, type, clock);
    connect_redis(e);
    event_begin(&event, &out);
    for (const cJSON *field = fields ? fields->child : NULL; field; field = field->next) {
        buf_str(&out, ", ");
        json_print_string(field->string, strlen(field->string), &out);
        buf_str(&out, ": ");
        json_print(field, &out);
    }
    event_end(&event, &out);
    post(e, &event, &out, false);
    buf_done(&out);
}

/* --- open, switch, close ---------------------------------------------------------------------- */

static void task_events_set(struct events *e)
{
    e->worker->task_events = e->always || e->wanted || e->sent;
    if (e->worker->task_events)
        connect_redis(e);
}

bool events_enable(struct worker *w, bool on)
{
    struct events *e = w->events;
    if (e->always || e->wanted == on)
        return false;
    e->wanted = on;
    task_events_set(e);
    return true;
}

struct events_count events_count(const struct worker *w)
{
    return w->events->count;
}

void events_open(struct worker *w)
{
    const struct options *o = w->options;
    struct events *e = mem_zalloc(sizeof *e);
    const char *at = strchr(o->hostname, '@');
    w->events = e;
    e->worker = w;
    e->exchange = o->settings.event_exchange;
    e->publisher = mem_printf("gen%d@%s", (int)getpid(), at + 1);
    e->batch = BUF_INIT(BATCH_MAX);
    e->turn = event_new(w->base, -1, 0, on_turn, e);
    e->heart = event_new(w->base, -1, EV_PERSIST, on_heart, e);
    e->always = o->settings.worker_send_task_events;
    e->sent = o->settings.task_send_sent_event;
    task_events_set(e);
    if (!beats(e))
        return;
    struct timeval beat = timer_seconds(o->heartbeat);
    connect_redis(e);
    event_add(e->heart, &beat);
}

void events_close(struct worker *w)
{
    struct events *e = w->events;
    if (!e)
        return;
    w->task_events = false;
    batch_close(e);
    if (e->redis && redis_is_up(e->redis)) {
        parcels_send(e);
        if (beats(e))
            say_worker(e, "worker-offline", false);
        redis_finish(e->redis, FAREWELL);
    } else if (e->redis) {
        redis_close(e->redis);
    }
    while (e->first) {
        struct parcel *p = e->first;
        e->first = p->next;
        free(p);
    }
    if (e->count.dropped)
        log_warning("Events: %lld sent, %lld dropped", (long long)e->count.sent,
                    (long long)e->count.dropped);
    event_free(e->turn);
    event_free(e->heart);
    buf_done(&e->batch);
    free(e->publisher);
    free(e);
    w->events = NULL;
}
