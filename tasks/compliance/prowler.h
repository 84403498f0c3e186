/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_COMPLIANCE_PROWLER_H
#define TASKS_COMPLIANCE_PROWLER_H

#include "tasks/cworker.h"

/* One run of the program prowler: over one region of an AWS account, or over all of another
 * provider's account. */
struct prowler_run {
    const char *provider; /* one of prowler_providers */
    const char *account;  /* subscription, project or context; of AWS the credentials tell it */
    const char *region;   /* AWS; of others a name for messages and files */
    const char *const *frameworks; /* NULL-ended; empty: every check */
    const char *role;              /* ARN to assume; NULL: the credentials of the environment */
    int (*on_tick)(cw_task *t, double seconds, void *arg);
    void *arg;
};

extern const char *const prowler_providers[]; /* its sub-commands that we know, NULL-ended */

/* 0: it ran to its end, and *ret_path is its OCSF file, or NULL when it found nothing at all. < 0:
 * it did not, and what was found before is of no use. */
int prowler_run(cw_task *t, const struct prowler_run *run, const char **ret_path);

#endif
