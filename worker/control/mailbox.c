/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/control/mailbox.h"

#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "worker/log.h"

#include <stdlib.h>
#include <string.h>

/* A control message's way: envelope ─▶ is it for us? ─▶ command of the table ─▶ reply. The one
 * idea: whatever a client sends, the worst that happens is a line in the log. Nothing here is
 * durable: a command that comes while a worker is away is gone, as in Celery. */

static const struct control_command *command_find(const char *name)
{
    for (int i = 0; i < control_n_commands; i++) {
        const struct control_command *command = &control_commands[i];
        if (strcmp(command->name, name) == 0 ||
            (command->alias && strcmp(command->alias, name) == 0))
            return command;
    }
    return NULL;
}

/* --- reply ------------------------------------------------------------------------------------ */

static void reply(struct control *c, const cJSON *body, const cJSON *value)
{
    const cJSON *to = json_get(body, "reply_to");
    const char *exchange = json_get_string(to, "exchange");
    const char *routing_key = json_get_string(to, "routing_key");
    if (!exchange || !routing_key)
        return;
    struct buf text = BUF_INIT(SIZE_MAX / 2), headers = BUF_INIT(SIZE_MAX / 2);
    const char *hostname = c->worker->options->hostname;
    buf_char(&text, '{');
    json_print_string(hostname, strlen(hostname), &text);
    buf_str(&text, ": ");
    json_print(value, &text);
    buf_char(&text, '}');
    buf_str(&headers, "{\"ticket\": ");
    json_print(json_get(body, "ticket"), &headers);
    buf_printf(&headers, ", \"clock\": %lld}", (long long)lamport_forward(&c->worker->clock));
    struct envelope_spec spec = {
        .body = {text.data, text.size},
        .headers = headers.data,
        .exchange = exchange,
        .routing_key = routing_key,
        .delivery_mode = 1,
    };
    char *envelope = envelope_encode(&spec);
    fanout_reply(c->worker->fanout, exchange, routing_key, slice_of(envelope));
    free(envelope);
    buf_done(&text);
    buf_done(&headers);
}

static void call_free(struct call *call)
{
    cJSON_Delete(call->body);
    free(call);
}

void call_answer(struct call *call, cJSON *value)
{
    if (!call->control) {
        cJSON_Delete(value);
        call_free(call);
        return;
    }
    struct call **at = &call->control->waiting;
    while (*at && *at != call)
        at = &(*at)->next;
    if (*at)
        *at = call->next;
    const char *error = json_get_string(value, "error");
    if (error)
        log_error("pidbox command error: %s: %s", call->command ? call->command->name : "unknown",
                  error);
    if (!call->silent)
        reply(call->control, call->body, value);
    cJSON_Delete(value);
    call_free(call);
}

/* --- dispatch --------------------------------------------------------------------------------- */

/* Takes body. */
static void dispatch(struct control *c, cJSON *body)
{
    const char *method = json_get_string(body, "method");
    struct call *call = mem_zalloc(sizeof *call);
    *call = (struct call){.control = c, .worker = c->worker, .body = body};
    call->arguments = json_get(body, "arguments");
    call->command = method ? command_find(method) : NULL;
    if (log_threshold <= LOG_DEBUG)
        log_debug("pidbox received method %s", method ? method : "?");
    call->next = c->waiting;
    c->waiting = call;
    cJSON *value;
    if (!call->command)
        value = call_raise("KeyError", "%s", method ? method : "method");
    else if (call->arguments && !cJSON_IsObject(call->arguments) && !cJSON_IsNull(call->arguments))
        value = call_raise("TypeError", "%s() argument after ** must be a mapping", method);
    else
        value = call_check(call);
    if (!value)
        value = call->command->run(call);
    if (!call->later)
        call_answer(call, value);
}

static bool is_among(const char *name, const cJSON *list)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
        if (cJSON_IsString(item) && strcmp(item->valuestring, name) == 0)
            return true;
    return false;
}

