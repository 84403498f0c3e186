/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/json_stream.h"

#include <ctype.h>
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
    bool in_object, inside /* of `within` */, seen /* the list */, failed;
    size_t offset, count;
    /* the value that is being read */
    bool in_value, in_string, escaped, scalar, skipped, large;
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
    s->capacity = 0;
}

static void init_stream(struct json_stream *s, cw_task *t,
                        const struct json_stream_options *options)
{
    *s = (struct json_stream){.t = t, .options = *options};
    if (!s->options.max_element)
        s->options.max_element = 4 << 20;
    if (s->options.ret_found)
        *s->options.ret_found = false;
}

struct json_stream *json_stream_open(cw_task *t, const struct json_stream_options *options)
{
    struct json_stream *s = cw_alloc(t, sizeof *s);
    init_stream(s, t, options);
    cw_defer(t, close_stream, s);
    return s;
}

size_t json_stream_count(const struct json_stream *s)
{
    return s->count;
}

/* --- one value --- */

static bool is_key(const struct json_stream *s)
{
    return s->place == FIRST_KEY || s->place == KEY;
}

static int too_large(struct json_stream *s)
{
    s->large = s->skipped = s->options.ret_large && !is_key(s);
    if (s->large)
        return 0;
    s->failed = true;
    return cw_problem(s->t, false, "ValueError",
                      "an element before byte %zu is larger than %zu bytes", s->offset,
                      s->options.max_element);
}

