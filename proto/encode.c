/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message.h"

#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/compress.h"
#include "proto/repr.h"
#include "proto/uuid.h"

#include <stdlib.h>
#include <string.h>

/* Messages out: as Celery's producers write them, and one that came written again, as its retry or
 * its redelivery. The one idea: a new message is put straight into the text, in Celery's order; of
 * one that came only what must change is changed, so that what we do not know of travels on. */

/* Celery cuts its reprs there (argsrepr_maxsize, kwargsrepr_maxsize). */
enum { REPR_MAX = 1024 };

#define OUTPUT_MAX ((size_t)1 << 31)

/* The order is that of celery.app.amqp.as_task_v2 and kombu's Message; peers may compare bytes. */
struct writer {
    struct buf *out;
    const cJSON *custom; /* headers of the caller: may stand in for a standard one */
    bool first;
};

static void put_string(struct buf *out, const char *text)
{
    if (text)
        json_print_string(text, strlen(text), out);
    else
        buf_str(out, "null");
}

/* "key": of a member. False when the caller's own value was written for it. */
static bool put_key(struct writer *w, const char *key)
{
    if (!w->first)
        buf_add(w->out, ", ", 2);
    w->first = false;
    buf_printf(w->out, "\"%s\": ", key);
    const cJSON *own = json_get(w->custom, key);
    if (own)
        json_print(own, w->out);
    return !own;
}

static void put_text(struct writer *w, const char *key, const char *text)
{
    if (put_key(w, key))
        put_string(w->out, text);
}

/* A value that is JSON already. */
static void put_raw(struct writer *w, const char *key, const char *json)
{
    if (put_key(w, key))
        buf_str(w->out, json);
}

static void put_int(struct writer *w, const char *key, int64_t value)
{
    if (put_key(w, key))
        buf_printf(w->out, "%lld", (long long)value);
}

static void put_time(struct writer *w, const char *key, int64_t time)
{
    char text[40];
    put_text(w, key, time == TIME_NONE ? NULL : time_print(time, text));
}

static void put_repr(struct writer *w, const char *key, const cJSON *value, bool tuple)
{
    struct buf text = BUF_INIT(8 * REPR_MAX);
    if (value)
        repr_print(value, tuple, REPR_MAX, &text);
    else
        buf_str(&text, tuple ? "()" : "{}");
    put_text(w, key, text.data);
    buf_done(&text);
}

static void put_limit(struct buf *out, double seconds)
{
    cJSON number = {.type = cJSON_Number, .valuedouble = seconds};
    json_print(seconds > 0 ? &number : NULL, out);
}

static bool is_standard(const char *key)
{
    static const char *const names[] = {
        "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries",
        "timelimit", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result",
        "replaced_task_nesting", "stamped_headers", "stamps", "compression"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(key, names[i]) == 0)
            return true;
    }
    return false;
}

static void put_custom(struct writer *w)
{
    const cJSON *custom = cJSON_IsObject(w->custom) ? w->custom : NULL;
    for (const cJSON *item = custom ? custom->child : NULL; item; item = item->next) {
        if (is_standard(item->string))
            continue;
        buf_add(w->out, ", ", 2);
        put_string(w->out, item->string);
        buf_add(w->out, ": ", 2);
        json_print(item, w->out);
    }
}

static void put_headers(const struct message_spec *s, const char *compression, struct buf *out)
{
    struct writer w = {.out = out, .custom = s->headers, .first = true};
    buf_char(out, '{');
    put_raw(&w, "lang", "\"py\"");
    put_text(&w, "task", s->task);
    put_text(&w, "id", s->id);
    put_text(&w, "shadow", s->shadow);
    put_time(&w, "eta", s->eta);
    put_time(&w, "expires", s->expires);
    put_text(&w, "group", s->group);
    if (s->group && s->group_index >= 0)
        put_int(&w, "group_index", s->group_index);
    else
        put_raw(&w, "group_index", "null");
    put_int(&w, "retries", s->retries);
    if (put_key(&w, "timelimit")) {
        buf_char(out, '[');
        put_limit(out, s->hard_limit);
        buf_add(out, ", ", 2);
        put_limit(out, s->soft_limit);
        buf_char(out, ']');
    }
    put_text(&w, "root_id", s->root_id ? s->root_id : s->id);
    put_text(&w, "parent_id", s->parent_id);
    put_repr(&w, "argsrepr", s->args, true);
    put_repr(&w, "kwargsrepr", s->kwargs, false);
    put_text(&w, "origin", s->origin);
    put_raw(&w, "ignore_result", s->ignore_result ? "true" : "false");
    put_int(&w, "replaced_task_nesting", s->replaced_task_nesting);
    if (put_key(&w, "stamped_headers"))
        json_print(s->stamped_headers, out);
    if (put_key(&w, "stamps")) {
        if (s->stamps)
            json_print(s->stamps, out);
        else
            buf_str(out, "{}");
    }
    put_custom(&w);
    if (compression || json_get(s->headers, "compression")) {
        w.custom = compression ? NULL : s->headers;
        put_text(&w, "compression", compression);
    }
    buf_char(out, '}');
}

