/* SPDX-License-Identifier: Apache-2.0 */
/* The second half of a task's way: outcome ─▶ what follows from it ─▶ store ─▶ settle ─▶ done. The
 * durable steps and what a crash around each leaves are told at the head of flow.c. */

#include "proto/base/mem.h"
#include "proto/time.h"
#include "worker/continuation.h"
#include "worker/events.h"
#include "worker/fleet_limit.h"
#include "worker/follow.h"
#include "worker/log.h"
#include "worker/unique.h"
#include "worker/worker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double LONGEST_WAIT = 3.2e9; /* seconds: a hundred years */

static void settle(struct request *r);

void flow_done(struct request *r)
{
    struct worker *w = r->worker;
    request_move(r, REQUEST_DONE);
    fleet_limit_end(r);
    w->n_requests--;
    w->n_bytes -= r->message.text.size;
    w->n_done++;
    request_free(r);
    worker_pump(w);
}

/* --- store ------------------------------------------------------------------------------------ */

static bool must_store(const struct request *r)
{
    if (!r->message.id)
        return false;
    switch (outcome_rows[r->outcome].store) {
    case STORE_ALWAYS:
        return true;
    case STORE_RESULT:
        return !r->ignore_result;
    case STORE_ERROR:
        return !r->ignore_result ||
               r->worker->options->settings.task_store_errors_even_if_ignored;
    default:
        return false;
    }
}

static void on_stored(int code, const char *why, void *arg);

/* Texts that a record refers to until it is put. */
struct record_texts {
    char *args, *kwargs, *stamps, *stamped;
};

static void record_texts_free(struct record_texts *texts)
{
    free(texts->args);
    free(texts->kwargs);
    free(texts->stamps);
    free(texts->stamped);
}

/* The fields of result_extended. Args and kwargs are printed again from the body, the worker's only
 * use of it. */
static void extend(const struct request *r, struct store_record *record, struct record_texts *texts)
{
    const struct message *m = &r->message;
    record->extended = true;
    record->name = m->task;
    record->worker = r->worker->options->hostname;
    record->queue = m->routing_key ? m->routing_key : r->delivery.queue;
    record->retries = m->retries;
    if (m->stamped_headers.at && m->stamps.at) {
        record->stamps = texts->stamps = mem_ndup(m->stamps.at, m->stamps.size);
        record->stamped_headers = texts->stamped =
            mem_ndup(m->stamped_headers.at, m->stamped_headers.size);
    }
    cJSON *body = json_parse(m->body.at, m->body.size, NULL);
    if (cJSON_IsArray(body) && body->child && body->child->next) {
        record->args = texts->args = json_text(body->child);
        record->kwargs = texts->kwargs = json_text(body->child->next);
    }
    cJSON_Delete(body);
}

/* A step that never ran is described by its signature. */
static void extend_abandoned(const cJSON *end, struct store_record *record,
                             struct record_texts *texts)
{
    const cJSON *args = json_get(end, "args"), *kwargs = json_get(end, "kwargs");
    record->extended = true;
    record->name = json_get_string(end, "task");
    record->args = texts->args = args ? json_text(args) : NULL;
    record->kwargs = texts->kwargs = kwargs ? json_text(kwargs) : NULL;
}

/* The later steps of a chain fail with it, under their own ids, before the task's own record is
 * written: a crash in between runs the task again and writes the same. */
static void fail_chain(const struct request *r, struct store_record record)
{
    cJSON *ends = continuation_abandoned(&r->message);
    record.parent_id = record.children = NULL;
    for (const cJSON *end = ends ? ends->child : NULL; end; end = end->next) {
        struct record_texts texts = {0};
        record.id = json_get_string(end, "id");
        record.group_id = json_get_string(end, "group");
        if (r->worker->options->settings.result_extended)
            extend_abandoned(end, &record, &texts);
        store_put(r->worker->store, &record, NULL, NULL);
        record_texts_free(&texts);
    }
    cJSON_Delete(ends);
}

