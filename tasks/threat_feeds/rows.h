/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_THREAT_FEEDS_ROWS_H
#define TASKS_THREAT_FEEDS_ROWS_H

#include <stdbool.h>
#include <stddef.h>

/* CSV and plain lists as a stream of rows, in memory for one row. A row that is too long, has too
 * many fields or a quote that never closes is counted and left out; what follows it is read on. */

enum { ROWS_FIELDS = 128, ROWS_SIZE = 64 << 10 };

struct rows_options {
    char delimiter; /* '\0': a plain list, the whole line is one field and quotes mean nothing */
    /* < 0 ends the reading. Fields are NUL-terminated. */
    int (*on_row)(char *const *fields, int n, void *arg);
    void (*on_comment)(const char *line, void *arg); /* the text after `#` or `;`; may be NULL */
    void *arg;
};

struct rows *rows_open(const struct rows_options *options);
int rows_feed(struct rows *r, const char *data, size_t size);
bool rows_between(const struct rows *r); /* no row has begun that has not ended */
int rows_end(struct rows *r);            /* the last row may lack its line feed */
size_t rows_bad(const struct rows *r);
void rows_close(void *rows);

/* The fields of one line, as a header hidden in a comment needs; returns their number. */
int rows_split(char *line, char delimiter, char **fields, int max);

#endif
