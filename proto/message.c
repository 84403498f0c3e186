/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message.h"

#include "proto/base/mem.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Decoding walks the envelope, its headers and its properties with json_walk and copies what it knows
 * by tables. All texts of a message, its body included, lie in one block whose size is known before:
 * nothing decoded is longer than its source. Only compressed bodies and those of protocol 1 need a
 * block of their own. */

enum { BODY_MAX = 256 << 20, BLOCKS = 3 };

struct message_part {
    struct buf texts;     /* over data[]; never grows */
    char *blocks[BLOCKS]; /* further memory to free   */
    struct slice raw_body, raw_info;
    struct slice args, kwargs, callbacks, errbacks, chain, chord; /* protocol 1 */
    const char *body_encoding;
    const char *taskset;
    char data[];
};

enum kind { TEXT, DISPLAY, RAW, TIME, INTEGER, NESTING, PRIORITY, LIMITS, TRISTATE, MARK };

struct row {
    const char *name;
    uint8_t size, kind;
    bool is_private; /* the offset is one in struct message_part */
    uint16_t offset;
};

#define ROW(key, what, field) {key, sizeof key - 1, what, false, offsetof(struct message, field)}
#define PART(key, what, field) {key, sizeof key - 1, what, true, offsetof(struct message_part, field)}

/* In the order in which Celery writes them, see row_find. */
static const struct row envelope_rows[] = {
    PART("body", RAW, raw_body),
    ROW("content-encoding", TEXT, content_encoding),
    ROW("content-type", TEXT, content_type),
    ROW("headers", RAW, headers),
    ROW("properties", RAW, properties),
};