static void put_result(struct request *r)
{
    const char *state = outcome_rows[r->outcome].state;
    bool final = strcmp(state, "RETRY") != 0;
    struct record_texts texts = {0};
    char *children = r->children && r->children->child ? json_text(r->children) : NULL;
    struct store_record record = {
        .id = r->message.id,
        .state = state,
        .result = slice_of(r->result),
        .traceback = r->traceback,
        .children = children,
        .date_done = final ? worker_now(r->worker) : TIME_NONE,
        .group_id = r->message.group,
        .parent_id = r->message.parent_id,
    };
    if (strcmp(state, "FAILURE") == 0 && !continuation_is_empty(&r->message))
        fail_chain(r, record);
    if (r->worker->options->settings.result_extended && r->message.task)
        extend(r, &record, &texts);
    store_put(r->worker->store, &record, on_stored, r);
    if (store_is_spooling(r->worker->store) && continuation_is_empty(&r->message)) {
        free(r->result); /* it waits in a file: memory is what there is too little of */
        r->result = NULL;
    }
    record_texts_free(&texts);
    free(children);
}

static void count_part(struct request *r)
{
    if (r->state != REQUEST_STORING && r->parts)
        request_move(r, REQUEST_STORING);
    follow_chords(r, settle);
}

static void store(struct request *r)
{
    if (r->given_up)
        return;
    if (r->lost) {
        cJSON_Delete(r->parts);
        r->parts = NULL;
        follow_chords(r, settle); /* which waits for records that are being put in its name */
    } else if (r->stored || !must_store(r)) {
        count_part(r);
    } else if (redelivery_must_record(r, r->sent)) {
        redelivery_record(r);
    } else {
        request_move(r, REQUEST_STORING);
        put_result(r);
    }
}

void flow_finish(struct request *r, enum outcome outcome)
{
    r->sent = r->sends != NULL;
    r->outcome = follow_add(r, outcome);
    r->worker->n_waiting--;
    if (r->lost) {
        log_warning("Task %s[%s] went to another worker while we were away: our run has no effect",
                    request_name(r), request_id(r));
        flow_done(r);
        return;
    }
    if (r->revokes)
        follow_revoke(r);
    if (r->prepares && r->prepares->child) {
        request_move(r, REQUEST_PREPARING);
        follow_prepare(r, store);
    } else {
        store(r);
    }
}

/* Not ours any more: its settlement finds that out too, and has no effect. */
void flow_recorded(struct request *r, bool ours)
{
    if (!ours) {
        settle(r);
        return;
    }
    request_move(r, REQUEST_STORING);
    put_result(r);
}

/* The result may be stored by then, and its settlement have waited for this. */
void flow_end_recorded(struct request *r)
{
    r->recording = false;
    if (r->settles)
        settle(r);
}

/* Its result is gone, and so it has not run: nothing of it has been published. */
static void run_again(struct request *r, const char *why)
{
    log_error("Task %s[%s] runs again: %s", request_name(r), request_id(r), why);
    cJSON_Delete(r->sends);
    cJSON_Delete(r->parts);
    cJSON_Delete(r->counts);
    r->sends = r->parts = r->counts = NULL;
    r->outcome = OUTCOME_GIVEN_BACK;
    settle(r);
}

/* A result that can never be stored becomes a FAILURE that says so; if that cannot be stored
 * either, the log has the last word: a task must not wait for ever for a record that nobody can
 * write. */
static void on_stored(int code, const char *why, void *arg)
{
    struct request *r = arg;
    if (r->given_up)
        return;
    if (code == ERROR_LOST && !r->acked) {
        run_again(r, why);
        return;
    }
    if (code != 0) {
        log_error("Task %s[%s]: its result cannot be stored: %s", request_name(r), request_id(r),
                  why);
        if (r->outcome == OUTCOME_SUCCEEDED) {
            request_raise(r, exception_text("kombu.exceptions", "EncodeError", why));
            cJSON_Delete(r->sends); /* what belongs to a success must not leave with a failure */
            cJSON_Delete(r->children);
            r->sends = r->children = NULL;
            bool recorded = r->recorded; /* the success, and what follows from that */
            r->recorded = false;
            r->outcome = follow_add(r, OUTCOME_FAILED);
            r->recorded = recorded;
            follow_prepare(r, put_result);
            return;
        }
    }
    count_part(r);
}

