/* SPDX-License-Identifier: Apache-2.0 */
/* Limits that a fleet shares. The one idea: one script asks for both, a start and a slot, and takes
 * both or neither; its answer says how long it is no use to ask again.
 *
 * A kill -9 after a grant leaves the slot until it lapses (twice the lease, renewed while the task
 * is here) and the start as used; the message comes back and asks anew: under its own id it has its
 * slot. */

#include "worker/fleet_limit.h"

#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/registry.h"
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

struct limit {
    double per_second; /* 0: any */
    int64_t concurrency;
    const char *key; /* argument; NULL: one limit for all */
};

struct fleet_use {
    struct fleet_use *next, *prev;
    struct fleet *fleet;
    struct request *request; /* NULL: gone while an answer was under way */
    const struct limit *limit;
    char *name, *runs, *id;
    bool asking, granted;
    int64_t again_at; /* CLOCK_MONOTONIC: when to ask, or to renew */
};

struct fleet {
    struct worker *worker;
    struct limit *limits; /* by registry index */
    struct request_list waiting;
    struct fleet_use *uses;
    struct event *timer;
    int64_t timer_at; /* 0: not armed */
    int64_t said_at;  /* that a limit cannot be asked for; 0: not yet */
};

static const int64_t LONGEST_WAIT = 1000000, SLOT_WAIT = 250000;

/* KEYS next start, slots. ARGV µs between starts (0: any), slots (0: any), task id, ms that a slot
 * lasts, µs to wait for a slot. 0: go on; else µs to wait. */
static struct redis_script script_take = {
    .body = "#!lua flags=allow-oom\n"
            "local t = redis.call('TIME')\n"
            "local now = tonumber(t[1]) * 1000000 + tonumber(t[2])\n"
            "local apart, slots = tonumber(ARGV[1]), tonumber(ARGV[2])\n"
            "local most = apart + 86400000000\n" /* nothing further off is a worker's */
            "local lapses = string.format('%.0f', now + tonumber(ARGV[4]) * 1000)\n"
            "if slots > 0 then\n"
            "  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))\n"
            "  if redis.call('ZSCORE', KEYS[2], ARGV[3]) then\n"
            "    redis.call('ZADD', KEYS[2], lapses, ARGV[3])\n"
            "    return 0\n"
            "  end\n"
            "  if redis.call('ZCARD', KEYS[2]) >= slots then return tonumber(ARGV[5]) end\n"
            "end\n"
            "if apart > 0 then\n"
            "  local next = tonumber(redis.call('GET', KEYS[1]) or '0') or 0\n"
            "  if next > now and next <= now + most then return next - now end\n"
            "  redis.call('SET', KEYS[1], string.format('%.0f', now + apart),\n"
            "    'PX', string.format('%.0f', apart / 1000 + 1000))\n"
            "end\n"
            "if slots > 0 then\n"
            "  redis.call('ZADD', KEYS[2], lapses, ARGV[3])\n"
            "  redis.call('PEXPIRE', KEYS[2], ARGV[4])\n"
            "end\n"
            "return 0"};

/* KEYS slots. ARGV task id, ms. */
static struct redis_script script_renew = {
    .body = "#!lua flags=allow-oom\n"
            "local t = redis.call('TIME')\n"
            "local lapses = tonumber(t[1]) * 1000000 + tonumber(t[2]) + tonumber(ARGV[2]) * 1000\n"
            "redis.call('ZADD', KEYS[1], string.format('%.0f', lapses), ARGV[1])\n"
            "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"};

static int64_t slot_us(const struct fleet *f)
{
    return (int64_t)(2e6 * f->worker->options->settings.worker_lease);
}

/* --- the timer: whoever is due is asked for, or renewed --------------------------------------- */

static void arm(struct fleet *f, int64_t at)
{
    if (f->timer_at && f->timer_at <= at)
        return;
    int64_t wait = at - monotonic_now();
    struct timeval interval = {wait > 0 ? wait / 1000000 : 0, wait > 0 ? wait % 1000000 : 0};
    f->timer_at = at;
    evtimer_add(f->timer, &interval);
}

