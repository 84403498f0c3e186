/* SPDX-License-Identifier: Apache-2.0 */
/* A worker without a pool, for `cworker recover`. The one idea: a task that has ended differs from
 * one that has not only by its stored result, and redelivery.c knows what to do with both; so the
 * messages of the dead are taken over, some at a time, and go that way. What would have to run goes
 * back.
 *
 * A kill -9 leaves what was taken over in our own in-flight list, as of any worker that dies: the
 * next recover does the same again. */
#include "worker/recovery.h"

#include "proto/base/mem.h"
#include "worker/command/command.h"
#include "worker/worker.h"

#include <event2/thread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE = 100,
    PATIENCE = 15, /* seconds without any progress */
    LEASE = 5,     /* seconds after which another recover may go on where this one was killed */
};

struct recovery {
    struct worker w;
    const struct adoption *lists;
    size_t n_lists, at; /* at: the list that is being emptied */
    bool asked;         /* an answer is under way */
    struct recovery_count *count;
    struct event *patience;
    int status;
};

static struct recovery *recovery_of(struct worker *w)
{
    return (struct recovery *)((char *)w - __builtin_offsetof(struct recovery, w));
}

static void end(struct recovery *v, int status, const char *why)
{
    if (why)
        fprintf(stderr, "cworker recover: %s\n", why);
    v->status = status;
    event_base_loopbreak(v->w.base);
}

/* --- one message ------------------------------------------------------------------------------ */

static void give_back(struct request *r)
{
    struct recovery_count *count = recovery_of(r->worker)->count;
    count->settled--;
    count->given_back++;
    flow_finish(r, OUTCOME_GIVEN_BACK);
}

/* Newest first, so that the oldest goes back last, and is the next to be taken, as it was. */
static void on_message(char *text, size_t size, const char *queue, int step, void *arg)
{
    struct recovery *v = arg;
    struct error err = {0};
    struct request *r = flow_arrive(&v->w, text, size, queue, step, &err);
    r->acks_late = true; /* what was acked early is not here */
    r->ignore_result = r->message.ignore_result == YES;
    r->message.redelivered = true;
    v->count->settled++; /* until it is found that it is not */
    if (err.code < 0 || !r->message.id || !redelivery_check(r))
        give_back(r);
}

/* --- list by list ----------------------------------------------------------------------------- */

static void on_adopted(int code, size_t n, void *arg)
{
    struct recovery *v = arg;
    v->asked = false;
    if (code == ERROR_LOST)
        end(v, 1, "a worker has come back meanwhile");
    else if (code != 0) /* it has been told why */
        end(v, EXIT_UNAVAILABLE, NULL);
    else if (n == 0 || v->lists[v->at].record)
        v->at++;
    worker_pump(&v->w);
}

static void adopt_next(struct recovery *v)
{
    int code = channel_adopt(v->w.channel, &v->lists[v->at], PAGE, on_adopted, v);
    v->asked = code == 0;
    if (code == ERROR_INVALID) { /* of a step that priority_steps does not name */
        v->at++;
        worker_pump(&v->w);
    }
}

static void expect_progress(struct recovery *v)
{
    struct timeval wait = {.tv_sec = PATIENCE};
    evtimer_add(v->patience, &wait);
}

static void pump(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct recovery *v = arg;
    struct worker *w = &v->w;
    if (w->phase == WORKER_OVER || v->asked || !w->connected || w->n_requests)
        return;
    expect_progress(v);
    if (v->at < v->n_lists)
        adopt_next(v);
    else if (channel_is_quiet(w->channel) && store_pending(w->store) == 0)
        end(v, 0, NULL);
}

/* --- open, close ------------------------------------------------------------------------------ */

static void on_up(void *arg)
{
    struct recovery *v = arg;
    v->w.connected = true;
    worker_read_clock(&v->w);
    worker_pump(&v->w);
}

static void on_down(const char *reason, void *arg)
{
    end(arg, EXIT_UNAVAILABLE, reason);
}

static void on_note(const char *text, bool warning, void *arg)
{
    (void)arg;
    if (warning)
        fprintf(stderr, "cworker recover: %s\n", text);
}

static void on_patience_out(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    end(arg, EXIT_UNAVAILABLE,
        "the result store does not answer, and without it nobody knows which tasks have ended. "
        "--result-backend disabled:// gives all of them back, to run again");
}

static const char **queues_of(const struct recovery *v)
{
    const char **names = mem_zalloc((v->n_lists + 1) * sizeof *names);
    size_t n = 0;
    for (size_t i = 0; i < v->n_lists; i++) {
        bool known = false;
        for (size_t k = 0; k < n; k++)
            known |= strcmp(names[k], v->lists[i].queue) == 0;
        if (!known)
            names[n++] = v->lists[i].queue;
    }
    return names;
}

static int open_parts(struct recovery *v)
{
    struct error err = {0};
    struct worker *w = &v->w;
    const struct settings *s = &w->options->settings;
    struct store_handlers store_handlers = {on_note, v};
    struct channel_handlers handlers = {.on_message = on_message, .on_lost = flow_delivery_lost,
                                        .on_up = on_up, .on_down = on_down,
                                        .on_note = on_note, .arg = v};
    w->store = store_open(w->base, s->result_backend, s, &store_handlers, &err);
    if (!w->store) {
        error_wrap(&err, "result_backend");
    } else if (store_keeps(w->store)) {
        const char **queues = queues_of(v);
        struct channel_options options = {.node = "cworker-recover", .queues = queues,
                                          .lease = LEASE, .passive = true};
        w->channel = worker_open_channel(w, &options, &handlers, &err);
        free(queues);
    }
    if (err.code)
        fprintf(stderr, "cworker recover: %s\n", err.text);
    return err.code ? EXIT_USAGE : 0;
}

static void give_up(struct delivery *d, void *arg)
{
    (void)arg;
    flow_give_up(request_of(d));
}

/* As worker_run closes them, and for the same reasons. */
static void close_parts(struct recovery *v)
{
    struct worker *w = &v->w;
    w->phase = WORKER_OVER;
    if (v->status && w->channel)
        channel_each_held(w->channel, give_up, NULL);
    store_close(w->store);
    channel_close(w->channel);
    flow_forget_unstored(w);
}

int recovery_settle(struct options *o, const struct adoption *lists, size_t n,
                    struct recovery_count *ret_count)
{
    struct recovery *v = mem_zalloc(sizeof *v);
    *v = (struct recovery){.lists = lists, .n_lists = n, .count = ret_count};
    v->w.options = o;
    worker_guess_clock(&v->w);
    evthread_use_pthreads();
    v->w.base = event_base_new();
    v->w.pump = event_new(v->w.base, -1, 0, pump, v);
    v->patience = evtimer_new(v->w.base, on_patience_out, v);
    v->w.must_run = give_back;
    v->status = open_parts(v);
    if (v->status == 0 && v->w.channel) {
        expect_progress(v);
        event_base_dispatch(v->w.base);
    }
    close_parts(v);
    int status = v->status;
    event_free(v->patience);
    event_free(v->w.pump);
    event_base_free(v->w.base);
    free(v);
    return status;
}
