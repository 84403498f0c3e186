/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

#include "worker/autoscale.h"
#include "worker/events.h"
#include "worker/log.h"

#include <stdlib.h>
#include <string.h>

/* Commands about the worker itself: its pool, its queues, its events, its end. */

/* --- pool ------------------------------------------------------------------------------------- */

/* Celery's pool counts up in the one case and subtracts in the other. */
static cJSON *not_a_count(const cJSON *given, int sign)
{
    if (sign > 0 || cJSON_IsNumber(given))
        return call_raise("TypeError", "'%s' object cannot be interpreted as an integer",
                          call_type(given));
    return call_raise("TypeError", "unsupported operand type(s) for -: '%s' and 'int'",
                      call_type(given));
}

static cJSON *pool_change(struct call *call, const char *name, int sign)
{
    struct worker *w = call->worker;
    const cJSON *given = json_get(call->arguments, "n");
    int64_t n = 1;
    if (w->autoscale)
        return call_nok("pool_%s is not supported with autoscale. Adjust autoscale range instead.",
                        name);
    if (cJSON_IsBool(given))
        n = cJSON_IsTrue(given);
    else if (given && !json_as_int(given, &n))
        return not_a_count(given, sign);
    if (n < 0)
        n = 0; /* as Celery's range(n) */
    int now = pool_lanes(w->pool), most = pool_most(w->pool);
    if (sign < 0 && n >= now)
        return call_raise("ValueError", "Can't shrink pool. At least one process has to stay!");
    if (sign > 0 && n > most - now)
        return call_raise("ValueError", "the pool can have at most %d processes", most);
    if (!pool_resize(w->pool, now + sign * (int)n))
        return call_raise("NotImplementedError", "a solo pool does not %s", name);
    worker_pump(w);
    return call_ok("pool will %s", name);
}

cJSON *call_pool_grow(struct call *call)
{
    return pool_change(call, "grow", 1);
}

cJSON *call_pool_shrink(struct call *call)
{
    return pool_change(call, "shrink", -1);
}

cJSON *call_pool_restart(struct call *call)
{
    if (!call->worker->options->settings.worker_pool_restarts)
        return call_raise("ValueError", "Pool restarts not enabled");
    pool_restart(call->worker->pool);
    return call_ok("reload started");
}

cJSON *call_autoscale(struct call *call)
{
    struct worker *w = call->worker;
    struct autoscale_range range = autoscale_get(w);
    int64_t max = range.max, min = range.min;
    if (!w->autoscale)
        return call_raise("ValueError", "Autoscale not enabled");
    json_as_int(call_argument(call, "max"), &max);
    json_as_int(call_argument(call, "min"), &min);
    if (max < 1 || min < 0 || min > max || max > pool_most(w->pool))
        return call_raise("ValueError", "autoscale needs 0 <= min <= max <= %d",
                          pool_most(w->pool));
    autoscale_set(w, (struct autoscale_range){(int)max, (int)min});
    return call_ok("autoscale now max=%d min=%d", (int)max, (int)min);
}

/* No reply, as in Celery: the worker may be gone before it is read. */
cJSON *call_shutdown(struct call *call)
{
    const char *message = json_get_string(call->arguments, "msg");
    log_warning("%s", message ? message : "Got shutdown from remote");
    worker_stop(call->worker);
    call->silent = true;
    return NULL;
}

/* --- queues ----------------------------------------------------------------------------------- */

static const char *queue_of(const struct call *call)
{
    const char *queue = json_get_string(call->arguments, "queue");
    return queue && *queue ? queue : NULL;
}

static cJSON *no_queue(void)
{
    return call_raise("TypeError", "queue must be the name of a queue");
}

static const char *text_of(const struct call *call, const char *name)
{
    const char *text = json_get_string(call->arguments, name);
    return text && *text ? text : NULL;
}

cJSON *call_add_consumer(struct call *call)
{
    const char *queue = queue_of(call);
    struct queue_binding binding = {text_of(call, "exchange"), text_of(call, "exchange_type"),
                                    text_of(call, "routing_key")};
    if (binding.type && strcmp(binding.type, "direct") != 0 && strcmp(binding.type, "topic") != 0)
        return call_raise("ValueError", "exchange_type must be direct or topic");
    if (!queue || channel_add_bound_queue(call->worker->channel, queue, &binding) < 0)
        return no_queue();
    log_info("Started consuming from %s", queue);
    return call_ok("add consumer %s", queue);
}

cJSON *call_cancel_consumer(struct call *call)
{
    const char *queue = queue_of(call);
    if (!queue || channel_cancel_queue(call->worker->channel, queue) < 0)
        return no_queue();
    log_info("Canceling queue %s", queue);
    return call_ok("no longer consuming from %s", queue);
}

static void on_paused(int code, void *arg)
{
    struct call *call = arg;
    const char *what = call->command->name, *queue = queue_of(call);
    call_answer(call, code < 0 ? call_raise("ConnectionError", "the broker did not answer")
                               : call_ok("queue %s %sd", queue, what));
}

static cJSON *pause_or_resume(struct call *call, bool pause)
{
    const char *queue = queue_of(call);
    struct channel *channel = call->worker->channel;
    if (!queue)
        return no_queue();
    int code = pause ? channel_pause(channel, queue, on_paused, call)
                     : channel_resume(channel, queue, on_paused, call);
    if (code < 0)
        return call_raise("ConnectionError", "the broker is not there");
    call->later = true;
    return NULL;
}

cJSON *call_pause(struct call *call)
{
    return pause_or_resume(call, true);
}

cJSON *call_resume(struct call *call)
{
    return pause_or_resume(call, false);
}

/* --- events ----------------------------------------------------------------------------------- */

cJSON *call_enable_events(struct call *call)
{
    if (!events_enable(call->worker, true))
        return call_ok("task events already enabled");
    log_info("Events of group {task} enabled by remote.");
    return call_ok("task events enabled");
}

cJSON *call_disable_events(struct call *call)
{
    if (!events_enable(call->worker, false))
        return call_ok("task events already disabled");
    log_info("Events of group {task} disabled by remote.");
    return call_ok("task events disabled");
}

cJSON *call_heartbeat(struct call *call)
{
    log_debug("Heartbeat requested by remote.");
    events_heartbeat_now(call->worker);
    return NULL;
}
