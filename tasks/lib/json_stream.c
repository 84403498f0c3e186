/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/json_stream.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A scanner that only knows where values begin and end; what is between goes to cJSON, one element
 * at a time. So memory is that of the largest element, and a text that is cut anywhere is noticed:
 * the elements before the cut have been given by then, which is why callers decide at the end. */

enum place {
    START,
    FIRST_ITEM, /* an element or ] */
    ITEM,
    AFTER_ITEM, /* , or ] */
    VALUES,     /* NDJSON: a value or the end */
    FIRST_KEY,  /* a name or } */
    KEY,
    AFTER_KEY, /* : */
    MEMBER,    /* its value */
    AFTER_MEMBER,
    DONE,
};

struct json_stream {
    cw_task *t;
    struct json_stream_options options;
    enum place place;
    bool in_object, failed;
    size_t offset, count;
    /* the value that is being read */
    bool in_value, in_string, escaped, scalar, skipped;
    int depth;
    char *text;
    size_t size, capacity;
    char key[128];
};

static int wrong(struct json_stream *s, const char *what)
{
    s->failed = true;
    return cw_problem(s->t, false, "ValueError", "not JSON: %s at byte %zu", what, s->offset);
}

static void close_stream(void *stream)
{
    struct json_stream *s = stream;
    free(s->text);
    s->text = NULL;
}

struct json_stream *json_stream_open(cw_task *t, const struct json_stream_options *options)
{
    struct json_stream *s = cw_alloc(t, sizeof *s);
    s->t = t;
    s->options = *options;
    if (!s->options.max_element)
        s->options.max_element = 4 << 20;
    cw_defer(t, close_stream, s);
    return s;
}

size_t json_stream_count(const struct json_stream *s)
{
    return s->count;
}

/* --- one value --- */

static int keep(struct json_stream *s, const char *data, size_t size)
{
    if (s->skipped)
        return 0;
    if (s->size + size > s->options.max_element) {
        s->failed = true;
        return cw_problem(s->t, false, "ValueError",
                          "an element before byte %zu is larger than %zu bytes", s->offset,
                          s->options.max_element);
    }
    if (s->size + size + 1 > s->capacity) {
        size_t capacity = 2 * (s->size + size) + 4096;
        char *text = realloc(s->text, capacity);
        if (!text)
            return cw_problem(s->t, true, "MemoryError", "no memory for an element");
        s->text = text;
        s->capacity = capacity;
    }
    memcpy(s->text + s->size, data, size);
    s->size += size;
    s->text[s->size] = '\0';
    return 0;
}

static bool is_key(const struct json_stream *s)
{
    return s->place == FIRST_KEY || s->place == KEY;
}

static void begin_value(struct json_stream *s, char c)
{
    s->in_value = true;
    s->size = 0;
    s->in_string = s->escaped = false;
    s->depth = 0;
    s->scalar = c != '"' && c != '{' && c != '[';
    s->skipped = s->place == MEMBER && !s->options.on_member;
}

static int take_key(struct json_stream *s)
{
    s->place = AFTER_KEY;
    cJSON *name = cJSON_ParseWithLength(s->text, s->size);
    if (!cJSON_IsString(name)) {
        cJSON_Delete(name);
        return wrong(s, "no name of a member");
    }
    snprintf(s->key, sizeof s->key, "%s", name->valuestring);
    cJSON_Delete(name);
    return 0;
}

static int take_value(struct json_stream *s)
{
    bool member = s->place == MEMBER;
    s->in_value = false;
    if (is_key(s))
        return take_key(s);
    s->place = member ? AFTER_MEMBER : s->place == VALUES ? VALUES : AFTER_ITEM;
    if (s->skipped)
        return 0;
    const char *end = NULL;
    cJSON *value = cJSON_ParseWithLengthOpts(s->text, s->size + 1, &end, true);
    if (!value)
        return wrong(s, "a value that cannot be read ends");
    s->count += !member;
    int code = member ? s->options.on_member(s->t, s->key, value, s->options.arg)
                      : s->options.on_element(s->t, value, s->options.arg);
    cJSON_Delete(value);
    s->failed = s->failed || code < 0;
    return code < 0 ? -1 : 0;
}

