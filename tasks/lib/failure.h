/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_FAILURE_H
#define TASKS_LIB_FAILURE_H

#include "tasks/cworker.h"

/* Why an attempt failed, for the document that shows it: to be read before the document is
 * written, as the next helper that fails has its own reason. */
struct failure {
    const char *why;    /* "ConnectionError: …"; lives as long as the delivery */
    bool transient;     /* a further attempt may mend it */
    bool again;         /* … and one follows by the task's own max_retries */
    cw_outcome outcome; /* the verdict that fits */
};

#define failure_read(t) failure_read_at((t), __FILE__, __LINE__, __func__)
struct failure failure_read_at(cw_task *t, const char *file, int line, const char *function);

#endif
