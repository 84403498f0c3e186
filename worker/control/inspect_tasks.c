/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/call.h"

#include "proto/base/mem.h"
#include "proto/time.h"
#include "worker/registry.h"
#include "worker/revoked.h"

#include <stdlib.h>
#include <string.h>

/* What a worker has in hand and what it can run: active, reserved, scheduled, query_task, revoked,
 * registered, active_queues. The one idea: `scheduled` is what waits in Redis for our queues, since
 * here no worker holds tasks that wait for their ETA; so it is bounded. */

enum { SCHEDULED_MOST = 1000 };

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct listing {
    cJSON *list;
    enum request_place place;
    bool safe;
    const char **ids; /* sorted */
    size_t n_ids;
};

static void list_request(const struct request *r, enum request_place place, void *arg)
{
    struct listing *l = arg;
    if (place == l->place)
        cJSON_InsertItemInArray(l->list, 0, request_info(r, l->safe));
}

static cJSON *list_place(struct call *call, enum request_place place)
{
    struct listing l = {.list = cJSON_CreateArray(), .place = place};
    l.safe = call_flag(call, "safe");
    requests_each(call->worker, list_request, &l);
    return l.list;
}

cJSON *call_active(struct call *call)
{
    return list_place(call, REQUEST_PLACE_ACTIVE);
}

cJSON *call_reserved(struct call *call)
{
    return list_place(call, REQUEST_PLACE_RESERVED);
}

static void find_request(const struct request *r, enum request_place place, void *arg)
{
    struct listing *l = arg;
    if (!bsearch(&r->message.id, l->ids, l->n_ids, sizeof *l->ids, by_text))
        return;
    cJSON *pair = cJSON_CreateArray();
    const char *state = place == REQUEST_PLACE_ACTIVE ? "active" : "reserved";
    cJSON_AddItemToArray(pair, cJSON_CreateString(state));
    cJSON_AddItemToArray(pair, request_info(r, false));
    cJSON_AddItemToObject(l->list, r->message.id, pair);
}

cJSON *call_query_task(struct call *call)
{
    cJSON *error = call_unhashable(call_argument(call, "ids"));
    if (error)
        return error;
    if (!call_argument(call, "ids"))
        return call_raise("TypeError", "'NoneType' object is not iterable");
    struct listing l = {.list = cJSON_CreateObject()};
    l.ids = call_texts(call, "ids", &l.n_ids);
    qsort(l.ids, l.n_ids, sizeof *l.ids, by_text);
    requests_each(call->worker, find_request, &l);
    free(l.ids);
    return l.list;
}

cJSON *call_revoked(struct call *call)
{
    return revoked_list(call->worker->revoked);
}

/* --- scheduled -------------------------------------------------------------------------------- */

static cJSON *scheduled_entry(struct worker *w, const struct delayed_entry *e)
{
    struct request r = {.worker = w, .delivery = {.queue = e->queue}};
    cJSON *entry = NULL;
    char eta[40];
    if (message_decode(mem_ndup(e->text.at, e->text.size), e->text.size,
                       &(struct message_limits){0}, &r.message, NULL) == 0) {
        entry = cJSON_CreateObject();
        cJSON_AddStringToObject(entry, "eta", time_print(e->due, eta));
        cJSON_AddItemToObject(entry, "priority", json_int(6)); /* Celery's timer knows no other */
        cJSON_AddItemToObject(entry, "request", request_info(&r, false));
    }
    message_done(&r.message);
    return entry;
}

static void on_delayed(int code, const struct delayed_entry *entries, size_t n, void *arg)
{
    struct call *call = arg;
    if (code < 0) {
        call_answer(call, call_raise("ConnectionError", "the broker did not answer"));
        return;
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; call->control && i < n; i++) {
        cJSON *entry = scheduled_entry(call->worker, &entries[i]);
        if (entry)
            cJSON_AddItemToArray(list, entry);
    }
    call_answer(call, list);
}

cJSON *call_scheduled(struct call *call)
{
    if (channel_peek_delayed(call->worker->channel, SCHEDULED_MOST, on_delayed, call) < 0)
        return call_raise("ConnectionError", "the broker is not there");
    call->later = true;
    return NULL;
}

/* --- registered ------------------------------------------------------------------------------- */

static void add_item(struct buf *out, const char *name, const char *value)
{
    if (value)
        buf_printf(out, "%s%s=%s", out->size ? " " : "", name, value);
}

static const char *python_flag(bool value)
{
    return value ? "True" : "False";
}

static void add_seconds(struct buf *out, const char *name, double seconds)
{
    char text[32];
    snprintf(text, sizeof text, "%g", seconds);
    add_item(out, name, seconds > 0 ? text : NULL);
}

static void add_retries(struct buf *out, const struct cw_def *d)
{
    char text[32];
    snprintf(text, sizeof text, "%d",
             d->max_retries == 0  ? 3
             : d->max_retries < 0 ? 0
                                  : d->max_retries);
    add_item(out, "max_retries", d->max_retries == CW_FOREVER ? NULL : text);
}

