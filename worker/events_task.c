/* SPDX-License-Identifier: Apache-2.0 */
/* What each event says of a task: the fields, and which outcome calls for which event. The rows are
 * Celery's (celery.worker.request): an ignored task and one that is given back say nothing; one
 * whose child died and that goes back is rejected; a time limit and a lost child fail. */

#include "proto/base/mem.h"
#include "proto/message.h"
#include "worker/events_private.h"
#include "worker/task/exception.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A message that waited for its ETA comes a second time, from the delayed set; Celery tells of it
 * once. */
static void say_received(struct events *e, const struct request *r)
{
    const struct message *m = &r->message;
    if (m->eta != TIME_NONE && request_was_told(r))
        return;
    struct event event;
    struct buf *out = events_batch_begin(e, "task-received", &event);
    event_text(out, "uuid", m->id);
    event_text(out, "name", request_name(r));
    event_text(out, "args", m->argsrepr ? m->argsrepr : "");
    event_text(out, "kwargs", m->kwargsrepr ? m->kwargsrepr : "");
    event_text(out, "root_id", m->root_id);
    event_text(out, "parent_id", m->parent_id);
    event_int(out, "retries", m->retries);
    event_time(out, "eta", m->eta);
    event_time(out, "expires", m->expires);
    events_batch_end(e, &event);
}

static void say_started(struct events *e, const struct request *r)
{
    struct event event;
    event_text(events_batch_begin(e, "task-started", &event), "uuid", r->message.id);
    events_batch_end(e, &event);
}

static void say_succeeded(struct events *e, const struct request *r)
{
    struct event event;
    struct buf *out = events_batch_begin(e, "task-succeeded", &event);
    event_text(out, "uuid", r->message.id);
    event_text(out, "result", r->repr ? r->repr : "None");
    event_real(out, "runtime", (double)r->run_us / 1e6);
    events_batch_end(e, &event);
}

/* The exception that is the result, where the worker raised it in the task's name. A retry need
 * not have one. */
static char *exception_of(const struct request *r)
{
    if (r->outcome == OUTCOME_RETRIED)
        return mem_dup("None");
    struct buf text = BUF_INIT(1 << 20);
    struct exception x = {0};
    cJSON *result = r->result ? json_parse(r->result, strlen(r->result), NULL) : NULL;
    const char *type = json_get_string(result, "exc_type");
    snprintf(x.type, sizeof x.type, "%s", type ? type : "Exception");
    x.args = cJSON_GetObjectItemCaseSensitive(result, "exc_message");
    if (!cJSON_IsArray(x.args))
        x.args = NULL;
    exception_repr(&x, &text);
    cJSON_Delete(result);
    return buf_take(&text);
}

static void say_raised(struct events *e, const struct request *r, const char *type)
{
    struct event event;
    struct buf *out = events_batch_begin(e, type, &event);
    char *exception = r->repr ? NULL : exception_of(r);
    event_text(out, "uuid", r->message.id);
    event_text(out, "exception", r->repr ? r->repr : exception);
    if (r->outcome != OUTCOME_NOT_REGISTERED)
        event_text(out, "traceback", r->traceback);
    events_batch_end(e, &event);
    free(exception);
}

static void say_rejected(struct events *e, const struct request *r, bool requeue)
{
    struct event event;
    if (r->acked) /* there was nothing left to reject */
        return;
    struct buf *out = events_batch_begin(e, "task-rejected", &event);
    event_text(out, "uuid", r->message.id);
    event_flag(out, "requeue", requeue);
    events_batch_end(e, &event);
}

static void say_revoked(struct events *e, const struct request *r, bool expired)
{
    struct event event;
    struct buf *out = events_batch_begin(e, "task-revoked", &event);
    event_text(out, "uuid", r->message.id);
    event_flag(out, "terminated", r->terminated != 0);
    if (r->terminated)
        event_int(out, "signum", r->terminated);
    else
        event_text(out, "signum", NULL);
    event_flag(out, "expired", expired);
    events_batch_end(e, &event);
}

static void say_ended(struct events *e, const struct request *r)
{
    switch (r->outcome) {
    case OUTCOME_SUCCEEDED:
        say_succeeded(e, r);
        break;
    case OUTCOME_RETRIED:
        say_raised(e, r, "task-retried");
        break;
    case OUTCOME_FAILED:
    case OUTCOME_TIMED_OUT:
    case OUTCOME_WORKER_LOST:
    case OUTCOME_WORKER_LOST_TOO_OFTEN:
    case OUTCOME_NOT_REGISTERED:
    case OUTCOME_UNREADABLE:
        say_raised(e, r, "task-failed");
        break;
    case OUTCOME_REJECTED:
        say_rejected(e, r, false);
        break;
    case OUTCOME_REQUEUED:
    case OUTCOME_TIMED_OUT_REQUEUED:
    case OUTCOME_WORKER_LOST_REQUEUED:
        say_rejected(e, r, true);
        break;
    case OUTCOME_REVOKED:
    case OUTCOME_NOT_UNIQUE:
        say_revoked(e, r, false);
        break;
    case OUTCOME_EXPIRED:
        say_revoked(e, r, true);
        break;
    default:
        break;
    }
}

/* --- task-sent -------------------------------------------------------------------------------- */

static void say_sent(struct events *e, struct worker *w, const char *text, const char *queue)
{
    struct message m = {0};
    struct message_limits limits = {0};
    struct buf out = BUF_INIT(1 << 22);
    if (message_decode(mem_dup(text), strlen(text), &limits, &m, NULL) == 0) {
        struct event event = {"task-sent", events_publisher(e), getpid(),
                              lamport_forward(&w->clock), worker_now(w)};
        event_sent(&event, &m, queue, &out);
        events_post(e, &event, &out);
    }
    message_done(&m);
    buf_done(&out);
}

static void say_all_sent(struct events *e, struct worker *w, const struct request *r)
{
    for (const cJSON *send = r->sends ? r->sends->child : NULL; send; send = send->next) {
        const char *text = json_get_string(send, "text"), *queue = json_get_string(send, "queue");
        if (text && queue)
            say_sent(e, w, text, queue);
    }
    if (r->outcome == OUTCOME_RETRIED) {
        int64_t now = worker_now(w);
        int64_t eta = r->countdown > 0 ? now + (int64_t)(r->countdown * 1e6) : TIME_NONE;
        char *text = message_encode_retry(&r->message, eta, now);
        say_sent(e, w, text, r->delivery.queue);
        free(text);
    }
}

void events_note(struct worker *w, enum event_kind kind, const struct request *r)
{
    struct events *e = w->events;
    if (!e || !r->message.id)
        return;
    if (kind == EVENT_SENT) {
        if (events_of_sends(e))
            say_all_sent(e, w, r);
    } else if (events_of_tasks(e)) {
        if (kind == EVENT_RECEIVED)
            say_received(e, r);
        else if (kind == EVENT_STARTED)
            say_started(e, r);
        else
            say_ended(e, r);
    }
}
