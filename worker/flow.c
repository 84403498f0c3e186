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
 * Steps 3 and 4 are in finish.c. With early acks step 4 comes before 2, as its user asked: a crash then loses the task. */

#include "proto/base/mem.h"
#include "worker/continuation.h"
#include "worker/events.h"
#include "worker/fleet_limit.h"
#include "worker/log.h"
#include "worker/rate.h"
#include "worker/registry.h"
#include "worker/revoked.h"
#include "worker/unique.h"
#include "worker/worker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

/* An ETA this close is now: promotion and we read Redis' clock a moment apart. */
enum { ETA_SLACK_US = 10000 };

/* --- the ready list and the table of jobs -------------------------------------------------------- */

static void ready_add(struct worker *w, struct request *r, bool front)
{
    request_move(r, REQUEST_READY);
    request_list_insert(&w->ready, r, front ? w->ready.first : NULL);
}

void flow_each_waiting(struct worker *w, request_list_fn *fn, void *arg)
{
    fleet_limit_each(w, fn, arg);
    rate_each(w, fn, arg);
    fn(&w->ready, arg);
}

void flow_ready(struct request *r)
{
    ready_add(r->worker, r, false);
    worker_pump(r->worker);
}

static struct request **job_place(struct worker *w, uint64_t job)
{
    struct request **at = &w->jobs[job % WORKER_JOB_BUCKETS];
    while (*at && (*at)->job != job)
        at = &(*at)->job_next;
    return at;
}

static struct request *job_take(struct worker *w, uint64_t job)
{
    struct request **at = job_place(w, job), *r = *at;
    if (r)
        *at = r->job_next;
    return r;
}

/* --- message: what came, and whether it can be run ----------------------------------------------- */

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
    if (!revoked_has(set, r->message.id) && !(stamp = stamps_match(set->stamps, &r->message)))
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
    registry[r->def].native(r);
}

void flow_leased(struct request *r)
{
    struct worker *w = r->worker;
    const struct message *m = &r->message;
    if (m->eta != TIME_NONE && m->eta > worker_now(w) + ETA_SLACK_US)
        flow_finish(r, OUTCOME_POSTPONED);
    else if (w->phase != WORKER_RUNNING)
        flow_finish(r, OUTCOME_GIVEN_BACK);
    else if (registry[r->def].native)
        run_native(r);
    else if (!fleet_limit_holds(w, r))
        flow_allowed(r);
}

void flow_allowed(struct request *r)
{
    if (!rate_holds(r->worker, r))
        flow_ready(r);
}

void flow_message(char *text, size_t size, const char *queue, int step, void *worker)
{
    struct worker *w = worker;
    struct request *r = request_new(w);
    struct error err = {0};
    struct message_limits limits = {.body_size = (size_t)w->options->settings.message_max_size};
    r->received_at = monotonic_now();
    w->n_requests++;
    w->n_waiting++;
    w->n_bytes += size;
    int code = message_decode(text, size, &limits, &r->message, &err);
    if (code == 0)
        code = continuation_check(&r->message, &err);
    channel_hold(w->channel, &r->delivery, r->message.text, queue, step);
    if (code < 0)
        unreadable(r, &err);
    else
        admit(r);
    worker_pump(w);
}

/* --- dispatch ------------------------------------------------------------------------------------ */

static double first_limit(double message, double task, double setting)
{
    return message > 0 ? message : task > 0 ? task : setting;
}

