/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_LIB_CANCEL_H
#define TASKS_LIB_CANCEL_H

#include "tasks/cworker.h"

/* Cancelling needs no message: whoever wants a scan to end sets the status of its document to
 * CANCELLED. For each second or so of a tool's run; the store is asked every two seconds. looked_at
 * is 0 for each new run. */
bool cancel_is_asked(cw_task *t, const char *collection, const char *id, double seconds,
                     double *looked_at);

#endif