/* --- settle ----------------------------------------------------------------------------------- */

static void on_settled(int code, void *arg)
{
    struct request *r = arg;
    if (code == ERROR_LOST)
        log_warning("Task %s[%s] went to another worker before its ack: what it caused is left to "
                    "that worker",
                    request_name(r), request_id(r));
    else
        events_task(r->worker, EVENT_SENT, r);
    if (code == 0 && r->chords)
        follow_settled(r);
    flow_done(r);
}

/* What has to wait, and is for a queue of others, waits as in Celery: its message tells the ETA to
 * who takes it. */
static size_t add_sends(const struct worker *w, const cJSON *sends, struct effect *effects)
{
    size_t n = 0;
    for (const cJSON *send = sends ? sends->child : NULL; send; send = send->next) {
        int64_t due = 0, priority = 0;
        const char *queue = json_get_string(send, "queue");
        bool delayed =
            json_as_int(json_get(send, "due"), &due) && channel_promotes(w->channel, queue);
        json_as_int(json_get(send, "priority"), &priority);
        effects[n++] = (struct effect){
            .kind = delayed ? EFFECT_DELAY : EFFECT_SEND,
            .queue = queue,
            .priority = (int)priority,
            .text = slice_of(json_get_string(send, "text")),
            .due = due,
            .id = json_get_string(send, "id"),
            .chord = json_get_string(send, "chord"),
        };
        json_as_int(json_get(send, "n_parts"), &effects[n - 1].n_parts);
    }
    return n;
}

static size_t add_counts(const cJSON *groups, struct effect *effects)
{
    size_t n = 0;
    for (const cJSON *group = groups ? groups->child : NULL; group; group = group->next)
        effects[n++] = (struct effect){.kind = EFFECT_PART, .chord = group->valuestring};
    return n;
}

void flow_publish(struct worker *w, const cJSON *sends)
{
    struct effect *effects = mem_alloc(((size_t)cJSON_GetArraySize(sends) + 1) * sizeof *effects);
    size_t n = add_sends(w, sends, effects);
    if (n)
        channel_publish(w->channel, effects, n, NULL, NULL);
    free(effects);
}

int64_t flow_due(const struct request *r)
{
    double wait = fmax(0, fmin(r->countdown, LONGEST_WAIT));
    return r->outcome == OUTCOME_POSTPONED ? r->message.eta
                                           : worker_now(r->worker) + (int64_t)(wait * 1e6);
}

/* NULL: as it came. */
static char *delayed_text(const struct request *r)
{
    struct slice text = r->message.text;
    char *told = r->worker->task_events ? request_told(r) : NULL;
    if (!r->polls)
        return told;
    char *undated = request_undated(told ? told : text.at, told ? strlen(told) : text.size);
    free(told);
    return undated;
}

/* What becomes of the message itself. `owned` receives a text to free. */
static bool add_disposal(const struct request *r, struct effect *e, char **owned)
{
    const struct message *m = &r->message;
    int64_t now = worker_now(r->worker), due = flow_due(r);
    *e = (struct effect){.queue = r->delivery.queue, .priority = m->priority, .id = m->id};
    switch (outcome_rows[r->outcome].dispose) {
    case DISPOSE_ACK:
        return false;
    case DISPOSE_RETRY:
        e->kind = r->countdown > 0 ? EFFECT_DELAY : EFFECT_SEND;
        e->due = due;
        *owned = message_encode_retry(m, r->countdown > 0 && !r->polls ? due : TIME_NONE, now);
        break;
    case DISPOSE_BACK:
    case DISPOSE_FRONT:
        e->kind = outcome_rows[r->outcome].dispose == DISPOSE_BACK ? EFFECT_SEND : EFFECT_RETURN;
        *owned = request_redelivery(r, r->outcome == OUTCOME_WORKER_LOST_REQUEUED);
        break;
    case DISPOSE_DELAY:
        e->kind = EFFECT_DELAY;
        e->due = due;
        *owned = delayed_text(r);
        break;
    case DISPOSE_DEAD:
        e->kind = EFFECT_DEAD;
        e->reason = r->reason;
        break;
    }
    e->text = *owned ? slice_of(*owned) : m->text;
    if (r->polls && e->kind == EFFECT_DELAY) {
        e->chord = r->polls;
        e->n_parts = r->n_polled;
    }
    return true;
}

