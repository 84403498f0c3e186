/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/date.h"
#include "tasks/threat_feeds/feed.h"
#include "tasks/threat_feeds/rows.h"
#include "tasks/threat_feeds/unpack.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Plain lists and CSV, as they arrive: unpacked, split into rows, one row in memory. The columns of
 * a CSV are named in the feed's document (by number or by the header's word); a header may be a row
 * or, as abuse.ch does, the last comment before the rows. */

enum column { VALUE, TYPE, FIRST_SEEN, LAST_SEEN, CONFIDENCE, TAGS, N_COLUMNS };

static const char *const column_fields[N_COLUMNS] = {
    "csv.column",           "csv.type_column",       "csv.first_seen_column",
    "csv.last_seen_column", "csv.confidence_column", "csv.tags_column"};

struct reading {
    struct feed *f;
    struct unpack *unpack;
    struct rows *rows;
    char delimiter;
    const char *kind;           /* of all values, or NULL */
    int columns[N_COLUMNS];     /* < 0: not known (yet), or not there */
    bool placed, skip_header;   /* columns are known; the first row is a header all the same */
    bool begun;                 /* something that is not blank came */
    char header[4096];          /* the last comment */
};

/* --- plain lists --- */

/* The first word of a line; of a hosts file (`0.0.0.0 name`) the second. */
static int add_line(struct reading *r, const char *line)
{
    struct sighting s = SIGHTING_NONE;
    s.kind = r->kind;
    line += strspn(line, " \t");
    size_t size = strcspn(line, " \t;,#");
    bool hosts = (size == 7 && strncmp(line, "0.0.0.0", 7) == 0) ||
                 (size == 9 && strncmp(line, "127.0.0.1", 9) == 0);
    if (strncmp(line, "http", 4) == 0)
        size = strcspn(line, " \t");
    if (hosts && line[size]) {
        line += size + strspn(line + size, " \t");
        size = strcspn(line, " \t#");
    }
    return strncmp(line, "//", 2) == 0 ? 0 : sink_add(r->f, line, size, &s);
}

/* --- CSV --- */

static const char *field_at(const struct reading *r, char *const *fields, int n, enum column c)
{
    int at = r->columns[c];
    return at >= 0 && at < n && *fields[at] ? fields[at] : NULL;
}

static int number_of(const char *text)
{
    return text && *text && !text[strspn(text, "0123456789")] && strlen(text) < 4
               ? (int)strtol(text, NULL, 10)
               : -1;
}

static int add_row(struct reading *r, char *const *fields, int n)
{
    struct sighting s = SIGHTING_NONE;
    const char *value = field_at(r, fields, n, VALUE);
    const char *kind = field_at(r, fields, n, TYPE);
    if (!value) {
        r->f->bad++;
        return 0;
    }
    s.kind = kind ? kind : r->kind;
    s.first_seen = date_read(field_at(r, fields, n, FIRST_SEEN));
    s.last_seen = date_read(field_at(r, fields, n, LAST_SEEN));
    s.confidence = number_of(field_at(r, fields, n, CONFIDENCE));
    s.tag = field_at(r, fields, n, TAGS);
    return sink_add(r->f, value, strlen(value), &s);
}

/* Numbers need no header; what is named waits for one. */
static bool place_by_number(struct reading *r)
{
    bool named = false;
    for (int c = 0; c < N_COLUMNS; c++) {
        int64_t at = doc_int(r->f->document, column_fields[c], -1);
        r->columns[c] = at >= 0 && at < ROWS_FIELDS ? (int)at : -1;
        named = named || doc_text(r->f->document, column_fields[c]);
    }
    r->placed = !named;
    return r->placed;
}

/* Is that the header? Then the named columns that it has are known. */
static bool place_by_name(struct reading *r, char *const *names, int n)
{
    bool found = false;
    for (int c = 0; c < N_COLUMNS; c++) {
        const char *wanted = doc_text(r->f->document, column_fields[c]);
        for (int i = 0; wanted && i < n; i++)
            if (strcasecmp(names[i], wanted) == 0) {
                r->columns[c] = i;
                found = true;
            }
    }
    return found && r->columns[VALUE] >= 0;
}

/* 1: the row was the header, 0: it is data, < 0: there is no such column. */
static int place_columns(struct reading *r, char *const *fields, int n)
{
    char line[sizeof r->header], *names[ROWS_FIELDS];
    memcpy(line, r->header, sizeof line);
    int count = rows_split(line, r->delimiter, names, ROWS_FIELDS);
    r->placed = true;
    if (place_by_name(r, names, count))
        return 0;
    if (place_by_name(r, fields, n))
        return 1;
    if (r->columns[VALUE] >= 0) /* by its number; nobody tells the others */
        return doc_bool(r->f->document, "csv.header", false);
    return cw_problem(r->f->t, false, "ValueError", "the CSV has no column %.80s",
                      doc_text(r->f->document, "csv.column"));
}