/* What is left until `expires`, as Kombu writes it: whole milliseconds, never below zero. */
static int64_t expiration(int64_t expires, int64_t now)
{
    return expires > now ? (expires - now) / 1000 : 0;
}

static void put_properties(const struct message_spec *s, struct buf *out)
{
    struct writer w = {.out = out, .first = true};
    char tag[37];
    uuid_make(tag);
    buf_char(out, '{');
    put_text(&w, "correlation_id", s->id);
    put_text(&w, "reply_to", s->reply_to ? s->reply_to : "");
    put_raw(&w, "delivery_mode", "2");
    if (s->expires != TIME_NONE) {
        put_key(&w, "expiration");
        buf_printf(out, "\"%lld\"", (long long)expiration(s->expires, s->now));
    }
    put_key(&w, "delivery_info");
    buf_str(out, "{\"exchange\": ");
    put_string(out, s->exchange ? s->exchange : "");
    buf_str(out, ", \"routing_key\": ");
    put_string(out, s->queue);
    buf_char(out, '}');
    put_int(&w, "priority", s->priority);
    put_text(&w, "body_encoding", "base64");
    put_text(&w, "delivery_tag", tag);
    buf_char(out, '}');
}

static void print_body(const struct message_spec *s, struct buf *out)
{
    static const char nulls[] =
        "{\"callbacks\": null, \"errbacks\": null, \"chain\": null, \"chord\": null}";
    cJSON raw = {.type = cJSON_Raw};
    raw.valuestring = (char *)"[]";
    buf_char(out, '[');
    json_print(s->args ? s->args : &raw, out);
    buf_add(out, ", ", 2);
    raw.valuestring = (char *)"{}";
    json_print(s->kwargs ? s->kwargs : &raw, out);
    buf_add(out, ", ", 2);
    raw.valuestring = (char *)nulls;
    json_print(s->embed ? s->embed : &raw, out);
    buf_char(out, ']');
}

/* The body in base64, compressed if that was asked for. */
static int put_body(const struct message_spec *s, struct buf *out, const char **ret_compression,
                    struct error *err)
{
    struct buf text = BUF_INIT(OUTPUT_MAX), packed = BUF_INIT(OUTPUT_MAX);
    int code = 0;
    print_body(s, &text);
    struct slice bytes = {text.data, text.size};
    if (text.failed)
        code = error_set(err, ERROR_TOO_BIG, "arguments too big to send");
    else if (s->compression)
        code = compression_encode(s->compression, bytes, &packed, ret_compression, err);
    if (s->compression)
        bytes = (struct slice){packed.data, packed.size};
    if (code == 0)
        base64_encode(bytes, out);
    buf_done(&text);
    buf_done(&packed);
    return code;
}

char *message_encode(const struct message_spec *spec, struct error *err)
{
    if (!spec->task || !spec->id || !spec->queue) {
        error_set(err, ERROR_INVALID, "a message needs task, id and queue");
        return NULL;
    }
    struct buf out = BUF_INIT(OUTPUT_MAX);
    const char *compression = NULL;
    buf_str(&out, "{\"body\": \"");
    int code = put_body(spec, &out, &compression, err);
    if (code == 0) {
        buf_str(&out, "\", \"content-encoding\": \"utf-8\", "
                      "\"content-type\": \"application/json\", \"headers\": ");
        put_headers(spec, compression, &out);
        buf_str(&out, ", \"properties\": ");
        put_properties(spec, &out);
        buf_char(&out, '}');
        if (!out.failed)
            return buf_take(&out);
        error_set(err, ERROR_TOO_BIG, "message of more than %zu bytes", OUTPUT_MAX);
    }
    buf_done(&out);
    return NULL;
}

