/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/repr.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Follows celery.utils.saferepr in what it shows: three levels, the rest as "...", only the quote
 * escaped in strings, a cut at `max` with the open brackets closed behind it. Python's own repr()
 * differs in the first two. */

struct repr {
    struct buf *out;
    size_t left;
    int levels;
    bool python;
    bool cut;
};

static void put(struct repr *r, const char *text, size_t size)
{
    buf_add(r->out, text, size);
    r->left -= size < r->left ? size : r->left;
}

static void put_text(struct repr *r, const char *text)
{
    put(r, text, strlen(text));
}

/* Whether the limit is reached; says so once. */
static bool is_full(struct repr *r)
{
    if (r->cut)
        return true;
    if (r->left == 0) {
        buf_str(r->out, ", ...");
        r->cut = true;
    }
    return r->cut;
}

/* The longest beginning of text that fits and does not end inside a UTF-8 sequence. */
static size_t cut_size(const char *text, size_t size, size_t max)
{
    if (size < max)
        return size;
    while (max && ((unsigned char)text[max] & 0xC0) == 0x80)
        max--;
    return max;
}

/* The letter after the backslash by which Python shows this byte; 0: it has none. */
static char escape_of(char byte)
{
    static const char named[] = "\nn\rr\tt\\\\";
    for (size_t i = 0; named[i]; i += 2)
        if (named[i] == byte)
            return named[i + 1];
    return 0;
}

static void put_escaped(struct repr *r, const char *text, const char *end, char quote)
{
    for (const char *at = text; at < end; at++) {
        char escape = *at == quote ? quote : escape_of(*at);
        char shown[8];
        if (escape)
            snprintf(shown, sizeof shown, "\\%c", escape);
        else if ((unsigned char)*at < 0x20 || *at == 0x7f)
            snprintf(shown, sizeof shown, "\\x%02x", (unsigned)*at);
        else
            snprintf(shown, sizeof shown, "%c", *at);
        put_text(r, shown);
    }
}

static void put_string(struct repr *r, const char *text)
{
    size_t size = strlen(text), shown = cut_size(text, size, r->left);
    const char *end = text + shown;
    if (r->python) {
        char quote = strchr(text, '\'') && !strchr(text, '"') ? '"' : '\'';
        put(r, &quote, 1);
        put_escaped(r, text, end, quote);
        put_text(r, shown < size ? "..." : "");
        put(r, &quote, 1);
        return;
    }
    put(r, "'", 1);
    for (const char *at = text; at < end;) {
        const char *quote = memchr(at, '\'', (size_t)(end - at));
        const char *stop = quote ? quote : end;
        put(r, at, (size_t)(stop - at));
        if (quote)
            put(r, "\\'", 2);
        at = quote ? quote + 1 : end;
    }
    put_text(r, shown < size ? "...'" : "'");
}

static void put_number(struct repr *r, const cJSON *number)
{
    struct buf text = BUF_INIT(SIZE_MAX / 4);
    json_print(number, &text);
    const char *shown = text.data;
    if (strcmp(shown, "NaN") == 0)
        shown = "nan";
    else if (strstr(shown, "Infinity"))
        shown = *shown == '-' ? "-inf" : "inf";
    size_t size = strlen(shown), fit = size < r->left ? size : r->left;
    put(r, shown, fit);
    if (fit < size)
        put_text(r, "...");
    buf_done(&text);
}

static void put_value(struct repr *r, const cJSON *value, bool tuple, int level);

static void put_items(struct repr *r, const cJSON *value, int level)
{
    const char *before = "";
    for (const cJSON *item = value->child; item && !is_full(r); item = item->next) {
        put_text(r, before);
        before = ", ";
        if (cJSON_IsObject(value)) {
            put_string(r, item->string);
            put_text(r, ": ");
        }
        if (!is_full(r))
            put_value(r, item, false, level + 1);
    }
}

static void put_container(struct repr *r, const cJSON *value, bool tuple, int level)
{
    bool object = cJSON_IsObject(value);
    put_text(r, object ? "{" : tuple ? "(" : "[");
    if (level >= r->levels)
        put_text(r, "...");
    else
        put_items(r, value, level);
    if (tuple && value->child && !value->child->next)
        buf_char(r->out, ',');
    put_text(r, object ? "}" : tuple ? ")" : "]");
}

static void put_value(struct repr *r, const cJSON *value, bool tuple, int level)
{
    switch (value ? value->type & 0xFF : cJSON_NULL) {
    case cJSON_Object:
    case cJSON_Array:
        put_container(r, value, tuple, level);
        break;
    case cJSON_String:
        put_string(r, value->valuestring ? value->valuestring : "");
        break;
    case cJSON_Number:
        put_number(r, value);
        break;
    case cJSON_True:
        put_text(r, "True");
        break;
    case cJSON_False:
        put_text(r, "False");
        break;
    case cJSON_Raw:
        put_text(r, "...");
        break;
    default:
        put_text(r, "None");
    }
}

void repr_print(const cJSON *value, bool tuple, size_t max, struct buf *out)
{
    struct repr r = {.out = out, .left = max, .levels = 3};
    put_value(&r, value, tuple, 0);
}

void repr_python(const cJSON *value, bool tuple, size_t max, struct buf *out)
{
    struct repr r = {.out = out, .left = max, .levels = INT_MAX, .python = true};
    put_value(&r, value, tuple, 0);
}
