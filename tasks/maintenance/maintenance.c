/* SPDX-License-Identifier: Apache-2.0 */
#include "tasks/lib/policy.h"
#include "tasks/maintenance/maintenance.h"
#include "tasks/tables.h"

/* The queue `maintenance`: what keeps the stores in order. */

static const struct cw_def defs[] = {
    {
        .name = "maintenance.run_retention_cycle",
        .run = run_retention_cycle,
        BUILTIN_POLICY,
        .help = "removes or archives what is older than the retention policies allow",
    },
    {
        .name = "maintenance.check_sla_breaches_all_teams",
        .run = check_sla_breaches_all_teams,
        BUILTIN_POLICY,
        .help = "open occurrences past their days: recorded and notified once; warnings before",
    },
    {
        .name = "maintenance.run_data_sync_watchdog",
        .run = run_data_sync_watchdog,
        BUILTIN_POLICY,
        .help = "fails stuck runs, and sends what makes lagging stores agree again",
    },
    {0},
};

static const struct cw_index indexes[] = {
    {"retention_policies", "enabled"},
    {"audit_logs", "team_id, -at"},
    {"sla_policies", "team_id", .unique = true},
    {"sla_breaches", "team_id, -created_at"},
    {"notifications", "team_id, -created_at"},
    {"vulnerability_occurrences", "team_id, status, severity, sla_breached_at, opened_at"},
    {"scan_runs", "status, started_at"},
    {"scan_runs", "failed_by"},
    {"native_scans", "status, started_at"},
    {"native_scans", "failed_by"},
    {"container_scans", "status, started_at"},
    {"container_scans", "failed_by"},
    {"cspm_findings", "team_id, status"},
    {"k8s_findings", "team_id, status"},
    {"watchdog_sends", "sent_at", .expire_after = 604800},
    {0},
};

const struct cw_table maintenance_table = {
    .api = CW_API,
    .queue = "maintenance",
    .defs = defs,
    .prefetch_multiplier = 1,
    .indexes = indexes,
};
