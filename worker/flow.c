/* SPDX-License-Identifier: Apache-2.0 */
/* The way of a task, from top to bottom:
 *
 *   message ─▶ admit ─▶ dispatch ─▶ (child) ─▶ outcome ─▶ store ─▶ settle ─▶ done
 *
 * Durable steps, and what a kill -9 around each leaves:
 *   1. the message is in our in-flight list (the channel's LMOVE): comes back with our lease;
 *   2. the task runs: the same, it runs again elsewhere;
 *   3. its result is durable (store_put's callback): the same; a second SUCCESS is not written twice;
 *   4. the message is removed and what follows is published, in one atomic step: nothing is left over.
 * The run is in run.c, steps 3 and 4 in finish.c. With early acks step 4 comes before 2, as its
 * user asked: a crash then loses the task. */

#include "proto/base/mem.h"
#include "proto/repr.h"
#include "proto/time.h"
#include "worker/continuation.h"
#include "worker/events.h"
#include "worker/fleet_limit.h"
#include "worker/log.h"
#include "worker/native.h"
#include "worker/rate.h"
#include "worker/registry.h"
#include "worker/revoked.h"
#include "worker/unique.h"
#include "worker/worker.h"

#include <stdlib.h>

/* An ETA this close is now: promotion and we read Redis' clock a moment apart. */
enum { ETA_SLACK_US = 10000 };

/* --- the ready list --------------------------------------------------------------------------- */

void flow_each_waiting(struct worker *w, request_list_fn *fn, void *arg)
{
    fleet_limit_each(w, fn, arg);
    rate_each(w, fn, arg);
    fn(&w->ready, arg);
}

void flow_ready(struct request *r, bool front)
{
    struct worker *w = r->worker;
    request_move(r, REQUEST_READY);
    request_list_insert(&w->ready, r, front ? w->ready.first : NULL);
    worker_pump(w);
}

/* --- message: what came, and whether it can be run -------------------------------------------- */

static void unreadable(struct request *r, const struct error *err)
{
    bool disallowed = err->code == ERROR_UNSUPPORTED;
    log_task(LOG_WARNING, request_name(r), request_id(r),
             "Unreadable message from %s set aside in the dead-letter list: %s", r->delivery.queue,
             err->text);
    request_raise(r, exception_text("kombu.exceptions",
                                disallowed ? "ContentDisallowed" : "DecodeError", err->text));
    r->traceback = mem_dup(err->text);
    r->reason = mem_dup(err->text);
    flow_finish(r, OUTCOME_UNREADABLE);
}

static void not_registered(struct request *r)
{
    log_task(LOG_ERROR, request_name(r), request_id(r),
             "Received unregistered task of type '%s' from %s: set aside in the dead-letter list",
             r->message.task, r->delivery.queue);
    request_raise(r, exception_text("celery.exceptions", "NotRegistered", r->message.task));
    r->reason = mem_printf("unregistered task of type '%s'", r->message.task);
    flow_finish(r, OUTCOME_NOT_REGISTERED);
}

static bool expired(struct request *r)
{
    int64_t expires = r->message.expires;
    if (expires == TIME_NONE || worker_now(r->worker) <= expires)
        return false;
    if (log_threshold <= LOG_INFO)
        log_line(LOG_INFO, "Discarding revoked task: %s[%s] (expired)", request_name(r),
                 request_id(r));
    request_raise(r, exception_text("celery.exceptions", "TaskRevokedError", "expired"));
    flow_finish(r, OUTCOME_EXPIRED);
    return true;
}

/* By its id or by one of its stamps. Nearly always there is nothing to look up. */
static bool revoked(struct request *r)
{
    const struct revoked *set = r->worker->revoked;
    if (revoked_is_empty(set))
        return false;
    cJSON *stamp = NULL;
    if (!revoked_has(set, r->message.id) && !(stamp = revoked_match(set, &r->message)))
        return false;
    struct buf by = BUF_INIT(4096);
    if (stamp) {
        buf_str(&by, " (revoked by header: ");
        repr_print(stamp, false, 1024, &by);
        buf_char(&by, ')');
    }
    log_info("Discarding revoked task: %s[%s]%s", request_name(r), request_id(r),
             by.data ? by.data : "");
    buf_done(&by);
    cJSON_Delete(stamp);
    request_raise(r, exception_text("celery.exceptions", "TaskRevokedError", "revoked"));
    flow_finish(r, OUTCOME_REVOKED);
    return true;
}

static void apply_policy(struct request *r)
{
    const struct settings *s = &r->worker->options->settings;
    unsigned flags = registry[r->def].def->flags;
    r->acks_late = flags & CW_ACKS_LATE    ? true
                   : flags & CW_ACKS_EARLY ? false
                                           : s->task_acks_late;
    r->ignore_result = r->message.ignore_result != UNSET
                           ? r->message.ignore_result == YES
                           : flags & CW_IGNORE_RESULT || s->task_ignore_result;
    r->track_started = flags & CW_TRACK_STARTED || s->task_track_started;
    r->reject_on_lost = flags & CW_REJECT_ON_LOST || s->task_reject_on_worker_lost;
}

static void admit(struct request *r)
{
    const struct message *m = &r->message;
    r->def = registry_find(m->task);
    if (r->def < 0) {
        not_registered(r);
        return;
    }
    apply_policy(r);
    unique_read(r);
    if (!m->redelivered || !redelivery_check(r))
        flow_admit(r);
}

void flow_admit(struct request *r)
{
    struct worker *w = r->worker;
    if (revoked(r) || expired(r))
        return;
    if (log_threshold <= LOG_INFO)
        log_line(LOG_INFO, "Task %s[%s] received", request_name(r), request_id(r));
    events_task(w, EVENT_RECEIVED, r);
    if (!unique_asks(r))
        flow_leased(r);
}

