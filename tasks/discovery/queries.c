/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/discovery/queries.h"

#include "tasks/lib/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shipped files are part of the program: a worker is one file, wherever it is copied to. */

#define EMBED(symbol, file)                                                                        \
    __asm__(".section .rodata\n.global " #symbol "\n" #symbol ":\n.incbin \"" file                \
            "\"\n.byte 0\n.previous\n");                                                           \
    extern const char symbol[]

EMBED(queries_aws, "tasks/discovery/queries/aws.sql");
EMBED(queries_azure, "tasks/discovery/queries/azure.sql");
EMBED(queries_gcp, "tasks/discovery/queries/gcp.sql");
EMBED(queries_kubernetes, "tasks/discovery/queries/kubernetes.sql");

static const struct shipped {
    const char *provider, *text;
} shipped[] = {
    {"aws", queries_aws},
    {"azure", queries_azure},
    {"gcp", queries_gcp},
    {"kubernetes", queries_kubernetes},
};

enum { FILE_MAX_BYTES = 1 << 20 };

/* --- reading a file --- */

static struct query *place_of(struct queries *q, const char *name)
{
    for (int i = 0; i < q->n; i++)
        if (strcmp(q->list[i].name, name) == 0)
            return &q->list[i];
    return q->n < QUERIES_MAX ? &q->list[q->n++] : NULL;
}

static int begin_query(cw_task *t, const char *source, const char *line, struct queries *to,
                       struct query **ret)
{
    size_t size = strcspn(line, " \t\r");
    const char *name = cw_printf(t, "%.*s", (int)size, line);
    if (!check_name(name) || line[size + strspn(line + size, " \t\r")])
        return cw_problem(t, false, "ValueError", "%s: a query's name is of letters, digits, . _ -",
                          source);
    *ret = place_of(to, name);
    if (!*ret)
        return cw_problem(t, false, "ValueError", "%s: more than %d queries", source, QUERIES_MAX);
    **ret = (struct query){name, ""};
    return 0;
}

/* Blank lines and comments between queries are nothing. */
static int add_line(cw_task *t, const char *source, const char *line, struct queries *to,
                    struct query **current)
{
    static const char mark[] = "-- name:";
    const char *text = line + strspn(line, " \t\r");
    if (strncmp(text, mark, sizeof mark - 1) == 0) {
        text += sizeof mark - 1;
        return begin_query(t, source, text + strspn(text, " \t"), to, current);
    }
    if (!*text || strncmp(text, "--", 2) == 0)
        return 0;
    if (!*current)
        return cw_problem(t, false, "ValueError", "%s: SQL before the first `-- name:` line",
                          source);
    const char *before = (*current)->sql;
    (*current)->sql = cw_printf(t, "%s%s%s", before, *before ? "\n" : "", text);
    return 0;
}

/* The semicolon at its end is cut, and only it may be there: one query is one statement. */
static const char *finished(cw_task *t, const char *sql)
{
    size_t size = strlen(sql);
    while (size && strchr(" \t\r\n;", sql[size - 1]))
        size--;
    return cw_printf(t, "%.*s", (int)size, sql);
}

int queries_add(cw_task *t, const char *source, const char *text, struct queries *to)
{
    struct query *current = NULL;
    while (*text) {
        size_t size = strcspn(text, "\n");
        if (add_line(t, source, cw_printf(t, "%.*s", (int)size, text), to, &current) < 0)
            return -1;
        text += size + (text[size] == '\n');
    }
    int kept = 0;
    for (int i = 0; i < to->n; i++) {
        to->list[i].sql = finished(t, to->list[i].sql);
        if (*to->list[i].sql)
            to->list[kept++] = to->list[i];
    }
    to->n = kept;
    return 0;
}

static int add_file(cw_task *t, const char *path, struct queries *to)
{
    FILE *file = fopen(path, "re");
    if (!file && errno == ENOENT)
        return 0;
    char *text = file ? cw_alloc(t, FILE_MAX_BYTES + 1) : NULL;
    size_t size = file ? fread(text, 1, FILE_MAX_BYTES + 1, file) : 0;
    bool good = file && !ferror(file);
    if (file)
        fclose(file);
    if (!good)
        return cw_problem(t, false, "OSError", "%s cannot be read: %s", path, strerror(errno));
    if (size > FILE_MAX_BYTES || memchr(text, 0, size))
        return cw_problem(t, false, "ValueError", "%s is not a file of queries", path);
    return queries_add(t, path, text, to);
}

int queries_load(cw_task *t, const char *provider, struct queries *ret)
{
    const char *folder = cw_setting(t, "STEAMPIPE_QUERIES");
    ret->n = 0;
    for (size_t i = 0; i < sizeof shipped / sizeof *shipped; i++)
        if (strcmp(provider, shipped[i].provider) == 0 &&
            queries_add(t, provider, shipped[i].text, ret) < 0)
            return -1;
    if (folder && add_file(t, cw_printf(t, "%s/%s.sql", folder, provider), ret) < 0)
        return -1;
    return ret->n ? 0
                  : cw_problem(t, false, "ValueError",
                               "no queries for provider %s: put %s.sql into the folder that "
                               "CWORKER_STEAMPIPE_QUERIES names",
                               provider, provider);
}

/* --- filling in --- */

const char *query_fill(cw_task *t, const char *sql, const char *region, const char *account)
{
    const char *done = "";
    for (;;) {
        const char *brace = strchr(sql, '{');
        bool is_region = brace && strncmp(brace, "{region}", 8) == 0;
        bool is_account = brace && strncmp(brace, "{account}", 9) == 0;
        if (!brace)
            return cw_printf(t, "%s%s", done, sql);
        if (is_account && !account)
            return NULL;
        done = cw_printf(t, "%s%.*s%s", done, (int)(brace - sql), sql,
                         is_region    ? region
                         : is_account ? account
                                      : "{");
        sql = brace + (is_region ? 8 : is_account ? 9 : 1);
    }
}