static void use_free(struct fleet_use *u)
{
    struct fleet *f = u->fleet;
    *(u->prev ? &u->prev->next : &f->uses) = u->next;
    if (u->next)
        u->next->prev = u->prev;
    free(u->name);
    free(u->runs);
    free(u->id);
    free(u);
}

static void release(const struct fleet_use *u)
{
    if (u->limit->concurrency > 0)
        redis_send(channel_redis(u->fleet->worker->channel), NULL, NULL, 3,
                   (struct slice[]){slice_of("ZREM"), slice_of(u->runs), slice_of(u->id)});
}

/* It is asked again each second, for each task that waits: said now and then. */
static void say_refused(const struct fleet_use *u, const char *why)
{
    if (log_again(&u->fleet->said_at))
        log_warning("Task %s[%s]: its fleet limit %s cannot be asked for, will be tried again: %s",
                    request_name(u->request), request_id(u->request), u->name, why);
}

static void answered(const redisReply *reply, void *arg)
{
    struct fleet_use *u = arg;
    bool heard = reply && reply->type == REDIS_REPLY_INTEGER;
    u->asking = false;
    if (!u->request) {
        if (heard && reply->integer == 0)
            release(u);
        use_free(u);
        return;
    }
    if (reply && reply->type == REDIS_REPLY_ERROR)
        say_refused(u, reply->str);
    if (heard && reply->integer == 0) {
        u->granted = true;
        u->again_at = monotonic_now() + slot_us(u->fleet) / 4;
        arm(u->fleet, u->again_at);
        if (u->request->state !=
            REQUEST_LIMITED) /* revoked or given back meanwhile: ends with it */
            return;
        request_list_remove(u->request);
        flow_allowed(u->request);
        return;
    }
    int64_t wait = heard && reply->integer < LONGEST_WAIT ? reply->integer : LONGEST_WAIT;
    u->again_at = monotonic_now() + wait;
    arm(u->fleet, u->again_at);
}

static void ask(struct fleet_use *u)
{
    struct fleet *f = u->fleet;
    char apart[24], slots[24], ms[24], wait[24];
    double us = u->limit->per_second > 0 ? 1e6 / u->limit->per_second : 0;
    snprintf(apart, sizeof apart, "%.0f", us);
    snprintf(slots, sizeof slots, "%lld", (long long)u->limit->concurrency);
    snprintf(ms, sizeof ms, "%lld", (long long)slot_us(f) / 1000);
    snprintf(wait, sizeof wait, "%lld", (long long)SLOT_WAIT);
    struct slice argv[] = {slice_of(u->name), slice_of(u->runs), slice_of(apart), slice_of(slots),
                           slice_of(u->id),   slice_of(ms),      slice_of(wait)};
    u->asking =
        redis_run(channel_redis(f->worker->channel), &script_take, answered, u, 2, 7, argv) == 0;
    if (!u->asking) {
        u->again_at = monotonic_now() + LONGEST_WAIT;
        arm(f, u->again_at);
    }
}

static void renew(struct fleet_use *u)
{
    char ms[24];
    snprintf(ms, sizeof ms, "%lld", (long long)slot_us(u->fleet) / 1000);
    if (u->limit->concurrency > 0)
        redis_run(channel_redis(u->fleet->worker->channel), &script_renew, NULL, NULL, 1, 3,
                  (struct slice[]){slice_of(u->runs), slice_of(u->id), slice_of(ms)});
    u->again_at = monotonic_now() + slot_us(u->fleet) / 4;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct fleet *f = arg;
    int64_t now = monotonic_now(), first = 0;
    f->timer_at = 0;
    for (struct fleet_use *u = f->uses; u; u = u->next) {
        if (u->asking)
            continue;
        if (u->again_at <= now && u->granted)
            renew(u);
        else if (u->again_at <= now)
            ask(u);
        if (!u->asking && (!first || u->again_at < first))
            first = u->again_at;
    }
    if (first)
        arm(f, first);
}

/* --- requests --------------------------------------------------------------------------------- */