static void run(struct request *r)
{
    struct worker *w = r->worker;
    const struct message *m = &r->message;
    const struct registry_entry *entry = &registry[r->def];
    const struct settings *s = &w->options->settings;
    struct task_frame frame = {
        .job = ++w->last_job,
        .def = (uint32_t)r->def,
        .flags = (r->track_started || w->task_events ? TASK_ANNOUNCE : 0u) |
                 (log_threshold <= LOG_INFO || w->task_events ? TASK_WANT_REPR : 0u) |
                 (m->redelivered ? TASK_REDELIVERED : 0u),
        .soft_limit = first_limit(m->soft_limit, entry->soft_limit, s->task_soft_time_limit),
        .hard_limit = first_limit(m->hard_limit, entry->hard_limit, s->task_time_limit),
        .retries = m->retries,
        .id = slice_of(m->id),
        .name = slice_of(m->task),
        .queue = slice_of(r->delivery.queue),
        .headers = m->headers,
        .properties = m->properties,
        .body = m->body,
        .root_id = slice_of(m->root_id),
        .parent_id = slice_of(m->parent_id),
        .group_id = slice_of(m->group),
    };
    request_move(r, REQUEST_RUNNING);
    r->job = frame.job;
    r->started_at = monotonic_now();
    struct request **place = job_place(w, r->job);
    r->job_next = NULL;
    *place = r;
    w->totals[r->def]++;
    pool_submit(w->pool, &frame);
}

/* An early ack has to have happened before the task starts: a worker that lost its lease must not run
 * what somebody else already has. */
static void on_claimed(int code, void *arg)
{
    struct request *r = arg;
    struct worker *w = r->worker;
    w->n_claiming--;
    if (code != 0) {
        w->n_waiting--;
        flow_done(r);
        return;
    }
    r->acked = true;
    request_move(r, REQUEST_READY);
    if (!revoked(r))
        run(r);
    worker_pump(w);
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
        if (!r->acks_late && !r->acked) {
            request_move(r, REQUEST_CLAIMING);
            w->n_claiming++;
            channel_settle(w->channel, &r->delivery, NULL, 0, on_claimed, r);
        } else {
            run(r);
        }
    }
}

/* The oldest must be taken first again, so it is given back last: each goes to the front. What was acked
 * early and lost its lane before it began has a last chance to run, unless nothing runs any more. */
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

/* --- what the pool says --------------------------------------------------------------------------- */

static void put_state(struct request *r, const char *state, struct slice result)
{
    struct store_record record = {
        .id = r->message.id,
        .state = state,
        .result = result,
        .date_done = TIME_NONE,
        .group_id = r->message.group,
        .parent_id = r->message.parent_id,
    };
    store_put(r->worker->store, &record, NULL, NULL);
}

static void on_started(uint64_t job, pid_t pid, void *arg)
{
    struct worker *w = arg;
    struct request *r = *job_place(w, job);
    if (!r || r->lost)
        return;
    r->pid = pid;
    events_task(w, EVENT_STARTED, r);
    if (r->track_started && !r->ignore_result) {
        char *result = mem_printf("{\"pid\": %d, \"hostname\": \"%s\"}", (int)pid,
                                  w->options->hostname);
        put_state(r, "STARTED", slice_of(result));
        free(result);
    }
}

/* With the task's id before its own fields, as Task.send_event does it. */
static void say_event(const struct request *r, const char *type, struct slice fields)
{
    cJSON *own = json_parse(fields.at, fields.size, NULL), *all = cJSON_CreateObject();
    json_set(all, "uuid", cJSON_CreateString(r->message.id));
    while (own && own->child) {
        cJSON *field = cJSON_DetachItemViaPointer(own, own->child);
        cJSON_AddItemToObject(all, field->string, field);
    }
    events_say(r->worker, type, all);
    cJSON_Delete(own);
    cJSON_Delete(all);
}

static void on_state(const struct state_frame *f, void *arg)
{
    struct worker *w = arg;
    struct request *r = *job_place(w, f->job);
    if (!r || r->lost)
        return;
    char *state = mem_ndup(f->state.at, f->state.size);
    if (f->is_event)
        say_event(r, state, f->meta);
    else if (!r->ignore_result)
        put_state(r, state, f->meta);
    free(state);
}

