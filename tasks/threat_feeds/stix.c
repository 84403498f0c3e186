/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/threat_feeds/stix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A pattern is walked twice: first to see that all of it is of the simple form, then to give the
 * values, so that a pattern that turns out to hold an AND has given nothing. */

enum { VALUE_MAX = 4096 };

static const char *skip(const char *at, const char *what)
{
    return at + strspn(at, what);
}

static bool is_word(const char **at, const char *word)
{
    size_t size = strlen(word);
    if (strncmp(*at, word, size) != 0 || !strchr(" \t\r\n('[", (*at)[size]))
        return false;
    *at += size;
    return true;
}

/* Which kind of value lives at an object path; NULL: none that is kept. */
static const char *kind_of(const char *path, size_t size)
{
    static const char *const rows[][2] = {
        {"ipv4-addr:value", "ip"},
        {"ipv6-addr:value", "ip"},
        {"network-traffic:dst_ref.value", "ip"},
        {"network-traffic:src_ref.value", "ip"},
        {"domain-name:value", "domain"},
        {"url:value", "url"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strlen(rows[i][0]) == size && strncmp(path, rows[i][0], size) == 0)
            return rows[i][1];
    return strncmp(path, "file:hashes", 11) == 0 ? "hash" : NULL;
}

/* 'text' with \' and \\ undone; NULL when it is no quoted text. */
static const char *read_quoted(const char *at, char value[VALUE_MAX], size_t *ret_size)
{
    size_t size = 0;
    if (*at++ != '\'')
        return NULL;
    for (; *at && *at != '\''; at++) {
        if (*at == '\\' && at[1])
            at++;
        if (size + 1 >= VALUE_MAX)
            return NULL;
        value[size++] = *at;
    }
    value[size] = '\0';
    *ret_size = size;
    return *at ? at + 1 : NULL;
}

/* Up to the operator; quotes may stand in a path (file:hashes.'SHA-256'). */
static size_t path_size(const char *at)
{
    size_t size = 0;
    bool quoted = false;
    for (; at[size] && (quoted || !strchr(" \t\r\n=!<>", at[size])); size++)
        if (at[size] == '\'')
            quoted = !quoted;
    return size;
}

struct walk {
    stix_value_fn *fn; /* NULL: only look */
    void *arg;
    int count;
    char value[VALUE_MAX];
};

static const char *give_value(struct walk *w, const char *at, const char *kind)
{
    size_t size;
    at = read_quoted(skip(at, " \t\r\n"), w->value, &size);
    if (at && kind) {
        w->count++;
        if (w->fn)
            w->fn(kind, w->value, size, w->arg);
    }
    return at;
}

/* ('a', 'b') */
static const char *give_list(struct walk *w, const char *at, const char *kind)
{
    at = skip(at, " \t\r\n");
    if (*at != '(')
        return NULL;
    do {
        at = give_value(w, at + 1, kind);
        at = at ? skip(at, " \t\r\n") : NULL;
    } while (at && *at == ',');
    return at && *at == ')' ? at + 1 : NULL;
}

/* path = 'value'; where it ends, NULL when it is of another form. */
static const char *walk_comparison(struct walk *w, const char *at)
{
    size_t size = path_size(at);
    const char *kind = kind_of(at, size);
    if (!memchr(at, ':', size))
        return NULL;
    at = skip(at + size, " \t\r\n");
    if (*at == '=' && at[1] != '=')
        return give_value(w, at + 1, kind);
    if (is_word(&at, "ISSUBSET"))
        return give_value(w, at, kind);
    if (is_word(&at, "IN"))
        return give_list(w, at, kind);
    return NULL;
}

static bool walk_pattern(struct walk *w, const char *at)
{
    bool expects_comparison = true;
    for (at = skip(at, " \t\r\n[("); *at; at = skip(at, " \t\r\n[(])")) {
        if (!expects_comparison) {
            if (!is_word(&at, "OR"))
                return false;
            expects_comparison = true;
            continue;
        }
        at = walk_comparison(w, at);
        if (!at)
            return false;
        expects_comparison = false;
    }
    return !expects_comparison;
}

int stix_pattern_read(const char *pattern, stix_value_fn *fn, void *arg)
{
    struct walk w = {0};
    if (!walk_pattern(&w, pattern))
        return 0;
    w.fn = fn;
    w.arg = arg;
    w.count = 0;
    walk_pattern(&w, pattern);
    return w.count;
}
