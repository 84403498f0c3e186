/* SPDX-License-Identifier: Apache-2.0 */
/* Autoscaling. The one idea: what counts is whether tasks wait. A queue of tiny tasks that the pool
 * takes in its stride forks nothing; tasks that are still waiting after a moment get lanes of their
 * own, as many as wait, up to the maximum. Shrinking is left to a slow timer, so a burst every few
 * seconds does not fork and reap the same children again and again. */

#include "worker/autoscale.h"

#include "proto/base/mem.h"
#include "worker/log.h"
#include "worker/worker.h"

#include <errno.h>
#include <stdlib.h>

struct autoscale {
    struct autoscale_range range;
    struct event *patience; /* runs while something waits */
    struct event *shrink;
    int64_t keepalive_us, grown_at;
};

static const struct timeval PATIENCE = {0, 20000};
enum { KEEPALIVE_SECONDS = 30 };

bool autoscale_parse(const char *text, struct autoscale_range *ret)
{
    char *end;
    errno = 0;
    long a = strtol(text, &end, 10), b = 0;
    if (end == text || errno)
        return false;
    if (*end == ',') {
        const char *second = end + 1;
        b = strtol(second, &end, 10);
        if (end == second || errno)
            return false;
    }
    if (*end || a < 0 || b < 0 || a > 512 || b > 512 || (a == 0 && b == 0))
        return false;
    ret->max = (int)(a > b ? a : b);
    ret->min = (int)(a > b ? b : a);
    return true;
}

static int clamp(const struct autoscale *a, int n)
{
    return n > a->range.max ? a->range.max : n < a->range.min ? a->range.min : n;
}

static void resize(struct worker *w, int to)
{
    int from = pool_lanes(w->pool);
    if (to == from || !pool_resize(w->pool, to))
        return;
    if (to > from)
        w->autoscale->grown_at = monotonic_now();
    log_info("Scaling %s %d processes.", to > from ? "up" : "down", abs(to - from));
    worker_pump(w);
}

/* Tasks that run or wait to; those that a rate limit holds need no lane yet. */
static int wanted(const struct worker *w)
{
    return pool_running(w->pool) + (int)w->ready.n;
}

static void on_patience(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct worker *w = arg;
    const struct request *oldest = w->ready.first;
    if (w->phase != WORKER_RUNNING || !oldest)
        return;
    if (monotonic_now() - oldest->received_at < PATIENCE.tv_usec) {
        evtimer_add(w->autoscale->patience, &PATIENCE);
        return;
    }
    int to = clamp(w->autoscale, wanted(w));
    if (to > pool_lanes(w->pool))
        resize(w, to);
}

static void on_shrink(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct worker *w = arg;
    struct autoscale *a = w->autoscale;
    int to = clamp(a, wanted(w));
    if (w->phase == WORKER_RUNNING && to < pool_lanes(w->pool) &&
        monotonic_now() - a->grown_at >= a->keepalive_us)
        resize(w, to);
}

void autoscale_look(struct worker *w)
{
    struct autoscale *a = w->autoscale;
    if (!w->ready.first || pool_lanes(w->pool) >= a->range.max)
        return;
    if (pool_lanes(w->pool) == 0)
        resize(w, 1);
    else if (!evtimer_pending(a->patience, NULL))
        evtimer_add(a->patience, &PATIENCE);
}

void autoscale_set(struct worker *w, struct autoscale_range range)
{
    w->autoscale->range = range;
    resize(w, clamp(w->autoscale, pool_lanes(w->pool)));
}

struct autoscale_range autoscale_get(const struct worker *w)
{
    return w->autoscale ? w->autoscale->range : (struct autoscale_range){0};
}

void autoscale_open(struct worker *w, struct autoscale_range range)
{
    const char *text = getenv("AUTOSCALE_KEEPALIVE");
    double seconds = text ? strtod(text, NULL) : 0;
    struct autoscale *a = w->autoscale = mem_zalloc(sizeof *a);
    a->range = range;
    a->keepalive_us = (int64_t)((seconds > 0 ? seconds : KEEPALIVE_SECONDS) * 1e6);
    a->patience = evtimer_new(w->base, on_patience, w);
    a->shrink = event_new(w->base, -1, EV_PERSIST, on_shrink, w);
    struct timeval period = {a->keepalive_us / 1000000, a->keepalive_us % 1000000};
    event_add(a->shrink, &period);
}

void autoscale_close(struct worker *w)
{
    struct autoscale *a = w->autoscale;
    if (!a)
        return;
    event_free(a->patience);
    event_free(a->shrink);
    free(a);
}