/* An attribute of Celery's Task in the words of Python's str(), as it is now; what a C task has
 * not, is left out. */
static void add_attribute(struct buf *out, const struct registry_entry *e, const struct settings *s,
                          const char *name)
{
    const struct cw_def *d = e->def;
    const struct {
        const char *name;
        const char *value;
    } texts[] = {
        {"name", d->name},
        {"rate_limit", e->rate_limit},
        {"queue", e->table ? e->table->queue : NULL},
        {"serializer", "json"},
        {"ignore_result", python_flag(d->flags & CW_IGNORE_RESULT || s->task_ignore_result)},
        {"track_started", python_flag(d->flags & CW_TRACK_STARTED || s->task_track_started)},
        {"acks_late", python_flag(d->flags & CW_ACKS_LATE ||
                                  (!(d->flags & CW_ACKS_EARLY) && s->task_acks_late))},
        {"reject_on_worker_lost",
         d->flags & CW_REJECT_ON_LOST || s->task_reject_on_worker_lost ? "True" : NULL},
        {"acks_on_failure_or_timeout", python_flag(s->task_acks_on_failure_or_timeout)},
        {"store_errors_even_if_ignored", python_flag(s->task_store_errors_even_if_ignored)},
        {"send_events", python_flag(true)},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (strcmp(texts[i].name, name) == 0)
            add_item(out, name, texts[i].value);
    if (strcmp(name, "max_retries") == 0)
        add_retries(out, d);
    else if (strcmp(name, "soft_time_limit") == 0)
        add_seconds(out, name, e->soft_limit);
    else if (strcmp(name, "time_limit") == 0)
        add_seconds(out, name, e->hard_limit);
    else if (strcmp(name, "default_retry_delay") == 0)
        add_seconds(out, name, d->default_retry_delay > 0 ? d->default_retry_delay : 180);
}

cJSON *call_registered(struct call *call)
{
    static const char *const usual[] = {"exchange", "routing_key", "rate_limit"};
    size_t n_items, n = 0;
    const char **items = call_texts(call, "taskinfoitems", &n_items);
    char **lines = mem_alloc(((size_t)registry_size + 1) * sizeof *lines);
    for (int i = 0; i < registry_size; i++) {
        const struct registry_entry *e = &registry[i];
        struct buf fields = BUF_INIT(1 << 16);
        if (strncmp(e->def->name, "celery.", 7) == 0 && !call_flag(call, "builtins"))
            continue;
        for (size_t k = 0; k < (n_items ? n_items : sizeof usual / sizeof *usual); k++)
            add_attribute(&fields, e, &call->worker->options->settings,
                          n_items ? items[k] : usual[k]);
        lines[n++] = fields.size ? mem_printf("%s [%s]", e->def->name, fields.data)
                                 : mem_dup(e->def->name);
        buf_done(&fields);
    }
    qsort(lines, n, sizeof *lines, by_text);
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < n; i++) {
        cJSON_AddItemToArray(list, cJSON_CreateString(lines[i]));
        free(lines[i]);
    }
    free(lines);
    free(items);
    return list;
}

/* --- queues ----------------------------------------------------------------------------------- */

/* Queue.as_dict(recurse=True). */
static cJSON *queue_info(const char *name, struct queue_binding binding)
{
    static const char form[] =
        "{\"name\": null, \"exchange\": {\"name\": null, \"type\": null, \"arguments\": null, "
        "\"durable\": true, \"passive\": false, \"auto_delete\": false, \"delivery_mode\": null, "
        "\"no_declare\": false}, \"routing_key\": null, \"queue_arguments\": null, "
        "\"binding_arguments\": null, \"consumer_arguments\": null, \"durable\": true, "
        "\"exclusive\": false, \"auto_delete\": false, \"no_ack\": false, \"alias\": null, "
        "\"bindings\": [], \"no_declare\": null, \"expires\": null, \"message_ttl\": null, "
        "\"max_length\": null, \"max_length_bytes\": null, \"max_priority\": null}";
    cJSON *info = json_parse(form, sizeof form - 1, NULL);
    cJSON *exchange = cJSON_GetObjectItemCaseSensitive(info, "exchange");
    cJSON_ReplaceItemInObject(info, "name", cJSON_CreateString(name));
    cJSON_ReplaceItemInObject(info, "routing_key", cJSON_CreateString(binding.routing_key));
    cJSON_ReplaceItemInObject(exchange, "name", cJSON_CreateString(binding.exchange));
    cJSON_ReplaceItemInObject(exchange, "type", cJSON_CreateString(binding.type));
    return info;
}

cJSON *call_active_queues(struct call *call)
{
    const char **queues = channel_queues(call->worker->channel);
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; queues[i]; i++)
        cJSON_AddItemToArray(
            list, queue_info(queues[i], channel_binding(call->worker->channel, queues[i])));
    free(queues);
    return list;
}
