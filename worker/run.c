/* SPDX-License-Identifier: Apache-2.0 */
/* The middle of a task's way: a run in the pool, from its dispatch to what the pool says of it. A
 * job is the pool's number for one run; the table here finds its request again. What a run's end
 * means is told by the outcome it is given (outcome.h); what then happens is finish.c's. */

#include "proto/base/mem.h"
#include "proto/time.h"
#include "worker/canvas.h"
#include "worker/events.h"
#include "worker/log.h"
#include "worker/registry.h"
#include "worker/worker.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* --- the table of jobs ------------------------------------------------------------------------ */

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

/* --- to the pool ------------------------------------------------------------------------------ */

static double first_limit(double message, double task, double setting)
{
    return message > 0 ? message : task > 0 ? task : setting;
}

void flow_run(struct request *r)
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
                 (m->redelivered ? TASK_REDELIVERED : 0u) | (r->acked ? TASK_ACKED : 0u),
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

/* --- what the pool says ----------------------------------------------------------------------- */

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
        struct buf result = BUF_INIT(1 << 16);
        buf_printf(&result, "{\"pid\": %d, \"hostname\": ", (int)pid);
        json_print_string(w->options->hostname, strlen(w->options->hostname), &result);
        buf_char(&result, '}');
        put_state(r, "STARTED", (struct slice){result.data, result.size});
        buf_done(&result);
    }
}

/* With the task's id before its own fields, as Task.send_event does it. */
static void say_event(const struct request *r, const char *type, struct slice fields)
{
    cJSON *own = json_parse(fields.at, fields.size, NULL), *all = cJSON_CreateObject();
    json_set(all, "uuid", cJSON_CreateString(r->message.id));
    while (cJSON_IsObject(own) && own->child) {
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
        log_info("Task %s[%s] retry: Retry in %gs%s%.*s", request_name(r), request_id(r),
                 f->countdown, repr_size ? ": " : "", repr_size, f->repr.at ? f->repr.at : "");
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

/* False: the task has failed by it. Its child runs foreign code, which may have overwritten
 * anything. */
static bool take_sends(struct request *r, const struct outcome_frame *f)
{
    static const char why[] = "what the task sent cannot be read: its process was damaged";
    if (!f->sends.size || (f->kind != RESULT_SUCCESS && f->kind != RESULT_IGNORE))
        return true;
    r->sends = json_parse(f->sends.at, f->sends.size, NULL);
    if (canvas_rows_are_sound(r->sends))
        return true;
    cJSON_Delete(r->sends);
    r->sends = NULL;
    log_error("Task %s[%s] fails: %s", request_name(r), request_id(r), why);
    request_raise(r, exception_text("builtins", "ValueError", why));
    return false;
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
    flow_finish(r, take_sends(r, f) ? outcome_of(r, f) : OUTCOME_FAILED);
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

/* A child that a signal to stop has ended, while it is not known whether the worker has got one
 * too. */
struct parting {
    struct request *r;
    pid_t pid;
    int status;
};

static void part(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct parting p = *(struct parting *)arg;
    struct worker *w = p.r->worker;
    free(arg);
    if (w->phase == WORKER_RUNNING) {
        crashed(p.r, p.pid, p.status);
    } else {
        log_warning("Task %s[%s] goes back: SIG%s came to its pool process %d as well",
                    request_name(p.r), request_id(p.r), sigabbrev_np(WTERMSIG(p.status)),
                    (int)p.pid);
        flow_finish(p.r, OUTCOME_GIVEN_BACK);
    }
    worker_pump(w);
}

/* Who ends a service may send its signal to all of the processes, as systemd does: no fault of the
 * task. */
static bool asks_to_stop(int status)
{
    return WIFSIGNALED(status) && (WTERMSIG(status) == SIGTERM || WTERMSIG(status) == SIGQUIT);
}

static void part_soon(struct request *r, pid_t pid, int status)
{
    static const struct timeval MOMENT = {.tv_usec = 300000};
    struct parting *p = mem_alloc(sizeof *p);
    *p = (struct parting){r, pid, status};
    event_base_once(r->worker->base, -1, EV_TIMEOUT, part, p, &MOMENT);
}

static void timed_out(struct request *r)
{
    const struct settings *s = &r->worker->options->settings;
    double limit =
        first_limit(r->message.hard_limit, registry[r->def].hard_limit, s->task_time_limit);
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
    r->pid = why == POOL_UNSTARTED ? 0 : pid;
    switch (why) {
    case POOL_CRASHED:
        if (asks_to_stop(status))
            part_soon(r, pid, status);
        else
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
            flow_ready(r, true);
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
