/* SPDX-License-Identifier: Apache-2.0 */
/* Leases of unique work. The one idea: taking and renewing are the same script, "mine, if it is
 * nobody else's", so it may be asked as often as it takes to be heard.
 *
 * A kill -9 after a lease is taken leaves it until it expires; the task comes back under the same
 * id and finds the lease to be its own. One between store and ack does the same. The ack removes
 * it. */

#include "worker/unique.h"

#include "broker/timer.h"
#include "proto/base/buf.h"
#include "proto/base/mem.h"
#include "proto/digest.h"
#include "worker/log.h"
#include "worker/registry.h"
#include "worker/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double LONGEST_PERIOD = 1, SHARE = 3;

struct unique {
    struct unique *next, *prev;
    struct request *request;
    char *key;
    double seconds;
    bool linked, asked; /* asked: an answer is under way */
    int64_t asked_at;
};

struct unique_leases {
    struct worker *worker;
    struct unique *first;
    struct event *timer;
    double period; /* of the timer, while it is pending */
    int64_t said_at; /* that a lease cannot be taken; 0: not yet */
};

/* KEYS lease. ARGV task id, ms. Who holds it now. */
static struct redis_script script_take = {
    .body = "#!lua flags=allow-oom\n"
            "local holder = redis.call('GET', KEYS[1])\n"
            "if holder and holder ~= ARGV[1] then return holder end\n"
            "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
            "return ARGV[1]"};

/* --- which calls are equal -------------------------------------------------------------------- */

static void add_argument(cJSON *out, const struct cw_def *def, const char *name, const cJSON *args,
                         const cJSON *kwargs)
{
    cJSON_AddItemToArray(out, registry_argument(def, name, args, kwargs));
}

static cJSON *key_values(const struct cw_def *def, const cJSON *args, const cJSON *kwargs)
{
    cJSON *out = cJSON_CreateArray();
    cJSON_AddItemToArray(out, cJSON_CreateString(def->name));
    if (def->unique_key) {
        for (const char *const *name = def->unique_key; *name; name++)
            add_argument(out, def, *name, args, kwargs);
    } else if (def->args && !(def->flags & CW_ANY_ARGS)) {
        for (const struct cw_arg *arg = def->args; arg->name; arg++)
            add_argument(out, def, arg->name, args, kwargs);
    } else {
        cJSON_AddItemToArray(out, cJSON_Duplicate(args, true));
        cJSON_AddItemToArray(out, cJSON_Duplicate(kwargs, true));
    }
    json_sort_members(out);
    return out;
}

static char *key_of(const struct request *r, const struct cw_def *def)
{
    cJSON *body = json_parse(r->message.body.at, r->message.body.size, NULL);
    const cJSON *args = cJSON_IsArray(body) ? body->child : NULL;
    if (!args || !args->next) { /* its child will say what is wrong with it */
        cJSON_Delete(body);
        return NULL;
    }
    cJSON *values = key_values(def, args, args->next);
    char *text = json_text(values), hex[65];
    digest_sha256(slice_of(text), hex);
    free(text);
    cJSON_Delete(values);
    cJSON_Delete(body);
    return mem_printf("cworker.unique.%s", hex);
}

void unique_read(struct request *r)
{
    const struct cw_def *def = registry[r->def].def;
    if (def->unique_for <= 0)
        return;
    char *key = key_of(r, def);
    if (!key)
        return;
    r->unique = mem_zalloc(sizeof *r->unique);
    *r->unique = (struct unique){.request = r, .key = key, .seconds = def->unique_for};
}

/* --- taking and renewing ---------------------------------------------------------------------- */

static double period_of(const struct unique *u)
{
    return u->seconds / SHARE < LONGEST_PERIOD ? u->seconds / SHARE : LONGEST_PERIOD;
}

/* Never puts off what is due already: a stream of new leases must not keep the old ones waiting. */
static void arm(struct unique_leases *leases, double period)
{
    if (evtimer_pending(leases->timer, NULL) && leases->period <= period)
        return;
    leases->period = period;
    timer_arm(leases->timer, period);
}

static void unlink_lease(struct unique *u)
{
    if (!u->linked)
        return;
    struct unique_leases *leases = u->request->worker->leases;
    *(u->prev ? &u->prev->next : &leases->first) = u->next;
    if (u->next)
        u->next->prev = u->prev;
    u->linked = false;
}

