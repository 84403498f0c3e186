/* SPDX-License-Identifier: Apache-2.0 */
/* A message that was delivered before may have run to its end: its worker died between the result
 * and the ack. The one idea: the stored result decides. SUCCESS: what it causes is published with
 * the ack and the task does not run. REVOKED: acked. Anything else, FAILURE too: it runs (again),
 * as in Celery with worker_deduplicate_successful_tasks; a FAILURE may be followed by a redelivery
 * on purpose.
 *
 * What a success causes is derived again from the message and the stored result (chain, callbacks:
 * the ids of what follows depend on the delivery alone), except for what the task itself sent: that
 * is recorded in the outbox first. Only tasks that send, and redelivered ones, pay for it.
 *
 *   step                       a kill -9 right after it leaves
 *   the task has ended         the message in flight: it runs again
 *   the record is in the outbox  the same; the next run's record replaces it
 *   SUCCESS is stored          the message in flight: found to be a success, its record (or what is
 *                              derived) is published with the ack
 *   ack script                 nothing: message and record went, what it caused came, in one step
 *
 * A worker may die of a task, and the next one of it, too. So what was delivered before is marked
 * in the same record as it starts, and a message with too many marks is set aside
 * (task_max_deliveries). A mark lasts until the record of the task's end replaces it or the message
 * is settled; what was only held when its worker died has none. What an earlier run sent is kept,
 * with the mark and when the message goes back: that run's worker may only have been paused, and
 * store its SUCCESS yet.
 *
 * While the store is down the record tells the end itself, unless its result is large, and is
 * written before the result is put: whoever gets the message after a kill stores that and does not
 * run the task. What was on its way to the store as that went down is recorded then.
 *
 * Not covered, since nothing tells that the task had ended: ignored or expired results (it runs
 * again) and early acks (what it sent is lost, as its user asked). Ids are taken to be unique: a
 * message whose id has succeeded is done, as the store keeps the first SUCCESS of an id. */

#include "proto/base/mem.h"
#include "worker/canvas.h"
#include "worker/log.h"
#include "worker/worker.h"

#include <stdlib.h>
#include <string.h>

enum {
    LEAVE_SECONDS = 60,
    KEPT_RESULT_MAX =
        4096, /* bytes; by the thousand they are in Redis until the store works again */
};

static void ask(struct request *r);

static void asked_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    struct request *r = arg;
    if (r->given_up)
        return;
    if (r->lost || r->worker->phase != WORKER_RUNNING)
        flow_finish(r, OUTCOME_GIVEN_BACK);
    else
        ask(r);
}

/* Store or broker is away. To run it now could be to run it twice, so it waits; neither could its
 * end be told anybody. */
static void ask_later(struct request *r)
{
    event_base_once(r->worker->base, -1, EV_TIMEOUT, asked_again, r, &(struct timeval){1, 0});
}

/* --- records ---------------------------------------------------------------------------------- */

/* {"sends": what the task sent, borrowed}, or {} for nothing. */
static cJSON *record_make(cJSON *sends)
{
    cJSON *record = cJSON_CreateObject();
    if (sends)
        cJSON_AddItemReferenceToObject(record, "sends", sends);
    return record;
}

/* Takes record; caller frees. */
static char *print_record(cJSON *record)
{
    char *text = json_text(record);
    cJSON_Delete(record);
    return text;
}

static void record_write(struct request *r, const char *text, channel_settled_fn *fn)
{
    channel_outbox_write(r->worker->channel, &r->delivery, r->message.id, r->message.delivery_tag,
                         slice_of(text), fn, r);
}

static enum outcome outcome_of(const cJSON *end)
{
    const char *name = json_get_string(end, "outcome");
    int i = 0;
    while (i < OUTCOME_GIVEN_BACK && (!name || strcmp(outcome_rows[i].name, name) != 0))
        i++;
    return (enum outcome)i;
}

static bool outcome_is_kept(enum outcome outcome)
{
    return outcome == OUTCOME_SUCCEEDED || outcome == OUTCOME_FAILED || outcome == OUTCOME_RETRIED;
}

static bool record_is_sound(const cJSON *record)
{
    const cJSON *sends = json_get(record, "sends"), *end = json_get(record, "end");
    return cJSON_IsObject(record) && (!sends || canvas_are_messages(sends)) &&
           (!end || outcome_is_kept(outcome_of(end)));
}

/* NULL: there is none, or nobody can read it. An earlier version of cworker wrote the list of what
 * was sent alone. */
static cJSON *record_read(const struct request *r, struct slice text)
{
    if (!text.at)
        return NULL;
    cJSON *record = json_parse(text.at, text.size, NULL), *sends = record;
    if (cJSON_IsArray(sends)) {
        record = cJSON_CreateObject();
        json_set(record, "sends", sends);
    }
    if (record_is_sound(record))
        return record;
    log_error("Task %s[%s]: its record in the outbox of queue %s cannot be read: taken as none, "
              "what the task itself had sent is lost",
              request_name(r), request_id(r), r->delivery.queue);
    cJSON_Delete(record);
    return NULL;
}

