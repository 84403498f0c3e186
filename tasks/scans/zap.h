/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SCANS_ZAP_H
#define TASKS_SCANS_ZAP_H

#include "tasks/cworker.h"

/* OWASP ZAP's API: CWORKER_ZAP_URL (default http://127.0.0.1:8080), key from the secret
 * ZAP_API_KEY. The daemon is the operator's own, so private addresses are allowed for it, and for
 * it only. */

/* The daemon's URL without user and trailing slash, as errors and documents tell it. */
const char *zap_daemon(cw_task *t);
/* GET /JSON/<path>?<query>. NULL, by cw_problem, when it fails; the tree is freed with the
 * delivery. */
const cJSON *zap_get(cw_task *t, const char *path, const char *query);
/* Each alert of the session, a page at a time. 1: there are more than are taken (100,000). */
int zap_each_alert(cw_task *t, int (*fn)(cw_task *t, const cJSON *alert, void *arg), void *arg);
/* A number that ZAP tells as text; the fallback when it is none. */
int64_t zap_number(const cJSON *reply, const char *name, int64_t fallback);

#endif
