/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_OPTIONS_READ_H
#define WORKER_OPTIONS_READ_H

#include "worker/config/options_table.h"

enum { OPTIONS_EXIT = 1000 }; /* added to an exit status, see options_parse() */

struct option_given {
    const struct option_row *row;
    const char *value; /* "true" for those without argument */
};

/* The command line taken apart; texts belong to argv. */
struct options_line {
    int command; /* enum command_index */
    bool named;  /* it was named, not assumed */
    struct option_given *given;
    int n_given;
    const char **words;
    int n_words;
};

int options_read(struct options_line *p, int argc, char **argv);
const struct option_given *options_given(const struct options_line *p,
                                         enum option_kind kind); /* last */

/* "cworker: …" on stderr; returns OPTIONS_EXIT + EXIT_USAGE. */
int options_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