static void log_outcome(const struct request *r, const struct outcome_frame *f)
{
    double seconds = (double)f->run_us / 1e6;
    int repr_size = (int)f->repr.size;
    switch (f->kind) {
    case RESULT_SUCCESS:
        log_info("Task %s[%s] succeeded in %.6gs: %.*s", request_name(r), request_id(r), seconds,
                 repr_size, f->repr.at ? f->repr.at : "");
        break;
    case RESULT_RETRY:
        log_info("Task %s[%s] retry: Retry in %gs: %.*s", request_name(r), request_id(r),
                 f->countdown, repr_size, f->repr.at ? f->repr.at : "");
        break;
    case RESULT_IGNORE:
        log_info("Task %s[%s] ignored", request_name(r), request_id(r));
        break;
    case RESULT_REJECT:
        log_warning("Task %s[%s] reject requeue=%s", request_name(r), request_id(r),
                    f->requeue ? "True" : "False");
        break;
    default:
        log_error("Task %s[%s] raised unexpected: %.*s\n%.*s", request_name(r), request_id(r),
                  repr_size, f->repr.at ? f->repr.at : "", (int)f->traceback.size,
                  f->traceback.at ? f->traceback.at : "");
    }
}

static enum outcome outcome_of(const struct request *r, const struct outcome_frame *f)
{
    switch (f->kind) {
    case RESULT_SUCCESS:
        return OUTCOME_SUCCEEDED;
    case RESULT_RETRY:
        return OUTCOME_RETRIED;
    case RESULT_IGNORE:
        return OUTCOME_IGNORED;
    case RESULT_REJECT:
        return f->requeue && r->acks_late ? OUTCOME_REQUEUED : OUTCOME_REJECTED;
    default:
        return OUTCOME_FAILED;
    }
}

static char *slice_dup(struct slice s)
{
    return s.at && s.size ? mem_ndup(s.at, s.size) : NULL;
}

static void on_outcome(const struct outcome_frame *f, pid_t pid, void *arg)
{
    struct worker *w = arg;
    struct request *r = job_take(w, f->job);
    if (!r)
        return;
    r->pid = pid;
    log_outcome(r, f);
    log_debug("Task %s[%s] used cpu=%.3fms peak=%lldkB run=%.3fms waited=%.3fms", request_name(r),
              request_id(r), (double)f->cpu_us / 1e3, (long long)f->peak_kb,
              (double)f->run_us / 1e3, (double)(r->started_at - r->received_at) / 1e3);
    request_raise(r, slice_dup(f->result));
    r->traceback = slice_dup(f->traceback);
    r->countdown = f->countdown;
    r->run_us = f->run_us;
    if (w->task_events)
        r->repr = slice_dup(f->repr);
    if (f->sends.size && (f->kind == RESULT_SUCCESS || f->kind == RESULT_IGNORE))
        r->sends = json_parse(f->sends.at, f->sends.size, NULL);
    flow_finish(r, outcome_of(r, f));
}

/* A task that may go back does so until it has cost task_max_deliveries children. */
static enum outcome outcome_of_crash(struct request *r, const char *reason)
{
    int64_t most = r->worker->options->settings.task_max_deliveries;
    if (!r->reject_on_lost || !r->acks_late)
        return OUTCOME_WORKER_LOST;
    if (most <= 0 || request_deliveries(r) + 1 < most)
        return OUTCOME_WORKER_LOST_REQUEUED;
    r->reason = mem_printf("started %lld times without an end (task_max_deliveries): %s",
                           (long long)most, reason);
    log_error("Task %s[%s] set aside in the dead-letter list: %s", request_name(r), request_id(r),
              r->reason);
    return OUTCOME_WORKER_LOST_TOO_OFTEN;
}

