/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/scans.h"

#include "tasks/tables.h"

/* The queue `scans`: scans of what a team has approved, from start to stored findings. */

static const struct cw_arg scan_args[] = {
    {"scan_id", CW_STR, .help = "_id of the document in native_scans"},
    {0},
};

static const struct cw_def defs[] = {
    {
        .name = "scans.execute_network_scan",
        .run = execute_network_scan,
        .args = scan_args,
        .flags = CW_ACKS_LATE,
        .max_retries = 3,
        .soft_limit = 3300,
        .hard_limit = 3600,
        .backoff = {.base = 60, .max = 600},
        .help = "nmap over the scan's target: hosts, ports, services into scan_findings",
    },
    {0},
};

const struct cw_table scans_table = {
    .api = CW_API,
    .queue = "scans",
    .defs = defs,
    .prefetch_multiplier = 1,
};
