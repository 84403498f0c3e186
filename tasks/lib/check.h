/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_CHECK_H
#define TASKS_LIB_CHECK_H

#include "tasks/cworker.h"

/* Grammars of what documents and arguments may put on a command line or into a URL. None of them
 * lets through what a program could read as an option. */

bool check_region(const char *text);    /* eu-west-1, us-gov-east-1 */
bool check_framework(const char *text); /* cis_1.4_aws */
bool check_url(const char *text);       /* http or https with a host, no user, no blanks */
bool check_image(const char *text);     /* registry/name:tag@sha256:… */
bool check_name(const char *text);      /* letters, digits, . _ - */
bool check_account(const char *text);   /* of a provider: kubernetes-admin@kubernetes, an ARN */

/* CWORKER_<NAME> as a number; the fallback when unset. A value outside of [min, max] is a problem
 * (ValueError that names the setting) and gives -1. */
int64_t setting_int(cw_task *t, const char *name, int64_t fallback, int64_t min, int64_t max);

/* The host of a URL that check_url accepts, without brackets; lives as long as the delivery. */
char *url_host(cw_task *t, const char *url);
char *url_escape(cw_task *t, const char *text); /* for one value of a query */

#endif
