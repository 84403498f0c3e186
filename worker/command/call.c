/* SPDX-License-Identifier: Apache-2.0 */
#include "broker/fanout.h"
#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "proto/event.h"
#include "proto/time.h"
#include "proto/uuid.h"
#include "worker/command/command.h"
#include "worker/command/mailbox.h"
#include "worker/command/result.h"
#include "worker/registry.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Publishes one message as a Python producer would. The id is made, and printed, here: whoever
 * reads it can ask for the result whatever happens to this process. */

static const double LONGEST_WAIT = 1e9;

struct call {
    struct message_spec spec;
    cJSON *args, *kwargs;
    double timeout; /* 0: none */
    char id[37], origin[300];
};

static int read_number(const struct options *o, const char *name, double max, double *ret_number)
{
    const char *value = command_value(o, name);
    if (!value)
        return 0;
    char *end;
    *ret_number = strtod(value, &end);
    if (*end || end == value || !(*ret_number >= 0 && *ret_number <= max))
        return command_usage(o, "--%s: \"%.40s\" is not a number from 0 to %.15g", name, value,
                             max);
    return 0;
}

/* A variable of a shell that is not set: nobody would ever find that message. */
static int read_name(const struct options *o, const char *name)
{
    const char *value = command_value(o, name);
    return value && !*value ? command_usage(o, "--%s is empty", name) : 0;
}

static int read_json(const struct options *o, const char *name, bool wants_list, cJSON **ret_value)
{
    const char *value = command_value(o, name);
    if (!value)
        return 0;
    struct error err = {0};
    *ret_value = json_parse(value, strlen(value), &err);
    if (!*ret_value)
        return command_usage(o, "--%s is not JSON: %s", name, err.text);
    if (wants_list ? !cJSON_IsArray(*ret_value) : !cJSON_IsObject(*ret_value))
        return command_usage(o, "--%s must be a JSON %s", name,
                             wants_list ? "list, as in '[1, 2]'" : "object, as in '{\"x\": 1}'");
    return 0;
}

static int read_time(const struct options *o, const char *name, int64_t *ret_time)
{
    const char *value = command_value(o, name);
    if (value && time_parse(value, strlen(value), ret_time) != 0)
        return command_usage(o, "--%s: \"%.40s\" is no time like 2026-11-21T09:30:00+00:00", name,
                             value);
    return 0;
}

static int read_times(const struct options *o, struct message_spec *spec)
{
    const double longest = 100.0 * 366 * 86400;
    double countdown = -1;
    int status = read_number(o, "countdown", longest, &countdown);
    if (status == 0)
        status = read_time(o, "eta", &spec->eta);
    if (status == 0 && countdown >= 0 && spec->eta != TIME_NONE)
        status = command_usage(o, "--countdown and --eta contradict each other");
    if (status == 0 && countdown > 0)
        spec->eta = spec->now + (int64_t)(countdown * 1e6);
    const char *expires = command_value(o, "expires");
    if (status != 0 || !expires)
        return status;
    char *end;
    double seconds = strtod(expires, &end);
    if (*end || end == expires)
        return read_time(o, "expires", &spec->expires);
    if (!(seconds >= 0 && seconds <= longest))
        return command_usage(o, "--expires: \"%.40s\" is too long or negative", expires);
    spec->expires = spec->now + (int64_t)(seconds * 1e6);
    return 0;
}

static const char *queue_of(const struct options *o, const char *task)
{
    const char *queue = command_value(o, "queue");
    int index = queue ? -1 : registry_find(task);
    if (index >= 0)
        queue = registry[index].table ? registry[index].table->queue : NULL;
    return queue ? queue : o->settings.task_default_queue;
}

static void origin_print(char *text, size_t size)
{
    char host[256] = "localhost";
    gethostname(host, sizeof host - 1);
    snprintf(text, size, "gen%d@%s", (int)getpid(), host);
}

static void fill_names(const struct options *o, struct call *call)
{
    origin_print(call->origin, sizeof call->origin);
    call->spec.id = command_value(o, "id");
    if (!call->spec.id) {
        uuid_make(call->id);
        call->spec.id = call->id;
    }
    call->spec.task = command_word(o, 0);
    call->spec.queue = queue_of(o, call->spec.task);
    call->spec.origin = call->origin;
    call->spec.root_id = call->spec.id;
}