static const struct row header_rows[] = {
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

static const struct row property_rows[] = {
    ROW("correlation_id", TEXT, correlation_id),
    ROW("reply_to", TEXT, reply_to),
    PART("delivery_info", RAW, raw_info),
    ROW("priority", PRIORITY, priority),
    PART("body_encoding", TEXT, body_encoding),
    ROW("delivery_tag", TEXT, delivery_tag),
};

static const struct row info_rows[] = {
    ROW("exchange", TEXT, exchange),
    ROW("routing_key", TEXT, routing_key),
    ROW("redelivered", MARK, redelivered),
};

static const struct row old_body_rows[] = {
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
static const struct row hybrid_body_rows[] = {
    PART("args", RAW, args),
    PART("kwargs", RAW, kwargs),
    PART("callbacks", RAW, callbacks),
    PART("errbacks", RAW, errbacks),
    PART("chord", RAW, chord),
    PART("chain", RAW, chain),
};

struct reader {
    struct message *m;
    const char *where; /* "headers." and so on, for errors */
    const struct row *rows;
    size_t count, next;
    struct buf *texts;
    struct error *err;
    int code; /* the first failure; reading goes on, for the sake of id and task */
};

#define READER(message, name, table, error)                                                        \
    (struct reader){.m = (message), .where = (name), .rows = (table),                              \
                    .count = sizeof(table) / sizeof *(table), .texts = &(message)->owned->texts,   \
                    .err = (error)}

static int __attribute__((cold))
wrong(struct reader *r, const struct row *row, struct slice value, const char *what)
{
    if (!r->code)
        r->code = error_set(r->err, ERROR_INVALID, "%s%s is not %s: %.*s", r->where, row->name,
                            what, value.size > 60 ? 60 : (int)value.size, value.at);
    return 0;
}

static bool is_null(struct slice raw)
{
    return raw.size == 4 && memcmp(raw.at, "null", 4) == 0;
}

static bool is_number(struct slice raw)
{
    return (*raw.at >= '0' && *raw.at <= '9') || *raw.at == '-';
}

/* --- single values --- */

/* An id sent as a UUID object, a date sent as a datetime object: Kombu's typed JSON. Gives the raw
 * JSON string of it in `out`. */
static bool typed_text(struct slice raw, struct buf *out)
{
    cJSON *tree = json_parse(raw.at, raw.size, NULL);
    const char *type = json_get_string(tree, "__type__");
    const cJSON *value = json_get(tree, "__value__");
    const char *hex = json_get_string(value, "hex");
    bool done = false;
    if (type && hex && strcmp(type, "uuid") == 0 && strlen(hex) == 32) {
        buf_printf(out, "\"%.8s-%.4s-%.4s-%.4s-%.12s\"", hex, hex + 8, hex + 12, hex + 16,
                   hex + 20);
        done = true;
    } else if (type && strcmp(type, "datetime") == 0 && cJSON_IsString(value)) {
        json_print(value, out);
        done = true;
    }
    cJSON_Delete(tree);
    return done && !out->failed;
}

/* Copies a string's text; numbers and booleans give theirs. NULL when it is something else. */
static const char *copy_text(struct buf *texts, struct slice raw)
{
    size_t from = texts->size;
    struct buf typed = BUF_INIT(1024);
    if (*raw.at == '{' && typed_text(raw, &typed))
        raw = (struct slice){typed.data, typed.size};
    if (*raw.at == '"')
        json_unquote(raw, texts);
    else if (*raw.at != '{' && *raw.at != '[')
        buf_add(texts, raw.at, raw.size);
    bool copied = texts->size > from || (*raw.at == '"' && raw.size == 2);
    buf_done(&typed);
    if (!copied || !buf_reserve(texts, 1))
        return NULL;
    texts->data[texts->size++] = '\0';
    return texts->data + from;
}

static int read_time(struct reader *r, const struct row *row, struct slice raw, int64_t *ret)
{
    struct buf typed = BUF_INIT(1024);
    struct slice text = raw;
    if (*raw.at == '{' && typed_text(raw, &typed))
        text = (struct slice){typed.data, typed.size};
    bool good = text.size >= 2 && *text.at == '"' &&
                time_parse(text.at + 1, text.size - 2, ret) == 0;
    buf_done(&typed);
    return good ? 0 : wrong(r, row, raw, "a date");
}

static bool read_digits(struct slice raw, int64_t *ret_value)
{
    int64_t value = 0;
    if (raw.size == 0 || raw.size > 15)
        return false;
    for (size_t i = 0; i < raw.size; i++) {
        if (raw.at[i] < '0' || raw.at[i] > '9')
            return false;
        value = value * 10 + (raw.at[i] - '0');
    }
    *ret_value = value;
    return true;
}

static bool read_integer(struct slice raw, int64_t *ret_value)
{
    if (read_digits(raw, ret_value))
        return true;
    if (!is_number(raw))
        return false;
    cJSON *tree = json_parse(raw.at, raw.size, NULL);
    bool good = json_as_int(tree, ret_value);
    cJSON_Delete(tree);
    return good;
}

static bool read_double(struct slice raw, double *ret_value)
{
    char text[64];
    if (!is_number(raw) || raw.size >= sizeof text)
        return false;
    memcpy(text, raw.at, raw.size);
    text[raw.size] = '\0';
    *ret_value = strtod(text, NULL);
    return true;
}

struct limits {
    double value[2];
    int count;
    bool wrong;
};

static int read_limit(struct slice raw, void *arg)
{
    struct limits *limits = arg;
    double value = 0;
    if (limits->count >= 2 || (!is_null(raw) && !read_double(raw, &value)))
        limits->wrong = true;
    else
        limits->value[limits->count] = value > 0 && value < 1e12 ? value : 0;
    limits->count++;
    return 0;
}

static int read_limits(struct reader *r, const struct row *row, struct slice raw)
{
    struct limits limits = {0};
    if (json_walk_list(raw, read_limit, &limits, NULL) != 0 || limits.wrong || limits.count != 2)
        return wrong(r, row, raw, "[hard, soft]");
    r->m->hard_limit = limits.value[0];
    r->m->soft_limit = limits.value[1];
    return 0;
}

static int clamp(double value)
{
    return value >= INT32_MAX ? INT32_MAX : value <= INT32_MIN ? INT32_MIN : (int)value;
}

static int read_text(struct reader *r, const struct row *row, struct slice raw, const char **ret)
{
    *ret = copy_text(r->texts, raw);
    return *ret || row->kind == DISPLAY ? 0 : wrong(r, row, raw, "a string");
}

/* --- members --- */

static int read_null(const struct row *row, void *field)
{
    if (row->kind == TEXT || row->kind == DISPLAY)
        *(const char **)field = NULL;
    else if (row->kind == RAW)
        *(struct slice *)field = (struct slice){0};
    else if (row->kind == TIME)
        *(int64_t *)field = TIME_NONE;
    return 0;
}

static int read_value(struct reader *r, const struct row *row, struct slice raw)
{
    void *field = (row->is_private ? (char *)r->m->owned : (char *)r->m) + row->offset;
    double number = 0;
    if (is_null(raw))
        return read_null(row, field);
    switch ((enum kind)row->kind) {
    case TEXT:
    case DISPLAY:
        return read_text(r, row, raw, field);
    case RAW:
        *(struct slice *)field = raw;
        return 0;
    case TIME:
        return read_time(r, row, raw, field);
    case INTEGER:
        return read_integer(raw, field) ? 0 : wrong(r, row, raw, "an integer");
    case LIMITS:
        return read_limits(r, row, raw);
    case PRIORITY:
    case NESTING:
        *(int *)field = read_double(raw, &number) ? clamp(number) : 0;
        return 0;
    case TRISTATE:
        *(enum message_tristate *)field = *raw.at == 't' ? YES : *raw.at == 'f' ? NO : UNSET;
        return 0;
    case MARK:
        *(bool *)field |= *raw.at == 't';
        return 0;
    }
    return 0;
}

/* Producers write the same order every time, so the search goes on where the last one ended and
 * mostly compares once. */
static const struct row *row_find(struct reader *r, struct slice key)
{
    size_t i = r->next;
    for (size_t tried = 0; tried < r->count; tried++, i++) {
        if (i >= r->count)
            i = 0;
        const struct row *row = &r->rows[i];
        if (row->size == key.size && memcmp(row->name, key.at, key.size) == 0) {
            r->next = i + 1;
            return row;
        }
    }
    return NULL;
}

/* A key written with escapes that it did not need. */
static const struct row *row_find_escaped(struct reader *r, struct slice key)
{
    struct buf plain = BUF_INIT(256);
    const struct row *row = NULL;
    if (key.size < 256 && memchr(key.at, '\\', key.size) &&
        json_unquote((struct slice){key.at - 1, key.size + 2}, &plain) == 0)
        row = row_find(r, (struct slice){plain.data, plain.size});
    buf_done(&plain);
    return row;
}

static int read_member(struct slice key, struct slice value, void *arg)
{
    struct reader *r = arg;
    const struct row *row = row_find(r, key);
    if (!row)
        row = row_find_escaped(r, key);
    return row ? read_value(r, row, value) : 0;
}

/* Reads one object of the envelope; absent ones are fine. */
static int read_object(struct reader *r, struct slice object)
{
    if (!object.at)
        return 0;
    struct error inner = {0};
    if (*object.at != '{')
        return error_set(r->err, ERROR_INVALID, "%s is not an object", r->where);
    int code = json_walk(object, read_member, r, &inner);
    if (code)
        return error_set(r->err, code, "%s %s", r->where, inner.text);
    return r->code;
}

/* --- the body --- */

static int keep_block(struct message *m, struct buf *made)
{
    for (int i = 0; i < BLOCKS; i++) {
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

/* body as it was before base64, in the message's block or, with needless escapes, one of its own. */
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

static int decode_body(struct message *m, size_t max, struct error *err)
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
    struct reader r = m->protocol1 ? READER(m, "body.", old_body_rows, err)
                                   : READER(m, "body.", hybrid_body_rows, err);
    struct buf texts = {.data = mem_alloc(room), .capacity = room, .max = room - 1};
    part->blocks[BLOCKS - 1] = texts.data;
    r.texts = &texts;
    int code = json_walk(m->body, read_member, &r, err);
    if (code)
        return error_wrap(err, "body");
    if (!m->protocol1 && !part->args.at)
        return error_set(err, ERROR_INVALID, "body: an object without args");
    if (!m->group && m->protocol1)
        m->group = part->taskset;
    return r.code ? r.code : build_triple(m, err);
}

static int read_body(struct message *m, struct error *err)
{
    size_t i = 0;
    while (i < m->body.size && strchr(" \t\r\n", m->body.at[i]) && m->body.at[i])
        i++;
    bool object = i < m->body.size && m->body.at[i] == '{';
    if (m->protocol1 && !object)
        return error_set(err, ERROR_INVALID, "neither headers.task nor a protocol 1 body");
    return object ? read_old_body(m, err) : check_triple(m, err);
}

/* --- the whole --- */

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
    struct reader r = READER(m, "headers.", header_rows, NULL);
    struct slice rest = {from, (size_t)(m->text.at + m->text.size - from)};
    json_walk(rest, read_member, &r, NULL);
    m->headers = (struct slice){0};
}

static int read_parts(struct message *m, struct error *err)
{
    struct reader headers = READER(m, "headers.", header_rows, err);
    struct reader properties = READER(m, "properties.", property_rows, err);
    struct reader info = READER(m, "delivery_info.", info_rows, err);
    int code = read_object(&headers, m->headers);
    struct error *quiet = code ? NULL : err;
    properties.err = quiet;
    int other = read_object(&properties, m->properties);
    code = code ? code : other;
    info.err = code ? NULL : err;
    other = read_object(&info, m->owned->raw_info);
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
    struct reader r = READER(m, "", envelope_rows, err);
    int code = json_walk(m->text, read_member, &r, err);
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
        code = decode_body(m, max, err);
    if (code == 0)
        code = read_body(m, err);
    return code ? code : check_ids(m, err);
}

void message_done(struct message *m)
{
    if (m->owned) {
        for (int i = 0; i < BLOCKS; i++)
            free(m->owned->blocks[i]);
        free(m->owned);
    }
    free((char *)m->text.at);
    *m = (struct message){0};
}