static char *name_of(const struct request *r, const struct limit *limit)
{
    const char *prefix = r->worker->options->settings.global_keyprefix ?: "";
    const struct cw_def *def = registry[r->def].def;
    if (!limit->key)
        return mem_printf("%scworker.limit.%s", prefix, def->name);
    cJSON *body = json_parse(r->message.body.at, r->message.body.size, NULL);
    const cJSON *args = cJSON_IsArray(body) ? body->child : NULL;
    cJSON *value = args ? registry_argument(def, limit->key, args, args->next) : NULL;
    char *text = json_text(value);
    char *name = mem_printf("%scworker.limit.%s:%s", prefix, def->name, text);
    free(text);
    cJSON_Delete(value);
    cJSON_Delete(body);
    return name;
}

bool fleet_limit_holds(struct worker *w, struct request *r)
{
    struct fleet *f = w->fleet;
    const struct limit *limit = f ? &f->limits[r->def] : NULL;
    if (!limit || (limit->per_second <= 0 && limit->concurrency <= 0))
        return false;
    struct fleet_use *u = r->fleet_use = mem_zalloc(sizeof *u);
    char *name = name_of(r, limit);
    *u = (struct fleet_use){.next = f->uses, .fleet = f, .request = r, .limit = limit, .name = name,
                            .runs = mem_printf("%s.runs", name), .id = mem_dup(r->message.id)};
    if (u->next)
        u->next->prev = u;
    f->uses = u;
    request_move(r, REQUEST_LIMITED);
    request_list_insert(&f->waiting, r, NULL);
    ask(u);
    return true;
}

void fleet_limit_end(struct request *r)
{
    struct fleet_use *u = r->fleet_use;
    if (!u)
        return;
    r->fleet_use = NULL;
    u->request = NULL;
    if (u->granted)
        release(u);
    if (!u->asking)
        use_free(u);
}

void fleet_limit_each(struct worker *w, request_list_fn *fn, void *arg)
{
    if (w->fleet)
        fn(&w->fleet->waiting, arg);
}

/* --- open, close ------------------------------------------------------------------------------ */

static int limit_read(struct fleet *f, const cJSON *row, struct error *err)
{
    const cJSON *rate = json_get(row, "rate");
    struct limit limit = {.key = json_get_string(row, "key")};
    int def = registry_find(row->string);
    if (def < 0)
        return error_set(err, ERROR_NOT_FOUND, "task_fleet_limits: no task %.80s is loaded",
                         row->string);
    for (const cJSON *member = row->child; member; member = member->next)
        if (strcmp(member->string, "rate") != 0 && strcmp(member->string, "key") != 0 &&
            strcmp(member->string, "concurrency") != 0)
            return error_set(err, ERROR_INVALID,
                             "task_fleet_limits, %.80s: %.40s is none of rate, concurrency, key",
                             row->string, member->string);
    if (rate && (!cJSON_IsString(rate) || !settings_rate(rate->valuestring, &limit.per_second)))
        return error_set(err, ERROR_INVALID,
                         "task_fleet_limits, %.80s: rate is none: write 10/s, 10/m or 10/h",
                         row->string);
    const cJSON *concurrency = json_get(row, "concurrency");
    if (concurrency && (!json_as_int(concurrency, &limit.concurrency) || limit.concurrency < 1))
        return error_set(err, ERROR_INVALID,
                         "task_fleet_limits, %.80s: concurrency must be a whole number above 0",
                         row->string);
    f->limits[def] = limit;
    return 0;
}

int fleet_limit_open(struct worker *w, struct error *err)
{
    const cJSON *rows = w->options->settings.task_fleet_limits;
    if (!rows)
        return 0;
    if (!cJSON_IsObject(rows))
        return error_set(err, ERROR_INVALID,
                         "task_fleet_limits must be an object: {task: {rate, concurrency, key}}");
    struct fleet *f = w->fleet = mem_zalloc(sizeof *f);
    f->worker = w;
    f->limits = mem_zalloc((size_t)registry_size * sizeof *f->limits);
    f->timer = evtimer_new(w->base, on_timer, f);
    int code = 0;
    for (const cJSON *row = rows->child; row && code == 0; row = row->next)
        code = limit_read(f, row, err);
    return code;
}

void fleet_limit_close(struct worker *w)
{
    struct fleet *f = w->fleet;
    if (!f)
        return;
    while (f->uses)
        use_free(f->uses);
    event_free(f->timer);
    free(f->limits);
    free(f);
}
