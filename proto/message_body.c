/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message_private.h"

#include "proto/base/mem.h"
#include "proto/base64.h"
#include "proto/compress.h"

#include <string.h>
#include <strings.h>

/* The body: out of its string, base64 and compression, and into protocol 2's triple, which is what
 * all that follows reads, whichever protocol it came in. Only compressed bodies and those of
 * protocol 1 need a block of memory of their own. */

static const struct message_row old_body_rows[] = {
    ROW("task", TEXT, task),
    ROW("id", TEXT, id),
    PART("args", RAW, args),
    PART("kwargs", RAW, kwargs),
    ROW("group", TEXT, group),
    ROW("group_index", INTEGER, group_index),
    ROW("retries", INTEGER, retries),
    ROW("eta", TIME, eta),
    ROW("expires", TIME, expires),
    PART("callbacks", RAW, callbacks),
    PART("errbacks", RAW, errbacks),
    ROW("timelimit", LIMITS, hard_limit),
    PART("taskset", TEXT, taskset),
    PART("chord", RAW, chord),
    PART("chain", RAW, chain),
};

/* The rows of a hybrid, whose headers have said all the rest. */
static const struct message_row hybrid_body_rows[] = {
    PART("args", RAW, args),
    PART("kwargs", RAW, kwargs),
    PART("callbacks", RAW, callbacks),
    PART("errbacks", RAW, errbacks),
    PART("chord", RAW, chord),
    PART("chain", RAW, chain),
};

static int keep_block(struct message *m, struct buf *made)
{
    for (int i = 0; i < MESSAGE_BLOCKS; i++) {
        if (!m->owned->blocks[i]) {
            m->body.size = made->size;
            m->body.at = m->owned->blocks[i] = buf_take(made);
            return 0;
        }
    }
    buf_done(made);
    return ERROR_TOO_BIG;
}

static bool is_one_of(const char *text, const char *const *names)
{
    while (*names && strcasecmp(text, *names) != 0)
        names++;
    return *names != NULL;
}

static const char *serializer_of(const char *content_type)
{
    static const char *const names[][2] = {
        {"application/x-python-serialize", "pickle"},
        {"application/x-yaml", "yaml"},
        {"application/x-msgpack", "msgpack"},
        {"application/data", "auth' or 'raw"},
        {"text/plain", "text"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(content_type, names[i][0]) == 0)
            return names[i][1];
    }
    return content_type;
}

static int check_content(const struct message *m, struct error *err)
{
    static const char *const charsets[] = {"utf-8", "utf8", "us-ascii", "ascii", "binary", NULL};
    static const char json[] = "application/json";
    const char *type = m->content_type, *charset = m->content_encoding;
    if (!type)
        return error_set(err, ERROR_INVALID, "no content-type");
    char after = strncasecmp(type, json, sizeof json - 1) == 0 ? type[sizeof json - 1] : '?';
    if (after != '\0' && after != ';')
        return error_set(err, ERROR_UNSUPPORTED,
                         "serializer '%.40s' (%.40s) is not supported: set "
                         "task_serializer='json' in the producer; accept_content here is ['json']",
                         serializer_of(type), type);
    if (charset && !is_one_of(charset, charsets))
        return error_set(err, ERROR_UNSUPPORTED,
                         "content-encoding '%.40s' is not supported: use 'utf-8'", charset);
    return 0;
}

/* body as it was before base64, in the message's block or, with needless escapes, one of its
 * own. */
static int decode_transfer(struct message *m, struct error *err)
{
    struct message_part *part = m->owned;
    struct slice raw = part->raw_body, inner = {raw.at + 1, raw.size - 2};
    const char *encoding = part->body_encoding;
    bool base64 = encoding && strcasecmp(encoding, "base64") == 0;
    if (encoding && !base64 && strcasecmp(encoding, "utf-8") != 0)
        return error_set(err, ERROR_INVALID, "body_encoding '%.40s' is not known", encoding);
    struct buf plain = BUF_INIT(raw.size);
    if (base64 && memchr(inner.at, '\\', inner.size)) {
        json_unquote(raw, &plain);
        inner = (struct slice){plain.data, plain.size};
    }
    size_t from = part->texts.size;
    int code = base64 ? base64_decode(inner, &part->texts) : json_unquote(raw, &part->texts);
    buf_done(&plain);
    if (code)
        return error_set(err, ERROR_INVALID, "body is not valid base64");
    m->body = (struct slice){part->texts.data + from, part->texts.size - from};
    part->texts.size++; /* keeps the NUL behind it */
    return 0;
}

