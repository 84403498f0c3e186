/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits of this worker. The one idea: with a bucket of one token all there is to know is the
 * instant from which the next start is allowed; one timer for each task type waits for it. */

#include "worker/rate.h"

#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/registry.h"
#include "worker/worker.h"

#include <math.h>
#include <stdlib.h>

static const double LONGEST_US = 1e15; /* between two starts: 30 years */

struct rate {
    struct worker *worker;
    double per_second;   /* 0: no limit */
    int64_t next_us;     /* CLOCK_MONOTONIC: not before this */
    struct event *timer; /* made with the first limit */
    struct request_list waiting;
};

static void timer_set(struct rate *rate)
{
    int64_t wait = rate->next_us - monotonic_now();
    if (wait < 0)
        wait = 0;
    struct timeval interval = {wait / 1000000, wait % 1000000};
    evtimer_add(rate->timer, &interval);
}

static void take_token(struct rate *rate)
{
    rate->next_us = monotonic_now() + (int64_t)fmin(1e6 / rate->per_second, LONGEST_US);
}

static void on_token(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct rate *rate = arg;
    struct request *r;
    while ((r = rate->waiting.first)) {
        if (rate->per_second > 0 && monotonic_now() < rate->next_us)
            break;
        request_list_remove(r);
        if (rate->per_second > 0)
            take_token(rate);
        flow_ready(r, false);
    }
    if (rate->waiting.first)
        timer_set(rate);
}

static void limit(struct worker *w, int def, double per_second)
{
    if (!w->rates)
        w->rates = mem_zalloc((size_t)registry_size * sizeof *w->rates);
    struct rate *rate = &w->rates[def];
    rate->worker = w;
    rate->per_second = per_second;
    rate->next_us = 0;
    if (!rate->timer)
        rate->timer = evtimer_new(w->base, on_token, rate);
    if (rate->waiting.first)
        timer_set(rate);
}

void rate_open(struct worker *w)
{
    const char *usual = w->options->settings.task_default_rate_limit;
    for (int i = 0; i < registry_size; i++) {
        const char *own = registry[i].def->rate_limit;
        double per_second = 0;
        const char *text = own ? own : usual;
        if (!settings_rate(text, &per_second))
            log_warning("task %s: its rate_limit \"%s\" is no rate: not limited",
                        registry[i].def->name, text);
        if (per_second > 0)
            limit(w, i, per_second);
        registry[i].rate_limit = mem_dup(text);
    }
}

void rate_close(struct worker *w)
{
    for (int i = 0; w->rates && i < registry_size; i++)
        if (w->rates[i].timer)
            event_free(w->rates[i].timer);
    for (int i = 0; i < registry_size; i++) {
        free(registry[i].rate_limit);
        registry[i].rate_limit = NULL;
    }
    free(w->rates);
}

int rate_set(struct worker *w, const char *task, const char *text, struct error *err)
{
    double per_second;
    int def = registry_find(task);
    if (!settings_rate(text, &per_second))
        return error_set(err, ERROR_INVALID, "Invalid rate limit string: '%.40s'", text);
    if (def < 0)
        return error_set(err, ERROR_NOT_FOUND, "unknown task");
    if (per_second > 0 || w->rates)
        limit(w, def, per_second);
    free(registry[def].rate_limit);
    registry[def].rate_limit = mem_dup(text);
    return 0;
}

bool rate_holds(struct worker *w, struct request *r)
{
    struct rate *rate = w->rates ? &w->rates[r->def] : NULL;
    if (!rate || rate->per_second <= 0 || w->options->settings.worker_disable_rate_limits)
        return false;
    if (!rate->waiting.first && monotonic_now() >= rate->next_us) {
        take_token(rate);
        return false;
    }
    if (r->state != REQUEST_LIMITED)
        request_move(r, REQUEST_LIMITED);
    request_list_insert(&rate->waiting, r, NULL);
    if (rate->waiting.n == 1)
        timer_set(rate);
    return true;
}

void rate_each(struct worker *w, request_list_fn *fn, void *arg)
{
    for (int i = 0; w->rates && i < registry_size; i++)
        fn(&w->rates[i].waiting, arg);
}
