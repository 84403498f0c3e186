/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json_lex.h"

#include "proto/base/mem.h"

#include <stdio.h>
#include <stdlib.h>

/* Text into nodes of cJSON's: one pass, recursive, JSON_MAX_DEPTH deep at most. The nodes come from
 * cJSON's allocator, so that cJSON_Delete can free them. */

static cJSON *node_new(int type)
{
    cJSON *node = mem_check(cJSON_CreateNull());
    node->type = type;
    return node;
}

static char *node_text(const char *text, size_t size)
{
    char *copy = mem_check(cJSON_malloc(size + 1));
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
    if (!lex_string(&ahead)) {
        *x = ahead;
        return NULL;
    }
    char *text = mem_check(cJSON_malloc((size_t)(ahead.at - x->at)));
    *lex_decode(x, text) = '\0';
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
        return mem_check(cJSON_CreateNumber((double)(digits < size ? -value : value)));
    }
    /* Whatever is no short integer keeps its text: cheaper than finding out whether it needs to. */
    char *copy = node_text(text, size);
    cJSON *node = mem_check(cJSON_CreateNumber(strtod(copy, NULL)));
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
        return lex_fail(x, "key expected");
    char *key = parse_string(x);
    if (!key)
        return false;
    lex_space(x);
    bool colon = x->at < x->end && *x->at == ':';
    cJSON *value = NULL;
    if (colon) {
        x->at++;
        lex_space(x);
        value = parse_value(x);
    }
    if (!value) {
        cJSON_free(key);
        return lex_fail(x, "':' expected");
    }
    value->string = key;
    append(object, value);
    return true;
}

static bool parse_members(struct lex *x, cJSON *object)
{
    size_t count = 0;
    if (!lex_enter(x))
        return false;
    for (bool end = lex_leave(x, '}'); !end; count++) {
        if (!parse_member(x, object) || !lex_separator(x, '}', &end))
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
    if (!lex_enter(x))
        return false;
    bool end = lex_leave(x, ']');
    while (!end) {
        cJSON *item = parse_value(x);
        if (!item)
            return false;
        append(list, item);
        if (!lex_separator(x, ']', &end))
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
    if (!lex_value(x))
        return NULL;
    if (c == 'n' || c == 't' || c == 'f')
        return node_new(c == 'n' ? cJSON_NULL : c == 't' ? cJSON_True : cJSON_False);
    return number_node(from, (size_t)(x->at - from));
}

cJSON *json_parse(const char *text, size_t size, struct error *err)
{
    struct lex x = lex_over(text, size);
    lex_space(&x);
    cJSON *value = parse_value(&x);
    if (value && !lex_at_end(&x)) {
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
