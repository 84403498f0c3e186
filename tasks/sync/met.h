/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_SYNC_MET_H
#define TASKS_SYNC_MET_H

#include "tasks/cworker.h"

/* The ids of the findings that a pass met. */
struct met;
struct met *met_open(cw_task *t);
void met_add(struct met *m, const char *id);
bool met_any(const struct met *m);
/* Perhaps, where there were more than it keeps; "no" is certain. */
bool met_has(const struct met *m, const char *id);

#endif
