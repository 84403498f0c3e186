/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_COMMAND_PROGRESS_H
#define WORKER_COMMAND_PROGRESS_H

/* How far long work has come, on one line of stderr: for people only, so nothing where that is no
 * terminal, and nothing with --json or --quiet. */

#include "worker/config/options.h"

struct progress {
    const char *what; /* "Reading" */
    int64_t total, done, drawn_at;
    bool shown, wanted;
};

/* `total` may be raised later on, as more is found. */
void progress_begin(struct progress *p, const struct options *o, const char *what, int64_t total);
void progress_add(struct progress *p, int64_t n);
/* Takes the line away, so that what is printed next stands where it stood. */
void progress_end(struct progress *p);

#endif