/* Is the value complete with this byte? A scalar is complete before it. */
static bool is_last(struct json_stream *s, char c)
{
    if (s->in_string) {
        if (s->escaped)
            s->escaped = false;
        else if (c == '\\')
            s->escaped = true;
        else if (c == '"')
            s->in_string = false;
        return !s->in_string && s->depth == 0;
    }
    if (c == '"')
        s->in_string = true;
    else if (c == '{' || c == '[')
        s->depth++;
    else if (c == '}' || c == ']')
        return --s->depth <= 0;
    return false;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static bool ends_scalar(char c)
{
    return is_blank(c) || c == ',' || c == ']' || c == '}';
}

/* Reads on in the value; returns how many bytes were its own, < 0 failed. */
static ssize_t scan_value(struct json_stream *s, const char *data, size_t size)
{
    size_t n = 0;
    bool complete = false;
    if (s->scalar) {
        while (n < size && !ends_scalar(data[n]))
            n++;
        complete = n < size;
    } else {
        while (n < size && !complete)
            complete = is_last(s, data[n++]);
    }
    s->offset += n;
    if (keep(s, data, n) < 0 || (complete && take_value(s) < 0))
        return -1;
    return (ssize_t)n;
}

/* --- between values --- */

static int start(struct json_stream *s, char c)
{
    s->in_object = c == '{' && s->options.member;
    if (c == '[' || s->in_object) {
        s->place = c == '[' ? FIRST_ITEM : FIRST_KEY;
        return 0;
    }
    if (s->options.member)
        return wrong(s, "an object was expected, found something else");
    s->place = VALUES;
    begin_value(s, c);
    return 1;
}

static int close_list(struct json_stream *s)
{
    s->place = s->in_object ? AFTER_MEMBER : DONE;
    return 0;
}

/* A byte between values: 0 taken, 1 it begins a value, < 0 wrong. */
static int between(struct json_stream *s, char c)
{
    switch (s->place) {
    case START:
        return start(s, c);
    case FIRST_ITEM:
        if (c == ']')
            return close_list(s);
        break;
    case AFTER_ITEM:
        if (c == ']')
            return close_list(s);
        s->place = ITEM;
        return c == ',' ? 0 : wrong(s, "neither , nor ]");
    case FIRST_KEY:
        if (c == '}') {
            s->place = DONE;
            return 0;
        }
        break;
    case AFTER_KEY:
        s->place = MEMBER;
        return c == ':' ? 0 : wrong(s, "no :");
    case MEMBER:
        if (c == '[' && strcmp(s->key, s->options.member) == 0) {
            s->place = FIRST_ITEM;
            return 0;
        }
        break;
    case AFTER_MEMBER:
        s->place = c == '}' ? DONE : KEY;
        return c == ',' || c == '}' ? 0 : wrong(s, "neither , nor }");
    case DONE:
        return wrong(s, "more after the end");
    default:
        break;
    }
    if (strchr(",:]}", c) || (is_key(s) && c != '"'))
        return wrong(s, "no value");
    begin_value(s, c);
    return 1;
}

int json_stream_feed(struct json_stream *s, const char *data, size_t size)
{
    static const char mark[] = "\xEF\xBB\xBF";
    size_t at = 0;
    while (at < size && !s->failed) {
        if (s->in_value) {
            ssize_t n = scan_value(s, data + at, size - at);
            if (n < 0)
                return -1;
            at += (size_t)n;
            continue;
        }
        bool skip = is_blank(data[at]) || (s->offset < 3 && data[at] == mark[s->offset]);
        if (skip || between(s, data[at]) == 0) {
            at++;
            s->offset++;
        }
    }
    return s->failed ? -1 : 0;
}

int json_stream_end(struct json_stream *s)
{
    if (s->failed)
        return -1;
    if (s->in_value && s->scalar && s->place == VALUES && take_value(s) < 0)
        return -1;
    if (s->in_value || (s->place != DONE && s->place != VALUES))
        return wrong(s, "it stops");
    return 0;
}

/* --- files --- */

static int feed_file(struct json_stream *s, FILE *file, const char *path)
{
    static const size_t piece = 256 << 10;
    char *data = cw_alloc(s->t, piece);
    size_t n;
    while ((n = fread(data, 1, piece, file)) > 0) {
        if (cw_sleep(s->t, 0) < 0)
            return -1;
        if (json_stream_feed(s, data, n) < 0)
            return -1;
    }
    if (ferror(file))
        return cw_problem(s->t, true, "OSError", "%s: %s", path, strerror(errno));
    return json_stream_end(s);
}

int json_stream_file(cw_task *t, const char *path, const struct json_stream_options *options,
                     size_t *ret_count)
{
    struct json_stream *s = json_stream_open(t, options);
    FILE *file = fopen(path, "re");
    if (!file)
        return cw_problem(t, false, "FileNotFoundError", "%s: %s", path, strerror(errno));
    int code = feed_file(s, file, path);
    fclose(file);
    if (ret_count)
        *ret_count = s->count;
    return code;
}
