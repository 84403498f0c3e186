/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/tables.h"

/* The built-in tasks: one table per queue. */

const struct cw_table *const builtin_tables[] = {
    &scans_table,
    &compliance_table,
    &discovery_table,
    &threat_feeds_table,
    &sync_table,
    &maintenance_table,
    NULL,
};
