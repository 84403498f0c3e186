/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json.h"

#include "proto/base/mem.h"

#include <endian.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- lexing: one reader under the walk, the tree and the strings --- */

struct lex {
    const char *at, *end, *start;
    const char *why; /* set by the first failure; `at` then points to where */
    int depth;
};

static bool __attribute__((cold, noinline)) fail(struct lex *x, const char *why)
{
    if (!x->why)
        x->why = why;
    return false;
}

static struct lex lex_over(const char *text, size_t size)
{
    return (struct lex){.at = text, .end = text + size, .start = text};
}

static int lex_error(const struct lex *x, struct error *err)
{
    return error_set(err, ERROR_INVALID, "%s at byte %zu", x->why, (size_t)(x->at - x->start));
}

/* Bytes that end a plain stretch of a string: controls, quote, backslash, beginnings of UTF-8. */
static const uint8_t special[256] = {
    [0 ... 0x1F] = 1, ['"'] = 1, ['\\'] = 1, [0x80 ... 0xFF] = 1};

#define EACH(byte) (0x0101010101010101u * (byte))

/* A word with the top bit set in the first special byte of eight. Borrows can mark bytes after a
 * special one by mistake, never bytes before it, so that the lowest mark is always right. */
static inline uint64_t special_mark(uint64_t x)
{
    uint64_t quote = x ^ EACH('"'), slash = x ^ EACH('\\');
    uint64_t hit = ((quote - EACH(1)) & ~quote) | ((slash - EACH(1)) & ~slash) |
                   ((x - EACH(0x20)) & ~x) | x;
    return hit & EACH(0x80);
}

static inline const char *plain_end(const char *at, const char *end)
{
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        uint64_t mark = special_mark(le64toh(word));
        if (mark)
            return at + (__builtin_ctzll(mark) >> 3);
    }
    while (at < end && !special[(unsigned char)*at])
        at++;
    return at;
}

/* Reads one sequence of two bytes or more. C0 80 (a NUL) and surrogates pass: our trees hold them so.
 * 0 when it is no UTF-8. */
static size_t utf8_read(const char *text, const char *end, uint32_t *ret_point)
{
    const unsigned char *at = (const unsigned char *)text;
    size_t size = *at < 0xC0 ? 0 : *at < 0xE0 ? 2 : *at < 0xF0 ? 3 : *at < 0xF5 ? 4 : 0;
    if (!size || (size_t)(end - text) < size)
        return 0;
    uint32_t point = *at & (0x7Fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80)
            return 0;
        point = point << 6 | (at[i] & 0x3Fu);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if ((point < least[size] && !(point == 0 && size == 2)) || point > 0x10FFFF)
        return 0;
    *ret_point = point;
    return size;
}

static bool is_surrogate(uint32_t point)
{
    return point >= 0xD800 && point <= 0xDFFF;
}

/* Text from outside: what Python's UTF-8 decoder accepts and nothing else. */
static size_t utf8_strict(const struct lex *x)
{
    uint32_t point;
    size_t size = utf8_read(x->at, x->end, &point);
    return size && point && !is_surrogate(point) ? size : 0;
}