/* --- it has succeeded ------------------------------------------------------------------------- */

/* A later version of cworker wrote what this task causes, and only such a worker can publish it.
 * One may be there: out of the way, and not at once again, for this worker would meet it first. */
static void leave(struct request *r)
{
    if (!r->worker->has_left)
        log_warning(
            "Task %s[%s] has ended in a later version of cworker, which alone can publish what "
            "it caused: such tasks are put off until one takes them",
            request_name(r), request_id(r));
    r->worker->has_left = true;
    r->countdown = LEAVE_SECONDS;
    flow_finish(r, OUTCOME_LEFT);
}

static void on_record(int code, struct slice text, void *arg)
{
    struct request *r = arg;
    if (r->given_up)
        return;
    if (code == ERROR_UNAVAILABLE) {
        ask_later(r);
        return;
    }
    if (code != 0) {
        leave(r);
        return;
    }
    cJSON *record = record_read(r, text);
    if (record) {
        r->sends = cJSON_DetachItemFromObjectCaseSensitive(record, "sends");
        r->recorded = r->sends || !json_get(record, "starts"); /* else what follows is derived */
        cJSON_Delete(record);
    }
    log_info("Task %s[%s] Task already completed successfully.", request_name(r), request_id(r));
    r->stored = true;
    flow_finish(r, OUTCOME_SUCCEEDED);
}

static void succeeded(struct request *r, const cJSON *result)
{
    request_raise(r, json_text(result));
    if (channel_outbox_read(r->worker->channel, r->delivery.queue, r->message.id,
                            r->message.delivery_tag, on_record, r) != 0)
        ask_later(r);
}

/* --- it has not: may it run? ------------------------------------------------------------------ */

static bool starts_too_often(struct request *r)
{
    int64_t most =
        r->worker->options->settings.task_max_deliveries - 1; /* the first left no mark */
    if (most < 0 || r->starts < (most > 0 ? most : 1))
        return false;
    r->reason = mem_printf("its workers died too often (task_max_deliveries is %lld)",
                           (long long)most + 1);
    log_error("Task %s[%s] set aside in the dead-letter list: %s", request_name(r), request_id(r),
              r->reason);
    request_raise(r, exception_text("billiard.exceptions", "WorkerLostError", r->reason));
    flow_finish(r, OUTCOME_WORKER_LOST_TOO_OFTEN);
    return true;
}

static void must_run(struct request *r)
{
    if (r->worker->must_run)
        r->worker->must_run(r);
    else if (!starts_too_often(r))
        flow_admit(r);
}

bool redelivery_must_mark(const struct request *r)
{
    return r->message.redelivered && r->acks_late && !r->marked;
}

void redelivery_mark(struct request *r, channel_settled_fn *fn)
{
    cJSON *record = record_make(r->sent_before);
    json_set(record, "starts", json_int(r->starts + 1));
    char *text = print_record(record);
    record_write(r, text, fn);
    free(text);
}

char *redelivery_sent_before(const struct request *r)
{
    return r->sent_before ? print_record(record_make(r->sent_before)) : NULL;
}

/* --- what does the store say? ----------------------------------------------------------------- */

static void on_read(int code, const char *text, void *arg)
{
    struct request *r = arg;
    struct worker *w = r->worker;
    if (r->given_up)
        return;
    cJSON *record = code == 0 && text ? json_parse(text, strlen(text), NULL) : NULL;
    bool unreadable = code == ERROR_INVALID || code == ERROR_UNSUPPORTED || /* now and later */
                      (code == 0 && text && !cJSON_IsObject(record));
    if (code != 0 && !unreadable) {
        ask_later(r);
        return;
    }
    if (unreadable)
        log_warning("Task %s[%s] came again, and its stored result cannot be read: taken as none",
                    request_name(r), request_id(r));
    const char *state = json_get_string(record, "status");
    if (r->lost) {
        flow_finish(r, OUTCOME_GIVEN_BACK);
    } else if (state && strcmp(state, "SUCCESS") == 0) {
        succeeded(r, json_get(record, "result"));
    } else if (state && strcmp(state, "REVOKED") == 0) {
        log_info("Discarding revoked task: %s[%s]", request_name(r), request_id(r));
        r->stored = true;
        flow_finish(r, OUTCOME_REVOKED);
    } else {
        must_run(r);
    }
    worker_pump(w);
    cJSON_Delete(record);
}

/* --- had it ended while the store was down? --------------------------------------------------- */

static char *text_of(const cJSON *object, const char *name)
{
    const char *text = json_get_string(object, name);
    return text ? mem_dup(text) : NULL;
}

