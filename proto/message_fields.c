/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/message_private.h"
#include "proto/time.h"

#include <stdlib.h>
#include <string.h>

/* One JSON object into the fields of a message, by the rows of a table. */

static int __attribute__((cold))
wrong(struct message_reader *r, const struct message_row *row, struct slice value, const char *what)
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

static int read_time(struct message_reader *r, const struct message_row *row, struct slice raw,
                     int64_t *ret)
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

static int read_limits(struct message_reader *r, const struct message_row *row, struct slice raw)
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

static int read_text(struct message_reader *r, const struct message_row *row, struct slice raw,
                     const char **ret)
{
    *ret = copy_text(r->texts, raw);
    return *ret || row->kind == FIELD_DISPLAY ? 0 : wrong(r, row, raw, "a string");
}

/* --- members --- */

static int read_null(const struct message_row *row, void *field)
{
    if (row->kind == FIELD_TEXT || row->kind == FIELD_DISPLAY)
        *(const char **)field = NULL;
    else if (row->kind == FIELD_RAW)
        *(struct slice *)field = (struct slice){0};
    else if (row->kind == FIELD_TIME)
        *(int64_t *)field = TIME_NONE;
    return 0;
}

static int read_value(struct message_reader *r, const struct message_row *row, struct slice raw)
{
    void *field = (row->is_private ? (char *)r->m->owned : (char *)r->m) + row->offset;
    double number = 0;
    if (is_null(raw))
        return read_null(row, field);
    switch ((enum message_field)row->kind) {
    case FIELD_TEXT:
    case FIELD_DISPLAY:
        return read_text(r, row, raw, field);
    case FIELD_RAW:
        *(struct slice *)field = raw;
        return 0;
    case FIELD_TIME:
        return read_time(r, row, raw, field);
    case FIELD_INTEGER:
        return read_integer(raw, field) ? 0 : wrong(r, row, raw, "an integer");
    case FIELD_LIMITS:
        return read_limits(r, row, raw);
    case FIELD_PRIORITY:
    case FIELD_NESTING:
        *(int *)field = read_double(raw, &number) ? clamp(number) : 0;
        return 0;
    case FIELD_TRISTATE:
        *(enum message_tristate *)field = *raw.at == 't' ? YES : *raw.at == 'f' ? NO : UNSET;
        return 0;
    case FIELD_MARK:
        *(bool *)field |= *raw.at == 't';
        return 0;
    }
    return 0;
}

/* Producers write the same order every time, so the search goes on where the last one ended and
 * mostly compares once. */
static const struct message_row *row_find(struct message_reader *r, struct slice key)
{
    size_t i = r->next;
    for (size_t tried = 0; tried < r->count; tried++, i++) {
        if (i >= r->count)
            i = 0;
        const struct message_row *row = &r->rows[i];
        if (row->size == key.size && memcmp(row->name, key.at, key.size) == 0) {
            r->next = i + 1;
            return row;
        }
    }
    return NULL;
}

/* A key written with escapes that it did not need. */
static const struct message_row *row_find_escaped(struct message_reader *r, struct slice key)
{
    struct buf plain = BUF_INIT(256);
    const struct message_row *row = NULL;
    if (key.size < 256 && memchr(key.at, '\\', key.size) &&
        json_unquote((struct slice){key.at - 1, key.size + 2}, &plain) == 0)
        row = row_find(r, (struct slice){plain.data, plain.size});
    buf_done(&plain);
    return row;
}

int message_member(struct slice key, struct slice value, void *arg)
{
    struct message_reader *r = arg;
    const struct message_row *row = row_find(r, key);
    if (!row)
        row = row_find_escaped(r, key);
    return row ? read_value(r, row, value) : 0;
}

int message_object(struct message_reader *r, struct slice object)
{
    if (!object.at)
        return 0;
    struct error inner = {0};
    if (*object.at != '{')
        return error_set(r->err, ERROR_INVALID, "%.*s is not an object",
                         (int)strcspn(r->where, "."), r->where);
    int code = json_walk(object, message_member, r, &inner);
    if (code)
        return error_set(r->err, code, "%.*s: %s", (int)strcspn(r->where, "."), r->where,
                         inner.text);
    return r->code;
}
