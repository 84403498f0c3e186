/* SPDX-License-Identifier: Apache-2.0 */
#include "worker/command/mailbox.h"

#include "broker/fanout.h"
#include "broker/scripts.h"
#include "proto/base/clock.h"
#include "proto/base/mem.h"
#include "proto/envelope.h"
#include "proto/uuid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* PUBLISH tells how many listen, so the waiting ends with the last possible reply instead of the
 * time-out, which only a worker that is stuck, or not meant, runs into. The reply queue lives as
 * long as one question; a kill -9 leaves its name in the binding set, as it does with Kombu's
 * clients. */

static const double SLICE = 5; /* seconds for one BRPOP, well below the connection's own patience */

struct question {
    struct mailbox *mailbox;
    mailbox_reply_fn *fn;
    void *arg;
    char oid[37], ticket[37];
    char *exchange, *queue, *member, *binding, *key;
    int64_t expected; /* replies that can still come */
    bool replied;
};

static double seconds_of(clockid_t clock)
{
    return (double)clock_us(clock) / 1e6;
}

int mailbox_open(struct mailbox *m, const struct options *o)
{
    *m = (struct mailbox){.settings = &o->settings};
    struct redis_url url;
    int status = command_redis_open(&m->redis, o);
    if (status != 0 || settings_broker(&o->settings, &url, NULL) < 0)
        return status;
    struct fanout_options options = {
        .key_prefix = o->settings.global_keyprefix,
        .fanout_prefix = o->settings.fanout_prefix,
        .plain = !o->settings.fanout_patterns,
        .client_name = "cworker-command",
        .commands = m->redis.redis,
    };
    m->fanout = fanout_open(m->redis.base, &url, &options);
    redis_url_done(&url);
    return 0;
}

void mailbox_close(struct mailbox *m)
{
    fanout_close(m->fanout);
    command_redis_close(&m->redis);
    *m = (struct mailbox){0};
}

/* SADD, which a Redis that is out of memory refuses: that is when its queues are looked at. */
static struct redis_script bind_script = {
    .body = SCRIPT_ALLOW_OOM "return redis.call('SADD', KEYS[1], ARGV[1])"};

/* --- the question ----------------------------------------------------------------------------- */

static char *body_text(const struct mailbox_question *q, const struct question *reply_to)
{
    cJSON *body = cJSON_CreateObject();
    cJSON *arguments = q->arguments ? cJSON_Duplicate(q->arguments, true) : cJSON_CreateObject();
    cJSON_AddStringToObject(body, "method", q->method);
    cJSON_AddItemToObject(body, "arguments", arguments);
    cJSON_AddItemToObject(body, "destination",
                          q->destination ? cJSON_Duplicate(q->destination, true)
                                         : cJSON_CreateNull());
    cJSON_AddNullToObject(body, "pattern");
    cJSON_AddNullToObject(body, "matcher");
    if (reply_to) {
        cJSON *to = cJSON_AddObjectToObject(body, "reply_to");
        cJSON_AddStringToObject(body, "ticket", reply_to->ticket);
        cJSON_AddStringToObject(to, "exchange", reply_to->exchange);
        cJSON_AddStringToObject(to, "routing_key", reply_to->oid);
    }
    char *text = json_text(body);
    cJSON_Delete(body);
    return text;
}

/* Publishes; how many heard it. */
static int broadcast(struct mailbox *m, const struct mailbox_question *q,
                     const struct question *reply_to, int64_t *ret_heard)
{
    char *exchange = mem_printf("%s.pidbox", m->settings->control_exchange);
    char *topic = fanout_topic(m->fanout, exchange, "");
    char *body = body_text(q, reply_to);
    char *headers = mem_printf("{\"clock\": 1, \"expires\": %.6f}",
                               q->timeout > 0 ? seconds_of(CLOCK_REALTIME) + q->timeout : 0);
    struct envelope_spec spec = {
        .body = slice_of(body), .headers = headers, .exchange = exchange, .routing_key = "",
        .delivery_mode = 2};
    char *text = envelope_encode(&spec);
    struct slice argv[] = {slice_of("PUBLISH"), slice_of(topic), slice_of(text)};
    int status = command_redis_ask(&m->redis, ret_heard, 3, argv);
    free(text);
    free(headers);
    free(body);
    free(topic);
    free(exchange);
    return status;
}

