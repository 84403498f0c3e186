/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TASKS_TABLES_H
#define TASKS_TABLES_H

#include "tasks/cworker.h"

extern const struct cw_table *const builtin_tables[]; /* ends with NULL */

extern const struct cw_table scans_table;
extern const struct cw_table threat_feeds_table;
extern const struct cw_table sync_table;
extern const struct cw_table maintenance_table;
extern const struct cw_table compliance_table;
extern const struct cw_table discovery_table;

#endif
