/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_HTTP_H
#define TASKS_LIB_HTTP_H

#include "tasks/cworker.h"

/* cw_http for services that ask for patience. A 429 or 503 whose Retry-After is short (at most a
 * minute in all, and within the task's limits) is waited for here; a longer one fails, and cw_fail
 * then gives the task back with that time as its ETA instead of holding a child. */
int http_patient(cw_task *t, const struct cw_http *request, struct cw_reply *ret_reply);

#endif