/* --- editing what came --- */

/* The member, made when it is missing or null. */
static cJSON *object_member(cJSON *object, const char *key)
{
    if (!cJSON_IsObject(json_get(object, key)))
        json_set(object, key, cJSON_CreateObject());
    return json_get(object, key);
}

static void set_time(cJSON *object, const char *key, int64_t time)
{
    char text[40];
    json_set(object, key, time == TIME_NONE ? cJSON_CreateNull()
                                            : cJSON_CreateString(time_print(time, text)));
}

static void edit_headers(cJSON *headers, const struct message *m, int64_t eta)
{
    json_set(headers, "retries", json_int(m->retries + (m->retries < INT64_MAX)));
    set_time(headers, "eta", eta);
    json_set(headers, "parent_id", cJSON_CreateString(m->parent_id ? m->parent_id : m->id));
    cJSON_DeleteItemFromObjectCaseSensitive(headers, "redelivered");
}

static void edit_properties(cJSON *properties, const struct message *m, int64_t now)
{
    char tag[37];
    uuid_make(tag);
    json_set(properties, "delivery_tag", cJSON_CreateString(tag));
    cJSON *info = json_get(properties, "delivery_info");
    if (info)
        cJSON_DeleteItemFromObjectCaseSensitive(info, "redelivered");
    if (m->expires != TIME_NONE && json_get(properties, "expiration")) {
        char *left = mem_printf("%lld", (long long)expiration(m->expires, now));
        json_set(properties, "expiration", cJSON_CreateString(left));
        free(left);
    }
}

static cJSON *parse_slice(struct slice text)
{
    return text.at ? json_parse(text.at, text.size, NULL) : NULL;
}

/* A worker sends in its own protocol: out of protocol 1 comes a protocol 2 message. */
static char *retry_old(const struct message *m, int64_t eta, int64_t now)
{
    cJSON *body = parse_slice(m->body), *headers = parse_slice(m->headers);
    struct message_spec spec = {
        .task = m->task, .id = m->id,
        .args = cJSON_GetArrayItem(body, 0), .kwargs = cJSON_GetArrayItem(body, 1),
        .embed = cJSON_GetArrayItem(body, 2),
        .queue = m->routing_key ? m->routing_key : "", .exchange = m->exchange,
        .root_id = m->root_id, .parent_id = m->parent_id ? m->parent_id : m->id,
        .group = m->group, .shadow = m->shadow, .origin = m->origin, .reply_to = m->reply_to,
        .group_index = m->group_index, .eta = eta, .expires = m->expires, .now = now,
        .retries = m->retries + (m->retries < INT64_MAX), .hard_limit = m->hard_limit,
        .soft_limit = m->soft_limit, .priority = m->priority,
        .ignore_result = m->ignore_result == YES, .compression = m->compression,
        .headers = headers};
    cJSON_DeleteItemFromObjectCaseSensitive(headers, "redelivered");
    char *text = message_encode(&spec, NULL);
    cJSON_Delete(body);
    cJSON_Delete(headers);
    return text ? text : mem_ndup(m->text.at, m->text.size);
}

char *message_encode_retry(const struct message *m, int64_t eta, int64_t now)
{
    if (m->protocol1)
        return retry_old(m, eta, now);
    cJSON *envelope = parse_slice(m->text);
    if (!cJSON_IsObject(envelope)) { /* cannot be after a successful decode */
        cJSON_Delete(envelope);
        return mem_ndup(m->text.at ? m->text.at : "", m->text.size);
    }
    edit_headers(object_member(envelope, "headers"), m, eta);
    edit_properties(object_member(envelope, "properties"), m, now);
    char *text = json_text(envelope);
    cJSON_Delete(envelope);
    return text;
}

char *message_encode_redelivered(const char *text, size_t size)
{
    cJSON *envelope = json_parse(text, size, NULL);
    char *edited = NULL;
    if (json_get(envelope, "body") || json_get(envelope, "headers")) {
        json_set(object_member(envelope, "headers"), "redelivered", cJSON_CreateTrue());
        cJSON *info = object_member(object_member(envelope, "properties"), "delivery_info");
        json_set(info, "redelivered", cJSON_CreateTrue());
        edited = json_text(envelope);
    }
    cJSON_Delete(envelope);
    return edited;
}