static int decode_compression(struct message *m, size_t max, struct error *err)
{
    struct buf out = BUF_INIT(max + 2);
    int code = compression_decode(m->compression, m->body, max, &out, err);
    if (code == 0)
        return keep_block(m, &out);
    buf_done(&out);
    return code;
}

/* m->body as JSON text. */
static int decode_text(struct message *m, size_t max, struct error *err)
{
    const struct message_part *part = m->owned;
    int code = check_content(m, err);
    if (code)
        return code;
    if (!part->raw_body.at || *part->raw_body.at != '"')
        return error_set(err, ERROR_INVALID, "body is missing or no string");
    code = decode_transfer(m, err);
    if (code == 0 && m->compression)
        code = decode_compression(m, max, err);
    if (code == 0 && m->body.size > max)
        code = error_set(err, ERROR_TOO_BIG, "body of %zu bytes, allowed are %zu", m->body.size,
                         max);
    return code;
}

/* --- the shape of the body --- */

struct shape {
    int count;
    char first[3];
};

static int note_item(struct slice value, void *arg)
{
    struct shape *shape = arg;
    if (shape->count < 3)
        shape->first[shape->count] = *value.at;
    shape->count++;
    return 0;
}

static int check_triple(const struct message *m, struct error *err)
{
    struct shape shape = {0};
    if (json_walk_list(m->body, note_item, &shape, err) != 0)
        return error_wrap(err, "body");
    if (shape.count != 3 || shape.first[0] != '[' || shape.first[1] != '{' ||
        (shape.first[2] != '{' && shape.first[2] != 'n'))
        return error_set(err, ERROR_INVALID, "body is not [args, kwargs, embed]");
    return 0;
}

static void add_part(struct buf *out, const char *before, struct slice raw, const char *otherwise)
{
    buf_str(out, before);
    buf_add(out, raw.at ? raw.at : otherwise, raw.at ? raw.size : strlen(otherwise));
}

/* Protocol 2's triple out of protocol 1's fields. */
static int build_triple(struct message *m, struct error *err)
{
    const struct message_part *p = m->owned;
    if ((p->args.at && *p->args.at != '[') || (p->kwargs.at && *p->kwargs.at != '{'))
        return error_set(err, ERROR_INVALID, "body's args or kwargs are of the wrong type");
    struct buf out = BUF_INIT(m->body.size + 256);
    add_part(&out, "[", p->args, "[]");
    add_part(&out, ", ", p->kwargs, "{}");
    add_part(&out, ", {\"callbacks\": ", p->callbacks, "null");
    add_part(&out, ", \"errbacks\": ", p->errbacks, "null");
    add_part(&out, ", \"chain\": ", p->chain, "null");
    add_part(&out, ", \"chord\": ", p->chord, "null");
    buf_str(&out, "}]");
    return keep_block(m, &out);
}

/* Reads a protocol 1 body; for a hybrid only what its headers do not say. */
static int read_old_body(struct message *m, struct error *err)
{
    struct message_part *part = m->owned;
    size_t room = m->body.size + 64;
    struct message_reader r = m->protocol1 ? READER(m, "body.", old_body_rows, err)
                                           : READER(m, "body.", hybrid_body_rows, err);
    struct buf texts = {.data = mem_alloc(room), .capacity = room, .max = room - 1};
    part->blocks[MESSAGE_BLOCKS - 1] = texts.data;
    r.texts = &texts;
    int code = json_walk(m->body, message_member, &r, err);
    if (code)
        return error_wrap(err, "body");
    if (!m->protocol1 && !part->args.at)
        return error_set(err, ERROR_INVALID, "body: an object without args");
    if (!m->group && m->protocol1)
        m->group = part->taskset;
    return r.code ? r.code : build_triple(m, err);
}

static int read_shape(struct message *m, struct error *err)
{
    size_t i = 0;
    while (i < m->body.size && strchr(" \t\r\n", m->body.at[i]) && m->body.at[i])
        i++;
    bool object = i < m->body.size && m->body.at[i] == '{';
    if (m->protocol1 && !object)
        return error_set(err, ERROR_INVALID, "neither headers.task nor a protocol 1 body");
    return object ? read_old_body(m, err) : check_triple(m, err);
}

int message_body(struct message *m, size_t max, struct error *err)
{
    int code = decode_text(m, max, err);
    return code ? code : read_shape(m, err);
}
