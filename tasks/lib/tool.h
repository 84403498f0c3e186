/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_TOOL_H
#define TASKS_LIB_TOOL_H

#include "tasks/cworker.h"

/* cw_exec for tools that write reports: it runs in the delivery's temporary folder, and a file may
 * have CWORKER_MAX_REPORT_MB at most. < 0 too when the tool ended because of that, or because the
 * disk is full; `said` (may be NULL) is what it told elsewhere than on standard error. */
int tool_run(cw_task *t, struct cw_command command, const char *said, struct cw_exit *ret_exit);

#endif