static void crashed(struct request *r, pid_t pid, int status)
{
    char *reason = WIFSIGNALED(status)
                       ? mem_printf("Worker exited prematurely: signal %d (SIG%s) Job: %llu.",
                                    WTERMSIG(status), sigabbrev_np(WTERMSIG(status)),
                                    (unsigned long long)r->job)
                       : mem_printf("Worker exited prematurely: exitcode %d Job: %llu.",
                                    WEXITSTATUS(status), (unsigned long long)r->job);
    log_error("Task %s[%s]: pool process %d is gone: %s", request_name(r), request_id(r), (int)pid,
              reason);
    request_raise(r, exception_text("billiard.exceptions", "WorkerLostError", reason));
    flow_finish(r, outcome_of_crash(r, reason));
    free(reason);
}

static void timed_out(struct request *r)
{
    const struct settings *s = &r->worker->options->settings;
    double limit = first_limit(r->message.hard_limit, registry[r->def].hard_limit, s->task_time_limit);
    log_error("Hard time limit (%gs) exceeded for %s[%s]", limit, request_name(r), request_id(r));
    request_raise(r, exception_number("billiard.exceptions", "TimeLimitExceeded", limit));
    flow_finish(r, r->acks_late && !s->task_acks_on_failure_or_timeout ? OUTCOME_TIMED_OUT_REQUEUED
                                                                  : OUTCOME_TIMED_OUT);
}

static void terminated(struct request *r, pid_t pid)
{
    log_warning("Task %s[%s] revoked: pool process %d was terminated by signal %d", request_name(r),
                request_id(r), (int)pid, r->terminated);
    request_raise(r, exception_text("celery.exceptions", "TaskRevokedError", "terminated"));
    flow_finish(r, OUTCOME_REVOKED);
}

static void on_lost(uint64_t job, enum pool_loss why, pid_t pid, int status, void *arg)
{
    struct worker *w = arg;
    struct request *r = job_take(w, job);
    if (!r)
        return;
    switch (why) {
    case POOL_CRASHED:
        crashed(r, pid, status);
        break;
    case POOL_HARD_LIMIT:
        timed_out(r);
        break;
    case POOL_TERMINATED:
        if (r->terminated) {
            terminated(r, pid);
            break;
        }
        /* fall through */
    case POOL_ORPHANED:
        flow_finish(r, OUTCOME_GIVEN_BACK);
        break;
    case POOL_UNSTARTED:
        r->terminated = 0;
        if (r->lost || w->phase != WORKER_RUNNING)
            flow_finish(r, OUTCOME_GIVEN_BACK);
        else
            ready_add(w, r, true);
        break;
    }
    worker_pump(w);
}

static void on_soft_limit(uint64_t job, double limit, void *arg)
{
    struct request *r = *job_place(arg, job);
    if (r)
        log_warning("Soft time limit (%gs) exceeded for %s[%s]", limit, request_name(r),
                    request_id(r));
}

static void on_room(void *arg)
{
    worker_pump(arg);
}

static void on_broken(void *arg)
{
    struct worker *w = arg;
    log_line(LOG_CRITICAL, "The zygote process is gone: shutting down, all tasks go back");
    w->exit_status = 1;
    worker_stop_cold(w);
}

const struct pool_handlers flow_pool_handlers = {
    .on_started = on_started,
    .on_state = on_state,
    .on_outcome = on_outcome,
    .on_lost = on_lost,
    .on_soft_limit = on_soft_limit,
    .on_room = on_room,
    .on_broken = on_broken,
};

/* --- the lease lapsed while we were away ------------------------------------------------------------ */

void flow_delivery_lost(struct delivery *d, void *worker)
{
    struct worker *w = worker;
    struct request *r =
        (struct request *)((char *)d - __builtin_offsetof(struct request, delivery));
    r->lost = true;
    if (r->list) {
        request_list_remove(r);
        w->n_waiting--;
        flow_done(r);
    } else if (r->state == REQUEST_RUNNING) {
        pool_stop(w->pool, r->job, CW_REVOKED);
    }
}