static int keep(struct json_stream *s, const char *data, size_t size)
{
    if (s->skipped)
        return 0;
    if (s->size + size > s->options.max_element)
        return too_large(s);
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

/* Of the object that holds the list, not of one around it. */
static bool is_at_level(const struct json_stream *s)
{
    return s->inside == !!s->options.within;
}

static bool is_wanted_member(const struct json_stream *s)
{
    const char *const *names = s->options.members;
    if (!s->options.on_member || !is_at_level(s))
        return false;
    for (; names && *names; names++)
        if (strcmp(*names, s->key) == 0)
            return true;
    return !s->options.members;
}

static void begin_value(struct json_stream *s, char c)
{
    s->in_value = true;
    s->size = 0;
    s->in_string = s->escaped = false;
    s->depth = 0;
    s->scalar = c != '"' && c != '{' && c != '[';
    s->large = false;
    s->skipped = s->place == MEMBER && !is_wanted_member(s);
}

/* Of \uXXXX at `at`; -1: it is none. */
static int escaped_unit(const char *at)
{
    int unit = 0;
    if (at[0] != '\\' || at[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        if (!isxdigit((unsigned char)at[i]))
            return -1;
        unit = 16 * unit + (isdigit((unsigned char)at[i]) ? at[i] - '0' : (at[i] | 32) - 'a' + 10);
    }
    return unit;
}

/* Halves of surrogate pairs, which others write where they cut a text, make cJSON refuse the whole
 * value, and a \u0000 ends its text: they become U+FFFD. */
static void mend_escapes(char *text)
{
    for (char *at = text; (at = strchr(at, '\\'));) {
        int unit = escaped_unit(at), next = unit >= 0 ? escaped_unit(at + 6) : -1;
        if (unit >= 0xD800 && unit < 0xDC00 && next >= 0xDC00 && next < 0xE000) {
            at += 12;
            continue;
        }
        if (unit == 0 || (unit >= 0xD800 && unit < 0xE000))
            memcpy(at + 2, "fffd", 4);
        at += unit >= 0 ? 6 : at[1] ? 2 : 1;
    }
}

static int take_key(struct json_stream *s)
{
    s->place = AFTER_KEY;
    mend_escapes(s->text);
    cJSON *name = cJSON_ParseWithLength(s->text, s->size);
    if (!cJSON_IsString(name)) {
        cJSON_Delete(name);
        return wrong(s, "no name of a member");
    }
    snprintf(s->key, sizeof s->key, "%s", name->valuestring);
    cJSON_Delete(name);
    return 0;
}

static int give_value(struct json_stream *s, bool member)
{
    const struct json_stream_options *o = &s->options;
    const char *end = NULL;
    s->count += !member;
    if (!member && o->on_text)
        return o->on_text(s->t, s->text, s->size, o->arg);
    mend_escapes(s->text);
    cJSON *value = cJSON_ParseWithLengthOpts(s->text, s->size + 1, &end, true);
    if (!value)
        return wrong(s, "a value that cannot be read ends");
    int code = member ? o->on_member(s->t, s->key, value, o->arg)
                      : o->on_element(s->t, value, o->arg);
    cJSON_Delete(value);
    return code;
}

static int take_value(struct json_stream *s)
{
    bool member = s->place == MEMBER;
    s->in_value = false;
    if (is_key(s))
        return take_key(s);
    s->place = member ? AFTER_MEMBER : s->place == VALUES ? VALUES : AFTER_ITEM;
    if (s->large)
        ++*s->options.ret_large;
    if (s->skipped)
        return 0;
    int code = give_value(s, member);
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

static int found(struct json_stream *s, enum place place)
{
    if (s->options.ret_found)
        *s->options.ret_found = true;
    s->place = place;
    return 0;
}

static int start(struct json_stream *s, char c)
{
    const struct json_stream_options *o = &s->options;
    bool elements = o->on_element || o->on_text, object = o->member || !elements;
    s->in_object = c == '{' && object;
    if (c == '[' && elements && !o->within) {
        s->seen = true;
        return found(s, FIRST_ITEM);
    }
    if (s->in_object) {
        s->place = FIRST_KEY;
        return 0;
    }
    if (object)
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

static int close_object(struct json_stream *s)
{
    s->place = s->inside ? AFTER_MEMBER : DONE;
    s->inside = false;
    return 0;
}

static bool is_list(const struct json_stream *s)
{
    return is_at_level(s) && s->options.member && strcmp(s->key, s->options.member) == 0;
}

/* A member begins that holds what is wanted: the list, or the object with it. */
static bool is_way(const struct json_stream *s, char c)
{
    if (!is_at_level(s))
        return c == '{' && strcmp(s->key, s->options.within) == 0;
    return c == '[' && is_list(s);
}

/* Another value than a list in its place; null is an empty one. */
static int check_needed(struct json_stream *s, char c)
{
    if (!s->options.needed || !is_list(s))
        return 0;
    s->seen = c == 'n';
    s->failed = !s->seen;
    return s->seen ? 0
                   : cw_problem(s->t, false, "ValueError", "\"%s\" is no list, at byte %zu", s->key,
                                s->offset);
}

static int follow(struct json_stream *s)
{
    if (!is_at_level(s)) {
        s->inside = true;
        return found(s, FIRST_KEY);
    }
    s->place = FIRST_ITEM;
    s->seen = true;
    return s->options.within ? 0 : found(s, FIRST_ITEM);
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
        if (c == '}')
            return close_object(s);
        break;
    case AFTER_KEY:
        s->place = MEMBER;
        return c == ':' ? 0 : wrong(s, "no :");
    case MEMBER:
        if (is_way(s, c))
            return follow(s);
        if (check_needed(s, c) < 0)
            return -1;
        break;
    case AFTER_MEMBER:
        if (c == '}')
            return close_object(s);
        s->place = KEY;
        return c == ',' ? 0 : wrong(s, "neither , nor }");
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
    if (s->options.needed && !s->seen)
        return cw_problem(s->t, false, "ValueError", "there is no \"%s\"", s->options.member);
    close_stream(s); /* a task may read thousands of pages */
    return 0;
}

int json_stream_text(cw_task *t, const char *text, size_t size,
                     const struct json_stream_options *options)
{
    struct json_stream s;
    init_stream(&s, t, options);
    int code = json_stream_feed(&s, text, size) < 0 || json_stream_end(&s) < 0 ? -1 : 0;
    close_stream(&s);
    return code;
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
