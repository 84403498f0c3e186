/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/json_lex.h"

/* Reading without a tree: a message's members are found, and all of its text is checked, in one
 * pass that copies nothing. */

static bool skip_word(struct lex *x, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(x->end - x->at) < size || memcmp(x->at, word, size) != 0)
        return lex_fail(x, "value expected");
    x->at += size;
    return true;
}

static bool skip_digits(struct lex *x)
{
    const char *from = x->at;
    while (x->at < x->end && *x->at >= '0' && *x->at <= '9')
        x->at++;
    return x->at > from || lex_fail(x, "digit expected");
}

static bool skip_number(struct lex *x)
{
    if (x->at < x->end && *x->at == '-') {
        x->at++;
        if (x->at < x->end && *x->at == 'I')
            return skip_word(x, "Infinity");
    } else if (*x->at < '0' || *x->at > '9') {
        return lex_fail(x, "value expected");
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

static int walk_object(struct lex *x, json_member_fn *fn, void *arg);
static int walk_list(struct lex *x, json_item_fn *fn, void *arg);

bool lex_value(struct lex *x)
{
    if (x->at == x->end)
        return lex_fail(x, "text ends where a value is expected");
    switch (*x->at) {
    case '"':
        return lex_string(x);
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

/* "key": up to the value. The key stays as it is written. */
static inline bool skip_key(struct lex *x, struct slice *ret_key)
{
    if (x->at == x->end || *x->at != '"')
        return lex_fail(x, "key expected");
    const char *from = x->at + 1;
    if (!lex_string(x))
        return false;
    *ret_key = (struct slice){from, (size_t)(x->at - from) - 1};
    lex_space(x);
    if (x->at == x->end || *x->at != ':')
        return lex_fail(x, "':' expected");
    x->at++;
    lex_space(x);
    return true;
}

/* 0; x->why is set on bad text (and the result is not 0); anything else came from fn. */
static int walk_object(struct lex *x, json_member_fn *fn, void *arg)
{
    if (!lex_enter(x))
        return ERROR_INVALID;
    bool end = lex_leave(x, '}');
    while (!end) {
        struct slice key, value;
        if (!skip_key(x, &key))
            return ERROR_INVALID;
        value.at = x->at;
        if (!lex_value(x))
            return ERROR_INVALID;
        value.size = (size_t)(x->at - value.at);
        int result = fn ? fn(key, value, arg) : 0;
        if (result)
            return result;
        if (!lex_separator(x, '}', &end))
            return ERROR_INVALID;
    }
    return 0;
}

static int walk_list(struct lex *x, json_item_fn *fn, void *arg)
{
    if (!lex_enter(x))
        return ERROR_INVALID;
    bool end = lex_leave(x, ']');
    while (!end) {
        struct slice value = {.at = x->at};
        if (!lex_value(x))
            return ERROR_INVALID;
        value.size = (size_t)(x->at - value.at);
        int result = fn ? fn(value, arg) : 0;
        if (result)
            return result;
        if (!lex_separator(x, ']', &end))
            return ERROR_INVALID;
    }
    return 0;
}

static bool begins(struct lex *x, char bracket, const char *why)
{
    lex_space(x);
    return (x->at < x->end && *x->at == bracket) || lex_fail(x, why);
}

int json_walk(struct slice text, json_member_fn *fn, void *arg, struct error *err)
{
    struct lex x = lex_over(text.at, text.size);
    if (!begins(&x, '{', "object expected"))
        return lex_error(&x, err);
    int result = walk_object(&x, fn, arg);
    if (result == 0 && !lex_at_end(&x))
        result = ERROR_INVALID;
    return x.why ? lex_error(&x, err) : result;
}

int json_walk_list(struct slice text, json_item_fn *fn, void *arg, struct error *err)
{
    struct lex x = lex_over(text.at, text.size);
    if (!begins(&x, '[', "list expected"))
        return lex_error(&x, err);
    int result = walk_list(&x, fn, arg);
    if (result == 0 && !lex_at_end(&x))
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
    char *end = *close == '"' ? lex_decode(&x, at) : NULL;
    if (!end || x.at != x.end) {
        *at = '\0';
        return ERROR_INVALID;
    }
    *end = '\0';
    out->size = (size_t)(end - out->data);
    return 0;
}
