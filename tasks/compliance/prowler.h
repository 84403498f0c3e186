/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_COMPLIANCE_PROWLER_H
#define TASKS_COMPLIANCE_PROWLER_H

#include "tasks/cworker.h"

/* One run of the program prowler over one region of an AWS account. */
struct prowler_run {
    const char *region;
    const char *const *frameworks; /* NULL-ended; empty: every check */
    const char *role;              /* ARN to assume; NULL: the credentials of the environment */
    int (*on_tick)(cw_task *t, double seconds, void *arg);
    void *arg;
};

/* 0: it ran to its end, and *ret_path is its OCSF file, or NULL when it found nothing at all. < 0:
 * it did not, and what was found before is of no use. */
int prowler_run(cw_task *t, const struct prowler_run *run, const char **ret_path);

#endif
