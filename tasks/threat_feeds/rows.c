/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/threat_feeds/rows.h"

#include <stdlib.h>
#include <string.h>

/* A state machine over bytes, so that a piece of the body may end anywhere. Quotes are read as RFC
 * 4180 and as abuse.ch write them: also after a blank (`"a", "b"`), doubled inside. */

enum state { LINE_START, COMMENT, FIELD_START, PLAIN, QUOTED, QUOTE_IN_QUOTES, AFTER_QUOTES, SKIP };

struct rows {
    struct rows_options options;
    enum state state;
    char text[ROWS_SIZE + 1];
    size_t used;
    size_t starts[ROWS_FIELDS];
    int n;
    size_t bad;
    int bom; /* bytes of a byte order mark seen */
    bool started;
};

struct rows *rows_open(const struct rows_options *options)
{
    struct rows *r = calloc(1, sizeof *r);
    if (r)
        r->options = *options;
    return r;
}

void rows_close(void *rows)
{
    free(rows);
}

size_t rows_bad(const struct rows *r)
{
    return r->bad;
}

static void start_row(struct rows *r)
{
    r->used = 0;
    r->n = 0;
    r->state = LINE_START;
}

static void give_up(struct rows *r, bool at_line_end)
{
    r->bad++;
    start_row(r);
    if (!at_line_end)
        r->state = SKIP;
}

static bool put(struct rows *r, char c)
{
    if (r->used >= ROWS_SIZE)
        return false;
    r->text[r->used++] = c;
    return true;
}

static bool open_field(struct rows *r)
{
    if (r->n >= ROWS_FIELDS)
        return false;
    r->starts[r->n++] = r->used;
    r->state = FIELD_START;
    return true;
}

static int end_row(struct rows *r)
{
    char *fields[ROWS_FIELDS];
    if (r->used && r->text[r->used - 1] == '\r' && r->state != AFTER_QUOTES)
        r->used--;
    if (!put(r, '\0')) {
        give_up(r, true);
        return 0;
    }
    for (int i = 0; i < r->n; i++)
        fields[i] = r->text + r->starts[i];
    int n = r->n;
    bool blank = n <= 1 && !r->text[strspn(r->text, " \t\r")];
    start_row(r);
    return blank ? 0 : r->options.on_row(fields, n, r->options.arg);
}

static void end_comment(struct rows *r)
{
    if (r->used && r->text[r->used - 1] == '\r')
        r->used--;
    if (r->options.on_comment && put(r, '\0'))
        r->options.on_comment(r->text, r->options.arg);
    start_row(r);
}

/* One byte inside a row; false when it makes the row useless. */
static bool take(struct rows *r, char c)
{
    char delimiter = r->options.delimiter;
    switch (r->state) {
    case FIELD_START:
        if (delimiter && (c == ' ' || c == '\t') && c != delimiter)
            return true;
        if (delimiter && c == '"') {
            r->state = QUOTED;
            return true;
        }
        r->state = PLAIN;
        return take(r, c);
    case PLAIN:
        if (delimiter && c == delimiter)
            return put(r, '\0') && open_field(r);
        return put(r, c);
    case QUOTED:
        if (c == '"')
            r->state = QUOTE_IN_QUOTES;
        return c == '"' || put(r, c);
    case QUOTE_IN_QUOTES:
        r->state = c == '"' ? QUOTED : AFTER_QUOTES;
        return c == '"' ? put(r, c) : take(r, c);
    case AFTER_QUOTES:
        if (c == delimiter)
            return put(r, '\0') && open_field(r);
        return c == ' ' || c == '\t' || c == '\r';
    default:
        return false;
    }
}

static int line_feed(struct rows *r)
{
    switch (r->state) {
    case LINE_START:
        return 0;
    case SKIP:
        start_row(r);
        return 0;
    case COMMENT:
        end_comment(r);
        return 0;
    case QUOTED:
        if (!put(r, '\n'))
            give_up(r, true);
        return 0;
    default:
        return end_row(r);
    }
}

static void line_start(struct rows *r, char c)
{
    if (c == '#' || (c == ';' && r->options.delimiter != ';')) {
        r->state = COMMENT;
        return;
    }
    open_field(r);
    if (!take(r, c))
        give_up(r, false);
}

static bool is_bom(struct rows *r, char c)
{
    static const char bom[] = "\xEF\xBB\xBF";
    if (r->started || r->bom >= 3 || c != bom[r->bom]) {
        r->started = true;
        return false;
    }
    r->bom++;
    return true;
}

int rows_feed(struct rows *r, const char *data, size_t size)
{
    int code = 0;
    for (size_t i = 0; i < size && code >= 0; i++) {
        char c = data[i] ? data[i] : '\1'; /* no indicator holds either; a row is a C text */
        if (is_bom(r, c))
            continue;
        if (c == '\n')
            code = line_feed(r);
        else if (r->state == LINE_START)
            line_start(r, c);
        else if (r->state == COMMENT)
            (void)put(r, c); /* the end of an endless comment is of no use */
        else if (r->state != SKIP && !take(r, c))
            give_up(r, false);
    }
    return code;
}

bool rows_between(const struct rows *r)
{
    return r->state == LINE_START;
}

int rows_end(struct rows *r)
{
    if (r->state == QUOTED) {
        give_up(r, true);
        return 0;
    }
    return line_feed(r);
}

int rows_split(char *line, char delimiter, char **fields, int max)
{
    int n = 0;
    for (char *at = line; at && n < max; n++) {
        char *next = strchr(at, delimiter);
        if (next)
            *next++ = '\0';
        at += strspn(at, " \t\"");
        size_t size = strlen(at);
        while (size && strchr(" \t\r\"", at[size - 1]))
            at[--size] = '\0';
        fields[n] = at;
        at = next;
    }
    return n;
}