static size_t utf8_write(uint32_t point, char *out)
{
    if (point && point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xC0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    size_t size = point < 0x10000 ? 3 : 4;
    for (size_t i = size; --i;) {
        out[i] = (char)(0x80 | (point & 0x3F));
        point >>= 6;
    }
    out[0] = (char)((size == 3 ? 0xE0 : 0xF0) | point);
    return size;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The code unit of \uXXXX at `at`, -1 when there is none. */
static int32_t unit_read(const char *at, const char *end)
{
    if (end - at < 6 || at[0] != '\\' || at[1] != 'u')
        return -1;
    int32_t unit = 0;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(at[i]);
        if (digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* Reads the escape at x->at, a surrogate pair as one. */
static bool escape_read(struct lex *x, uint32_t *ret_point)
{
    static const char names[] = "\"\\/bfnrt", points[] = "\"\\/\b\f\n\r\t";
    const char *name = x->end - x->at < 2 || !x->at[1] ? NULL : strchr(names, x->at[1]);
    if (name) {
        *ret_point = (unsigned char)points[name - names];
        x->at += 2;
        return true;
    }
    int32_t unit = unit_read(x->at, x->end);
    if (unit < 0)
        return fail(x, "bad escape in a string");
    x->at += 6;
    *ret_point = (uint32_t)unit;
    if (unit >= 0xD800 && unit < 0xDC00) {
        int32_t low = unit_read(x->at, x->end);
        if (low >= 0xDC00 && low <= 0xDFFF) {
            *ret_point = 0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
            x->at += 6;
        }
    }
    return true;
}

static bool __attribute__((noinline)) skip_special(struct lex *x)
{
    uint32_t point;
    if (x->at == x->end)
        return fail(x, "unterminated string");
    if (*x->at == '\\')
        return escape_read(x, &point);
    if ((unsigned char)*x->at < 0x20)
        return fail(x, "control character in a string");
    size_t size = utf8_strict(x);
    if (!size)
        return fail(x, "bad UTF-8");
    x->at += size;
    return true;
}

/* x->at is on the opening quote. */
static inline bool skip_string(struct lex *x)
{
    x->at++;
    for (;;) {
        x->at = plain_end(x->at, x->end);
        if (x->at < x->end && *x->at == '"') {
            x->at++;
            return true;
        }
        if (!skip_special(x))
            return false;
    }
}

/* Decodes the string at x->at and moves behind it; returns the end of what was written, NULL when it
 * is no string. The result is never longer than the source without its quotes. */
static char *decode_string(struct lex *x, char *out)
{
    x->at++;
    for (;;) {
        const char *stop = plain_end(x->at, x->end);
        size_t plain = (size_t)(stop - x->at);
        memcpy(out, x->at, plain);
        out += plain;
        x->at = stop;
        if (stop < x->end && *stop == '"') {
            x->at++;
            return out;
        }
        uint32_t point;
        bool escape = stop < x->end && *stop == '\\';
        if (!(escape ? escape_read(x, &point) : skip_special(x)))
            return NULL;
        if (escape) {
            out += utf8_write(point, out);
        } else {
            memcpy(out, stop, (size_t)(x->at - stop));
            out += x->at - stop;
        }
    }
}

static inline void skip_space(struct lex *x)
{
    /* Mostly none or one blank: json.dumps writes ", " and ": ". */
    if (x->at < x->end && *x->at == ' ')
        x->at++;
    if (x->at < x->end && (unsigned char)*x->at > ' ')
        return;
    while (x->at < x->end &&
           (*x->at == ' ' || *x->at == '\n' || *x->at == '\t' || *x->at == '\r'))
        x->at++;
}

static bool skip_word(struct lex *x, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(x->end - x->at) < size || memcmp(x->at, word, size) != 0)
        return fail(x, "value expected");
    x->at += size;
    return true;
}

static bool skip_digits(struct lex *x)
{
    const char *from = x->at;
    while (x->at < x->end && *x->at >= '0' && *x->at <= '9')
        x->at++;
    return x->at > from || fail(x, "digit expected");
}

static bool skip_number(struct lex *x)
{
    if (x->at < x->end && *x->at == '-') {
        x->at++;
        if (x->at < x->end && *x->at == 'I')
            return skip_word(x, "Infinity");
    } else if (*x->at < '0' || *x->at > '9') {
        return fail(x, "value expected");
    }
    if (x->at < x->end && *x->at == '0')
        x->at++;
    else if (!skip_digits(x))
        return false;
    if (x->at < x->end && *x->at == '.') {
        x->at++;
        if (!skip_digits(x))
            return false;
    }
    if (x->at < x->end && (*x->at | 0x20) == 'e') {
        x->at++;
        if (x->at < x->end && (*x->at == '+' || *x->at == '-'))
            x->at++;
        return skip_digits(x);
    }
    return true;
}

/* --- walking --- */

static int walk_object(struct lex *x, json_member_fn *fn, void *arg);
static int walk_list(struct lex *x, json_item_fn *fn, void *arg);

static bool skip_value(struct lex *x)
{
    if (x->at == x->end)
        return fail(x, "text ends where a value is expected");
    switch (*x->at) {
    case '"':
        return skip_string(x);
    case '{':
        return walk_object(x, NULL, NULL) == 0;
    case '[':
        return walk_list(x, NULL, NULL) == 0;
    case 'n':
        return skip_word(x, "null");
    case 't':
        return skip_word(x, "true");
    case 'f':
        return skip_word(x, "false");
    case 'N':
        return skip_word(x, "NaN");
    case 'I':
        return skip_word(x, "Infinity");
    default:
        return skip_number(x);
    }
}

static bool enter(struct lex *x)
{
    if (x->depth == JSON_MAX_DEPTH)
        return fail(x, "nested too deeply");
    x->depth++;
    x->at++;
    skip_space(x);
    return true;
}

/* Whether a container ends here; leaves it then. */
static inline bool leave(struct lex *x, char bracket)
{
    if (x->at == x->end || *x->at != bracket)
        return false;
    x->at++;
    x->depth--;
    return true;
}

/* The comma before another item; with `bracket` instead the container has ended, *ret_end says so. */
static inline bool separator(struct lex *x, char bracket, bool *ret_end)
{
    skip_space(x);
    *ret_end = leave(x, bracket);
    if (*ret_end)
        return true;
    if (x->at == x->end || *x->at != ',')
        return fail(x, bracket == '}' ? "',' or '}' expected" : "',' or ']' expected");
    x->at++;
    skip_space(x);
    return true;
}

/* "key": up to the value. The key stays as it is written. */
static inline bool skip_key(struct lex *x, struct slice *ret_key)
{
    if (x->at == x->end || *x->at != '"')
        return fail(x, "key expected");
    const char *from = x->at + 1;
    if (!skip_string(x))
        return false;
    *ret_key = (struct slice){from, (size_t)(x->at - from) - 1};
    skip_space(x);
    if (x->at == x->end || *x->at != ':')
        return fail(x, "':' expected");
    x->at++;
    skip_space(x);
    return true;
}

/* 0; x->why is set on bad text (and the result is not 0); anything else came from fn. */
static int walk_object(struct lex *x, json_member_fn *fn, void *arg)
{
    if (!enter(x))
        return ERROR_INVALID;
    bool end = leave(x, '}');
    while (!end) {
        struct slice key, value;
        if (!skip_key(x, &key))
            return ERROR_INVALID;
        value.at = x->at;
        if (!skip_value(x))
            return ERROR_INVALID;
        value.size = (size_t)(x->at - value.at);
        int result = fn ? fn(key, value, arg) : 0;
        if (result)
            return result;
        if (!separator(x, '}', &end))
            return ERROR_INVALID;
    }
    return 0;
}

static int walk_list(struct lex *x, json_item_fn *fn, void *arg)
{
    if (!enter(x))
        return ERROR_INVALID;
    bool end = leave(x, ']');
    while (!end) {
        struct slice value = {.at = x->at};
        if (!skip_value(x))
            return ERROR_INVALID;
        value.size = (size_t)(x->at - value.at);
        int result = fn ? fn(value, arg) : 0;
        if (result)
            return result;
        if (!separator(x, ']', &end))
            return ERROR_INVALID;
    }
    return 0;
}

/* After a value nothing may follow. */
static bool at_end(struct lex *x)
{
    skip_space(x);
    return x->at == x->end || fail(x, "more text after the value");
}

static bool begins(struct lex *x, char bracket, const char *why)
{
    skip_space(x);
    return (x->at < x->end && *x->at == bracket) || fail(x, why);
}

int json_walk(struct slice text, json_member_fn *fn, void *arg, struct error *err)
{
    struct lex x = lex_over(text.at, text.size);
    if (!begins(&x, '{', "object expected"))
        return lex_error(&x, err);
    int result = walk_object(&x, fn, arg);
    if (result == 0 && !at_end(&x))
        result = ERROR_INVALID;
    return x.why ? lex_error(&x, err) : result;
}

int json_walk_list(struct slice text, json_item_fn *fn, void *arg, struct error *err)
{
    struct lex x = lex_over(text.at, text.size);
    if (!begins(&x, '[', "list expected"))
        return lex_error(&x, err);
    int result = walk_list(&x, fn, arg);
    if (result == 0 && !at_end(&x))
        result = ERROR_INVALID;
    return x.why ? lex_error(&x, err) : result;
}

int json_unquote(struct slice raw, struct buf *out)
{
    struct lex x = lex_over(raw.at, raw.size);
    if (raw.size < 2 || *raw.at != '"')
        return ERROR_INVALID;
    char *at = buf_reserve(out, raw.size - 2);
    if (!at)
        return ERROR_TOO_BIG;
    /* A string that ends late could write past the reserve; one that ends early is no string. */
    const char *close = raw.at + raw.size - 1;
    char *end = *close == '"' ? decode_string(&x, at) : NULL;
    if (!end || x.at != x.end) {
        *at = '\0';
        return ERROR_INVALID;
    }
    *end = '\0';
    out->size = (size_t)(end - out->data);
    return 0;
}

/* --- the tree --- */

static void *must(void *block)
{
    if (!block) {
        fputs("cworker: out of memory\n", stderr);
        abort();
    }
    return block;
}

/* Nodes come from cJSON's allocator, so that cJSON_Delete can free them. */
static cJSON *node_new(int type)
{
    cJSON *node = must(cJSON_CreateNull());
    node->type = type;
    return node;
}

static char *node_text(const char *text, size_t size)
{
    char *copy = must(cJSON_malloc(size + 1));
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

/* cJSON keeps the tail in child->prev, so this is O(1). */
static void append(cJSON *parent, cJSON *node)
{
    cJSON *first = parent->child;
    if (!first) {
        parent->child = node->prev = node;
        return;
    }
    node->prev = first->prev;
    first->prev->next = node;
    first->prev = node;
}

static char *parse_string(struct lex *x)
{
    struct lex ahead = *x;
    if (!skip_string(&ahead)) {
        *x = ahead;
        return NULL;
    }
    char *text = must(cJSON_malloc((size_t)(ahead.at - x->at)));
    *decode_string(x, text) = '\0';
    return text;
}

static cJSON *number_node(const char *text, size_t size)
{
    size_t digits = size - (*text == '-');
    bool plain = digits <= 15 && !memchr(text, '.', size) && !memchr(text, 'e', size) &&
                 !memchr(text, 'E', size) && text[size - 1] != 'N' && text[size - 1] != 'y' &&
                 !(*text == '-' && text[1] == '0');
    if (plain) {
        int64_t value = 0;
        for (size_t i = size - digits; i < size; i++)
            value = value * 10 + (text[i] - '0');
        return must(cJSON_CreateNumber((double)(digits < size ? -value : value)));
    }
    /* Whatever is no short integer keeps its text: cheaper than finding out whether it needs to. */
    char *copy = node_text(text, size);
    cJSON *node = must(cJSON_CreateNumber(strtod(copy, NULL)));
    node->valuestring = copy;
    return node;
}

static cJSON *parse_value(struct lex *x);

/* Moves the value of `last` into `first`, which has the same key, and takes `last` away. */
static void merge_members(cJSON *object, cJSON *first, cJSON *last)
{
    cJSON old = *first;
    first->type = last->type;
    first->child = last->child;
    first->valuestring = last->valuestring;
    first->valueint = last->valueint;
    first->valuedouble = last->valuedouble;
    last->type = old.type;
    last->child = old.child;
    last->valuestring = old.valuestring;
    cJSON_Delete(cJSON_DetachItemViaPointer(object, last));
}

struct member {
    cJSON *node;
    size_t index;
};

static int compare_members(const void *a, const void *b)
{
    const struct member *left = a, *right = b;
    int order = strcmp(left->node->string, right->node->string);
    return order ? order : left->index < right->index ? -1 : 1;
}

/* Sorting instead of hashing: nobody can choose keys that make it slow. */
static void merge_many(cJSON *object, size_t count)
{
    struct member *all = mem_alloc(count * sizeof *all);
    cJSON *node = object->child;
    for (size_t i = 0; i < count; i++, node = node->next)
        all[i] = (struct member){node, i};
    qsort(all, count, sizeof *all, compare_members);
    for (size_t first = 0, i = 1; i < count; i++) {
        if (strcmp(all[first].node->string, all[i].node->string) == 0)
            merge_members(object, all[first].node, all[i].node);
        else
            first = i;
    }
    free(all);
}

static void merge_few(cJSON *object)
{
    for (cJSON *first = object->child; first; first = first->next) {
        for (cJSON *next, *node = first->next; node; node = next) {
            next = node->next;
            if (strcmp(first->string, node->string) == 0)
                merge_members(object, first, node);
        }
    }
}

static bool parse_member(struct lex *x, cJSON *object)
{
    if (x->at == x->end || *x->at != '"')
        return fail(x, "key expected");
    char *key = parse_string(x);
    if (!key)
        return false;
    skip_space(x);
    bool colon = x->at < x->end && *x->at == ':';
    cJSON *value = NULL;
    if (colon) {
        x->at++;
        skip_space(x);
        value = parse_value(x);
    }
    if (!value) {
        cJSON_free(key);
        return fail(x, "':' expected");
    }
    value->string = key;
    append(object, value);
    return true;
}

static bool parse_members(struct lex *x, cJSON *object)
{
    size_t count = 0;
    if (!enter(x))
        return false;
    for (bool end = leave(x, '}'); !end; count++) {
        if (!parse_member(x, object) || !separator(x, '}', &end))
            return false;
    }
    if (count > 16)
        merge_many(object, count);
    else
        merge_few(object);
    return true;
}

static bool parse_items(struct lex *x, cJSON *list)
{
    if (!enter(x))
        return false;
    bool end = leave(x, ']');
    while (!end) {
        cJSON *item = parse_value(x);
        if (!item)
            return false;
        append(list, item);
        if (!separator(x, ']', &end))
            return false;
    }
    return true;
}

static cJSON *parse_container(struct lex *x, int type)
{
    cJSON *node = node_new(type);
    if (type == cJSON_Object ? parse_members(x, node) : parse_items(x, node))
        return node;
    cJSON_Delete(node);
    return NULL;
}

static cJSON *parse_string_node(struct lex *x)
{
    char *text = parse_string(x);
    if (!text)
        return NULL;
    cJSON *node = node_new(cJSON_String);
    node->valuestring = text;
    return node;
}

static cJSON *parse_value(struct lex *x)
{
    char c = x->at < x->end ? *x->at : '\0';
    if (c == '{')
        return parse_container(x, cJSON_Object);
    if (c == '[')
        return parse_container(x, cJSON_Array);
    if (c == '"')
        return parse_string_node(x);
    const char *from = x->at;
    if (!skip_value(x))
        return NULL;
    if (c == 'n' || c == 't' || c == 'f')
        return node_new(c == 'n' ? cJSON_NULL : c == 't' ? cJSON_True : cJSON_False);
    return number_node(from, (size_t)(x->at - from));
}

cJSON *json_parse(const char *text, size_t size, struct error *err)
{
    struct lex x = lex_over(text, size);
    skip_space(&x);
    cJSON *value = parse_value(&x);
    if (value && !at_end(&x)) {
        cJSON_Delete(value);
        value = NULL;
    }
    if (!value)
        lex_error(&x, err);
    return value;
}

cJSON *json_number(const char *text)
{
    return number_node(text, strlen(text));
}

cJSON *json_int(int64_t value)
{
    char text[24];
    return number_node(text, (size_t)snprintf(text, sizeof text, "%lld", (long long)value));
}

cJSON *json_get(const cJSON *object, const char *key)
{
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

const char *json_get_string(const cJSON *object, const char *key)
{
    const cJSON *value = json_get(object, key);
    return cJSON_IsString(value) ? value->valuestring : NULL;
}

void json_set(cJSON *object, const char *key, cJSON *value)
{
    bool done = json_get(object, key)
                    ? cJSON_ReplaceItemInObjectCaseSensitive(object, key, value)
                    : cJSON_AddItemToObject(object, key, value);
    if (!done)
        cJSON_Delete(value);
}

bool json_as_int(const cJSON *value, int64_t *ret_value)
{
    if (!cJSON_IsNumber(value))
        return false;
    const char *text = value->valuestring;
    if (text && text[strspn(text, "-0123456789")] == '\0') {
        size_t digits = strlen(text) - (*text == '-');
        if (digits > 19)
            return false;
        __int128 sum = 0;
        for (const char *at = text + (*text == '-'); *at; at++)
            sum = sum * 10 + (*at - '0');
        sum = *text == '-' ? -sum : sum;
        if (sum < INT64_MIN || sum > INT64_MAX)
            return false;
        *ret_value = (int64_t)sum;
        return true;
    }
    double number = value->valuedouble;
    if (!(fabs(number) < 0x1p53) || number != trunc(number))
        return false;
    *ret_value = (int64_t)number;
    return true;
}

/* --- printing --- */

/* Digits without the point, and the exponent of the first one, of the shortest text that reads back. */
static int shortest(double value, char digits[20])
{
    char text[40];
    /* Every text of 15 digits survives a double; the denormal ones alone hold fewer. */
    for (int precision = value < 0x1p-1022 ? 1 : 15; precision <= 17; precision++) {
        snprintf(text, sizeof text, "%.*e", precision - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    size_t count = 0;
    const char *at = text;
    for (; *at && *at != 'e'; at++) {
        if (*at >= '0' && *at <= '9')
            digits[count++] = *at;
    }
    while (count > 1 && digits[count - 1] == '0')
        count--;
    digits[count] = '\0';
    return (int)strtol(at + 1, NULL, 10);
}

/* As Python's repr() does it: exponents only below 1e-4 and from 1e16 on. */
static void print_float(double value, struct buf *out)
{
    char digits[20];
    if (signbit(value))
        buf_char(out, '-');
    int exponent = shortest(fabs(value), digits), count = (int)strlen(digits);
    if (exponent < -4 || exponent >= 16) {
        buf_printf(out, "%c%s%se%c%02d", digits[0], count > 1 ? "." : "", digits + 1,
                   exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        buf_printf(out, "0.%.*s%s", -exponent - 1, "000", digits);
    } else if (count <= exponent + 1) {
        buf_printf(out, "%s%.*s.0", digits, exponent + 1 - count, "0000000000000000");
    } else {
        buf_printf(out, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
    }
}

static void print_number(const cJSON *number, struct buf *out)
{
    double value = number->valuedouble;
    if (number->valuestring)
        buf_str(out, number->valuestring);
    else if (isnan(value))
        buf_str(out, "NaN");
    else if (isinf(value))
        buf_str(out, value < 0 ? "-Infinity" : "Infinity");
    else if (fabs(value) <= 0x1p53 && value == trunc(value) && !(value == 0 && signbit(value)))
        buf_printf(out, "%lld", (long long)value);
    else
        print_float(value, out);
}

static void print_point(uint32_t point, struct buf *out)
{
    static const char short_form[0x20] = {
        ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
    char text[16];
    int size;
    if (point == '"' || point == '\\')
        size = snprintf(text, sizeof text, "\\%c", (int)point);
    else if (point < 0x20 && short_form[point])
        size = snprintf(text, sizeof text, "\\%c", short_form[point]);
    else if (point < 0x10000)
        size = snprintf(text, sizeof text, "\\u%04x", point);
    else
        size = snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD800 + ((point - 0x10000) >> 10),
                        0xDC00 + ((point - 0x10000) & 0x3FF));
    buf_add(out, text, (size_t)size);
}

void json_print_string(const char *text, size_t size, struct buf *out)
{
    const char *at = text, *end = text + size;
    buf_char(out, '"');
    while (at < end) {
        const char *stop = plain_end(at, end);
        const char *delete = memchr(at, 0x7F, (size_t)(stop - at));
        stop = delete ? delete : stop;
        buf_add(out, at, (size_t)(stop - at));
        at = stop;
        if (at == end)
            break;
        uint32_t point = (unsigned char)*at;
        size_t used = point < 0x80 ? 1 : utf8_read(at, end, &point);
        print_point(used ? point : 0xFFFD, out);
        at += used ? used : 1;
    }
    buf_char(out, '"');
}

static void print_text(const char *text, struct buf *out)
{
    json_print_string(text ? text : "", text ? strlen(text) : 0, out);
}

static void print_container(const cJSON *value, struct buf *out)
{
    bool object = cJSON_IsObject(value);
    buf_char(out, object ? '{' : '[');
    for (const cJSON *item = value->child; item; item = item->next) {
        if (object) {
            print_text(item->string, out);
            buf_add(out, ": ", 2);
        }
        json_print(item, out);
        if (item->next)
            buf_add(out, ", ", 2);
    }
    buf_char(out, object ? '}' : ']');
}

void json_print(const cJSON *value, struct buf *out)
{
    switch (value ? value->type & 0xFF : cJSON_NULL) {
    case cJSON_Object:
    case cJSON_Array:
        print_container(value, out);
        break;
    case cJSON_String:
        print_text(value->valuestring, out);
        break;
    case cJSON_Number:
        print_number(value, out);
        break;
    case cJSON_True:
        buf_str(out, "true");
        break;
    case cJSON_False:
        buf_str(out, "false");
        break;
    case cJSON_Raw:
        buf_str(out, value->valuestring ? value->valuestring : "null");
        break;
    default:
        buf_str(out, "null");
    }
}

char *json_text(const cJSON *value)
{
    struct buf out = BUF_INIT(SIZE_MAX / 4);
    json_print(value, &out);
    return buf_take(&out);
}
