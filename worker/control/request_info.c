/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

#include "worker/registry.h"

#include <stdlib.h>
#include <unistd.h>

/* A task as `inspect active` and its like show it: the keys and types of Celery's Request.info().
 * The arguments are read again from the body, since main keeps none; only inspection pays for
 * that. */

static void add_text(cJSON *object, const char *key, const char *text)
{
    cJSON_AddItemToObject(object, key, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static void add_arguments(cJSON *info, const struct message *m, bool safe)
{
    cJSON *body = safe ? NULL : json_parse(m->body.at, m->body.size, NULL);
    if (safe) {
        add_text(info, "args", m->argsrepr ? m->argsrepr : "");
        add_text(info, "kwargs", m->kwargsrepr ? m->kwargsrepr : "");
    } else {
        cJSON *args = cJSON_IsArray(body) ? cJSON_DetachItemFromArray(body, 0) : NULL;
        cJSON *kwargs = cJSON_IsArray(body) ? cJSON_DetachItemFromArray(body, 0) : NULL;
        cJSON_AddItemToObject(info, "args", args ? args : cJSON_CreateArray());
        cJSON_AddItemToObject(info, "kwargs", kwargs ? kwargs : cJSON_CreateObject());
    }
    cJSON_Delete(body);
}

static cJSON *delivery_info(const struct message *m, const char *queue)
{
    cJSON *info = cJSON_CreateObject();
    add_text(info, "exchange", m->exchange ? m->exchange : "");
    add_text(info, "routing_key", m->routing_key ? m->routing_key : queue);
    cJSON_AddItemToObject(info, "priority", json_int(m->priority));
    cJSON_AddItemToObject(info, "redelivered", cJSON_CreateBool(m->redelivered));
    return info;
}

/* When it started (CLOCK_MONOTONIC µs), and in which process; a native task runs in this one. A
 * task that has ended is known by its process, too. */
static bool has_started(const struct request *r, pid_t *ret_pid, int64_t *ret_started)
{
    bool native = r->def >= 0 && registry[r->def].native;
    *ret_pid = native ? getpid() : r->pid;
    *ret_started = r->started_at;
    if (r->state == REQUEST_RUNNING && r->job &&
        pool_job_runs(r->worker->pool, r->job, ret_pid, ret_started))
        return true;
    return r->started_at && *ret_pid;
}

cJSON *request_info(const struct request *r, bool safe)
{
    const struct message *m = &r->message;
    cJSON *info = cJSON_CreateObject();
    pid_t pid = 0;
    int64_t started = 0;
    bool running = has_started(r, &pid, &started);
    add_text(info, "id", m->id);
    add_text(info, "name", m->shadow && *m->shadow ? m->shadow : m->task);
    add_arguments(info, m, safe);
    add_text(info, "type", m->task);
    add_text(info, "hostname", r->worker->options->hostname);
    if (running) {
        int64_t at = worker_now(r->worker) - (monotonic_now() - started);
        cJSON_AddItemToObject(info, "time_start", cJSON_CreateNumber((double)at / 1e6));
    } else {
        cJSON_AddNullToObject(info, "time_start");
    }
    cJSON_AddItemToObject(info, "acknowledged", cJSON_CreateBool(r->acked));
    cJSON_AddItemToObject(info, "delivery_info", delivery_info(m, r->delivery.queue));
    cJSON_AddItemToObject(info, "worker_pid", running ? json_int(pid) : cJSON_CreateNull());
    return info;
}

/* What ends without a run (revoked, expired, to be delayed) is neither: Celery has let go of it,
 * too. */
static enum request_place place_of(const struct request *r)
{
    pid_t pid;
    int64_t started;
    if (r->state >= REQUEST_RUNNING && r->state < REQUEST_DONE && has_started(r, &pid, &started))
        return REQUEST_PLACE_ACTIVE;
    return r->state <= REQUEST_RUNNING ? REQUEST_PLACE_RESERVED : REQUEST_PLACE_NONE;
}

void requests_each(struct worker *w, request_fn *fn, void *arg)
{
    for (const struct request *r = w->newest; r; r = r->older) {
        enum request_place place = place_of(r);
        if (place != REQUEST_PLACE_NONE && r->message.id && !r->given_up && !r->lost)
            fn(r, place, arg);
    }
}