static int on_row(char *const *fields, int n, void *arg)
{
    struct reading *r = arg;
    if (!r->delimiter)
        return add_line(r, fields[0]);
    int code = r->placed ? 0 : place_columns(r, fields, n);
    if (code == 0 && r->skip_header)
        code = 1;
    r->skip_header = false;
    return code ? (code < 0 ? -1 : 0) : add_row(r, fields, n);
}

static void on_comment(const char *line, void *arg)
{
    struct reading *r = arg;
    if (!r->placed)
        snprintf(r->header, sizeof r->header, "%s", line);
}

/* --- the body --- */

/* A page for people may hold lines that look like rows: challenges, "access denied", ads. */
static bool is_page(struct reading *r, const char *data, size_t size)
{
    static const char blanks[] = " \t\r\n\xEF\xBB\xBF";
    size_t at = 0;
    while (at < size && data[at] && strchr(blanks, data[at]))
        at++;
    if (r->begun || at == size)
        return false;
    r->begun = true;
    return data[at] == '<';
}

static int on_unpacked(const char *data, size_t size, void *arg)
{
    struct reading *r = arg;
    if (is_page(r, data, size))
        return cw_problem(r->f->t, false, "ValueError", "the answer is a page, not a list");
    return rows_feed(r->rows, data, size);
}

static int on_body(cw_task *t, const char *data, size_t size, void *arg)
{
    struct reading *r = arg;
    (void)t;
    return unpack_feed(r->unpack, data, size);
}

static const char *auth_header(struct feed *f)
{
    const char *name = doc_text(f->document, "auth_header");
    if (!f->key)
        return NULL;
    return cw_printf(f->t, "%s: %s", name ? name : "Authorization", f->key);
}

/* What could be the half of a list is none, and what is empty all at once is no list either: its
 * server has lost it. Comments would do. */
static int end_rows(struct reading *r, const struct cw_reply *reply)
{
    struct feed *f = r->f;
    int64_t before = doc_int(f->document, "state.indicators", 0);
    if (unpack_end(r->unpack) < 0)
        return -1;
    if (reply->open_ended && !unpack_is_archive(r->unpack) && !rows_between(r->rows))
        return cw_problem(f->t, true, "ConnectionError",
                          "the list ends inside a row, and nothing tells that it is all of it");
    if (rows_end(r->rows) < 0)
        return -1;
    f->bad += (int64_t)rows_bad(r->rows);
    if (f->bad && !f->good && !f->other) /* a page for people, an error with status 200 */
        return cw_problem(f->t, false, "ValueError", "none of its %lld rows is an indicator",
                          (long long)f->bad);
    if (!r->begun && before > 0)
        return cw_problem(f->t, false, "ValueError",
                          "the list is empty; %lld indicators were read before", (long long)before);
    return 0;
}

static int read_rows(struct reading *r)
{
    struct feed *f = r->f;
    struct rows_options options = {r->delimiter, on_row, on_comment, r};
    const char *headers[] = {auth_header(f), NULL};
    struct feed_request request = {f->url, headers, true, on_body, r};
    struct cw_reply reply;
    r->kind = doc_text(f->document, "indicator_type");
    r->rows = rows_open(&options);
    r->unpack = unpack_open(f->t, f->bytes_left, on_unpacked, r);
    if (!r->rows || !r->unpack)
        return cw_problem(f->t, true, "MemoryError", "no memory for rows");
    cw_defer(f->t, rows_close, r->rows);
    int code = feed_get(f, &request, &reply);
    if (code != FEED_READ)
        return code;
    if (end_rows(r, &reply) < 0)
        return -1;
    BSON_APPEND_INT64(f->state, "indicators", f->good);
    if (!reply.open_ended) /* else it is read anew, should it have been cut between two rows */
        feed_keep_validators(f, &reply);
    return FEED_READ;
}

int feed_read_plain(struct feed *f)
{
    struct reading *r = cw_alloc(f->t, sizeof *r);
    r->f = f;
    return read_rows(r);
}

int feed_read_csv(struct feed *f)
{
    struct reading *r = cw_alloc(f->t, sizeof *r);
    const char *delimiter = doc_text(f->document, "csv.delimiter");
    r->f = f;
    r->delimiter = delimiter && *delimiter ? *delimiter : ',';
    r->skip_header = doc_bool(f->document, "csv.header", false) && place_by_number(r);
    if (!r->skip_header && place_by_number(r) && r->columns[VALUE] < 0)
        return cw_problem(f->t, false, "ValueError",
                          "csv.column must name the column that holds the values");
    return read_rows(r);
}
