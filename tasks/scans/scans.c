/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/scans/scans.h"

#include "tasks/lib/policy.h"
#include "tasks/tables.h"

/* The queue `scans`: the life of cloud scans, and native scans of what a team has approved. */

static const struct cw_arg run_args[] = {
    {"scan_run_id", CW_STR, .help = "_id of the document in scan_runs"},
    {0},
};

static const struct cw_arg scan_args[] = {
    {"scan_id", CW_STR, .help = "_id of the document in native_scans"},
    {0},
};

static const struct cw_arg image_args[] = {
    {"image_scan_id", CW_STR, .help = "_id of the document in container_scans"},
    {0},
};

static const struct cw_def defs[] = {
    {
        .name = "scans.execute_cloud_scan",
        .run = execute_cloud_scan,
        .args = run_args,
        BUILTIN_POLICY,
        .help = "claims a scan run and sends its discoveries and prowler batches",
    },
    {
        .name = "scans.finalize_cloud_scan",
        .run = finalize_cloud_scan,
        .args = run_args,
        BUILTIN_FOREVER,
        .help = "totals a scan run when its jobs have ended; comes back while one works",
    },
    {
        .name = "scans.run_scheduled_scans",
        .run = run_scheduled_scans,
        BUILTIN_POLICY,
        .help = "makes scan runs of the scan_schedules that are due",
    },
    {
        .name = "scans.execute_network_scan",
        .run = execute_network_scan,
        .args = scan_args,
        BUILTIN_POLICY,
        .help = "nmap over the scan's target: hosts, ports, services into scan_findings",
    },
    {
        .name = "scans.execute_ssl_scan",
        .run = execute_ssl_scan,
        .args = scan_args,
        BUILTIN_POLICY,
        .help = "testssl.sh over the scan's target: protocols, ciphers, certificate",
    },
    {
        .name = "scans.execute_web_scan",
        .run = execute_web_scan,
        .args = scan_args,
        BUILTIN_FOREVER,
        .help = "OWASP ZAP over the scan's URL: spider, passive and active rules",
    },
    {
        .name = "scans.execute_container_scan",
        .run = execute_container_scan,
        .args = image_args,
        BUILTIN_POLICY,
        .help = "Trivy over the scan's image: vulnerabilities and secrets into its document",
    },
    {0},
};

static const struct cw_index indexes[] = {
    {"scan_runs", "team_id, -created_at"},
    {"scan_runs", "status, started_at"},
    {"scan_runs", "schedule_id, status"},
    {"scan_jobs", "scan_run_id, kind, key", .unique = true},
    {"scan_schedules", "next_run_at"},
    {"native_scans", "team_id, status"},
    {"scan_findings", "scan_id, key", .unique = true},
    {"approved_targets", "team_id"},
    {"unified_scan_results", "scan_id, collection", .unique = true},
    {"unified_scan_results", "team_id, status"},
    {"container_scans", "team_id, status"},
    {0},
};

const struct cw_table scans_table = {
    .api = CW_API,
    .queue = "scans",
    .defs = defs,
    .prefetch_multiplier = 1,
    .indexes = indexes,
};