static void run_native(struct request *r)
{
    request_move(r, REQUEST_READY);
    request_move(r, REQUEST_RUNNING);
    r->started_at = monotonic_now();
    r->worker->totals[r->def]++;
    events_task(r->worker, EVENT_STARTED, r);
    registry[r->def].native(r);
}

void flow_leased(struct request *r)
{
    struct worker *w = r->worker;
    const struct message *m = &r->message;
    if (m->eta != TIME_NONE && m->eta > worker_now(w) + ETA_SLACK_US) {
        native_note_chord(r);
        flow_finish(r, OUTCOME_POSTPONED);
    } else if (w->phase != WORKER_RUNNING)
        flow_finish(r, OUTCOME_GIVEN_BACK);
    else if (registry[r->def].native)
        run_native(r);
    else if (!fleet_limit_holds(w, r))
        flow_allowed(r);
}

void flow_allowed(struct request *r)
{
    if (!rate_holds(r->worker, r))
        flow_ready(r, false);
}

struct request *flow_arrive(struct worker *w, char *text, size_t size, const char *queue, int step,
                            struct error *err)
{
    struct request *r = request_new(w);
    struct message_limits limits = {.body_size = (size_t)w->options->settings.message_max_size};
    r->received_at = monotonic_now();
    w->n_requests++;
    w->n_waiting++;
    w->n_bytes += size;
    if (message_decode(text, size, &limits, &r->message, err) == 0)
        continuation_check(&r->message, err);
    channel_hold(w->channel, &r->delivery, r->message.text, queue, step);
    return r;
}

void flow_message(char *text, size_t size, const char *queue, int step, void *worker)
{
    struct worker *w = worker;
    struct error err = {0};
    struct request *r = flow_arrive(w, text, size, queue, step, &err);
    if (err.code < 0)
        unreadable(r, &err);
    else
        admit(r);
    worker_pump(w);
}

/* --- dispatch --------------------------------------------------------------------------------- */

/* Redis has answered: true when the request is still ours to start. What was lost meanwhile may
 * have come to us again, as another request whose entry looks the same. */
static bool is_claimed(struct request *r, int code)
{
    r->worker->n_claiming--;
    if (code == 0 && !r->lost) {
        request_move(r, REQUEST_READY);
        return true;
    }
    r->worker->n_waiting--;
    flow_done(r);
    return false;
}

/* An early ack has to have happened before the task starts: a worker that lost its lease must not
 * run what somebody else already has. */
static void on_claimed(int code, void *arg)
{
    struct request *r = arg;
    struct worker *w = r->worker;
    if (!is_claimed(r, code))
        return;
    r->acked = true;
    if (!revoked(r))
        flow_run(r);
    worker_pump(w);
}

/* The next worker must know of this start, should this one die of it. */
static void on_marked(int code, void *arg)
{
    struct request *r = arg;
    struct worker *w = r->worker;
    if (!is_claimed(r, code))
        return;
    r->marked = true;
    if (w->phase != WORKER_RUNNING)
        flow_finish(r, OUTCOME_GIVEN_BACK);
    else if (!revoked(r))
        flow_run(r);
    worker_pump(w);
}

static void claim(struct request *r)
{
    struct worker *w = r->worker;
    request_move(r, REQUEST_CLAIMING);
    w->n_claiming++;
    if (r->acks_late)
        redelivery_mark(r, on_marked);
    else
        channel_settle(w->channel, &r->delivery, NULL, 0, on_claimed, r);
}

/* What is being claimed has its room already: what no lane takes now must stay in Redis. */
static bool has_room(const struct worker *w)
{
    return pool_room(w->pool) > w->n_claiming;
}

void flow_dispatch(struct worker *w)
{
    while (w->ready.first && has_room(w) && channel_owns(w->channel)) {
        struct request *r = w->ready.first;
        request_list_remove(r);
        if (revoked(r) || (!r->acked && expired(r)))
            continue;
        if ((!r->acks_late && !r->acked) || redelivery_must_mark(r)) {
            claim(r);
        } else {
            flow_run(r);
        }
    }
}

/* The oldest must be taken first again, so it is given back last: each goes to the front. What was
 * acked early and lost its lane before it began has a last chance to run, unless nothing runs any
 * more. */
static void give_back(struct request_list *waiting, void *arg)
{
    const struct worker *w = arg;
    for (struct request *r = waiting->last, *before; r; r = before) {
        before = r->prev;
        if (r->acked && w->phase != WORKER_COLD)
            continue;
        request_list_remove(r);
        flow_finish(r, OUTCOME_GIVEN_BACK);
    }
}

void flow_give_back_ready(struct worker *w)
{
    flow_each_waiting(w, give_back, w);
}

static void discard_revoked(struct request_list *waiting, void *arg)
{
    (void)arg;
    for (struct request *r = waiting->first, *next; r; r = next) {
        next = r->next;
        request_list_remove(r);
        if (!revoked(r))
            request_list_insert(waiting, r, next);
    }
}

void flow_discard_revoked(struct worker *w)
{
    flow_each_waiting(w, discard_revoked, NULL);
}

/* --- the lease lapsed while we were away ------------------------------------------------------ */

void flow_delivery_lost(struct delivery *d, void *worker)
{
    struct worker *w = worker;
    struct request *r = request_of(d);
    r->lost = true;
    if (r->list) {
        request_list_remove(r);
        w->n_waiting--;
        flow_done(r);
    } else if (r->state == REQUEST_RUNNING) {
        pool_stop(w->pool, r->job, CW_REVOKED);
    }
}
