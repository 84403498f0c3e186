/* SPDX-License-Identifier: Apache-2.0 */
/* The built-in tasks that run in main. celery.chord_unlock is the chord of result stores that do
 * not count: it comes again until the header's members are ready, then sends the body with its own
 * ack.
 *
 *   step                                                   a kill -9 right after it leaves
 *   it is delayed, and the broker knows for which chord    that: any worker promotes it when it is due
 *   a part's result is stored                              the part comes again, is found to have succeeded
 *   the part's ack counts it; the last one's moves the     the unlock in its queue
 *     unlock to its queue, in the same step
 *   the unlock finds all parts ready                       the unlock in flight: it comes again
 *   its ack marks the chord's body as sent and sends it,   the body in its queue
 *     in one step, which does neither where the mark is
 *
 * The mark is for a second unlock of one chord: Python workers make one when they die or wait too
 * long. Where one of them ran the other unlock nothing is marked; then a body that has succeeded is
 * not sent again. */

#include "worker/native.h"

#include "proto/base/mem.h"
#include "worker/canvas.h"
#include "worker/follow.h"
#include "worker/join.h"
#include "worker/log.h"
#include "worker/registry.h"

#include <stdlib.h>
#include <string.h>

/* --- celery.chord_unlock ---------------------------------------------------------------------- */

struct unlock {
    struct request *r;
    cJSON *message;       /* [args, kwargs, embed] */
    const cJSON *body;    /* the chord's, in message */
    const cJSON *kwargs;
    cJSON *results;       /* of the parts, while the body is looked for */
};

static void unlock_end(struct unlock *u, enum outcome outcome)
{
    struct request *r = u->r;
    cJSON_Delete(u->message);
    free(u);
    r->run_us = monotonic_now() - r->started_at;
    flow_finish(r, outcome);
}

static void body_end(struct unlock *u)
{
    u->r->polled = u->r->polls != NULL;
    unlock_end(u, OUTCOME_SUCCEEDED);
}

static void fail(struct unlock *u, const char *message, const char *exception)
{
    follow_fail_body(u->r, u->body, message, exception);
    body_end(u);
}

static void look_later(struct unlock *u)
{
    struct request *r = u->r;
    const cJSON *interval = json_get(u->kwargs, "interval");
    int64_t most = 0;
    if (json_as_int(json_get(u->kwargs, "max_retries"), &most) && r->message.retries >= most) {
        fail(u, "MaxRetriesExceededError(\"the chord's header is not ready\")", NULL);
        return;
    }
    r->countdown = cJSON_IsNumber(interval)
                       ? interval->valuedouble
                       : r->worker->options->settings.result_chord_retry_interval;
    unlock_end(u, OUTCOME_RETRIED);
}

static void on_body(int code, const char *text, void *arg)
{
    struct unlock *u = arg;
    cJSON *record = code == 0 && text ? json_parse(text, strlen(text), NULL) : NULL;
    const char *state = json_get_string(record, "status");
    if (u->r->lost) {
        cJSON_Delete(u->results);
        unlock_end(u, OUTCOME_GIVEN_BACK);
    } else if (state && strcmp(state, "SUCCESS") == 0) {
        cJSON_Delete(u->results);
        body_end(u);
    } else {
        follow_send_body(u->r, u->body, u->results);
        body_end(u);
    }
    cJSON_Delete(record);
}

/* The id of a group or chain is that of no record. */
static void send_body(struct unlock *u, cJSON *results)
{
    const char *id = json_get_string(json_get(u->body, "options"), "task_id");
    u->results = results;
    if (id && !json_get_string(u->body, "subtask_type"))
        store_get(u->r->worker->store, id, on_body, u);
    else
        on_body(0, NULL, u);
}

static void on_joined(const struct join_end *end, void *arg)
{
    struct unlock *u = arg;
    if (u->r->lost) {
        cJSON_Delete(end->results);
        unlock_end(u, OUTCOME_GIVEN_BACK);
    } else if (!end->ready) {
        look_later(u);
    } else if (end->failed) {
        char *repr = follow_exception_repr(end->failed);
        fail(u, repr, end->failed);
        free(repr);
    } else {
        send_body(u, end->results);
    }
}

static void note_chord(struct request *r, const cJSON *args, const cJSON *kwargs)
{
    const cJSON *group = cJSON_GetArrayItem(args, 0) ?: json_get(kwargs, "group_id");
    const cJSON *tuples = json_get(kwargs, "result");
    if (r->polls || !cJSON_IsString(group) || !cJSON_IsArray(tuples) || r->message.protocol1)
        return;
    r->polls = mem_dup(group->valuestring);
    r->n_polled = (int64_t)join_count(tuples);
}

static void chord_unlock(struct request *r)
{
    cJSON *message = json_parse(r->message.body.at, r->message.body.size, NULL);
    const cJSON *args = cJSON_GetArrayItem(message, 0), *kwargs = cJSON_GetArrayItem(message, 1);
    const cJSON *body = cJSON_GetArrayItem(args, 1);
    if (!body)
        body = json_get(kwargs, "callback");
    const cJSON *tuples = json_get(kwargs, "result");
    if (!cJSON_IsObject(body) || !cJSON_IsArray(tuples)) {
        cJSON_Delete(message);
        request_raise(r, exception_text("builtins", "TypeError",
                                        "chord_unlock() needs a callback and a list of results"));
        log_error("Task %s[%s]: no callback, or no list of results", request_name(r),
                  request_id(r));
        flow_finish(r, OUTCOME_FAILED);
        return;
    }
    r->ignore_result = true;
    note_chord(r, args, kwargs);
    struct unlock *u = mem_alloc(sizeof *u);
    *u = (struct unlock){.r = r, .message = message, .body = body, .kwargs = kwargs};
    join_start(r->worker->base, r->worker->store, cJSON_Duplicate(tuples, true), 0, on_joined, u);
}

void native_note_chord(struct request *r)
{
    if (registry[r->def].native != chord_unlock)
        return;
    cJSON *message = json_parse(r->message.body.at, r->message.body.size, NULL);
    note_chord(r, cJSON_GetArrayItem(message, 0), cJSON_GetArrayItem(message, 1));
    cJSON_Delete(message);
}

/* --- celery.backend_cleanup ------------------------------------------------------------------- */

static void backend_cleanup(struct request *r)
{
    store_tidy(r->worker->store);
    flow_finish(r, OUTCOME_SUCCEEDED);
}

native_fn *native_find(const char *task)
{
    static const struct {
        const char *task;
        native_fn *fn;
    } rows[] = {{"celery.chord_unlock", chord_unlock}, {"celery.backend_cleanup", backend_cleanup}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].task, task) == 0)
            return rows[i].fn;
    return NULL;
}
