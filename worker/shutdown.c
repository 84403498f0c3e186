/* SPDX-License-Identifier: Apache-2.0 */
/* How the worker ends: Celery's signals, moved through the phases of worker.h, which only go
 * forward.
 *
 *   TERM, `shutdown`, first INT   warm: what runs may finish, however long that takes
 *   QUIT, second INT              soft, where worker_soft_shutdown_timeout is set: as warm, but not for
 *                                 longer than that; then cold: what runs is ended and goes back too
 *   TERM with REMAP_SIGTERM=SIGQUIT   as QUIT
 *
 * A cold shutdown ends, whatever is away: after 5 s results that no store takes are given up and
 * their messages go back, after 5 more what Redis does not take is left to the lease.
 *
 * In every phase what only waits goes back at once, marked as redelivered, so a kill -9 in the
 * midst of it leaves no more than what runs to be rescued. */

#include "broker/timer.h"
#include "worker/log.h"
#include "worker/worker.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Seconds that a cold shutdown gives the result store, and then Redis. */
enum { PATIENCE = 5 };

static void enter(struct worker *w, enum worker_phase phase)
{
    w->phase = phase;
    channel_stop_fetching(w->channel);
    worker_pump(w);
}

void worker_stop(struct worker *w)
{
    if (w->phase != WORKER_RUNNING)
        return;
    log_warning("worker: Warm shutdown (MainProcess)");
    enter(w, WORKER_WARM);
}

static void out_of_patience(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    const struct worker *w = arg;
    log_error("%s: what is held comes back when the lease has lapsed",
              channel_is_quiet(w->channel) ? "The result store does not answer"
                                           : "Redis does not answer");
    event_base_loopbreak(w->base);
}

static void store_is_late(evutil_socket_t fd, short what, void *arg);

static void be_patient(struct worker *w)
{
    event_base_once(w->base, -1, EV_TIMEOUT, store_is_late, w, &(struct timeval){PATIENCE, 0});
}

/* With -P solo a task may still run: nobody can end it, and it is waited for. */
static void store_is_late(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct worker *w = arg;
    if (pool_running(w->pool) > 0) {
        be_patient(w);
        return;
    }
    flow_give_back_unstored(w);
    event_base_once(w->base, -1, EV_TIMEOUT, out_of_patience, w, &(struct timeval){PATIENCE, 0});
    worker_pump(w);
}

void worker_stop_cold(struct worker *w)
{
    if (w->phase >= WORKER_COLD)
        return;
    log_warning("worker: Cold shutdown (MainProcess)");
    enter(w, WORKER_COLD);
    be_patient(w);
}

static void soft_is_over(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    worker_stop_cold(arg);
}

static void quit(struct worker *w)
{
    const struct settings *s = &w->options->settings;
    double seconds = s->worker_soft_shutdown_timeout;
    bool busy = pool_running(w->pool) > 0 || s->worker_enable_soft_shutdown_on_idle;
    if (w->phase >= WORKER_SOFT || seconds <= 0 || !busy) {
        worker_stop_cold(w);
        return;
    }
    log_warning("Initiating Soft Shutdown, terminating in %g seconds", seconds);
    struct timeval wait = timer_seconds(seconds);
    event_base_once(w->base, -1, EV_TIMEOUT, soft_is_over, w, &wait);
    enter(w, WORKER_SOFT);
}

/* A soft shutdown ends with its last task, unless it was asked to wait when idle as well. */
bool worker_may_end(const struct worker *w)
{
    return w->phase != WORKER_SOFT || !w->options->settings.worker_enable_soft_shutdown_on_idle;
}

static bool term_is_quit(void)
{
    const char *name = getenv("REMAP_SIGTERM");
    return name && strcmp(name, "SIGQUIT") == 0;
}

static void interrupt(struct worker *w)
{
    w->exit_status = 1; /* Celery's for Ctrl-C */
    if (w->phase != WORKER_RUNNING) {
        quit(w);
        return;
    }
    log_warning("worker: Hitting Ctrl+C again will initiate cold shutdown, terminating all running "
                "tasks!");
    worker_stop(w);
}

static void reopen_log(const struct worker *w)
{
    if (log_reopen() < 0)
        log_error("--logfile: %s: %s. The file that is open is still used", w->options->logfile,
                  strerror(errno));
}

static void on_signal(evutil_socket_t number, short what, void *arg)
{
    (void)what;
    struct worker *w = arg;
    if (number == SIGHUP)
        reopen_log(w);
    else if (number == SIGINT)
        interrupt(w);
    else if (number == SIGQUIT || term_is_quit())
        quit(w);
    else
        worker_stop(w);
}

static const int signals_heard[WORKER_SIGNALS] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};

static void mask_signals(int how)
{
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < WORKER_SIGNALS; i++)
        sigaddset(&set, signals_heard[i]);
    sigprocmask(how, &set, NULL);
}

void worker_hold_signals(void)
{
    mask_signals(SIG_BLOCK);
}

void worker_hear_signals(struct worker *w, struct event *events[WORKER_SIGNALS])
{
    for (int i = 0; i < WORKER_SIGNALS; i++) {
        events[i] = evsignal_new(w->base, signals_heard[i], on_signal, w);
        event_add(events[i], NULL);
    }
    mask_signals(SIG_UNBLOCK);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is as a full disk; so does Python */
}