/* It goes on as if it had ended now: its result is stored, then it is acked. */
static void take_end(struct request *r, cJSON *record)
{
    const cJSON *end = json_get(record, "end");
    log_info("Task %s[%s] had ended while the result store was down", request_name(r),
             request_id(r));
    r->recorded = true;
    r->sends = cJSON_DetachItemFromObjectCaseSensitive(record, "sends");
    r->children = cJSON_DetachItemFromObjectCaseSensitive(record, "children");
    request_raise(r, text_of(end, "result"));
    r->traceback = text_of(end, "traceback");
    r->countdown = cJSON_GetNumberValue(json_get(end, "countdown"));
    flow_finish(r, outcome_of(end));
}

static void on_kept(int code, struct slice text, void *arg)
{
    struct request *r = arg;
    struct worker *w = r->worker;
    if (r->given_up)
        return;
    cJSON *record = code == 0 ? record_read(r, text) : NULL;
    if (json_as_int(json_get(record, "starts"), &r->starts))
        r->starts = r->starts < 0 ? 0 : r->starts < INT32_MAX ? r->starts : INT32_MAX;
    cJSON_Delete(r->sent_before);
    r->sent_before = json_get(record, "end")
                         ? NULL
                         : cJSON_DetachItemFromObjectCaseSensitive(record, "sends");
    if (code == ERROR_UNAVAILABLE)
        ask_later(r);
    else if (code != 0)
        leave(r);
    else if (r->lost)
        flow_finish(r, OUTCOME_GIVEN_BACK);
    else if (json_get(record, "end"))
        take_end(r, record);
    else if (r->ignore_result || !store_keeps(w->store))
        must_run(r);
    else
        store_get(w->store, r->message.id, on_read, r);
    cJSON_Delete(record);
    worker_pump(w);
}

static void ask(struct request *r)
{
    if (channel_outbox_read(r->worker->channel, r->delivery.queue, r->message.id,
                            r->message.delivery_tag, on_kept, r) != 0)
        ask_later(r);
}

bool redelivery_check(struct request *r)
{
    if (!r->acks_late)
        return false;
    request_move(r, REQUEST_CHECKING);
    if (r->worker->phase == WORKER_RUNNING)
        ask(r);
    else
        flow_finish(r, OUTCOME_GIVEN_BACK);
    return true;
}

/* --- what a task sent ------------------------------------------------------------------------- */

/* A store that is down may be down for long, and this worker may die meanwhile. */
static bool must_keep_end(const struct request *r)
{
    return outcome_is_kept(r->outcome) && r->acks_late && !r->ignore_result &&
           store_is_down(r->worker->store) &&
           (!r->result || strlen(r->result) <= KEPT_RESULT_MAX);
}

bool redelivery_must_record(const struct request *r, bool sent)
{
    if (r->recorded || r->acked || !store_keeps(r->worker->store))
        return false;
    return ((sent || r->message.redelivered) && r->outcome == OUTCOME_SUCCEEDED) ||
           must_keep_end(r);
}

static void on_recorded(int code, void *arg)
{
    struct request *r = arg;
    r->recorded = true;
    flow_recorded(r, code == 0);
}

static void set_text(cJSON *object, const char *name, const char *text)
{
    if (text)
        json_set(object, name, cJSON_CreateString(text));
}

/* {"sends", and where the end is kept "children", "end": {"outcome", "result", …}} */
static char *record_text(const struct request *r)
{
    cJSON *record = record_make(r->sends);
    if (must_keep_end(r)) {
        cJSON *end = cJSON_CreateObject();
        set_text(end, "outcome", outcome_rows[r->outcome].name);
        set_text(end, "result", r->result);
        set_text(end, "traceback", r->traceback);
        json_set(end, "countdown", cJSON_CreateNumber(r->countdown));
        json_set(record, "end", end);
        if (r->children)
            cJSON_AddItemReferenceToObject(record, "children", r->children);
    }
    return print_record(record);
}

void redelivery_record(struct request *r)
{
    char *text = record_text(r);
    request_move(r, REQUEST_RECORDING);
    record_write(r, text, on_recorded);
    free(text);
}

static void on_end_recorded(int code, void *arg)
{
    (void)code; /* not ours any more: its settlement finds that out, too */
    flow_end_recorded(arg);
}

/* What is in the spool file, or was, has left its result there. */
static void keep_end(struct delivery *d, void *worker)
{
    (void)worker;
    struct request *r = request_of(d);
    if (r->state != REQUEST_STORING || r->given_up || r->lost || r->stored || r->recorded ||
        !r->result || !must_keep_end(r))
        return;
    char *text = record_text(r);
    r->recorded = r->recording = true;
    record_write(r, text, on_end_recorded);
    free(text);
}

void redelivery_keep_ends(struct worker *w)
{
    if (store_is_down(w->store))
        channel_each_held(w->channel, keep_end, w);
}