static int ask(struct unique *u, redis_reply_fn *fn, void *arg)
{
    struct worker *w = u->request->worker;
    const char *prefix = w->options->settings.global_keyprefix;
    char *key = mem_printf("%s%s", prefix ? prefix : "", u->key), ms[24];
    snprintf(ms, sizeof ms, "%lld", (long long)(u->seconds * 1e3) + 1);
    struct slice argv[] = {slice_of(key), slice_of(u->request->message.id), slice_of(ms)};
    int code = redis_run(channel_redis(w->channel), &script_take, fn, arg, 1, 3, argv);
    free(key);
    u->asked_at = monotonic_now();
    return code;
}

static void set_aside(struct request *r, const char *holder)
{
    log_info("Task %s[%s] set aside: an equal task, %s, waits or runs (unique_for)",
             request_name(r), request_id(r), holder);
    char *why = mem_printf("an equal task waits or runs: %s", holder);
    request_raise(r, exception_text("celery.exceptions", "TaskRevokedError", why));
    free(why);
    flow_finish(r, OUTCOME_NOT_UNIQUE);
}

/* It is tried again each second, for each task that waits: said now and then. */
static void say_refused(const struct unique *u, const char *why)
{
    const struct request *r = u->request;
    if (log_again(&r->worker->leases->said_at))
        log_warning("Task %s[%s]: its lease %s cannot be taken, will be tried again: %s",
                    request_name(r), request_id(r), u->key, why);
}

static void on_taken(const redisReply *reply, void *arg)
{
    struct unique *u = arg;
    struct request *r = u->request;
    struct worker *w = r->worker;
    u->asked = false;
    if (r->lost) {
        w->n_waiting--;
        flow_done(r);
    } else if (!reply || reply->type != REDIS_REPLY_STRING) {
        if (reply && reply->type == REDIS_REPLY_ERROR)
            say_refused(u, reply->str);
    } else if (strcmp(reply->str, r->message.id) != 0) {
        set_aside(r, reply->str);
    } else {
        flow_leased(r);
    }
    worker_pump(w);
}

static void renew(struct unique *u)
{
    if (u->request->state == REQUEST_LEASING) {
        if (!u->asked)
            u->asked = ask(u, on_taken, u) == 0;
    } else if ((double)(monotonic_now() - u->asked_at) >= u->seconds * 1e6 / SHARE / 2) {
        ask(u, NULL, NULL);
    }
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct unique_leases *leases = arg;
    double period = LONGEST_PERIOD;
    for (struct unique *u = leases->first; u; u = u->next) {
        renew(u);
        period = period_of(u) < period ? period_of(u) : period;
    }
    if (leases->first)
        arm(leases, period);
}

static struct unique_leases *leases_of(struct worker *w)
{
    if (!w->leases) {
        w->leases = mem_zalloc(sizeof *w->leases);
        w->leases->worker = w;
        w->leases->timer = evtimer_new(w->base, on_timer, w->leases);
    }
    return w->leases;
}

bool unique_asks(struct request *r)
{
    struct unique *u = r->unique;
    if (!u)
        return false;
    struct unique_leases *leases = leases_of(r->worker);
    u->next = leases->first;
    if (u->next)
        u->next->prev = u;
    leases->first = u;
    u->linked = true;
    request_move(r, REQUEST_LEASING);
    u->asked = ask(u, on_taken, u) == 0;
    arm(leases, period_of(u));
    return true;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* How long the lease has to last from now, in µs; 0: it ends. */
static int64_t time_to_keep(const struct request *r)
{
    int64_t least = (int64_t)(r->unique->seconds * 1e6);
    switch (outcome_rows[r->outcome].dispose) {
    case DISPOSE_BACK:
    case DISPOSE_FRONT:
        return least;
    case DISPOSE_RETRY:
    case DISPOSE_DELAY:
        return least + flow_due(r) - worker_now(r->worker);
    default:
        return 0;
    }
}

struct effect unique_end(struct request *r)
{
    unlink_lease(r->unique);
    return (struct effect){.kind = EFFECT_LEASE, .text = slice_of(r->unique->key),
                           .id = r->message.id, .due = time_to_keep(r)};
}

void unique_free(struct request *r)
{
    if (!r->unique)
        return;
    unlink_lease(r->unique);
    free(r->unique->key);
    free(r->unique);
}

void unique_close(struct worker *w)
{
    if (!w->leases)
        return;
    event_free(w->leases->timer);
    free(w->leases);
}
