/* SPDX-License-Identifier: Apache-2.0 */
/* The built-in tasks that run in main. celery.chord_unlock is the chord of result stores that do not
 * count: it comes again until the header's members are ready, then sends the body with its own ack, so
 * that a kill -9 anywhere leaves either the unlock message or the body, never both and never none. */

#include "worker/native.h"

#include "proto/base/mem.h"
#include "worker/canvas.h"
#include "worker/follow.h"
#include "worker/join.h"
#include "worker/log.h"

#include <stdlib.h>
#include <string.h>

/* --- celery.chord_unlock ----------------------------------------------------------------------------- */

struct unlock {
    struct request *r;
    cJSON *message;       /* [args, kwargs, embed] */
    const cJSON *body;    /* the chord's, in message */
    const cJSON *kwargs;
};

static void unlock_end(struct unlock *u, enum outcome outcome)
{
    struct request *r = u->r;
    cJSON_Delete(u->message);
    free(u);
    flow_finish(r, outcome);
}

static void fail(struct unlock *u, const char *message, const char *exception)
{
    follow_fail_body(u->r, u->body, message, exception);
    unlock_end(u, OUTCOME_SUCCEEDED);
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
        follow_send_body(u->r, u->body, end->results);
        unlock_end(u, OUTCOME_SUCCEEDED);
    }
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
        log_error("Task %s[%s]: no callback, or no list of results", request_name(r), request_id(r));
        flow_finish(r, OUTCOME_FAILED);
        return;
    }
    r->ignore_result = true;
    struct unlock *u = mem_alloc(sizeof *u);
    *u = (struct unlock){r, message, body, kwargs};
    join_start(r->worker->base, r->worker->store, cJSON_Duplicate(tuples, true), 0, on_joined, u);
}

/* --- celery.backend_cleanup --------------------------------------------------------------------------- */

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