static bool is_for_us(const struct control *c, const cJSON *body, struct error *err)
{
    const char *hostname = c->worker->options->hostname;
    const cJSON *destination = json_get(body, "destination");
    const char *pattern = json_get_string(body, "pattern");
    const char *matcher = json_get_string(body, "matcher");
    if (cJSON_IsArray(destination) && destination->child)
        return is_among(hostname, destination);
    if (cJSON_IsString(destination) && *destination->valuestring) /* Python's `in` on a text */
        return strstr(destination->valuestring, hostname) != NULL;
    bool match = true;
    if (pattern && *pattern && matcher && *matcher)
        pattern_match(hostname, pattern, matcher, &match, err);
    return match;
}

static void on_message(struct slice text, void *arg)
{
    struct control *c = arg;
    struct error err = {0};
    cJSON *headers, *body;
    int64_t clock = 0;
    if (envelope_decode(text, &headers, &body, &err) == 0 && !cJSON_IsObject(body))
        error_set(&err, ERROR_INVALID, "the body is no object");
    if (!err.code) {
        lamport_forward(&c->worker->clock);
        json_as_int(json_get(headers, "clock"), &clock);
        lamport_adjust(&c->worker->clock, clock);
        if (is_for_us(c, body, &err)) {
            dispatch(c, body);
            body = NULL;
        }
    }
    if (err.code)
        log_error("Control command error: %s", err.text);
    cJSON_Delete(headers);
    cJSON_Delete(body);
}

int control_send(struct control *c, const char *method, cJSON *arguments, const char *ticket,
                 const char *routing_key)
{
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "method", method);
    cJSON_AddItemToObject(body, "arguments", arguments);
    cJSON_AddNullToObject(body, "destination");
    cJSON_AddNullToObject(body, "pattern");
    cJSON_AddNullToObject(body, "matcher");
    if (ticket) {
        cJSON_AddStringToObject(body, "ticket", ticket);
        cJSON *to = cJSON_AddObjectToObject(body, "reply_to");
        cJSON_AddStringToObject(to, "exchange", c->reply_exchange);
        cJSON_AddStringToObject(to, "routing_key", routing_key);
    }
    char *text = json_text(body);
    char *headers = mem_printf("{\"clock\": %lld, \"expires\": %.6f}",
                               (long long)lamport_forward(&c->worker->clock),
                               (double)worker_now(c->worker) / 1e6 + 1);
    struct envelope_spec spec = {slice_of(text), headers, c->exchange, "", 2};
    char *envelope = envelope_encode(&spec);
    int code = fanout_publish(c->worker->fanout, c->exchange, "", slice_of(envelope));
    free(envelope);
    free(headers);
    free(text);
    cJSON_Delete(body);
    return code;
}

/* --- open and close --------------------------------------------------------------------------- */

struct control *control_open(struct worker *w)
{
    struct control *c = mem_zalloc(sizeof *c);
    const char *space = w->options->settings.control_exchange;
    c->worker = w;
    c->started = monotonic_now();
    c->samples = cJSON_CreateArray();
    c->exchange = mem_printf("%s.pidbox", space);
    c->reply_exchange = mem_printf("reply.%s.pidbox", space);
    char *queue = mem_printf("%s.%s", w->options->hostname, c->exchange);
    fanout_listen(w->fanout, c->exchange, "", queue, on_message, c);
    free(queue);
    gossip_open(c);
    return c;
}

void control_up(struct control *c)
{
    if (!c->met && !c->worker->options->without_mingle)
        mingle_start(c);
    c->met = true;
}

void control_close(struct control *c)
{
    if (!c)
        return;
    mingle_end(c);
    gossip_close(c);
    for (struct call *call = c->waiting; call; call = call->next)
        call->control = NULL; /* freed by whoever still has to answer it */
    cJSON_Delete(c->samples);
    free(c->exchange);
    free(c->reply_exchange);
    free(c);
}