static int read_call(const struct options *o, struct call *call)
{
    if (!command_word(o, 0) || !*command_word(o, 0) || command_word(o, 1))
        return command_usage(o, "one task name is wanted: cworker call NAME --args '[…]'");
    if (command_value(o, "timeout") && !command_flag(o, "wait"))
        return command_usage(o, "--timeout goes with --wait");
    if (command_flag(o, "wait") && !o->settings.result_backend)
        return command_usage(o, "--wait: no result backend is set; say --result-backend URL");
    call->spec = (struct message_spec){
        .eta = TIME_NONE, .expires = TIME_NONE, .now = clock_us(CLOCK_REALTIME), .group_index = -1};
    double priority = 0;
    int status = read_name(o, "id");
    if (status == 0)
        status = read_name(o, "queue");
    if (status == 0)
        status = read_number(o, "timeout", LONGEST_WAIT, &call->timeout);
    if (status == 0)
        status = read_number(o, "priority", 255, &priority);
    call->spec.priority = (int)priority;
    if (status == 0 && priority != floor(priority))
        status = command_usage(o, "--priority is a whole number");
    if (status == 0)
        status = read_times(o, &call->spec);
    if (status == 0)
        status = read_json(o, "args", true, &call->args);
    if (status == 0)
        status = read_json(o, "kwargs", false, &call->kwargs);
    call->spec.args = call->args;
    call->spec.kwargs = call->kwargs;
    if (status == 0)
        fill_names(o, call);
    return status;
}

/* task-sent, behind the message: who hears of it can find the task. */
static int say_sent(struct mailbox *m, const char *text, const char *queue)
{
    struct message message = {0};
    struct message_limits limits = {0};
    struct buf body = BUF_INIT(SIZE_MAX / 4), headers = BUF_INIT(1 << 12);
    char host[300];
    origin_print(host, sizeof host);
    struct event event = {"task-sent", host, getpid(), 1, clock_us(CLOCK_REALTIME)};
    struct envelope_spec spec = {
        .exchange = m->settings->event_exchange, .routing_key = "task.sent", .delivery_mode = 1};
    message_decode(mem_dup(text), strlen(text), &limits, &message, NULL);
    event_sent(&event, &message, queue, &body);
    message_done(&message);
    buf_str(&headers, "{\"hostname\": ");
    json_print_string(host, strlen(host), &headers);
    buf_char(&headers, '}');
    spec.body = (struct slice){body.data, body.size};
    spec.headers = headers.data;
    char *topic = fanout_topic(m->fanout, spec.exchange, spec.routing_key);
    char *envelope = envelope_encode(&spec);
    int64_t heard;
    int status = command_redis_ask(
        &m->redis, &heard, 3,
        (struct slice[]){slice_of("PUBLISH"), slice_of(topic), slice_of(envelope)});
    free(envelope);
    free(topic);
    buf_done(&headers);
    buf_done(&body);
    return status;
}

static int publish(const struct options *o, const struct message_spec *spec)
{
    struct error err = {0};
    char *text = message_encode(spec, &err);
    if (!text) {
        fprintf(stderr, "cworker call: %s\n", err.text);
        return 1;
    }
    int step = command_queue_step(&o->settings, spec->priority);
    char *key = command_queue_key(&o->settings, spec->queue, step);
    struct slice argv[] = {slice_of("LPUSH"), slice_of(key), slice_of(text)};
    struct mailbox m = {0};
    int64_t length;
    bool tells = o->settings.task_send_sent_event;
    int status = tells ? mailbox_open(&m, o) : command_redis_open(&m.redis, o);
    if (status == 0)
        status = command_redis_ask(&m.redis, &length, 3, argv);
    if (status == 0 && tells)
        status = say_sent(&m, text, spec->queue);
    mailbox_close(&m);
    free(key);
    free(text);
    return status;
}

static int wait_for_result(const struct options *o, const char *id, double timeout)
{
    int status;
    char state[64];
    int64_t end = clock_us(CLOCK_REALTIME) + (int64_t)(timeout * 1e6), pause = 50000;
    while ((status = result_print(o, id, false, state)) == RESULT_NOT_YET) {
        if (timeout > 0 && clock_us(CLOCK_REALTIME) >= end) {
            fprintf(stderr, "cworker call: no result within %g s%s%s\n", timeout,
                    *state ? "; state " : "", state);
            return EXIT_UNAVAILABLE;
        }
        struct timespec time = {.tv_sec = pause / 1000000, .tv_nsec = pause % 1000000 * 1000};
        nanosleep(&time, NULL);
        pause = pause < 1000000 ? pause * 3 / 2 : pause;
    }
    return status;
}

int command_call(struct options *o)
{
    struct call call = {0};
    int status = read_call(o, &call);
    if (status == 0)
        status = publish(o, &call.spec);
    if (status == 0) {
        puts(call.spec.id);
        fflush(stdout);
        if (command_flag(o, "wait"))
            status = wait_for_result(o, call.spec.id, call.timeout);
    }
    cJSON_Delete(call.args);
    cJSON_Delete(call.kwargs);
    return status;
}
