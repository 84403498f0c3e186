/* SPDX-License-Identifier: Apache-2.0 */
#ifndef WORKER_TASK_RLIMITS_H
#define WORKER_TASK_RLIMITS_H

/* Memory and CPU of one run, as its table bounds them (max_memory_kb, max_cpu). They are limits of
 * a process, so they hold where a child runs one task at a time: -P prefork. */

#include "tasks/cworker.h"

static inline bool rlimits_wanted(const struct cw_table *table)
{
    return table && (table->max_memory_kb > 0 || table->max_cpu > 0);
}

void rlimits_set(const struct cw_table *table);
void rlimits_lift(const struct cw_table *table);

#endif
