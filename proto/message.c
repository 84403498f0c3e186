/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message_private.h"

#include "proto/base/mem.h"
#include "proto/time.h"

#include <stdlib.h>
#include <string.h>

/* Decoding walks the envelope, its headers and its properties with json_walk and copies what it
 * knows by tables. All texts of a message, its body included, lie in one block whose size is known
 * before: nothing decoded is longer than its source. */

enum { BODY_MAX = 256 << 20 };

/* In the order in which Celery writes them, see row_find in message_fields.c. */
static const struct message_row envelope_rows[] = {
    PART("body", RAW, raw_body),
    ROW("content-encoding", TEXT, content_encoding),
    ROW("content-type", TEXT, content_type),
    ROW("headers", RAW, headers),
    ROW("properties", RAW, properties),
};

static const struct message_row header_rows[] = {
    ROW("task", TEXT, task),
    ROW("id", TEXT, id),
    ROW("shadow", DISPLAY, shadow),
    ROW("eta", TIME, eta),
    ROW("expires", TIME, expires),
    ROW("group", TEXT, group),
    ROW("group_index", INTEGER, group_index),
    ROW("retries", INTEGER, retries),
    ROW("timelimit", LIMITS, hard_limit),
    ROW("root_id", TEXT, root_id),
    ROW("parent_id", TEXT, parent_id),
    ROW("argsrepr", DISPLAY, argsrepr),
    ROW("kwargsrepr", DISPLAY, kwargsrepr),
    ROW("origin", DISPLAY, origin),
    ROW("ignore_result", TRISTATE, ignore_result),
    ROW("replaced_task_nesting", NESTING, replaced_task_nesting),
    ROW("stamped_headers", RAW, stamped_headers),
    ROW("stamps", RAW, stamps),
    ROW("compression", TEXT, compression),
    ROW("redelivered", MARK, redelivered),
};

static const struct message_row property_rows[] = {
    ROW("reply_to", TEXT, reply_to),
    PART("delivery_info", RAW, raw_info),
    ROW("priority", PRIORITY, priority),
    PART("body_encoding", TEXT, body_encoding),
    ROW("delivery_tag", TEXT, delivery_tag),
};

static const struct message_row info_rows[] = {
    ROW("exchange", TEXT, exchange),
    ROW("routing_key", TEXT, routing_key),
    ROW("redelivered", MARK, redelivered),
};

static void message_prepare(struct message *m, char *text, size_t size)
{
    size_t room = size + 64;
    *m = (struct message){.text = {text, size}, .eta = TIME_NONE, .expires = TIME_NONE,
                          .group_index = -1, .ignore_result = UNSET};
    m->owned = mem_alloc(sizeof *m->owned + room);
    *m->owned = (struct message_part){
        .texts = {.data = m->owned->data, .capacity = room, .max = room - 1}};
}

/* For a text cut off or broken in the middle: the id may stand in the readable beginning. */
static void salvage(struct message *m)
{
    static const char mark[] = "\"headers\": ";
    const char *at = m->headers.at;
    if (!at && m->text.size)
        at = memmem(m->text.at, m->text.size, mark, sizeof mark - 2);
    if (!at || m->id)
        return;
    const char *from = at == m->headers.at ? at : at + sizeof mark - 2;
    struct message_reader r = READER(m, "headers.", header_rows, NULL);
    struct slice rest = {from, (size_t)(m->text.at + m->text.size - from)};
    json_walk(rest, message_member, &r, NULL);
    m->headers = (struct slice){0};
}

static int read_parts(struct message *m, struct error *err)
{
    struct message_reader headers = READER(m, "headers.", header_rows, err);
    struct message_reader properties = READER(m, "properties.", property_rows, err);
    struct message_reader info = READER(m, "delivery_info.", info_rows, err);
    int code = message_object(&headers, m->headers);
    struct error *quiet = code ? NULL : err;
    properties.err = quiet;
    int other = message_object(&properties, m->properties);
    code = code ? code : other;
    info.err = code ? NULL : err;
    other = message_object(&info, m->owned->raw_info);
    return code ? code : other;
}

static int check_ids(const struct message *m, struct error *err)
{
    const char *where = m->protocol1 ? "body" : "headers";
    if (!m->task || !*m->task)
        return error_set(err, ERROR_INVALID, "%s.task is missing or empty", where);
    if (!m->id || !*m->id)
        return error_set(err, ERROR_INVALID, "%s.id is missing or empty", where);
    return 0;
}

int message_decode(char *text, size_t size, const struct message_limits *limits,
                   struct message *ret_message, struct error *err)
{
    struct message *m = ret_message;
    struct error unheard;
    err = err ? err : &unheard;
    size_t max = limits && limits->body_size ? limits->body_size : BODY_MAX;
    message_prepare(m, text, size);
    struct message_reader r = READER(m, "", envelope_rows, err);
    int code = json_walk(m->text, message_member, &r, err);
    if (code) {
        salvage(m);
        return error_wrap(err, "not an envelope");
    }
    code = read_parts(m, err);
    if (code == 0)
        code = r.code;
    m->protocol1 = !m->task;
    if (code == 0 && m->task)
        code = check_ids(m, err);
    if (code == 0)
        code = message_body(m, max, err);
    return code ? code : check_ids(m, err);
}

void message_done(struct message *m)
{
    if (m->owned) {
        for (int i = 0; i < MESSAGE_BLOCKS; i++)
            free(m->owned->blocks[i]);
        free(m->owned);
    }
    free((char *)m->text.at);
    *m = (struct message){0};
}