int mailbox_tell(struct mailbox *m, const char *method)
{
    int64_t heard;
    return broadcast(m, &(struct mailbox_question){.method = method}, NULL, &heard);
}

/* --- the replies ------------------------------------------------------------------------------ */

static void question_open(struct question *q, struct mailbox *m)
{
    const struct settings *s = m->settings;
    const char *prefix = s->global_keyprefix ? s->global_keyprefix : "";
    uuid_make(q->oid);
    uuid_make(q->ticket);
    q->exchange = mem_printf("reply.%s.pidbox", s->control_exchange);
    q->queue = mem_printf("%s.%s", q->oid, q->exchange);
    q->member = mem_printf("%s\x06\x16\x06\x16%s", q->oid, q->queue);
    q->binding = mem_printf("%s_kombu.binding.%s", prefix, q->exchange);
    q->key = mem_printf("%s%s", prefix, q->queue);
}

static void question_close(struct question *q)
{
    struct redis *redis = q->mailbox->redis.redis;
    int64_t number;
    redis_send(redis, NULL, NULL, 3,
               (struct slice[]){slice_of("SREM"), slice_of(q->binding), slice_of(q->member)});
    if (redis_is_up(redis))
        command_redis_ask(&q->mailbox->redis, &number, 2,
                          (struct slice[]){slice_of("DEL"), slice_of(q->key)});
    free(q->exchange);
    free(q->queue);
    free(q->member);
    free(q->binding);
    free(q->key);
}

static void on_popped(const redisReply *reply, void *arg)
{
    struct question *q = arg;
    cJSON *headers = NULL, *body = NULL;
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 ||
        reply->element[1]->type != REDIS_REPLY_STRING)
        return;
    struct slice text = {reply->element[1]->str, reply->element[1]->len};
    if (envelope_decode(text, &headers, &body, NULL) != 0)
        return;
    const char *ticket = json_get_string(headers, "ticket");
    if (cJSON_IsObject(body) && body->child && (!ticket || strcmp(ticket, q->ticket) == 0)) {
        q->replied = true;
        q->expected--;
        q->fn(body->child->string, body->child, q->arg);
    }
    cJSON_Delete(headers);
    cJSON_Delete(body);
}

static int collect(struct question *q, double timeout)
{
    int status = 0;
    double end = seconds_of(CLOCK_MONOTONIC) + timeout;
    while (status == 0 && q->expected > 0 && seconds_of(CLOCK_MONOTONIC) < end) {
        char wait[32];
        double left = end - seconds_of(CLOCK_MONOTONIC);
        snprintf(wait, sizeof wait, "%.3f", left < 0.001 ? 0.001 : left < SLICE ? left : SLICE);
        q->replied = false;
        status = command_redis_read(
            &q->mailbox->redis, on_popped, q, 3,
            (struct slice[]){slice_of("BRPOP"), slice_of(q->key), slice_of(wait)});
        if (q->replied)
            end = seconds_of(CLOCK_MONOTONIC) + timeout;
    }
    return status;
}

int mailbox_ask(struct mailbox *m, const struct mailbox_question *q, mailbox_reply_fn *fn,
                void *arg)
{
    struct question own = {.mailbox = m, .fn = fn, .arg = arg};
    int64_t heard = 0;
    question_open(&own, m);
    int status =
        command_redis_ask_script(&m->redis, &heard, &bind_script, 1, 2,
                                 (struct slice[]){slice_of(own.binding), slice_of(own.member)});
    if (status == 0)
        status = broadcast(m, q, &own, &heard);
    int asked = cJSON_GetArraySize(q->destination);
    own.expected = asked && asked < heard ? asked : heard;
    if (status == 0)
        status = collect(&own, q->timeout);
    question_close(&own);
    return status;
}