/* A record of an earlier run goes with the message, unless that comes back: also from the dead
 * letters, to which a worker that does not know the task may have sent it. */
static bool must_forget(const struct request *r)
{
    enum disposal dispose = outcome_rows[r->outcome].dispose;
    bool goes = dispose == DISPOSE_ACK || dispose == DISPOSE_RETRY ||
                r->outcome == OUTCOME_WORKER_LOST_TOO_OFTEN;
    return r->recorded || r->marked || (r->message.redelivered && goes && !r->acked);
}

/* `owned` receives a text to free. */
static struct effect end_record(const struct request *r, char **owned)
{
    enum disposal dispose = outcome_rows[r->outcome].dispose;
    bool comes_back = dispose == DISPOSE_BACK || dispose == DISPOSE_FRONT;
    *owned = comes_back ? redelivery_sent_before(r) : NULL;
    return (struct effect){.kind = *owned ? EFFECT_RECORD : EFFECT_FORGET,
                           .queue = r->delivery.queue, .id = r->message.id,
                           .tag = r->message.delivery_tag, .text = slice_of(*owned)};
}

static void settle(struct request *r)
{
    struct worker *w = r->worker;
    if (r->given_up)
        return;
    if (r->recording) {
        r->settles = true;
        return;
    }
    if (r->lost) {
        flow_done(r);
        return;
    }
    events_task(w, EVENT_ENDED, r);
    size_t n_sends = r->sends ? (size_t)cJSON_GetArraySize(r->sends) : 0;
    size_t n_counts = r->counts ? (size_t)cJSON_GetArraySize(r->counts) : 0;
    struct effect *effects = mem_alloc((n_sends + n_counts + 4) * sizeof *effects);
    char *owned = NULL, *record = NULL;
    size_t n = add_counts(r->counts, effects);
    if (r->polled)
        effects[n++] = (struct effect){.kind = EFFECT_BODY, .chord = r->polls};
    n += add_sends(w, r->sends, &effects[n]);
    n += add_disposal(r, &effects[n], &owned);
    if (must_forget(r))
        effects[n++] = end_record(r, &record);
    if (r->unique)
        effects[n++] = unique_end(r);
    request_move(r, REQUEST_SETTLING);
    if (!r->acked)
        channel_settle(w->channel, &r->delivery, effects, n, on_settled, r);
    else if (n > 0)
        channel_publish(w->channel, effects, n, on_settled, r);
    else
        flow_done(r);
    free(owned);
    free(record);
    free(effects);
}

/* --- no store, no time ------------------------------------------------------------------------ */

static bool waits_for_store(const struct request *r)
{
    return r->state == REQUEST_CHECKING || r->state == REQUEST_PREPARING ||
           r->state == REQUEST_STORING;
}

void flow_give_up(struct request *r)
{
    struct worker *w = r->worker;
    if (r->given_up)
        return;
    r->given_up = true;
    r->next = w->unstored;
    w->unstored = r;
    w->n_requests--;
}

/* The store may still call back, so the request stays. Should the result be stored after all, the
 * message that went back is found to be a success. */
static void give_up(struct delivery *d, void *worker)
{
    struct worker *w = worker;
    struct request *r = request_of(d);
    if (!waits_for_store(r))
        return;
    char *text = request_redelivery(r, false);
    struct effect back = {.kind = EFFECT_RETURN, .queue = d->queue, .priority = r->message.priority,
                          .text = slice_of(text)};
    channel_settle(w->channel, d, &back, 1, NULL, NULL);
    free(text);
    flow_give_up(r);
}

void flow_give_back_unstored(struct worker *w)
{
    channel_each_held(w->channel, give_up, w);
    if (w->unstored)
        log_error("The result store does not answer: tasks without a stored result go back");
}

void flow_forget_unstored(struct worker *w)
{
    for (struct request *r; (r = w->unstored);) {
        w->unstored = r->next;
        request_free(r);
    }
}
